"""The program ``robometer-rl``: one subcommand per task, each described by the dataclass of its options.

The module of a command is imported when the command is run, so that ``robometer-rl --help`` answers at once and
recording needs no torch.
"""

from __future__ import annotations

import io
import logging
import os
import re
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stderr
from dataclasses import dataclass
from pkgutil import resolve_name
from traceback import walk_tb
from typing import Annotated, Any, Final, TextIO

import tyro

from robometer_rl.errors import FIXABLE, explain
from robometer_rl.report.markup import printable
from robometer_rl.report.terminal import NO_READER, close_output, log_handler, prepare_output, show_error

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
class Adapt:
    """Make a reward model of your own recordings in minutes, with a verdict."""


@dataclass(frozen=True)
class Harden:
    """Train agents on a model and the model on what it paid them for nothing, in turns."""


@dataclass(frozen=True)
class Train:
    """Train a model on recorded episodes, or go on with an interrupted training."""


@dataclass(frozen=True)
class Evaluate:
    """Measure how right a model is on recorded episodes."""


@dataclass(frozen=True)
class Benchmark:
    """Hold models against controls on fixed questions, as one page."""


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
class Convert:
    """Make published weights of others ones that run here."""


@dataclass(frozen=True)
class Serve:
    """Serve a model to other processes and machines."""


@dataclass(frozen=True)
class Ui:
    """Open a studio in the browser: score, compare, browse and label recordings, watch training."""


@dataclass(frozen=True)
class Data:
    """Look at, verify, import, upload or download recorded episodes."""


Command = (
    Demo
    | Score
    | Collect
    | Adapt
    | Harden
    | Train
    | Evaluate
    | Benchmark
    | Calibrate
    | Relabel
    | Data
    | Publish
    | Convert
    | Serve
    | Ui
)


@dataclass(frozen=True)
class _Home:
    """Where a command lives: the dataclass of its options, and the function that is called with them.

    Where a dataclass alone does not describe the command line, ``reader`` names a function that makes the options from
    the words and the program's name. ``kept`` says what remains of a run that is interrupted, and how to go on.
    """

    options: str | None
    function: str
    kept: str
    reader: str | None = None


_COLOURS: Final = re.compile(r"(\x1b\[[0-9;]*m)")

_AGAIN: Final = "files that are there are whole; give the same command again for all of them"

_HOMES: Final[dict[type[Command], _Home]] = {
    Demo: _Home("robometer_rl.demo:DemoConfig", "robometer_rl.demo:run_demo", _AGAIN),
    Score: _Home("robometer_rl.score:ScoreConfig", "robometer_rl.score:run_score", _AGAIN),
    Collect: _Home(
        "robometer_rl.collecting.collect:CollectConfig",
        "robometer_rl.collecting.collect:collect",
        "recorded episodes are kept in the store; the same command records the others",
    ),
    Adapt: _Home(
        "robometer_rl.adapting.config:AdaptConfig",
        "robometer_rl.adapting.adapt:adapt",
        "features of frames that were looked at are kept beside the store; give the same command again",
    ),
    Harden: _Home(
        "robometer_rl.hardening.config:HardenConfig",
        "robometer_rl.hardening.harden:harden",
        "finished models and agents are kept in the output; the same command goes on from there",
    ),
    Train: _Home(
        "robometer_rl.training.recipes:Training",
        "robometer_rl.training.dry_run:run_training",
        "finished stages and the last save are kept in the output; the same command goes on from there",
        "robometer_rl.training.recipes:parse_command",
    ),
    Evaluate: _Home(
        None,
        "robometer_rl.evaluation.published.commands:run_any_evaluate",
        _AGAIN,
        "robometer_rl.evaluation.published.commands:parse_evaluate",
    ),
    Benchmark: _Home(
        "robometer_rl.evaluation.benchmark.commands:BenchmarkConfig",
        "robometer_rl.evaluation.benchmark.commands:run_benchmark",
        "recorded episodes and answers are kept in the output; the same command goes on from there",
    ),
    Calibrate: _Home(
        "robometer_rl.evaluation.calibrate:CalibrateConfig", "robometer_rl.evaluation.calibrate:run_calibrate", _AGAIN
    ),
    Relabel: _Home(
        "robometer_rl.relabeling.commands:RelabelConfig",
        "robometer_rl.relabeling.commands:run_relabel",
        "what was labelled is kept in the journal beside the output; the same command goes on from there",
    ),
    Publish: _Home(
        "robometer_rl.training.publish:PublishConfig",
        "robometer_rl.training.publish:publish",
        "a checkpoint is pushed in one piece or not at all; give the same command again",
    ),
    Convert: _Home(
        "robometer_rl.models.baselines.vlac:ConvertConfig", "robometer_rl.models.baselines.vlac:run_convert", _AGAIN
    ),
    Serve: _Home(
        "robometer_rl.studio.commands:ServeConfig",
        "robometer_rl.studio.commands:run_serve",
        "clients wait for a server at the same address",
    ),
    Ui: _Home(
        "robometer_rl.studio.commands:UiConfig",
        "robometer_rl.studio.commands:run_ui",
        "what was flagged and labelled is kept; give the same command again",
    ),
    Data: _Home(
        None,
        "robometer_rl.formats.commands:run_data",
        "what was written until now is kept; the same command goes on from there",
        "robometer_rl.formats.commands:parse_data",
    ),
}


@dataclass(frozen=True)
class Program:
    """Rewards for robot learning from Robometer. Each command describes its options: robometer-rl COMMAND --help."""

    command: Command
    """commands"""
    debug: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Log more, and show where an error came from; ROBOMETER_DEBUG=1 does the same."""


class _Interrupted(KeyboardInterrupt):
    """A signal that asks the program to end."""

    def __init__(self, number: signal.Signals) -> None:
        super().__init__(number)
        self.number = number


def program() -> int:
    """Runs `main` as a program of its own, whose end is near once the command has ended."""
    code = main()
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        # Libraries tidy up at exit; where they take their time, Ctrl-C ends that without a traceback of theirs.
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    return code


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the program.

    Args:
        arguments: What follows ``robometer-rl`` on the command line; ``sys.argv[1:]`` if None.

    Returns:
        The exit code: 0, or 2 if the input or the installation is at fault, or what a shell says of a program that a
        signal has ended: 130 after Ctrl-C, 143 after SIGTERM.

    Raises:
        SystemExit: After ``--help``, for options that do not exist or are of another type, and where nobody reads the
            output.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    split = next((index for index, word in enumerate(words) if not word.startswith("-")), len(words)) + 1
    name = " ".join(["robometer-rl", *words[split - 1 : split]])
    prepare_output()
    code = 2
    try:
        with _signals() as received:
            code = _run(words[:split], words[split:], name, received)
    except _Interrupted as error:  # before it was known what to do
        code = 128 + error.number
    finally:
        _flush(name, code)
    return code


def _run(first: list[str], rest: list[str], name: str, received: Sequence[signal.Signals]) -> int:
    with _parsing(name):
        program = tyro.cli(Program, args=first, prog="robometer-rl", config=(tyro.conf.OmitSubcommandPrefixes,))
    debug = program.debug or os.environ.get("ROBOMETER_DEBUG", "0") not in ("", "0")
    _configure_logging(debug)
    home = _HOMES[type(program.command)]
    if not isinstance(program.command, (Adapt, Harden, Train)):
        # Read when torch is imported. Where other processes want the cores, too, threads that wait by spinning keep
        # those that they wait for from running; training mostly has its machine to itself, and many short waits.
        os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    try:
        with _parsing(name):
            options = _read_options(home, rest, name)
        resolve_name(home.function)(options)
    except KeyboardInterrupt as error:
        return _ended(error.number if isinstance(error, _Interrupted) else signal.SIGINT, name, home)
    except FIXABLE as error:
        # Libraries make errors of their own of what comes while they call Python, as Python 3.11 does in classes.
        if received:
            return _ended(received[0], name, home)
        explanation = explain(error)
        if explanation is None:
            raise
        logger.debug("the error came from here:", exc_info=True)
        show_error(f"{name}: {explanation}")
        return 2
    return 0


def _ended(number: signal.Signals, name: str, home: _Home) -> int:
    show_error(f"{name}: ended by {number.name}; {home.kept}")
    return 128 + number


@contextmanager
def _parsing(name: str) -> Iterator[None]:
    """Ends the program where options cannot be read from a file, or help on them cannot be printed.

    Raises:
        ValueError: What an options' own dataclass says of a value, for which tyro has drawn a box of several lines.
    """
    held = _Held(sys.stderr)
    wrong = None
    try:
        with redirect_stderr(held):
            yield
    except SystemExit as stop:
        wrong = _wrong_value(stop)
        if wrong is None:
            raise
    except BrokenPipeError:
        close_output()
        raise SystemExit(NO_READER) from None
    except OSError as error:
        logger.debug("the error came from here:", exc_info=True)
        show_error(f"{name}: {explain(error)}")
        raise SystemExit(2) from None
    finally:
        if wrong is None:
            # tyro repeats what it was given; its own colours are all that may steer the terminal.
            sys.stderr.write("".join(map(_shown, _COLOURS.split(held.getvalue()))))
    if wrong is not None:
        raise wrong


def _shown(text: str) -> str:
    return text if _COLOURS.fullmatch(text) else printable(text)


def _wrong_value(stop: SystemExit) -> ValueError | None:
    """The error of a dataclass of ours that made tyro stop, if that was it."""
    error = stop.__context__
    while error is not None:
        innermost = [frame.f_globals["__name__"] for frame, _ in walk_tb(error.__traceback__)][-1:]
        if isinstance(error, ValueError) and innermost and innermost[0].startswith("robometer_rl."):
            return error
        error = error.__context__
    return None


class _Held(io.StringIO):
    """What is written to standard error, until it is known whether it is to be read."""

    def __init__(self, stream: TextIO) -> None:
        super().__init__()
        self._stream = stream

    def isatty(self) -> bool:
        return self._stream.isatty()


@contextmanager
def _signals() -> Iterator[Sequence[signal.Signals]]:
    """Lets Ctrl-C, SIGTERM and SIGHUP end the program in order, so that nothing is left half; a second one at once.

    Yields:
        Those that have come until now.
    """
    received: list[signal.Signals] = []

    def end(number: int, _: object) -> None:
        for each in replaced:
            signal.signal(each, signal.SIG_DFL)
        received.append(signal.Signals(number))
        raise _Interrupted(received[-1])

    def once_more(dropped: sys.UnraisableHookArgs) -> None:
        """Python drops what is raised while an object is finalised; the signal comes again when that is over."""
        if not isinstance(dropped.exc_value, _Interrupted):
            usual_hook(dropped)
            return
        for each in replaced:
            signal.signal(each, end)
        timer = threading.Timer(0.05, os.kill, (os.getpid(), dropped.exc_value.number))
        timer.daemon = True
        timer.start()

    usual = {signal.SIGINT: signal.default_int_handler, signal.SIGTERM: signal.SIG_DFL, signal.SIGHUP: signal.SIG_DFL}
    is_main = threading.current_thread() is threading.main_thread()
    # A program in the background of a script, or under nohup, is told to ignore some of them.
    replaced = [number for number, handler in usual.items() if is_main and signal.getsignal(number) is handler]
    usual_hook, sys.unraisablehook = sys.unraisablehook, once_more
    for number in replaced:
        signal.signal(number, end)
    try:
        yield received
    finally:
        sys.unraisablehook = usual_hook
        for number in replaced:
            signal.signal(number, usual[number])


def _flush(name: str, code: int) -> None:
    """Sees to it that all that was printed has arrived.

    Raises:
        SystemExit: Nobody reads it, or a full disk has no place for it.
    """
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        close_output()
        raise SystemExit(NO_READER) from None
    except OSError as error:
        if code == 0:
            show_error(f"{name}: standard output: {explain(error)}")
        close_output()
        raise SystemExit(2) from None


def _read_options(home: _Home, words: list[str], program: str) -> Any:
    if home.reader is not None:
        return resolve_name(home.reader)(words, program)
    assert home.options is not None
    return tyro.cli(resolve_name(home.options), args=words, prog=program)


def _configure_logging(debug: bool) -> None:
    # What libraries warn of is for those who write programs with them; this is for those who run one.
    level = logging.WARNING if debug else logging.ERROR
    logging.basicConfig(level=level, format="%(message)s", handlers=[log_handler(show_path=debug)], force=True)
    logging.captureWarnings(True)
    logging.getLogger("robometer_rl").setLevel(logging.DEBUG if debug else logging.INFO)
