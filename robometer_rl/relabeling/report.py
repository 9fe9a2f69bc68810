"""One HTML page, in one file, about the labels of a dataset: are they what a person would have said?"""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from robometer_rl.files import write_text
from robometer_rl.formats.dataset import EpisodeLabels, Labels, RecordedEpisode, RelabelDataset
from robometer_rl.frames import as_frames
from robometer_rl.report.figures import LIGHT, Curve, Panel, draw_figure, draw_histogram
from robometer_rl.report.markup import html
from robometer_rl.report.page import definitions, document

__all__ = ["disputed", "write_report"]

_SHOWN: Final = 3  # episodes on either end, and of those in dispute, that are drawn
_LISTED: Final = 200
_THUMBNAILS: Final = 6
_THUMBNAIL_HEIGHT: Final = 96


@dataclass(frozen=True)
class _Facts:
    """What is kept of an episode besides its labels, so that no frames stay in memory."""

    labels: EpisodeLabels
    task: str
    original: NDArray[np.float64] | None
    success: bool | None

    @property
    def value(self) -> float:
        """The sum of its learned rewards."""
        return float(self.labels.rewards.sum())

    @property
    def is_disputed(self) -> bool:
        """Whether its own label of success says something else than the success rule at its end."""
        return self.success is not None and self.labels.has_success and self.success != self.labels.succeeds


def write_report(path: Path, dataset: RelabelDataset, labels: Labels) -> None:
    """Writes the page: histograms, the best and the worst episodes, and those whose success is in dispute.

    Episodes are ordered by the sum of their learned rewards. Their frames are read again for the pictures.

    Args:
        path: The file; one that is there is replaced.
        dataset: The dataset.
        labels: Its labels.
    """
    facts = [_facts(dataset.episode(key), labels.episodes[key]) for key in labels.episodes]
    ranked = sorted(facts, key=lambda fact: -fact.value)
    best, worst = ranked[:_SHOWN], ranked[max(len(ranked) - _SHOWN, _SHOWN) :][::-1]
    in_dispute = [fact for fact in facts if fact.is_disputed]
    title = f"Learned rewards of {dataset.options.path.name}"
    sections = [
        f"<h1>{html(title)}</h1>\n<p class='lead'>{html(_lead(facts, labels))}</p>",
        f"<h2>Rewards and progress</h2>\n<div class='grid'>{''.join(map(_figure, _histograms(facts)))}</div>",
        _section("Best episodes", best, dataset, labels),
        _section("Worst episodes", worst, dataset, labels),
        _dispute(facts, in_dispute, dataset, labels),
        _skipped(labels),
        "<h2>How this was made</h2>\n<div class='card'><dl>"
        + definitions({name: str(value) for name, value in labels.provenance.to_dict().items()})
        + "</dl></div>",
    ]
    write_text(path, document(title, sections))


def disputed(dataset: RelabelDataset, labels: Labels) -> list[str]:
    """Keys of the episodes whose own label of success says something else than the success rule at their end."""
    return [key for key in labels.episodes if _facts(dataset.episode(key), labels.episodes[key]).is_disputed]


def _facts(episode: RecordedEpisode, labels: EpisodeLabels) -> _Facts:
    return _Facts(labels, episode.tasks[0], episode.task_rewards, episode.success)


def _lead(facts: Sequence[_Facts], labels: Labels) -> str:
    steps = sum(fact.labels.num_steps for fact in facts)
    imputed = sum(int(fact.labels.imputed.sum()) for fact in facts)
    judged = [fact for fact in facts if fact.labels.has_success]
    success = (
        f"The success rule holds at the end of {sum(fact.labels.succeeds for fact in judged)}."
        if judged
        else "The model says nothing of success."
    )
    return (
        f"{len(facts)} episodes with {steps} steps were labelled, {imputed} of whose last steps are imputed; "
        f"{len(labels.skipped)} were skipped. {success}"
    )


def _histograms(facts: Sequence[_Facts]) -> Iterable[Image.Image]:
    rewards = {"learned": np.concatenate([fact.labels.rewards for fact in facts])}
    original = [fact.original for fact in facts if fact.original is not None]
    yield draw_histogram("Reward of a step", rewards, "learned reward", "share of steps")
    if original:
        known = np.concatenate(original)
        known = known[np.isfinite(known)]
        if len(known):
            yield draw_histogram("Original reward of a step", {"original": known}, "original reward", "share of steps")
    last = {"progress": np.array([fact.labels.progress[-1] for fact in facts])}
    if judged := [fact.labels.success[-1] for fact in facts if fact.labels.has_success]:
        last["success probability"] = np.array(judged)
    yield draw_histogram("Last prediction of an episode", last, "prediction", "share of episodes")


def _section(title: str, facts: Sequence[_Facts], dataset: RelabelDataset, labels: Labels) -> str:
    if not facts:
        return ""
    cards = (_card(fact, dataset, labels) for fact in facts)
    return f"<h2>{html(title)}</h2>\n{''.join(cards)}"


def _card(fact: _Facts, dataset: RelabelDataset, labels: Labels) -> str:
    key, spec = fact.labels.key, labels.provenance.spec
    success_detected = np.append(False, fact.labels.success_detected)[: len(fact.labels.progress)]
    mark = int(np.argmax(success_detected)) if success_detected.any() else None
    numbers = np.arange(len(fact.labels.progress))
    curves = [Curve("progress", numbers, fact.labels.progress, LIGHT.progress)]
    threshold = None
    if fact.labels.has_success:
        curves.append(Curve("success probability", numbers, fact.labels.success, LIGHT.success))
        threshold = labels.provenance.success_threshold
    panel = Panel("Prediction", curves, threshold, mark, "" if mark is None else f"success from frame {mark}")
    said = {None: "no label", True: "labelled successful", False: "labelled a failure"}[fact.success]
    subtitle = f"{key} · sum of {spec.mode} rewards {fact.value:.3f} · {said}"
    strip = _strip(dataset.episode(key))
    return f"<figure class='card'>{_image(strip)}{_image(draw_figure(fact.task, subtitle, [panel]))}</figure>\n"


def _strip(episode: RecordedEpisode) -> Image.Image:
    """A few frames of its first camera side by side."""
    frames = next(iter(episode.cameras.values()))
    numbers = np.unique(np.linspace(0, len(frames) - 1, _THUMBNAILS).round().astype(int)).tolist()
    images = [Image.fromarray(as_frames(frames[number : number + 1])[0]) for number in numbers]
    width = max(1, round(images[0].width * _THUMBNAIL_HEIGHT / images[0].height))
    strip = Image.new("RGB", (width * len(images), _THUMBNAIL_HEIGHT))
    for place, image in enumerate(images):
        strip.paste(image.resize((width, _THUMBNAIL_HEIGHT), Image.Resampling.LANCZOS), (place * width, 0))
    return strip


def _dispute(facts: Sequence[_Facts], found: Sequence[_Facts], dataset: RelabelDataset, labels: Labels) -> str:
    if all(fact.success is None for fact in facts):
        return "<h2>Success in dispute</h2>\n<p class='lead'>The dataset does not say which episodes succeeded.</p>"
    if not any(fact.labels.has_success for fact in facts):
        return "<h2>Success in dispute</h2>\n<p class='lead'>The model says nothing of success.</p>"
    if not found:
        return "<h2>Success in dispute</h2>\n<p class='lead'>Prediction and label agree on every episode.</p>"
    rows = "".join(
        f"<tr><td>{html(fact.labels.key)}</td><td>{'yes' if fact.success else 'no'}</td>"
        f"<td>{'yes' if fact.labels.succeeds else 'no'}</td><td>{fact.labels.success[-1]:.3f}</td></tr>"
        for fact in found[:_LISTED]
    )
    columns = ("Episode", "Labelled successful", "Predicted", "Last probability")
    head = "".join(f"<th scope='col'>{column}</th>" for column in columns)
    table = f"<div class='card wide'><table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table></div>"
    cards = "".join(_card(fact, dataset, labels) for fact in found[:_SHOWN])
    lead = f"<p class='lead'>{len(found)} episodes end otherwise than their label says.</p>"
    return f"<h2>Success in dispute</h2>\n{lead}\n{table}\n{cards}"


def _skipped(labels: Labels) -> str:
    if not labels.skipped:
        return ""
    entries = definitions({entry.name: entry.reason for entry in labels.skipped[:_LISTED]})
    return f"<h2>Skipped episodes</h2>\n<div class='card'><dl>{entries}</dl></div>"


def _figure(image: Image.Image) -> str:
    return f"<figure class='card'>{_image(image)}</figure>"


def _image(image: Image.Image) -> str:
    content = io.BytesIO()
    image.save(content, "PNG")
    return f"<img alt='' src='data:image/png;base64,{base64.b64encode(content.getvalue()).decode('ascii')}'>"
