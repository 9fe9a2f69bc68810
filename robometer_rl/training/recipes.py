"""Recipes: training configurations as YAML files, by name inside the package or by path anywhere.

A recipe says ``summary:`` in one line and then any options of `TrainConfig`, nested as its dataclasses are. What it
leaves out has the default; the data and the output usually come from the command line::

    summary: Trains longer on two of my data sources
    data_sources: [kitchen, workshop]
    frozen:
      steps: 2000
"""

from __future__ import annotations

import difflib
import re
import types
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, Field, dataclass, fields, is_dataclass
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any, Literal, Union, cast, get_args, get_origin, get_type_hints

import tyro

from robometer_rl.documents import DocumentError, brief, read_text
from robometer_rl.training.config import TrainConfig
from robometer_rl.yaml_documents import parse_yaml

__all__ = ["Recipe", "RecipeError", "Training", "load_recipe", "parse_command", "parse_training", "recipe_names"]

_SHIPPED = files("robometer_rl") / "recipes"
_SUMMARY = "summary"
_NUMBER = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?")


class RecipeError(ValueError):
    """A recipe that is not there or cannot be followed; the message names the recipe and the key."""


@dataclass(frozen=True)
class Recipe:
    """A training configuration to start from.

    Attributes:
        name: Of a shipped recipe, or the path of a file.
        summary: What it trains, in one line.
        config: Its options; those that it does not set and that have no default are ``tyro.MISSING``.
    """

    name: str
    summary: str
    config: TrainConfig


def recipe_names() -> list[str]:
    """Names of the recipes that ship with the package."""
    return sorted(Path(entry.name).stem for entry in _SHIPPED.iterdir() if entry.name.endswith(".yaml"))


def load_recipe(name: str) -> Recipe:
    """Reads a recipe.

    Args:
        name: Of a shipped recipe, or the path of a YAML file.

    Raises:
        RecipeError: No such recipe, an unknown key, or a value that does not fit.
    """
    try:
        settings = parse_yaml(_text(name))
    except DocumentError as error:
        raise RecipeError(f"recipe {name} cannot be read: {error}") from error
    if not isinstance(settings, dict):
        raise RecipeError(f"recipe {name} holds {type(settings).__name__}; expected a mapping of options")
    summary = settings.pop(_SUMMARY, "")
    if not isinstance(summary, str) or not summary.strip():
        raise RecipeError(f"recipe {name} needs a line '{_SUMMARY}: ...' that says what it trains")
    return Recipe(name, summary.strip(), cast(TrainConfig, _build(TrainConfig, settings, name)))


@dataclass(frozen=True)
class Training:
    """What ``robometer-rl train`` is asked to do.

    Attributes:
        config: The recipe with the options that override its own.
        dry_run: Say what the training would need of each GPU, and train nothing.
        gpus: Of a dry run, on how many.
    """

    config: Annotated[TrainConfig, tyro.conf.arg(name="")]
    dry_run: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    gpus: tuple[int, ...] = (1, 8)


def parse_command(words: Sequence[str], program: str) -> Training:
    """Reads what follows ``robometer-rl train`` on the command line: a recipe, then options that override its own.

    Args:
        words: As typed.
        program: What precedes them, for messages.

    Raises:
        RecipeError: See `load_recipe`.
        SystemExit: After ``--help``, or for options that do not exist or do not fit.
    """
    if not words or words[0].startswith("-"):
        _explain(words, program)
    recipe = load_recipe(words[0])
    return tyro.cli(
        Training,
        default=Training(recipe.config),
        args=list(words[1:]),
        prog=f"{program} {words[0]}",
        description=recipe.summary,
    )


def parse_training(words: Sequence[str], program: str) -> TrainConfig:
    """What is to be trained, of `parse_command`."""
    return parse_command(words, program).config


def _explain(words: Sequence[str], program: str) -> None:
    """Lists the recipes, for ``--help`` as well as for a command line without one; does not return."""
    recipes = {name: load_recipe(name) for name in recipe_names()}
    tyro.extras.overridable_config_cli(
        {name: (recipe.summary, recipe.config) for name, recipe in recipes.items()},
        args=list(words),
        prog=program,
        description="Train a model by a recipe: the name of one of these, or the path of a YAML file of your own. "
        "Options after the recipe take the place of its own; an interrupted training goes on with the same command.",
    )


def _text(name: str) -> str:
    if name in recipe_names():
        return (_SHIPPED / f"{name}.yaml").read_text(encoding="utf-8")
    path = Path(name)
    if path.is_file():
        return read_text(path)
    raise RecipeError(
        f"there is no recipe {name!r}{_hint(name, recipe_names())}; expected one of {', '.join(recipe_names())}, or "
        "the path of a YAML file"
    )


def _build(kind: type, settings: Mapping[str, Any], recipe: str, prefix: str = "", default: Any = None) -> Any:
    """A dataclass from a mapping of its fields.

    Fields that the mapping leaves out are those of ``default``, an instance, if there is one. Otherwise they have their
    own defaults, and what has none is left to the command line.
    """
    hints = get_type_hints(kind)
    unknown = [f"{prefix}{key}" for key in settings if key not in hints]
    if unknown:
        raise RecipeError(
            f"recipe {recipe} has the unknown key {unknown[0]!r}{_hint(unknown[0], _options(TrainConfig))}"
        )
    values: dict[str, Any] = {}
    for entry in fields(kind):
        usual = _usual(entry, default)
        if entry.name in settings:
            given = settings[entry.name]
            values[entry.name] = _value(hints[entry.name], given, recipe, prefix + entry.name, usual)
        else:
            values[entry.name] = usual
    try:
        return kind(**values)
    except ValueError as error:
        raise RecipeError(f"recipe {recipe}: {error}") from error


def _usual(entry: Field[Any], default: Any) -> Any:
    """What a field is if nobody says otherwise."""
    if default is not None:
        return getattr(default, entry.name)
    if entry.default_factory is not MISSING:
        return entry.default_factory()
    return tyro.MISSING if entry.default is MISSING else entry.default


def _value(kind: Any, value: Any, recipe: str, key: str, usual: Any = None) -> Any:
    """A value of the type of its field; ``usual`` fills in what a mapping leaves out."""
    origin, choices = get_origin(kind), get_args(kind)
    if origin in (Union, types.UnionType):
        if value is None and type(None) in choices:
            return None
        (inner,) = [choice for choice in choices if choice is not type(None)]
        return _value(inner, value, recipe, key)
    if _is_dataclass(kind) and isinstance(value, Mapping):
        return _build(kind, value, recipe, f"{key}.", usual)
    if origin is tuple and isinstance(value, list):
        return tuple(_value(choices[0], entry, recipe, key) for entry in value)
    if origin is Literal and value in choices:
        return value
    if kind is Path and isinstance(value, str):
        return Path(value)
    # YAML reads 1e-3, without a point, as text.
    if kind is float and not isinstance(value, bool) and _NUMBER.fullmatch(str(value)):
        return float(value)
    # A bool is an int to Python, not to whoever wrote the file.
    if kind in (int, str, bool) and type(value) is kind:
        return value
    expected = f"one of {choices}" if origin is Literal else str(kind) if origin else kind.__name__
    raise RecipeError(f"recipe {recipe} sets {key} to {brief(value)}; expected {expected}")


def _options(kind: type, prefix: str = "") -> list[str]:
    """Names of all options, with dots between their parts."""
    names: list[str] = []
    for name, hint in get_type_hints(kind).items():
        names.append(prefix + name)
        if _is_dataclass(hint):
            names += _options(hint, f"{prefix}{name}.")
    return names


def _is_dataclass(kind: Any) -> bool:
    return isinstance(kind, type) and is_dataclass(kind)


def _hint(given: str, known: Sequence[str]) -> str:
    """The closest known name, also if only its last part was given."""
    close = difflib.get_close_matches(given, known, n=1, cutoff=0.6) or [
        name for name in known if difflib.get_close_matches(given, [name.rpartition(".")[2]], cutoff=0.8)
    ]
    return f"; did you mean {close[0]!r}?" if close else ""
