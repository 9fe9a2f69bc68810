"""Command lines that are wrong, odd or extreme."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any, Final, get_args, get_type_hints

from fuzzing.kinds import KINDS, NO_EPISODES, TASK, TINY, TRAINING, words
from fuzzing.mutations import STRINGS

COUNTS: Final = ("-1", "0", "1", "7", "1.5", "x", "", "nan", "-9223372036854775809", "True", "1e3", " 2", "٣")
HUGE: Final = ("2147483648", "99999999999999999999999")
REALS: Final = ("nan", "inf", "-inf", "-1", "0", "1e308", "-0.0", "1e-320", "x", "", "1,5", "2")
SAID: Final = (*(text for text in STRINGS if "\0" not in text and text != "\ud800"), "\udce9", "None", "--", "~", "@")
DEVICES: Final = ("cuda", "cuda:99", "mps", "meta", "xla", "cpu:7", "nonsense", "", "-1", "privateuseone")
PROTOCOLS: Final = (
    "nested(0)", "nested(1)", "uniform(0)", "nested(-1)", "nested(99999999999)", "uniform(8", "NESTED", "nested (8)",
)  # fmt: skip
MODELS: Final = (
    "nobody/nothing",
    "nobody/nothing@main",
    "http://127.0.0.1:9",
    "mini2",
    "../..",
    "a/b/c",
    "@",
    "mini@1",
)
REWARDS: Final = (
    "{}", "{", "[]", "null", '{"mode": 3}', '{"mode": "delta", "scale": NaN}', '{"every": 1e9}', "potential", "x.json",
    '{"terminate_on_success": true}', '{"mode": "potential", "gamma": 2}', '{"unknown": 1}',
)  # fmt: skip

# More of these is what somebody may want, however long it takes.
LONG_WORK: Final = ("steps", "episodes", "batch_size", "accumulate", "bucket_batches", "feature_views", "size", "rank")


@dataclass(frozen=True)
class Command:
    """A command line that works, and the dataclass of its options."""

    words: tuple[str, ...]
    options: str


_IMPORT = "robometer_rl.formats.importing:ImportOptions"
COMMANDS: Final[dict[str, Command]] = {
    "score": Command(("score", "{npz}", *TASK, *TINY, "--out", "%"), "robometer_rl.score:ScoreConfig"),
    "score a video": Command(("score", "{mp4}", *TASK, *TINY, "--out", "%"), "robometer_rl.score:ScoreConfig"),
    "evaluate": Command(
        ("evaluate", "{checkpoint}", "{store}", "--split", "train", "--output", "%.json"),
        "robometer_rl.evaluation.evaluate:EvaluateConfig",
    ),
    "calibrate": Command(
        ("calibrate", "{checkpoint}", "{store}", "--max-false-alarms", "0.99", "--output", "%"),
        "robometer_rl.evaluation.calibrate:CalibrateConfig",
    ),
    "relabel": Command(
        ("relabel", "{episodes}", *TINY, *TASK, "--output", "%"), "robometer_rl.relabeling.commands:RelabelConfig"
    ),
    "relabel hdf5": Command(
        ("relabel", "{hdf5}", *TINY, "--cameras", "agentview_rgb", "--output", "%"),
        "robometer_rl.relabeling.commands:RelabelConfig",
    ),
    "train": Command((*TRAINING, "--data", "{store}", "--output", "%"), "robometer_rl.training.config:TrainConfig"),
    "publish": Command(
        ("publish", "{checkpoint}", "me/robometer", "--dry-run"), "robometer_rl.training.publish:PublishConfig"
    ),
    "collect": Command(
        ("collect", "--output", "%", "--tasks", "reach", "--size", "16", "--workers", "1", *NO_EPISODES),
        "robometer_rl.collecting.collect:CollectConfig",
    ),
    "demo": Command(("demo", "--out", "%", "--every", "60", "--task", "reach", *TINY), "robometer_rl.demo:DemoConfig"),
    "data inspect": Command(
        ("data", "inspect", "{store}", "--output", "%.png"), "robometer_rl.data.inspect:InspectConfig"
    ),
    "data verify": Command(("data", "verify", "{store}"), "robometer_rl.data.inspect:VerifyConfig"),
    "data push": Command(("data", "push", "{sealed}", "me/store", "--dry-run"), "robometer_rl.data.hub:PushConfig"),
    "data pull": Command(("data", "pull", "me/store", "%"), "robometer_rl.data.hub:PullConfig"),
    "data import videos": Command(("data", "import", "videos", "{videos}", "%"), _IMPORT),
    "data import lerobot": Command(
        ("data", "import", "lerobot", "{lerobot}", "%", "--camera", "observation.images.top"), _IMPORT
    ),
    "data export lerobot": Command(
        ("data", "export", "lerobot", "{store}", "%", "--fps", "10"),
        "robometer_rl.formats.lerobot.export:LeRobotExportConfig",
    ),
    "data export minari": Command(
        ("data", "export", "minari", "{store}", "%-v1"), "robometer_rl.formats.minari.export:MinariExportConfig"
    ),
    "data import store": Command(("data", "import", "store", "{store}", "%"), _IMPORT),
}
"""By a name for the table."""

EXAMPLES: Final = {
    "{npz}": "npz",
    "{checkpoint}": "checkpoint",
    "{mp4}": "mp4",
    "{store}": "store",
    "{sealed}": "sealed store",
    "{episodes}": "npz episodes",
    "{hdf5}": "LIBERO HDF5",
    "{videos}": "listed videos",
    "{lerobot}": "LeRobot v3.0",
}
assert set(EXAMPLES.values()) <= set(KINDS)


def options(kind: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Names of all options of a dataclass, as on the command line, with their types."""
    hints = get_type_hints(kind)
    for entry in fields(kind):
        hint = hints[entry.name]
        if is_dataclass(hint):
            yield from options(hint, f"{prefix}{entry.name}.")
        else:
            yield f"{prefix}{entry.name}", hint


def odd_value(name: str, hint: Any, folder: Path, rng: random.Random) -> list[str]:
    """Words behind an option that it does not expect, or hardly."""
    last = name.rpartition(".")[2]
    named = {"device": DEVICES, "protocol": PROTOCOLS, "model": MODELS, "start": MODELS, "reward": REWARDS}
    kinds = {hint, *get_args(hint)}
    if last in ("out", "output"):
        choices: tuple[str, ...] = outputs(folder)
    elif Path in kinds:
        choices = inputs(folder)
    elif last in named and rng.random() < 0.8:
        choices = named[last]
    elif int in kinds:
        is_long = any(part in LONG_WORK for part in name.split("."))
        choices = COUNTS if is_long else (*COUNTS, *HUGE)
    elif float in kinds:
        choices = REALS
    else:
        choices = SAID
    count = rng.choice([1, 1, 1, 1, 0, 2])
    return [rng.choice(choices) for _ in range(count)]


def inputs(folder: Path) -> tuple[str, ...]:
    """Paths that are not what a command wants to read; they are made in ``folder``."""
    odd = folder / "odd"
    if not odd.exists():
        (odd / "empty").mkdir(parents=True)
        (odd / "file").write_text("text")
        (odd / "empty.npz").write_bytes(b"")
        (odd / "broken.json").write_text("{")
        (odd / "loop").symlink_to("loop")
        (odd / "dangling").symlink_to("nowhere")
        (odd / "[red]\x1b[2J\nname").mkdir()
    made = tuple(str(path) for path in sorted(odd.iterdir()))
    return (
        *made,
        f"{odd}/file/below",
        f"{odd}/nothing",
        "",
        "/dev/null",
        "x" * 300,
        f"{odd}/caf\udce9",
        "-",
        "~",
        "..",
    )


def outputs(folder: Path) -> tuple[str, ...]:
    """Places to write to that are taken, odd or impossible, all of them in ``folder``."""
    inputs(folder)
    odd = folder / "odd"
    names = (
        "file", "empty", "loop", "dangling", "file/below", "nothing/yet/deep", "x" * 300, "-y", "a:b", "100%d", "a b",
        "[x]\x1b[2J\nb", "caf\udce9", "file.json", "x.png", "broken.json", "empty/..", "x" * 250 + ".json",
    )  # fmt: skip
    return tuple(f"{odd}/{name}" for name in names)


def spoil(command: Command, path: Path, rng: random.Random) -> list[str]:
    """A command line with something wrong or odd in it; ``path`` is a new folder for its output and traps."""
    from pkgutil import resolve_name

    line = words(command.words, path / "in", path / "out")
    # What is asked to change what it was given does so.
    known = [each for each in options(resolve_name(command.options)) if each[0] not in ("write_checkpoint", "in_place")]
    for _ in range(rng.choice([1, 1, 2, 3])):
        way = rng.random()
        place = rng.randrange(1, len(line))
        if way < 0.7:
            name, hint = rng.choice(known)
            flag = "--" + name.replace("_", "-")
            line += [flag, *odd_value(name, hint, path, rng)]
        elif way < 0.76:
            del line[place]
        elif way < 0.82:
            line.insert(place, rng.choice([line[place], "--frobnicate", "--help", "-h", "--", "-", "--debug", *SAID]))
        elif way < 0.94:
            positions = [index for index, word in enumerate(line) if word.startswith("{")]
            if positions:
                line[rng.choice(positions)] = rng.choice(inputs(path))
        else:
            rng.shuffle(line)
    return line
