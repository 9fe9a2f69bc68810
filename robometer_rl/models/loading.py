"""One function that turns a name into a reward model."""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import parse_qsl, urlencode

from robometer_rl.documents import DocumentError, parse_json
from robometer_rl.models.locations import UnknownModelError, is_compact
from robometer_rl.models.reward_model import RewardModel

if TYPE_CHECKING:
    import torch

__all__ = ["FAMILIES", "UnknownModelError", "family_of", "files_of", "load_reward_model"]

FAMILIES: Final[Mapping[str, str]] = {
    "robometer": "robometer_rl.models.robometer.inference",
    "compact": "robometer_rl.models.compact.inference",
    "control": "robometer_rl.models.controls",
    "rewind": "robometer_rl.models.baselines.rewind",
    "topreward": "robometer_rl.models.baselines.topreward",
    "roboreward": "robometer_rl.models.baselines.roboreward",
    "gvl": "robometer_rl.models.baselines.gvl",
    "rlvlmf": "robometer_rl.models.baselines.rlvlmf",
    "robodopamine": "robometer_rl.models.baselines.robodopamine",
    "vlac": "robometer_rl.models.baselines.vlac",
    "rynnvalue": "robometer_rl.models.baselines.rynnvalue",
    "http": "robometer_rl.serving.loading",
    "https": "robometer_rl.serving.loading",
}
"""Kinds of reward models, and the module of each, which is imported when a model of the kind is asked for.

Such a module has a function ``load(where, ...) -> RewardModel``: ``where`` is what stands behind the colon of a name,
and its other parameters are the options that the family has.
"""

_BLIND: Final = ("clock", "constant", "monotone")  # controls that need no word before them

# One letter is a drive, and what is followed by slashes an address.
_NAME = re.compile(r"(?P<family>[A-Za-z_]\w+(?:\.\w+)*):(?!//)(?P<where>.*)", re.DOTALL)
_ADDRESS = re.compile(r"(?P<family>https?)://.*", re.DOTALL)


def load_reward_model(
    name: str | Path,
    device: str | torch.device = "cpu",
    dtype: str | None = None,
    attn_implementation: str | None = None,
    weights: str | None = None,
    base_model: str | Path | None = None,
    **options: Any,
) -> RewardModel:
    """Loads a reward model.

    Args:
        name: ``"mini"`` (embedded in the package), a checkpoint directory, or a Hub id with an optional revision
            (``"robometer/Robometer-4B"``, ``"robometer/Robometer-4B@<tag, branch or commit>"``; the default branch
            if none is given), of a Robometer: docs/checkpoints.md lists the layouts that load. A model of another
            kind is called ``"family:where"``, where the family is one of `FAMILIES` or the full name of a module that
            can be imported here (docs/adding_a_model.md); options of the family may stand behind it, as in
            ``"topreward:Qwen/Qwen3-VL-8B-Instruct?rule=reference&prefixes=8"``. ``"clock"``, ``"constant"`` and
            ``"monotone"`` are controls that see nothing (`robometer_rl.models.controls`). The address of a reward
            server (docs/serving.md), ``"http://HOST:8000"``, stands for the model that it serves.
        device: Where to run, such as ``"cuda"``.
        dtype: ``"float32"``, ``"bfloat16"`` or ``"float16"``; as stored in the checkpoint if None. ``"auto"`` is
            bfloat16 on a processor with instructions for it (AVX-512-BF16, AMX), else as stored.
        attn_implementation: ``"sdpa"`` or ``"eager"`` can do everything; others `predict` and `compare`.
        weights: ``"int8"`` keeps the backbone's matrices in 8 bits, a quarter of float32 (extra ``int8``); None keeps
            them in ``dtype``.
        base_model: Where the base of a checkpoint is that does not hold everything itself, instead of where the
            checkpoint says: a directory, or a Hub id. Adapters take their weights from it; checkpoints without a
            tokenizer take that from it.
        **options: Those of another family.

    Raises:
        UnknownModelError: The name means nothing here.
        CheckpointError: The checkpoint is incomplete or of another kind.
        ValueError: An option that the family does not have, or a device or dtype that is not to be had here.
        ConnectionError: A reward server that cannot be reached.

    Examples:
        >>> model = load_reward_model("mini")
        >>> model.model_id
        'robometer-mini'
    """
    family, where = _parse(name)
    load = _loader(family)
    known = list(inspect.signature(load).parameters)[1:]
    # An address is the server's affair, and may hold a token, which no output should.
    is_address = _ADDRESS.fullmatch(str(name)) is not None
    start = str(name)[: len(str(name)) - len(where)]
    where, written = (where, {}) if is_address else _written_options(where, known)
    options = written | options
    named = {"dtype": dtype, "attn_implementation": attn_implementation, "weights": weights, "base_model": base_model}
    given = {option: value for option, value in named.items() if value is not None} | options
    # Every family runs on the processor, whether or not it has a word for it.
    if "device" in known or str(device) != "cpu":
        given["device"] = device
    _require_known(family, given, known)
    model = load(where, **given)
    if not is_address:
        model.source = start + _with_options(where, options)
    return model


def family_of(name: str | Path) -> str:
    """The family of the model that ``name`` names; see `load_reward_model`."""
    return _parse(name)[0]


def files_of(name: str | Path) -> list[Path]:
    """Files of the model that ``name`` names, sorted; none if its weights are in no directory on this machine.

    A checkpoint on disk keeps its name when training goes on; its files tell.
    """
    where = Path(_parse(name)[1])
    bare = Path(str(where).rpartition("?")[0] or str(where))
    directory = next((each for each in (where, bare) if each.is_dir()), None)
    return [] if directory is None else sorted(path for path in directory.rglob("*") if path.is_file())


def _parse(name: str | Path) -> tuple[str, str]:
    """The family and what stands behind it."""
    text = str(name)
    if (address := _ADDRESS.fullmatch(text)) is not None:
        return address["family"], text
    found = None if text and Path(text).exists() else _NAME.fullmatch(text)
    if found is not None:
        return found["family"], found["where"]
    if text in _BLIND and not Path(text).exists():
        return "control", text
    return ("compact" if text and is_compact(Path(text)) else "robometer"), text


def _require_known(family: str, given: Iterable[str], known: Sequence[str]) -> None:
    if unknown := sorted(set(given) - set(known)):
        raise ValueError(
            f"models of the family {family!r} have no option {' and no option '.join(unknown)}; they have "
            f"{', '.join(known) or 'none'}"
        )


def _written_options(where: str, known: Sequence[str]) -> tuple[str, dict[str, Any]]:
    """What a family is given, and the options behind its last question mark, if these are options that it has."""
    rest, mark, text = where.rpartition("?")
    written = dict(parse_qsl(text, keep_blank_values=True))
    if not mark or not written or not set(written) <= set(known):
        return where, {}
    return rest, {option: _value(said) for option, said in written.items()}


def _value(text: str) -> Any:
    """A number or a truth value as JSON writes it; anything else is text."""
    try:
        return parse_json(text)
    except DocumentError:
        return text


def _with_options(where: str, options: Mapping[str, Any]) -> str:
    """What a family is given, and behind it the options, as far as they can be written."""
    plain = {key: str(value) if isinstance(value, Path) else value for key, value in options.items()}
    words = {
        key: value if isinstance(value, str) and _value(value) == value else json.dumps(value)
        for key, value in plain.items()
        if isinstance(value, (str, int, float))
    }
    return f"{where}?{urlencode(words, safe='/:')}" if words else where


def _loader(family: str) -> Callable[..., RewardModel]:
    module = FAMILIES.get(family, family)
    try:
        return import_module(module).load
    except ModuleNotFoundError as error:
        # What the module itself misses is another matter, and says so.
        if error.name is None or not f"{module}.".startswith(f"{error.name}."):
            raise
        raise UnknownModelError(
            f"unknown family of reward models {family!r}; expected one of {sorted(FAMILIES)}, or the full name of a "
            "module that can be imported here"
        ) from error
    except AttributeError as error:
        raise UnknownModelError(
            f"the module {module} cannot load reward models: it has no function load(where)"
        ) from error
