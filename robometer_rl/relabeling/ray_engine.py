"""The engine on Ray Data: workers on one machine or many, each with a model of its own.

The episodes of a pack are a row of a Ray dataset, alone in its block, and only their names travel: a worker opens the
dataset itself, at the path that the driver knows it by, decodes a pack while it scores the one before, and sends back
the labels. Which episodes share a pack depends on their sizes, which are found out first, in the same way.

Ray Data hands rows to free workers, starts a dead worker anew and gives it its rows again, and returns the results in
the order of the dataset, in which the driver journals them. So a run that was killed goes on, with this engine or the
other one.

Before a worker labels anything, it compares what the run is about (`robometer_rl.relabeling.engine.run_facts`) with
what the driver saw: a machine with another version of a dataset or a model is an error, not another kind of labels.
"""

from __future__ import annotations

import logging
import math
import os
import pickle
import socket
import threading
from collections import Counter
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from functools import cached_property, partial
from itertools import chain, pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from robometer_rl.extras import require
from robometer_rl.formats.dataset import DatasetOptions, RelabelDataset
from robometer_rl.formats.table import open_dataset
from robometer_rl.frames import FrameProtocol
from robometer_rl.models.reward_model import RewardModel
from robometer_rl.prediction import NonFiniteOutputError
from robometer_rl.relabeling.batches import decode_pack, groups, open_episode, tokens
from robometer_rl.relabeling.engine import Labeller, run_facts
from robometer_rl.relabeling.journal import Entry
from robometer_rl.relabeling.returns import Horizon
from robometer_rl.rewards import RewardSpec

if TYPE_CHECKING:
    import ray.data

__all__ = ["RayEngine", "WorkerError"]

logger = logging.getLogger(__name__)

# A group whose worker died is labelled once more. If that worker dies too, the group is likely to be the reason.
_ATTEMPTS: Final = 2
# One group is decoded while another is scored.
_GROUPS_IN_A_WORKER: Final = 2

# Small enough that processors do not wait for the last one, large enough that opening the dataset costs little.
_LISTS_PER_PROCESSOR: Final = 4

# What a person can set right; a worker hands these to the driver as they are. Anything else reaches it through Ray,
# with the stack of the worker.
_ERRORS: Final = (ValueError, OSError, ImportError, NonFiniteOutputError)


class WorkerError(OSError):
    """Workers died, found no room, or see other files than the driver; the message says which and what to do."""


@dataclass(frozen=True)
class RayEngine:
    """An `robometer_rl.relabeling.engine.Engine` that labels in workers that Ray runs.

    A Ray that this process is connected to is used; else the one that ``RAY_ADDRESS`` names, or that runs on this
    machine; else one is started here and stopped at the end.

    Attributes:
        load: Loads the model in a worker; pickled, such as ``functools.partial(load_reward_model, "mini")``.
        workers: Their number, with one processor each; as many as there is room for if None.
        gpus_per_worker: Graphics processors that each worker has, or the share of one.

    Raises:
        ImportError: Ray is not installed.
        ValueError: A number that is not positive.

    Examples:
        >>> from functools import partial
        >>> from robometer_rl import load_reward_model
        >>> engine = RayEngine(partial(load_reward_model, "mini"), workers=2)
    """

    load: Callable[[], RewardModel]
    workers: int | None = None
    gpus_per_worker: float = 0.0

    def __post_init__(self) -> None:
        require("ray.data", "ray")
        if self.workers is not None and self.workers < 1:
            raise ValueError(f"workers must be positive, got {self.workers}")
        if not 0 <= self.gpus_per_worker < math.inf:
            raise ValueError(f"gpus_per_worker must not be negative or infinite, got {self.gpus_per_worker:g}")

    def __call__(
        self, dataset: RelabelDataset, labeller: Labeller, keys: Sequence[str], pack_tokens: int
    ) -> Generator[list[Entry], None, None]:
        """See `robometer_rl.relabeling.engine.Engine`.

        Args:
            dataset: One that `robometer_rl.formats.table.open_dataset` opened.
            labeller: Its model is only asked what it is, and may be on torch's device ``meta``.
            keys: Of the episodes; their sizes are found out, on Ray too, before the first is labelled.
            pack_tokens: See there.

        Raises:
            WorkerError: See there.
        """
        if not keys:
            return
        job = _Job(
            load=self.load,
            format=dataset.format,
            options=dataset.options,
            spec=labeller.spec,
            protocol=labeller.protocol,
            horizon=labeller.horizon,
            facts=run_facts(dataset, labeller),
            directory=Path.cwd(),
        )
        with _connected():
            room = self._room()
            lists = _spread(keys)
            sizes = chain.from_iterable(_results(_rows(lists).map(partial(_measure, job=job), num_cpus=1), len(lists)))
            together = list(groups(zip(keys, sizes, strict=True), pack_tokens))
            labelled = self._labelled(together, job, min(self.workers or room, len(together)))
            yield from _results(labelled, len(together))

    def _labelled(self, together: list[list[str]], job: _Job, workers: int) -> ray.data.Dataset:
        """The entries of each group; nothing has been computed yet."""
        import ray.data

        attempts = ray.remote(num_cpus=0)(_Attempts).remote()
        return _rows(together).map(
            _Worker,  # pyright: ignore[reportArgumentType] - Ray calls instances of it
            fn_constructor_args=(job, attempts),
            compute=ray.data.ActorPoolStrategy(
                size=workers,
                max_tasks_in_flight_per_actor=_GROUPS_IN_A_WORKER,
                max_concurrent_calls_per_actor=_GROUPS_IN_A_WORKER,
                enable_true_multi_threading=True,
            ),
            num_cpus=1,
            num_gpus=self.gpus_per_worker,
        )

    def _room(self) -> int:
        """How many workers the cluster has room for."""
        import ray

        resources = ray.cluster_resources()
        room = int(resources.get("CPU", 0))
        if self.gpus_per_worker:
            room = min(room, int(resources.get("GPU", 0) / self.gpus_per_worker))
        if not room:
            raise WorkerError(
                f"there is no room for a worker, which needs a processor and {self.gpus_per_worker:g} GPUs: Ray has "
                f"{resources.get('CPU', 0):g} processors and {resources.get('GPU', 0):g} GPUs"
            )
        return room


@dataclass(frozen=True)
class _Job:
    """All that a worker knows; see `RayEngine` and `robometer_rl.relabeling.engine.Labeller`.

    Attributes:
        facts: What the run is about, as the driver sees it.
        directory: Where the driver runs: relative paths start there.
    """

    load: Callable[[], RewardModel]
    format: str
    options: DatasetOptions
    spec: RewardSpec
    protocol: FrameProtocol | None
    horizon: Horizon
    facts: Mapping[str, Any]
    directory: Path


class _Attempts:
    """An actor that counts how often work on each group began: Ray Data would begin anew for ever."""

    def __init__(self) -> None:
        self._begun: Counter[int] = Counter()

    def begin(self, number: int) -> int:
        """Counts an attempt at a group and returns how many there were."""
        self._begun[number] += 1
        return self._begun[number]


@dataclass
class _Worker:
    """One of Ray Data's workers: several threads call it, with a row each."""

    job: _Job
    attempts: Any
    reading: threading.Lock = field(default_factory=threading.Lock)

    def __call__(self, row: Mapping[str, Any]) -> dict[str, Any]:
        """What becomes of the episodes of a group."""
        return _answer(row, self._label)

    def _label(self, number: int, keys: list[str]) -> list[Entry]:
        import ray

        begun: Any = ray.get(self.attempts.begin.remote(number))
        if begun > _ATTEMPTS:
            raise WorkerError(
                f"workers died {_ATTEMPTS} times while they labelled the episodes {keys[0]} to {keys[-1]} (or others "
                "beside them), perhaps for want of memory. What was labelled before is kept: give the same command "
                "again to go on"
            )
        # A dataset is used by one thread at a time; meanwhile the model scores what another one has read.
        with self.reading:
            dataset, labeller = self._opened
            pack = decode_pack([open_episode(dataset, key) for key in keys], labeller.spec.every)
        return labeller.label(pack)

    @cached_property
    def _opened(self) -> tuple[RelabelDataset, Labeller]:
        """The dataset and the model; when first asked for, since Ray has no words for errors of a constructor."""
        dataset = _open_dataset(self.job)
        job = self.job
        labeller = Labeller(job.load(), job.spec, job.protocol, job.facts["pack_tokens"], job.horizon)
        _require_same(run_facts(dataset, labeller), self.job)
        return dataset, labeller


def _measure(row: Mapping[str, Any], job: _Job) -> dict[str, Any]:
    """The tokens of episodes; a task of Ray."""

    def measure(_: int, keys: list[str]) -> list[int]:
        dataset = _open_dataset(job)
        _require_same({"dataset": dataset.fingerprint()}, job)
        return [tokens(open_episode(dataset, key), job.spec.every) for key in keys]

    return _answer(row, measure)


def _answer(row: Mapping[str, Any], work: Callable[[int, list[str]], list[Any]]) -> dict[str, Any]:
    """What ``work`` makes of a group, or its error, as a row."""
    number = int(row["number"])
    try:
        outcome = work(number, [str(key) for key in row["keys"]])
    except _ERRORS as error:
        outcome = error
    return {"number": number, "outcome": pickle.dumps(outcome)}


def _open_dataset(job: _Job) -> RelabelDataset:
    # On another machine it may be missing; then names that are absolute still work.
    if job.directory.is_dir():
        os.chdir(job.directory)
    return open_dataset(job.options, job.format)[1]


def _require_same(facts: Mapping[str, Any], job: _Job) -> None:
    different = [name for name in facts if facts[name] != job.facts[name]]
    if different:
        raise WorkerError(
            f"the worker on {socket.gethostname()} found another {', '.join(different)} than the driver: every machine "
            "must have the same robometer-rl, and the same files under the same path"
        )


def _spread(keys: Sequence[str]) -> list[list[str]]:
    """Consecutive keys, in as many lists as keep all processors of the cluster busy."""
    import ray

    count = min(len(keys), int(_LISTS_PER_PROCESSOR * ray.cluster_resources()["CPU"]))
    ends = [round(len(keys) * number / count) for number in range(count + 1)]
    return [list(keys[start:end]) for start, end in pairwise(ends)]


def _rows(groups_of_keys: Sequence[list[str]]) -> ray.data.Dataset:
    """A Ray dataset with a row, in a block of its own, for each group of keys; what is made of it keeps the order."""
    import ray.data

    context = ray.data.DataContext.get_current().copy()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    context.execution_options.preserve_order = True
    rows = [{"number": number, "keys": keys} for number, keys in enumerate(groups_of_keys)]
    # Datasets keep the context that they are made in.
    with ray.data.DataContext.current(context):
        return ray.data.from_items(rows, override_num_blocks=len(rows))


def _results(answers: ray.data.Dataset, count: int) -> Iterator[list[Any]]:
    """What was made of each of ``count`` rows, in order and as soon as it is there; an error is raised."""
    batches: Any = iter(answers.iter_batches(batch_size=None, prefetch_batches=0, batch_format="pyarrow"))
    done = 0
    with closing(batches):
        for batch in batches:
            for row in batch.to_pylist():
                outcome = pickle.loads(row["outcome"])
                if isinstance(outcome, Exception):
                    raise outcome
                # A journal is in order, and has every episode.
                assert row["number"] == done
                done += 1
                yield outcome
    assert done == count


@contextmanager
def _connected() -> Iterator[None]:
    """While it lasts, this process is connected to a Ray."""
    import ray

    if ray.is_initialized():
        yield
        return
    # Ray's own words about a Ray that nobody started by hand would tear the progress bar apart.
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    ray.init(include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
    try:
        yield
    finally:
        ray.shutdown()
