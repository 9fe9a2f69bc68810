"""A page about the labels of a dataset: are they what a person would have said?"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from robometer_rl.formats.dataset import EpisodeLabels, Labels, Provenance, RecordedEpisode, RelabelDataset
from robometer_rl.formats.trajectories import tiled
from robometer_rl.frames import FrameSequence, scored_steps
from robometer_rl.report.episode import EpisodeScores
from robometer_rl.report.figures import draw_histogram
from robometer_rl.report.page import definitions, figure, picture_address
from robometer_rl.report.recordings import MOST_SHOWN, write_recordings
from robometer_rl.report.replay import Replay, Series, paid_between, shown_frames, worst_first

__all__ = ["labelled_series", "write_report"]

_LISTED: Final = 200  # skipped episodes
_OUTCOMES: Final = {None: "", True: "success", False: "failure"}


def write_report(folder: Path, dataset: RelabelDataset, labels: Labels, show_progress: bool = False) -> Path:
    """Writes the page: histograms, and the episodes under one cursor with their labels, worst disagreements first.

    At most `MOST_SHOWN` episodes are shown; their frames are read again for the videos.

    Args:
        folder: Where the page and its videos go.
        dataset: The dataset.
        labels: Its labels.
        show_progress: Draw a progress bar on standard error.

    Returns:
        The page.
    """
    replays: list[Replay] = []
    original: list[NDArray[np.float64]] = []
    for key, said in labels.episodes.items():
        episode = dataset.episode(key)
        replays.append(_replay(episode, said, labels.provenance))
        if episode.task_rewards is not None:
            original.append(episode.task_rewards)
    shown = [replays[place] for place in worst_first(replays)[:MOST_SHOWN]]
    figures = "".join(
        figure(picture_address(picture), title)
        for title, picture in _histograms(list(labels.episodes.values()), original)
    )
    return write_recordings(
        folder,
        f"Learned rewards of {dataset.options.path.name}",
        _lead(replays, labels),
        ((replay, _cameras(dataset, replay.name)) for replay in shown),
        {name: str(value) for name, value in labels.provenance.to_dict().items()},
        count=len(shown),
        sections=[f"<h2>Rewards and progress</h2>\n<div class='grid'>{figures}</div>", *_skipped(labels)],
        show_progress=show_progress,
    )


def _cameras(dataset: RelabelDataset, key: str) -> dict[str, FrameSequence]:
    """What the model was shown of an episode."""
    episode = dataset.episode(key)
    return dict((tiled(episode) if dataset.options.tile else episode).cameras)


def labelled_series(
    name: str,
    task: str,
    said: EpisodeLabels,
    made: Provenance | None,
    original: NDArray[np.float64] | None = None,
    true_success: NDArray[np.bool_] | None = None,
    outcome: bool | None = None,
) -> Series:
    """Labels as they are drawn, beside the rewards that they have taken the place of.

    Args:
        name: See `Series`.
        task: The instruction.
        said: The labels.
        made: How they were made; None where nobody knows.
        original: (T,) the rewards before, where there were any.
        true_success: See `Series`.
        outcome: Likewise.
    """
    count = len(said.progress)
    steps = scored_steps(count, 1 if made is None else made.spec.every)
    scores = EpisodeScores(
        task=task,
        numbers=steps,
        progress=said.progress[steps],
        success=said.success[steps] if said.has_success else None,
        success_detected=np.append(False, said.success_detected)[:count][steps],
        threshold=1.0 if made is None else made.success_threshold,
    )
    return Series(
        name=name,
        steps=steps,
        scores=scores,
        rewards=paid_between(steps, said.rewards),
        original=None if original is None else paid_between(steps, original),
        shown=None if made is None else shown_frames(made.protocol, steps),
        true_success=true_success,
        outcome=outcome,
    )


def _replay(episode: RecordedEpisode, said: EpisodeLabels, made: Provenance) -> Replay:
    series = labelled_series(
        made.model_id,
        episode.tasks[0],
        said,
        made,
        episode.task_rewards,
        episode.success_of_frames,
        episode.success,
    )
    gap = series.disagreement
    values = {
        "Disagreement": "" if gap is None else f"{gap:.2f}",
        "Recorded": _OUTCOMES[episode.success],
        "Predicted": _OUTCOMES[said.succeeds if said.has_success else None],
        "Last progress": f"{said.progress[-1]:.2f}",
        "Last success": f"{said.success[-1]:.2f}" if said.has_success else "",
        "Sum of rewards": f"{said.rewards.sum():+.2f}",
    }
    return Replay(episode.key, [series], description=_description(episode, said, made.spec.mode), values=values)


def _description(episode: RecordedEpisode, said: EpisodeLabels, mode: str) -> str:
    parts = [*episode.tasks[:1], f"its {mode} rewards sum to {said.rewards.sum():.3f}"]
    parts.append(
        f"recorded as a {_OUTCOMES[episode.success]}" if episode.success is not None else "outcome not recorded"
    )
    if said.imputed.any():
        parts.append(f"of the last step no frame was recorded: its {said.rewards[-1]:.3f} is imputed and not drawn")
    return " · ".join(parts)


def _lead(replays: Sequence[Replay], labels: Labels) -> str:
    said = list(labels.episodes.values())
    steps, imputed = sum(each.num_steps for each in said), sum(int(each.imputed.sum()) for each in said)
    judged = [each for each in said if each.has_success]
    outcomes = [replay.series[0].outcome for replay in replays]
    known = [(each.succeeds, outcome) for each, outcome in zip(said, outcomes, strict=True) if outcome is not None]
    sentences = [
        f"{len(said)} episodes with {steps} steps were labelled, {imputed} of whose last steps are imputed; "
        f"{len(labels.skipped)} were skipped."
    ]
    if not judged:
        sentences.append("The model says nothing of success.")
    elif not known:
        sentences.append(
            f"The success rule holds at the end of {sum(each.succeeds for each in judged)}. The dataset does not say "
            "which episodes succeeded."
        )
    else:
        disputed = sum(predicted != outcome for predicted, outcome in known)
        sentences.append(
            f"The success rule holds at the end of {sum(each.succeeds for each in judged)}; "
            f"{disputed} of {len(known)} episodes end otherwise than the dataset says."
        )
    order = "Worst disagreements first; then what is paid most unusually."
    more = f" The first {MOST_SHOWN} of them are below." if len(replays) > MOST_SHOWN else ""
    return " ".join(sentences) + f" {order}{more}"


def _histograms(
    said: Sequence[EpisodeLabels], original: Sequence[NDArray[np.float64]]
) -> Iterator[tuple[str, Image.Image]]:
    """Pictures under their titles."""

    def drawn(
        title: str, values: dict[str, NDArray[Any]], x_label: str, unit: str, span: tuple[float, float] | None = None
    ) -> tuple[str, Image.Image]:
        return title, draw_histogram(title, values, x_label, f"share of {unit}", span)

    yield drawn(
        "Reward of a step", {"learned": np.concatenate([each.rewards for each in said])}, "learned reward", "steps"
    )
    known = np.concatenate([np.zeros(0), *original])
    known = known[np.isfinite(known)]
    if len(known):
        yield drawn("Original reward of a step", {"original": known}, "original reward", "steps")
    last = {"progress": np.array([each.progress[-1] for each in said])}
    if judged := [each.success[-1] for each in said if each.has_success]:
        last["success probability"] = np.array(judged)
    yield drawn("Last prediction of an episode", last, "prediction", "episodes", (0.0, 1.0))


def _skipped(labels: Labels) -> list[str]:
    if not labels.skipped:
        return []
    entries = definitions({entry.name: entry.reason for entry in labels.skipped[:_LISTED]})
    return [f"<h2>Skipped episodes</h2>\n<div class='card'><dl>{entries}</dl></div>"]
