"""The engine: asks a model about every episode of a dataset, pack by pack, and never twice about the same one.

Where packs are decoded and scored is the business of an `Engine`: in this process (`one_process`), or in workers that
Ray runs on other machines (`robometer_rl.relabeling.ray_engine`). Packs, how they are scored and the journal are the
same, and so are the labels. `verify_labels` takes a second look at them: a random sample of episodes is read and
scored again, one at a time.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Generator, Sequence
from contextlib import closing
from dataclasses import dataclass
from importlib.metadata import version
from itertools import chain
from typing import Any, Final, Protocol

import numpy as np
from numpy.typing import NDArray
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from robometer_rl.data.reading import Unreadable
from robometer_rl.formats.dataset import EpisodeError, EpisodeLabels, Labels, Provenance, RelabelDataset, fingerprint
from robometer_rl.formats.trajectories import tiled_name
from robometer_rl.frames import Clip, FrameError, FrameProtocol, TaskError, same_length
from robometer_rl.models.loading import files_of
from robometer_rl.models.reward_model import RewardModel, UnreadableAnswerError
from robometer_rl.prediction import NonFiniteOutputError, Prediction, progress_uncertainty
from robometer_rl.relabeling.batches import (
    PACK_TOKENS,
    Decoded,
    Pack,
    ahead,
    decode_pack,
    groups,
    open_episode,
    tokens,
)
from robometer_rl.relabeling.journal import Entry, Journal
from robometer_rl.relabeling.labels import label_episode
from robometer_rl.relabeling.returns import TO_THE_END, Horizon
from robometer_rl.report.terminal import open_console
from robometer_rl.rewards import DEFAULT_REWARD, RewardSpec

__all__ = [
    "SAMPLE",
    "Engine",
    "Labeller",
    "NothingLabelledError",
    "Verification",
    "VerificationError",
    "label_dataset",
    "one_process",
    "run_facts",
    "verify_labels",
]

logger = logging.getLogger(__name__)

SAMPLE: Final = 16
"""Episodes that are scored again."""

# Episodes were labelled in packs and are scored alone here: a network sums in another order then.
_TOLERANCE: Final = {"float32": 1e-4}
_TOLERANCE_OF_HALF_PRECISION: Final = 3e-2


class NothingLabelledError(ValueError):
    """Not one episode of a dataset could be labelled; the message has the first reason."""


@dataclass(frozen=True, eq=False)
class Labeller:
    """A model, and how its predictions become rewards.

    Attributes:
        model: The model.
        spec: The reward. Recorded episodes are paid to their end, so it must not terminate them.
        protocol: Which frames of its history each step is scored with; None for the model's default.
        pack_tokens: See `robometer_rl.relabeling.batches.groups`.
        horizon: How far returns and advantages look ahead, and what later rewards count.

    Raises:
        ValueError: The spec terminates episodes on predicted success, or a pack has no room.
        UnsupportedByModelError: The model does not say what the reward is made of.
    """

    model: RewardModel
    spec: RewardSpec = DEFAULT_REWARD
    protocol: FrameProtocol | None = None
    pack_tokens: int = PACK_TOKENS
    horizon: Horizon = TO_THE_END

    def __post_init__(self) -> None:
        if self.spec.terminate_on_success:
            raise ValueError(
                "terminate_on_success cannot be applied to recorded episodes: they are labelled to their end, and the "
                "success rule is stored with every step"
            )
        self.model.require_for(self.spec, live=False)
        if self.pack_tokens < 1:
            raise ValueError(f"pack_tokens must be positive, got {self.pack_tokens}")
        object.__setattr__(self, "protocol", self.protocol or self.model.default_protocol)

    @property
    def threshold(self) -> float:
        """The success threshold in force."""
        return self.spec.threshold(self.model.success_threshold)

    def require_views(self, dataset: RelabelDataset) -> None:
        """Raises `UnsupportedByModelError` where the model was not trained on the pictures that it would be shown."""
        self.model.require_views(f"relabelling {dataset.options.path}", tiled=dataset.options.tile)

    def label(self, pack: Pack) -> list[Entry]:
        """What becomes of the episodes of a pack; all of their clips go to the model in one call.

        A model may refuse frames or an instruction that are sound in themselves, or say what cannot be read. Then each
        episode of the pack is asked about alone, and those that are refused are not labelled.
        """
        try:
            return self._label_together(pack)
        except (FrameError, TaskError, UnreadableAnswerError) as error:
            if len(pack) > 1:
                return [entry for alone in pack for entry in self.label([alone])]
            (entry,) = pack
            assert isinstance(entry, Decoded), "nothing else is shown to the model"
            return [Unreadable(entry.episode.key, f"the model refuses it: {error}")]

    def _label_together(self, pack: Pack) -> list[Entry]:
        decoded = [entry for entry in pack if isinstance(entry, Decoded)]
        clips = [entry.clips for entry in decoded]
        answers = iter(self._ask(decoded, [clip for group in clips for clip in group]))
        predictions = [[next(answers) for _ in group] for group in clips]
        labelled = {
            entry.episode.key: self._label(entry, group) for entry, group in zip(decoded, predictions, strict=True)
        }
        return [entry if isinstance(entry, Unreadable) else labelled[entry.episode.key] for entry in pack]

    def _ask(self, decoded: list[Decoded], clips: list[Clip]) -> list[Prediction]:
        try:
            # The frames between scored ones are gone already, so all that are left are scored.
            answers = self.model.predict_steps(clips, self.protocol)
        except NonFiniteOutputError as error:
            keys = ", ".join(entry.episode.key for entry in decoded)
            raise NonFiniteOutputError(f"{error}; it was asked about the episodes {keys}") from error
        same_length("predictions of the model", len(answers), len(clips))
        return answers

    def _label(self, decoded: Decoded, predictions: list[Prediction]) -> Entry:
        progress = _average([prediction.progress for prediction in predictions])
        said = [prediction.success for prediction in predictions if prediction.success is not None]
        success = _average(said) if said else None
        uncertainty = None
        if self.spec.needs_uncertainty:
            uncertainty = progress_uncertainty(_average([each.progress_distribution for each in predictions]))
        try:
            return label_episode(
                decoded.episode, self.spec, progress, success, self.threshold, self.horizon, uncertainty
            )
        except EpisodeError as error:
            return Unreadable(decoded.episode.key, str(error))

    def provenance(self, dataset: RelabelDataset) -> Provenance:
        """How the labels of a dataset are made."""
        options = dataset.options
        return Provenance(
            model=self.model.source,
            model_id=self.model.model_id,
            revision=self.model.revision,
            dtype=self.model.dtype,
            protocol=str(self.protocol),
            reward=self.spec.to_dict(),
            success_threshold=self.threshold,
            discount=self.horizon.discount,
            n_step=self.horizon.n_step,
            cameras=(tiled_name(dataset.cameras),) if options.tile else dataset.cameras,
            tasks=options.tasks,
            orientation=options.orientation,
            pack_tokens=self.pack_tokens,
            version=version("robometer-rl"),
            record=self.model.record,
        )


def run_facts(dataset: RelabelDataset, labeller: Labeller) -> dict[str, Any]:
    """What a journal is about, as JSON values: two runs with equal facts have equal labels."""
    return labeller.provenance(dataset).to_dict() | {
        "format": dataset.format,
        "dataset": dataset.fingerprint(),
        "model files": fingerprint((), files_of(labeller.model.source)),
    }


class Engine(Protocol):
    """Decodes and scores episodes somewhere."""

    def __call__(
        self, dataset: RelabelDataset, labeller: Labeller, keys: Sequence[str], pack_tokens: int
    ) -> Generator[list[Entry], None, None]:
        """Yields what becomes of the episodes of each pack, in order.

        Args:
            dataset: The dataset.
            labeller: Says how episodes are labelled.
            keys: Of the episodes, from one on that begins a pack.
            pack_tokens: See `robometer_rl.relabeling.batches.groups`.

        Raises:
            NonFiniteOutputError: The model answered NaN.
            OSError: Decoded frames of a long episode could not be written, or where it is done is out of reach.
        """
        ...


def one_process(
    dataset: RelabelDataset, labeller: Labeller, keys: Sequence[str], pack_tokens: int
) -> Generator[list[Entry], None, None]:
    """The `Engine` that does everything here.

    Episodes are decoded in another thread while the model works on those before them. Three packs at most are in
    memory.
    """
    every = labeller.spec.every
    opened = (open_episode(dataset, key) for key in keys)
    together = groups(((episode, tokens(episode, every)) for episode in opened), pack_tokens)
    with closing(ahead(decode_pack(episodes, every) for episodes in together)) as coming:
        for pack in coming:
            yield labeller.label(pack)


def label_dataset(
    dataset: RelabelDataset,
    labeller: Labeller,
    journal: Journal | None = None,
    show_progress: bool = False,
    engine: Engine = one_process,
) -> Labels:
    """Labels every episode of a dataset, or those that a journal lacks.

    Args:
        dataset: The dataset.
        labeller: The model and the reward.
        journal: Where labels are written as they are made; made with the `run_facts` of the same two.
        show_progress: Whether to show a progress bar with the rate and the time left.
        engine: Where the work is done.

    Raises:
        NothingLabelledError: All episodes are skipped.
        UnsupportedByModelError: The model was trained on tiled pictures, and the dataset is not opened so.
        NonFiniteOutputError: The model answered NaN.
        OSError: The journal, or decoded frames of a long episode, could not be written.
    """
    labeller.require_views(dataset)
    entries: list[Entry] = [] if journal is None else list(journal.entries)
    if entries:
        logger.info("going on after %d of %d episodes", len(entries), len(dataset))
    bar = _ProgressBar(len(dataset), len(entries), show_progress)
    rest = dataset.keys[len(entries) :]
    with bar, closing(engine(dataset, labeller, rest, labeller.pack_tokens)) as coming:
        for labelled in coming:
            if journal is not None:
                journal.append(labelled)
            entries += labelled
            bar.advance(labelled)
    episodes = {entry.key: entry for entry in entries if isinstance(entry, EpisodeLabels)}
    skipped = (*dataset.skipped, *(entry for entry in entries if isinstance(entry, Unreadable)))
    if not episodes:
        reason = f"the first, {skipped[0].name}, because {skipped[0].reason}" if skipped else "because there are none"
        raise NothingLabelledError(f"no episode of {dataset.options.path} could be labelled: {reason}")
    return Labels(episodes, skipped, labeller.provenance(dataset))


class VerificationError(ValueError):
    """An episode has other labels when it is scored again; the message names it and how far they differ."""


@dataclass(frozen=True)
class Verification:
    """How a verification went.

    Attributes:
        episodes: Keys of the episodes that were scored again.
        difference: The largest difference in progress or success probability.
    """

    episodes: tuple[str, ...]
    difference: float


def verify_labels(
    dataset: RelabelDataset,
    labeller: Labeller,
    labels: Labels,
    sample: int = SAMPLE,
    seed: int = 0,
    engine: Engine = one_process,
) -> Verification:
    """Scores a random sample of labelled episodes again.

    Args:
        dataset: The dataset.
        labeller: The one that made the labels.
        labels: The labels.
        sample: Number of episodes; all of them if they are fewer.
        seed: Of the sample.
        engine: Where they are scored.

    Raises:
        VerificationError: Progress or success of one differs by more than 1e-4, or 3e-2 in half precision.
    """
    keys = sorted(labels.episodes)
    places = np.random.default_rng(seed).permutation(len(keys))[:sample]
    chosen = [keys[place] for place in sorted(places.tolist())]
    tolerance = _TOLERANCE.get(labeller.model.dtype, _TOLERANCE_OF_HALF_PRECISION)
    largest = 0.0
    with closing(engine(dataset, labeller, chosen, pack_tokens=1)) as coming:
        for key, again in zip(chosen, chain.from_iterable(coming), strict=True):
            if isinstance(again, Unreadable):
                raise VerificationError(f"episode {key} was labelled and cannot be read any more: {again.reason}")
            difference = _difference(labels.episodes[key], again)
            if not difference <= tolerance:
                raise VerificationError(
                    f"episode {key} has other labels when it is scored again: progress or success differs by "
                    f"{difference:.2g}, expected {tolerance:g} at most"
                )
            largest = max(largest, difference)
    return Verification(tuple(chosen), largest)


def _difference(first: EpisodeLabels, second: EpisodeLabels) -> float:
    if len(first.progress) != len(second.progress):
        return float("inf")
    pairs = ((first.progress, second.progress), (first.success, second.success))
    return max(float(np.abs(one - other).max()) for one, other in pairs)


def _average(values: Sequence[NDArray[np.float32]]) -> NDArray[np.float64]:
    """As the wrappers average the predictions of several cameras."""
    return np.stack(values).astype(np.float64).mean(axis=0)


class _ProgressBar:
    """Episodes done of all, observations labelled per second, and the time left."""

    def __init__(self, total: int, done: int, is_shown: bool) -> None:
        columns = (
            TextColumn("labelling"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.description}"),
            TimeRemainingColumn(),
        )
        self._progress = Progress(*columns, console=open_console(stderr=True), disable=not is_shown)
        self._bar = self._progress.add_task("", total=total, completed=done)
        self._labels = 0
        self._start = time.monotonic()

    def __enter__(self) -> None:
        self._progress.start()

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def advance(self, entries: Sequence[Entry]) -> None:
        """Counts the episodes of a pack."""
        self._labels += sum(len(entry.progress) for entry in entries if isinstance(entry, EpisodeLabels))
        rate = self._labels / (time.monotonic() - self._start)
        self._progress.update(self._bar, advance=len(entries), description=f"{rate:.1f} labels/s")
