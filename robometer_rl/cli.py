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
from importlib import import_module
from typing import Annotated, Final

import tyro

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


Command = Demo | Score | Collect


@dataclass(frozen=True)
class _Home:
    """Where a command lives: the dataclass of its options, and the function that is called with them."""

    module: str
    options: str
    function: str


_HOMES: Final[dict[type[Command], _Home]] = {
    Demo: _Home("robometer_rl.demo", "DemoConfig", "run_demo"),
    Score: _Home("robometer_rl.score", "ScoreConfig", "run_score"),
    Collect: _Home("robometer_rl.data.collect", "CollectConfig", "collect"),
}


@dataclass(frozen=True)
class Program:
    """Rewards for robot learning from the Robometer video-language reward model. The options of a command are listed by
    'robometer-rl COMMAND --help'."""  # noqa: D205, D209 - one paragraph on the screen

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
    try:
        module = import_module(home.module)
        options = tyro.cli(getattr(module, home.options), args=words[split:], prog=f"robometer-rl {words[split - 1]}")
        getattr(module, home.function)(options)
    except KeyboardInterrupt:
        return 130
    # What a person can set right: wrong values, missing files, extras that are not installed.
    except (ValueError, OSError, ImportError) as error:
        logger.debug("the error came from here:", exc_info=True)
        sys.stderr.write(f"robometer-rl {words[split - 1]}: {error}\n")
        return 2
    return 0


def _configure_logging(debug: bool) -> None:
    from rich.console import Console
    from rich.logging import RichHandler

    handler = RichHandler(console=Console(stderr=True), show_time=False, show_path=debug)
    logging.basicConfig(level=logging.WARNING, format="%(message)s", handlers=[handler], force=True)
    logging.getLogger("robometer_rl").setLevel(logging.DEBUG if debug else logging.INFO)
    # Simulators warn about their own spaces and constants, which is nothing that a user of this program can act on.
    logging.captureWarnings(True)
    logging.getLogger("py.warnings").setLevel(logging.WARNING if debug else logging.ERROR)
