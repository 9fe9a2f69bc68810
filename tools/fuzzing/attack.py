"""The attack as a whole: what is tried, what was found, and the table of figures."""

from __future__ import annotations

import random
import shlex
import shutil
import sys
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Set
from pathlib import Path
from typing import Final

from fuzzing.checks import digest, torn
from fuzzing.kills import attack_kills
from fuzzing.kinds import KINDS, Kind, words
from fuzzing.lines import COMMANDS, EXAMPLES, Command, spoil
from fuzzing.mutations import mutate
from fuzzing.probes import attack_probes
from fuzzing.trying import Outcome, attempt, attempt_call

FILES: Final = 500
LINES: Final = 300
PROBLEMS: Final[tuple[str, ...]] = (
    "traceback",
    "signal",
    "hang",
    "exit code",
    "torn",
    "touched",
    "breach",
    "no second run",
)


class Attack:
    """Tries and what they found.

    Args:
        folder: Where to work.
        seed: Equal seeds do equal damage.
        share: Part of the whole attack that is run.
        match: Only what has this in its name.
    """

    def __init__(self, folder: Path, seed: int, share: float, match: str) -> None:
        self.folder, self.seed, self.share, self.match = folder, seed, share, match
        self.tries: Counter[str] = Counter()
        self.found: Counter[tuple[str, str]] = Counter()
        self.longest: dict[str, float] = {}
        self._examples = folder / "examples"
        self._examples.mkdir(parents=True, exist_ok=True)

    def rng(self, *name: object) -> random.Random:
        """Randomness that depends on the name of a try, and not on those before it."""
        return random.Random(zlib.crc32(repr((self.seed, *name)).encode()))

    def example(self, name: str) -> Path:
        """A sound example of a kind, made once."""
        return self.made(name, KINDS[name].name, KINDS[name].make)

    def made(self, name: str, file: str, make: Callable[[Path], None]) -> Path:
        """An example called ``file`` of what is called ``name``, made once."""
        path = self._examples / name.replace(" ", "_") / file
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            outcome = attempt_call(lambda: make(path), ("make", name), path.parent)
            if outcome.problem or not path.exists():
                raise RuntimeError(f"the example of {name} could not be made: {outcome.output}")
            (path.parent / "printed.txt").unlink()
        return path

    def forget_examples(self) -> None:
        """Lets all examples be made anew."""
        shutil.rmtree(self._examples)
        self._examples.mkdir()

    def filled(self, command: list[str]) -> list[str]:
        """A command line with examples in the places that ask for some."""
        return [str(self.example(EXAMPLES[word])) if word in EXAMPLES else word for word in command]

    def trial(self, part: str, name: str, number: int) -> Path:
        """A new folder for a try."""
        folder = self.folder / part / f"{name.replace(' ', '_')}-{number}"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        self.tries[part] += 1
        return folder

    def judge(self, part: str, name: str, outcome: Outcome, folder: Path, harm: dict[str, str], told: str = "") -> bool:
        """Notes what is wrong with a try, and says so; the folder of one that did no harm is removed."""
        self.longest[part] = max(self.longest.get(part, 0.0), outcome.seconds)
        problems = {outcome.problem: _end(outcome.output)} if outcome.problem else {}
        for problem, what in (problems | harm).items():
            self.found[part, problem] += 1
            line = f"robometer-rl {shlex.join(outcome.words)}"
            sys.stdout.write(f"{part}, {name}: {problem}: {told}\n    {line}\n    {what}\n")
            sys.stdout.flush()
        if not problems and not harm:
            shutil.rmtree(folder, ignore_errors=True)
        return not problems and not harm

    def harm(self) -> int:
        """How much was found in all."""
        return sum(self.found.values())

    def table(self) -> str:
        """The figures."""
        columns = (10, 7, *(len(problem) + 2 for problem in PROBLEMS), 9)
        rows = [("part", "tries", *PROBLEMS, "slowest")]
        for part, tries in self.tries.items():
            counts = (str(self.found[part, problem]) for problem in PROBLEMS)
            rows.append((part, str(tries), *counts, f"{self.longest.get(part, 0.0):.1f} s"))
        return "\n".join("".join(cell.rjust(width) for cell, width in zip(row, columns, strict=True)) for row in rows)

    def figures(self, part: str) -> dict[str, float]:
        """The row of a part: tries, how many had each problem, and the processor time of the slowest."""
        counts = {problem.replace(" ", "_"): self.found[part, problem] for problem in PROBLEMS}
        return {"tries": self.tries[part], **counts, "slowest_s": round(self.longest.get(part, 0.0), 1)}

    def chosen(self, names: Iterator[str] | list[str]) -> list[str]:
        """Those names that are asked for."""
        return [name for name in names if self.match in name]

    def some(self, names: list[str]) -> list[str]:
        """As many of the names as belong to the share that is run, in their order."""
        chosen = self.rng("some").sample(range(len(names)), min(len(names), self.count(len(names))))
        return [names[index] for index in sorted(chosen)]

    def count(self, whole: int) -> int:
        """How many tries of ``whole`` are made."""
        return max(1, round(whole * self.share))


def _end(output: str) -> str:
    return "\n    ".join(output.strip().splitlines()[-4:])[-700:]


def attack_files(attack: Attack) -> None:
    """Damaged files of every kind, given to every command that reads them."""
    names = attack.chosen(list(KINDS))
    every = [path for name in KINDS for path in _files(attack.example(name))]
    for name in names:
        kind = KINDS[name]
        _require_sound(attack, name, kind)
        for number in range(max(1, attack.count(FILES) // len(KINDS) + 1)):
            _attack_file(attack, name, kind, number, every)


def _files(path: Path) -> list[Path]:
    return [path] if path.is_file() else [file for file in sorted(path.rglob("*")) if file.is_file()]


def _copied(source: Path, folder: Path) -> Path:
    copy = shutil.copytree if source.is_dir() else shutil.copy2
    return Path(copy(source, folder / source.name))


def _require_sound(attack: Attack, name: str, kind: Kind) -> None:
    """Every command must succeed with the sound example, or its failures would say nothing."""
    for number, command in enumerate(kind.commands):
        folder = attack.trial("sound", name, number)
        path = _copied(attack.example(name), folder)
        outcome = attempt(attack.filled(words(command, path, folder / "out")), folder)
        harm = {} if outcome.code == 0 else {"exit code": _end(outcome.output)}
        attack.judge("sound", name, outcome, folder, harm | _torn(folder / "out"))


def _attack_file(attack: Attack, name: str, kind: Kind, number: int, others: list[Path]) -> None:
    rng = attack.rng("files", name, number)
    folder = attack.trial("files", name, number)
    path = _copied(attack.example(name), folder)
    told = "; ".join(mutate(path / kind.given, rng, others) for _ in range(rng.choice([1, 1, 2])))
    command = words(rng.choice(kind.commands), path, folder / "out")
    before = digest(path)
    outcome = attempt(attack.filled(command), folder)
    harm = _torn(folder / "out", set(before.values()))
    if not kind.given and digest(path) != before:
        harm["touched"] = "the example is not as it was"
    attack.judge("files", name, outcome, folder, harm, told)


def _torn(output: Path, copied: Set[str] = frozenset()) -> dict[str, str]:
    """What is torn of all that was written; ``copied`` are hashes of files that may be copied as they are."""
    written = [path for path in output.parent.glob(f"{output.name}*") if not path.name.endswith(".journal")]
    problems = [problem for path in written for problem in torn(path, copied)]
    return {"torn": "; ".join(problems)} if problems else {}


def attack_lines(attack: Attack) -> None:
    """Wrong, odd and extreme command lines."""
    for name in attack.chosen(list(COMMANDS)):
        for number in range(attack.count(LINES) // len(COMMANDS) + 1):
            _attack_line(attack, name, COMMANDS[name], number)


def _attack_line(attack: Attack, name: str, command: Command, number: int) -> None:
    folder = attack.trial("lines", name, number)
    examples = {word: digest(attack.example(EXAMPLES[word])) for word in command.words if word in EXAMPLES}
    line = attack.filled(spoil(command, folder, attack.rng("lines", name, number)))
    outcome = attempt(line, folder, HOME=str(folder))
    harm = _torn(folder / "out")
    if any(digest(attack.example(EXAMPLES[word])) != before for word, before in examples.items()):
        harm["touched"] = "an example is not as it was"
        attack.forget_examples()
    attack.judge("lines", name, outcome, folder, harm)


PARTS: Final[dict[str, Callable[[Attack], None]]] = {
    "files": attack_files,
    "lines": attack_lines,
    "probes": attack_probes,
    "kills": attack_kills,
}
"""The parts of the attack, by name."""
