"""The program ``robometer-rl``: one subcommand per task, each described by the dataclass of its options.

The module of a command is imported when the command is run, so that ``robometer-rl --help`` answers at once and
recording needs no torch.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pkgutil import resolve_name
from typing import Annotated, Any, Final

import tyro

from robometer_rl.models.reward_model import UnsupportedByModelError
from robometer_rl.prediction import NonFiniteOutputError

__all__ = ["main"]

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Demo:
    """Watch the embedded model pay an expert, a half-way and a random policy."""


@dataclass(frozen=True)
class Score:
    """Score a video: progress and success probability in every frame."""


@dataclass(frozen=True)
class Collect:
    """Record episodes of scripted policies at several skill levels."""


@dataclass(frozen=True)
class Train:
    """Train a model on recorded episodes, or go on with an interrupted training."""


@dataclass(frozen=True)
class Evaluate:
    """Measure how right a model is on recorded episodes."""


@dataclass(frozen=True)
class Calibrate:
    """Find the success threshold and patience of a model on recorded episodes."""


@dataclass(frozen=True)
class Relabel:
    """Give a recorded dataset the rewards that a model sees in it."""


@dataclass(frozen=True)
class Publish:
    """Push a checkpoint with a model card to the Hub."""


@dataclass(frozen=True)
class Data:
    """Look at, verify, import, upload or download recorded episodes."""


Command = Demo | Score | Collect | Train | Evaluate | Calibrate | Relabel | Data | Publish


@dataclass(frozen=True)
class _Home:
    """Where a command lives: the dataclass of its options, and the function that is called with them.

    Where a dataclass alone does not describe the command line, ``reader`` names a function that makes the options from
    the words and the program's name.
    """

    options: str | None
    function: str
    reader: str | None = None


_HOMES: Final[dict[type[Command], _Home]] = {
    Demo: _Home("robometer_rl.demo:DemoConfig", "robometer_rl.demo:run_demo"),
    Score: _Home("robometer_rl.score:ScoreConfig", "robometer_rl.score:run_score"),
    Collect: _Home("robometer_rl.collecting.collect:CollectConfig", "robometer_rl.collecting.collect:collect"),
    Train: _Home(
        "robometer_rl.training.config:TrainConfig",
        "robometer_rl.training.pipeline:train",
        "robometer_rl.training.recipes:parse_training",
    ),
    Evaluate: _Home("robometer_rl.evaluation.evaluate:EvaluateConfig", "robometer_rl.evaluation.evaluate:run_evaluate"),
    Calibrate: _Home(
        "robometer_rl.evaluation.calibrate:CalibrateConfig", "robometer_rl.evaluation.calibrate:run_calibrate"
    ),
    Relabel: _Home("robometer_rl.relabeling.commands:RelabelConfig", "robometer_rl.relabeling.commands:run_relabel"),
    Publish: _Home("robometer_rl.training.publish:PublishConfig", "robometer_rl.training.publish:publish"),
    Data: _Home(None, "robometer_rl.formats.commands:run_data", "robometer_rl.formats.commands:parse_data"),
}


@dataclass(frozen=True)
class Program:
    """Rewards for robot learning from Robometer. Each command describes its options: robometer-rl COMMAND --help."""

    command: Command
    """commands"""
    debug: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Log more, and show where an error came from; ROBOMETER_DEBUG=1 does the same."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the program.

    Args:
        arguments: What follows ``robometer-rl`` on the command line; ``sys.argv[1:]`` if None.

    Returns:
        The exit code: 0, or 2 if the input or the installation is at fault, or 130 after Ctrl-C.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    split = next((index for index, word in enumerate(words) if not word.startswith("-")), len(words)) + 1
    program = tyro.cli(Program, args=words[:split], prog="robometer-rl", config=(tyro.conf.OmitSubcommandPrefixes,))
    debug = program.debug or os.environ.get("ROBOMETER_DEBUG", "0") not in ("", "0")
    _configure_logging(debug)
    home = _HOMES[type(program.command)]
    if not isinstance(program.command, Train):
        # Read when torch is imported. Where other processes want the cores, too, threads that wait by spinning keep
        # those that they wait for from running; training mostly has its machine to itself, and many short waits.
        os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    try:
        options = _read_options(home, words[split:], f"robometer-rl {words[split - 1]}")
        resolve_name(home.function)(options)
    except KeyboardInterrupt:
        return 130
    # What a person can set right: wrong values, missing files, extras that are not installed, a broken checkpoint.
    except (ValueError, OSError, ImportError, NonFiniteOutputError, UnsupportedByModelError) as error:
        logger.debug("the error came from here:", exc_info=True)
        sys.stderr.write(f"robometer-rl {words[split - 1]}: {error}\n")
        return 2
    return 0


def _read_options(home: _Home, words: list[str], program: str) -> Any:
    if home.reader is not None:
        return resolve_name(home.reader)(words, program)
    assert home.options is not None
    return tyro.cli(resolve_name(home.options), args=words, prog=program)


def _configure_logging(debug: bool) -> None:
    from rich.console import Console
    from rich.logging import RichHandler

    handler = RichHandler(console=Console(stderr=True), show_time=False, show_path=debug)
    # What libraries warn of is for those who write programs with them; this is for those who run one.
    level = logging.WARNING if debug else logging.ERROR
    logging.basicConfig(level=level, format="%(message)s", handlers=[handler], force=True)
    logging.getLogger("robometer_rl").setLevel(logging.DEBUG if debug else logging.INFO)
