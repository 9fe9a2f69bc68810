"""What the benchmarks consist of, and what was published of them: ``assets/benchmarks.json`` as dataclasses."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib.resources import files
from typing import Any, Final, Literal, get_args

from robometer_rl.collecting.collect import EpisodeCounts
from robometer_rl.documents import parse_json
from robometer_rl.evaluation.published.judging import Kind
from robometer_rl.evaluation.published.questions import Drawing

__all__ = ["NAMES", "Benchmark", "Name", "PublishedNumber", "Recordings", "benchmark"]

Name = Literal[
    "metaworld", "libero", "rbm-eval-id", "rbm-eval-ood", "roborewardbench", "manirewardbench", "robofac"
]  # fmt: skip
NAMES: Final[tuple[Name, ...]] = get_args(Name)
"""The benchmarks that there are."""


@dataclass(frozen=True)
class Recordings:
    """A set of episodes that is recorded in a simulator where the benchmark is run.

    Attributes:
        tasks: See `robometer_rl.collecting.collect.CollectConfig`, as everything else.
        episodes: Of each task by skill.
        seed: One that no training uses.
        split: Splits share no goal.
        size: Height and width of a frame.
        frame_interval: Environment steps between kept frames; that of the simulator if None.
    """

    tasks: tuple[str, ...]
    episodes: EpisodeCounts
    seed: int
    split: str = "test"
    size: int = 128
    frame_interval: int | None = None


@dataclass(frozen=True)
class PublishedNumber:
    """What somebody has published of a model on a benchmark.

    Attributes:
        model: As `load_reward_model` takes it.
        set: Name of the set, or ``mean`` over all of them.
        kind: Which evaluation.
        metric: The reference's name of the number.
        value: The number.
        where: Who says so.
    """

    model: str
    set: str
    kind: Kind
    metric: str
    value: float
    where: str


@dataclass(frozen=True)
class Benchmark:
    """What is asked, of whichever model.

    Attributes:
        name: One of `NAMES`.
        title: Of its page.
        about: What it is, in a sentence or two.
        kinds: The evaluations, those of bad behaviour first, and what is drawn for each.
        recordings: Sets that are recorded, by name; empty where the data is somebody else's.
        group: Of published collections, see `robometer_rl.data.published.Published.groups`; its ``eval`` list is read.
        split: Only episodes of this split are read of somebody else's data.
        published: What is known of models.
        manifest: SHA-256 of what is asked (ids, tasks, numbers of frames) by set, and by set and kind; empty where it
            was never made, for want of the data.
    """

    name: str
    title: str
    about: str
    kinds: Mapping[Kind, Drawing]
    recordings: Mapping[str, Recordings] = field(default_factory=dict)
    group: str | None = None
    split: str | None = None
    published: tuple[PublishedNumber, ...] = ()
    manifest: Mapping[str, str] = field(default_factory=dict)


@cache
def benchmark(name: str) -> Benchmark:
    """The benchmark of that name.

    Raises:
        ValueError: There is none.
    """
    if name not in NAMES:
        raise ValueError(f"there is no benchmark {name!r}; expected one of {', '.join(NAMES)}")
    table: Any = parse_json((files("robometer_rl") / "assets" / "benchmarks.json").read_text(encoding="utf-8"))
    entry = table[name]
    return Benchmark(
        name=name,
        title=entry["title"],
        about=entry["about"],
        kinds={kind: Drawing(**drawn) for kind, drawn in entry["kinds"].items()},
        recordings={set_name: _recordings(each) for set_name, each in entry.get("recordings", {}).items()},
        group=entry.get("group"),
        split=entry.get("split"),
        published=tuple(PublishedNumber(**each) for each in entry.get("published", ())),
        manifest=entry.get("manifest", {}),
    )


def _recordings(entry: Mapping[str, Any]) -> Recordings:
    return Recordings(**{**entry, "tasks": tuple(entry["tasks"]), "episodes": EpisodeCounts(**entry["episodes"])})
