"""Recording simulated episodes into a store: seeded, resumable, in several processes.

What an episode shows depends on the configuration's seed and on the episode's own task, skill, split and number, and
on nothing else: not on the order, the number of workers, or what a worker recorded before.
"""

from __future__ import annotations

import logging
import multiprocessing
import zlib
from collections.abc import Iterator
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from robometer_rl.collecting.simulators import SKILLS, Simulator, simulator_of
from robometer_rl.data.store import TrajectoryStore, seal_if_installed
from robometer_rl.report.terminal import open_console

__all__ = ["DEFAULT_TASKS", "HELD_OUT_TASKS", "CollectConfig", "EpisodeCounts", "RecordingMismatchError", "collect"]

logger = logging.getLogger(__name__)

DEFAULT_TASKS = (
    "assembly",
    "box-close",
    "button-press",
    "button-press-topdown",
    "button-press-topdown-wall",
    "coffee-pull",
    "coffee-push",
    "disassemble",
    "door-close",
    "door-lock",
    "door-open",
    "drawer-close",
    "drawer-open",
    "faucet-close",
    "faucet-open",
    "hammer",
    "handle-pull",
    "lever-pull",
    "peg-insert-side",
    "peg-unplug-side",
    "pick-place",
    "plate-slide",
    "plate-slide-back",
    "plate-slide-back-side",
    "plate-slide-side",
    "push",
    "reach",
    "soccer",
    "stick-push",
    "sweep",
    "sweep-into",
    "window-close",
    "window-open",
)
"""Tasks that a reward model is trained on."""

HELD_OUT_TASKS = (
    "bin-picking",
    "button-press-wall",
    "door-unlock",
    "handle-pull-side",
    "push-wall",
)
"""Tasks that it never sees: something to pick up, a button, a part of a door, a handle and something to push."""


class RecordingMismatchError(ValueError):
    """The store already holds an episode of this name that was recorded with other settings."""


@dataclass(frozen=True)
class EpisodeCounts:
    """Episodes per task by skill; a task is not recorded at skills that make no sense for it.

    Attributes:
        expert: The scripted policy, at a random pace.
        noisy: The scripted policy with smooth noise; may or may not succeed.
        stop_halfway: The scripted policy until 30 to 70 % of its usual time, then standing still.
        wrong_place: A hand that goes to a wrong place and stays there.
        random: Smooth random motion.
        hover: A hand that lingers beside the object, the goal and the expert's path, and does not act.
        undo: The scripted policy until the task is done in part or in full, then back, or on beyond the goal.
        wrong_push: A hand that moves the object elsewhere, or acts beside it.
        flail: Full-speed jerks around the object or the goal.
        drop: The object taken and let go on the way (LIBERO).
        wrong_object: Another object taken to the goal (LIBERO).
    """

    expert: int = 16
    noisy: int = 8
    stop_halfway: int = 6
    wrong_place: int = 6
    random: int = 4
    hover: int = 5
    undo: int = 5
    wrong_push: int = 5
    flail: int = 5
    drop: int = 5
    wrong_object: int = 5

    def of(self, skill: str) -> int:
        """How many episodes of ``skill``."""
        counts = {
            "expert": self.expert,
            "noisy": self.noisy,
            "stop_halfway": self.stop_halfway,
            "wrong_place": self.wrong_place,
            "random": self.random,
            "hover": self.hover,
            "undo": self.undo,
            "wrong_push": self.wrong_push,
            "flail": self.flail,
            "drop": self.drop,
            "wrong_object": self.wrong_object,
        }
        return counts[skill]


@dataclass(frozen=True)
class CollectConfig:
    """Records simulated episodes at several skill levels.

    Attributes:
        output: Directory of the store; what it already holds is kept and not recorded again.
        tasks: Meta-World tasks without ``-v3``, as in ``drawer-open``, and LIBERO tasks by suite and number, as in
            ``libero_90-28``.
        episodes: Episodes per task by skill.
        split: Split to record under; splits never share goals. LIBERO has 50 initial states per task, of which
            ``test`` has the last ten. Only episodes of other splits than ``train`` have the last paraphrase of a task.
        seed: Everything is drawn from it.
        size: Height and width of a frame in pixels.
        frame_interval: Environment steps between kept frames; by default 3 in Meta-World, 4 in LIBERO, and 2
            for its drawers.
        workers: Processes that record at the same time.
    """

    output: Path
    tasks: tuple[str, ...] = DEFAULT_TASKS
    episodes: EpisodeCounts = field(default_factory=EpisodeCounts)
    split: str = "train"
    seed: int = 0
    size: int = 128
    frame_interval: int | None = None
    workers: int = 2

    def __post_init__(self) -> None:
        if not self.tasks:
            raise ValueError("tasks empty: expected at least one, as in 'drawer-open' or 'libero_90-28'")
        for task in self.tasks:
            simulator_of(task)
        if len(set(self.tasks)) < len(self.tasks):
            raise ValueError(f"a task is named twice in {self.tasks}")
        for name, value in (("frame_interval", self.frame_interval), ("workers", self.workers)):
            if value is not None and value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")
        negative = [skill for skill in SKILLS if self.episodes.of(skill) < 0]
        if negative:
            raise ValueError(f"a negative number of episodes for {negative}")
        if self.seed < 0:
            raise ValueError(f"seed must be at least 0, got {self.seed}")


@dataclass(frozen=True)
class _Episode:
    task: str
    skill: str
    number: int

    @property
    def simulator(self) -> Simulator:
        """Where it is recorded."""
        return simulator_of(self.task)

    def name(self, config: CollectConfig) -> str:
        """The id of its trajectory."""
        return f"{self.simulator.prefix}{self.task}-{self.skill}-{config.split}-s{config.seed}-{self.number:04d}"

    def seeds(self, config: CollectConfig) -> np.random.SeedSequence:
        """A source of randomness that no other episode has."""
        words = (self.task, self.skill, config.split)
        return np.random.SeedSequence([config.seed, *(zlib.crc32(word.encode()) for word in words), self.number])


def collect(config: CollectConfig) -> TrajectoryStore:
    """Records what ``config`` asks for and the store does not hold yet; interrupting it leaves a valid store.

    All tasks and skills fill up evenly, so that an unfinished recording is already of use. With more than one worker
    the caller's main module must be importable (``if __name__ == "__main__"``), since workers are spawned.

    Returns:
        The store, with everything that it held before.

    Raises:
        StoreError: ``output`` is a directory with something else in it.
        RecordingMismatchError: The store holds an episode of the same name with another size or frame interval.
        BlankFrameError: The renderer failed; what was recorded until then is kept.
    """
    store = TrajectoryStore(config.output)
    store.remove_left_over()
    episodes = list(_interleaved(config))
    missing = [episode for episode in episodes if episode.name(config) not in store]
    _check_recorded(config, store, set(episodes) - set(missing))
    logger.info("%d of %d episodes are to be recorded into %s", len(missing), len(episodes), config.output)
    if missing:
        _record_all(config, list(_batches(missing)), done=len(episodes) - len(missing), total=len(episodes))
    store = TrajectoryStore.create(config.output)  # with what other processes have recorded
    seal_if_installed(store)
    return store


def _interleaved(config: CollectConfig) -> Iterator[_Episode]:
    """Every episode, ordered so that any prefix has tasks and skills in about their final proportions."""
    turns = [
        ((number + 0.5) / config.episodes.of(skill), skill, number)
        for skill in SKILLS
        for number in range(config.episodes.of(skill))
    ]
    for _, skill, number in sorted(turns, key=lambda turn: turn[0]):
        for task in config.tasks:
            if skill in simulator_of(task).skills_of(task):
                yield _Episode(task, skill, number)


def _frame_interval(config: CollectConfig, task: str) -> int:
    return simulator_of(task).frame_interval(task) if config.frame_interval is None else config.frame_interval


def _check_recorded(config: CollectConfig, store: TrajectoryStore, episodes: set[_Episode]) -> None:
    for episode in episodes:
        expected = (config.size, _frame_interval(config, episode.task))
        trajectory = store[episode.name(config)]
        found = (trajectory.frames.shape[1], trajectory.metadata["frame_interval"])
        if found != expected:
            raise RecordingMismatchError(
                f"{config.output} holds {trajectory.id!r} with (size, frame interval) {found}, and {expected} is asked "
                "for; choose another output directory or the settings of the first recording"
            )


def _batches(episodes: list[_Episode]) -> Iterator[list[_Episode]]:
    """Episodes of one task each, in about the order given."""
    waiting: dict[str, list[_Episode]] = {}
    for episode in episodes:
        batch = waiting.setdefault(episode.task, [])
        batch.append(episode)
        if len(batch) == episode.simulator.batch:
            yield waiting.pop(episode.task)
    yield from waiting.values()


def _record_batch(config: CollectConfig, batch: list[_Episode]) -> int:
    """Records episodes of one task in this process; returns how many."""
    store = TrajectoryStore(config.output)
    simulator, task = batch[0].simulator, batch[0].task
    env = simulator.make_env(task, size=config.size)
    try:
        for episode in batch:
            trajectory = simulator.record_episode(
                env,
                episode.skill,
                episode.seeds(config),
                trajectory_id=episode.name(config),
                split=config.split,
                frame_interval=_frame_interval(config, task),
            )
            store.append(trajectory)
    finally:
        env.close()
    return len(batch)


def _record_all(config: CollectConfig, batches: list[list[_Episode]], done: int, total: int) -> None:
    """Every batch gets a process of its own: a renderer's context dies with it, and the next one starts clean."""
    columns = (
        TextColumn("recording"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn()
    )  # fmt: skip
    spawn = multiprocessing.get_context("spawn")
    with (
        Progress(*columns, console=open_console(stderr=True)) as progress,
        ProcessPoolExecutor(config.workers, mp_context=spawn, max_tasks_per_child=1) as workers,
    ):
        bar = progress.add_task("recording", completed=done, total=total)
        futures: list[Future[int]] = [workers.submit(_record_batch, config, batch) for batch in batches]
        try:
            for future in as_completed(futures):
                progress.advance(bar, future.result())
        finally:  # after an error or an interrupt: finish no batch that has not begun
            workers.shutdown(wait=False, cancel_futures=True)
