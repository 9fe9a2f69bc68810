"""Kills of every command that writes: SIGKILL, Ctrl-C and SIGTERM at random moments of its run.

Afterwards every file that somebody would take for a result is whole, the data are as they were, nothing hidden is left
by a command that was asked to end, and the same command, given again, leaves what a run without a break leaves.
"""

from __future__ import annotations

import re
import shutil
import signal
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from fuzzing.checks import digest, torn
from fuzzing.kinds import KINDS, NO_EPISODES, TASK, TINY, TRAINING, words
from fuzzing.trying import Outcome, attempt
from tests.relabeling import kinds as labelled

if TYPE_CHECKING:
    from fuzzing.attack import Attack

SIGNALS: Final = (signal.SIGKILL, signal.SIGINT, signal.SIGTERM)
ENDED: Final = {signal.SIGINT: 130, signal.SIGTERM: 143}
THERE: Final = re.compile(r"is there already|has been published|holds a finished")
LARGER: Final = 12  # episodes of data sets of any size, so that there is something to interrupt


@dataclass(frozen=True)
class Killed:
    """A command that writes.

    Attributes:
        kind: The sound example that it reads; None if it reads none.
        command: ``@`` stands for the example, ``%`` for a new path to write to.
        is_changed: Whether it is the example that is written to.
        weight: Kills of it, in parts of those of others.
    """

    kind: str | None
    command: tuple[str, ...]
    is_changed: bool = False
    weight: float = 1.0


def _relabelled() -> dict[str, Killed]:
    """Every way to label a data set that the tests know."""
    found = {}
    for name, kind in labelled.KINDS.items():
        command = ("relabel", "@", *TINY, *TASK, "--pack-tokens", "60", "--write", kind.mode)
        command += ("--cameras", *kind.cameras) if kind.cameras else ()
        is_changed = kind.mode == "in_place"
        found[f"relabel {name}"] = Killed(
            f"labelled {name}", (*command, *(() if is_changed else ("--output", "%-v1"))), is_changed
        )
    return found


def _imported() -> dict[str, Killed]:
    """One import of every format."""
    found = {}
    for name, kind in KINDS.items():
        command = next((command for command in kind.commands if command[:2] == ("data", "import")), None)
        if command is not None:
            found[f"import {name}"] = Killed(name, command)
    found["import videos as they are"] = Killed(
        "listed videos", ("data", "import", "videos", "@", "%", "--keep-videos")
    )
    return found


COMMANDS: Final[dict[str, Killed]] = {
    "score": Killed("npz", ("score", "@", *TASK, *TINY, "--out", "%")),
    "score a video": Killed("mp4", ("score", "@", *TASK, *TINY, "--out", "%")),
    "evaluate": Killed("store", ("evaluate", TINY[1], "@", "--split", "train", "--output", "%.json")),
    "calibrate": Killed("store", ("calibrate", TINY[1], "@", "--max-false-alarms", "0.99", "--output", "%")),
    "calibrate a checkpoint": Killed(
        "checkpoint",
        ("calibrate", "@", "{store}", "--max-false-alarms", "0.99", "--output", "%", "--write-checkpoint"),
        is_changed=True,
    ),
    **_relabelled(),
    "relabel with a report": Killed("npz episodes", ("relabel", "@", *TINY, *TASK, "--output", "%", "--report")),
    **_imported(),
    "export LeRobot": Killed("store", ("data", "export", "lerobot", "@", "%", "--fps", "10")),
    "export Minari": Killed("store", ("data", "export", "minari", "@", "%-v1")),
    "export rbm": Killed("store", ("data", "export", "rbm", "@", "%")),
    "inspect": Killed("store", ("data", "inspect", "@", "--output", "%.png")),
    "push, dry": Killed("store", ("data", "push", "@", "me/store", "--dry-run")),
    "publish, dry": Killed("checkpoint", ("publish", "@", "me/robometer", "--dry-run")),
    "train": Killed("store", (*TRAINING, "--data", "@", "--output", "%")),
    "train a LoRA": Killed("store", (*TRAINING, "--lora.rank", "2", "--data", "@", "--output", "%")),
    "collect": Killed(
        None,
        ("collect", "--output", "%", "--tasks", "reach", "--size", "16", "--workers", "1", *NO_EPISODES,
         "--episodes.expert=2"),
        weight=0.4,
    ),
    "demo": Killed(None, ("demo", "--out", "%", "--every", "60", "--task", "reach", *TINY), weight=0.4),
}  # fmt: skip
"""By a name for the table."""


@dataclass(frozen=True)
class _Unbroken:
    """What a run without a break leaves.

    Attributes:
        seconds: How long it takes.
        left: All that is in its folder afterwards.
        steady: The files among it that are the same every time.
    """

    seconds: float
    left: dict[str, str]
    steady: frozenset[str]


def attack_kills(attack: Attack, kills: int = 10) -> None:
    """Kills every command ``kills`` times, or the share of it that is run."""
    for name in attack.chosen(list(COMMANDS)):
        command = COMMANDS[name]
        unbroken = _unbroken(attack, name, command)
        if unbroken is None:
            continue
        for number in range(max(1, round(attack.share * kills * command.weight))):
            _attack(attack, name, command, number, unbroken)


def _prepared(attack: Attack, command: Killed, folder: Path) -> list[str]:
    """The command line, and its example in ``folder``."""
    path = folder / "nothing"
    if command.kind is not None:
        source = _example(attack, command.kind)
        path = folder / source.name
        shutil.copytree(source, path) if source.is_dir() else shutil.copy2(source, path)
    return attack.filled(words(command.command, path, folder / "out"))


def _example(attack: Attack, kind: str) -> Path:
    if not kind.startswith("labelled "):
        return attack.example(kind)
    name = kind.removeprefix("labelled ")
    make: Callable[[Path], None] = lambda path: labelled.KINDS[name].make(path, LARGER)  # noqa: E731
    return attack.made(kind, f"data-v0{labelled.SUFFIXES.get(name, '')}", make)


def _unbroken(attack: Attack, name: str, command: Killed) -> _Unbroken | None:
    """Two runs without a break; None, and a finding, if they fail."""
    runs: list[tuple[Outcome, dict[str, str]]] = []
    for number in ("first", "second"):
        # Two places, so that a file with its place in it is not taken for one that is the same every time.
        folder = attack.folder / "unbroken" / f"{_file(name)}-{number}"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        outcome = attempt(_prepared(attack, command, folder), folder, HOME=str(folder))
        if outcome.code != 0:
            attack.judge("kills", name, outcome, folder, {"no second run": f"nor a {number}: {outcome.output[-500:]}"})
            return None
        runs.append((outcome, _left(folder)))
        shutil.rmtree(folder)
    (first, left), (second, again) = runs
    # How long it took is written down, too.
    timed = ("training.json", "report.json")
    steady = frozenset(
        file for file, content in left.items() if again.get(file) == content and not file.endswith(timed)
    )
    return _Unbroken(max(first.clock, second.clock), left, steady)


def _attack(attack: Attack, name: str, command: Killed, number: int, unbroken: _Unbroken) -> None:
    rng = attack.rng("kills", name, number)
    folder = attack.trial("kills", _file(name), number)
    line = _prepared(attack, command, folder)
    example = next((entry for entry in folder.iterdir()), None)
    original = None if example is None else digest(example)
    sent, moment = rng.choice(SIGNALS), rng.uniform(0.0, unbroken.seconds * 1.05)
    outcome = attempt(line, folder, (sent, moment), HOME=str(folder))
    harm: dict[str, str] = {}
    told = f"{sent.name} after {moment:.2f} s of {unbroken.seconds:.2f} s"
    if problems := [problem for entry in _results(folder) for problem in torn(entry)]:
        harm["torn"] = "; ".join(problems)
    if outcome.killed and sent in ENDED and outcome.code not in (ENDED[sent], 0, None):
        harm["exit code"] = f"{outcome.code} instead of {ENDED[sent]}: {outcome.output[-300:]}"
    was_asked = sent in ENDED and outcome.killed and outcome.code == ENDED[sent]
    if was_asked and (hidden := _hidden(folder)):
        harm["touched"] = f"{hidden} is left of a command that was asked to end"
    if example is not None and not command.is_changed and digest(example) != original:
        harm["touched"] = "the example is not as it was"
    left = _left(folder)
    was_whole, had_finished = left.keys() == unbroken.left.keys(), not _different(left, unbroken)
    again = attempt(line, folder, HOME=str(folder))
    if again.code != 0 and not (was_whole and again.code == 2 and THERE.search(again.output)):
        harm["no second run"] = again.output[-500:]
    elif again.problem:
        harm[again.problem] = again.output[-500:]
    elif not (command.is_changed and had_finished):  # what is labelled in place twice has room for both
        harm |= _different(_left(folder), unbroken)
    attack.judge("kills", name, outcome, folder, harm, told)


def _different(left: dict[str, str], unbroken: _Unbroken) -> dict[str, str]:
    """How what a second run leaves differs from what one without a break leaves."""
    if more := sorted(left.keys() - unbroken.left.keys()):
        return {"touched": f"left over after the second run: {more[:5]}"}
    if less := sorted(unbroken.left.keys() - left.keys()):
        return {"torn": f"missing after the second run: {less[:5]}"}
    other = sorted(file for file in unbroken.steady if left[file] != unbroken.left[file])
    return {"torn": f"different after the second run: {other[:5]}"} if other else {}


def _left(folder: Path) -> dict[str, str]:
    content = digest(folder)
    return {name: what for name, what in content.items() if name != "printed.txt" and not name.startswith(".cache")}


def _results(folder: Path) -> list[Path]:
    return [path for path in folder.iterdir() if path.suffix not in (".journal", ".txt")]


def _hidden(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.rglob(".*.partial*"))


def _file(name: str) -> str:
    return re.sub(r"\W+", "_", name)
