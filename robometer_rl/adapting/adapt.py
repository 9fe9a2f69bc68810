"""``robometer-rl adapt``: from recordings to a reward model with a verdict, in one go.

What a run leaves::

    checkpoint/       the model, see `robometer_rl.models.compact`
    verdict.json      what it is worth, what it was trained on, and how
    page/index.html   the same for people

A run that ends before its first step leaves nothing.
"""

from __future__ import annotations

import json
import logging
import math
import shlex
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from rich.progress import track

from robometer_rl.adapting.config import AdaptConfig
from robometer_rl.adapting.examples import Example, Split, make_examples, split_examples
from robometer_rl.adapting.features import FeatureFiles, from_rows
from robometer_rl.adapting.learning import Learned, Lesson, learn
from robometer_rl.adapting.page import write_page
from robometer_rl.adapting.proposals import Proposal, propose
from robometer_rl.adapting.success_rule import SuccessRule, choose_success_rule
from robometer_rl.adapting.survey import Survey, look_at
from robometer_rl.adapting.verdict import Seen, Verdict, ask, judge, success_evidence
from robometer_rl.data.trajectories import are_tiled
from robometer_rl.files import write_text
from robometer_rl.formats.opening import OpenedEpisodes, open_episodes
from robometer_rl.frames import as_frames
from robometer_rl.models.compact.checkpoint import (
    CONFIG_FILE,
    CompactCheckpoint,
    CompactConfig,
    load_compact,
    save_compact,
)
from robometer_rl.models.compact.dinov2 import Dinov2Tower, load_dinov2
from robometer_rl.models.compact.familiarity import pooled
from robometer_rl.models.compact.inference import CompactModel
from robometer_rl.models.compact.tower import Tower, pretrained_tower
from robometer_rl.models.locations import is_compact
from robometer_rl.provenance import provenance
from robometer_rl.report.terminal import open_console

__all__ = ["CHECKPOINT", "adapt"]

logger = logging.getLogger(__name__)

CHECKPOINT: Final = "checkpoint"
_HELD_OUT: Final = 0.2  # of the episodes
_VIEWS: Final = 4  # of an episode: as it is, and in other lights, from other places, and with more things in it
_VIEW_TIME: Final = 0.25  # part of the time for making views
_COMPARED: Final = 16  # episodes in which features on disk are held against those of a question
_JUDGING_TIME: Final = 0.1  # part of the time that is left for the verdict


def adapt(config: AdaptConfig, tower: Tower | None = None) -> Verdict:
    """Trains a compact model on recordings and judges it.

    Args:
        config: What to do.
        tower: The frozen image network of a new model; that which ``config`` names if None.

    Returns:
        The verdict; the model is in ``checkpoint`` within the output.

    Raises:
        StoreError: There is no store, or all of it is damaged.
        TrajectoryError: Recordings that do not fit together, such as states of different widths.
        UnsupportedByModelError: The run to go on from was trained on tiled pictures, and these are single views.
        CompactCheckpointError: There is no run to go on from.
        ImportError: The image network is not installed.
        ValueError: The output holds a model already, or the store no episodes to train on.
    """
    start = time.monotonic()
    begun = _begin(config)
    opened = _select(config)
    examples = make_examples(opened.trajectories)
    split = split_examples(examples, _HELD_OUT, config.seed, *_earlier(begun))
    survey = look_at(examples, split, None if config.exclude is None else opened.excluded)
    _show_survey(config, survey)
    checkpoint = _checkpoint(config, begun, examples, tower)
    device = torch.device(config.device or ("cuda" if torch.cuda.is_available() else "cpu"))
    for part in (checkpoint.tower, checkpoint.network, checkpoint.familiarity):
        part.to(device)
    lessons = _look(config, checkpoint, split, device, start)
    deadline = start + (1 - _JUDGING_TIME) * config.time_limit
    learned = learn(
        checkpoint.network,
        lessons.training,
        lessons.held_out,
        maps=checkpoint.tower.maps,
        steps=config.planned_steps(len(split.training)),
        deadline=deadline,
        device=device,
        seed=config.seed,
    )
    _fit_familiarity(checkpoint, lessons, device)
    save_compact(config.output / CHECKPOINT, checkpoint)  # before anything else can go wrong
    return _conclude(config, checkpoint, split, survey, learned, device, start)


def _begin(config: AdaptConfig) -> CompactCheckpoint | None:
    """The model to go on from, if there is one to go on from, and an output that nothing is lost in."""
    if config.continued is not None:
        inside = config.continued / CHECKPOINT
        return load_compact(config.continued if is_compact(config.continued) else inside)
    if (config.output / CHECKPOINT / CONFIG_FILE).exists():
        raise ValueError(
            f"{config.output} holds a model already; choose another output, or go on from it with "
            f"--continue {config.output}"
        )
    return None


def _earlier(begun: CompactCheckpoint | None) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Ids of the episodes that a model was trained on, and of those that it was judged by."""
    return ((), ()) if begun is None else (begun.config.trained_on, begun.config.judged_by)


def _select(config: AdaptConfig) -> OpenedEpisodes:
    places = (config.store, *config.also)
    opened = open_episodes(places, lambda each: each.split == "train", exclude=config.exclude)
    if not opened.trajectories:
        raise ValueError(
            f"{', '.join(map(str, places))} holds no episodes of the split 'train' to learn from"
            + (f" that are not among the {opened.excluded} flagged ones" if opened.excluded else "")
            + f"; its splits are {sorted({split for split, _ in opened.held})}"
        )
    if others := sum(count for (split, _), count in opened.held.items() if split != "train"):
        logger.info(
            "%d episodes of other splits are left alone: `robometer-rl evaluate %s %s` measures on them",
            others,
            config.output / CHECKPOINT,
            config.store,
        )
    return opened


def _show_survey(config: AdaptConfig, survey: Survey) -> None:
    console = open_console()
    console.print(survey.table(str(config.store)))
    for sentence in survey.hopeless:
        logger.warning("this cannot become usable: %s", sentence)
    for sentence in survey.missing:
        logger.warning("missing: %s", sentence)


def _checkpoint(
    config: AdaptConfig, begun: CompactCheckpoint | None, examples: Sequence[Example], tower: Tower | None
) -> CompactCheckpoint:
    tasks = {text: None for example in examples for text in example.texts}
    tiled = are_tiled(example.episode for example in examples)
    if begun is not None:
        CompactModel(begun, CHECKPOINT, CHECKPOINT).require_views("going on with these recordings", tiled=tiled)
        known = dict.fromkeys((*begun.config.tasks, *tasks))
        begun.network.requires_grad_(True)
        return begun.configured(tasks=tuple(known), success_threshold=None, tiled=tiled)
    if tower is None:
        tower = pretrained_tower() if config.tower is None else load_dinov2(config.tower)
    dinov2 = tower.shape if isinstance(tower, Dinov2Tower) else None
    about = CompactConfig(tuple(tasks), resolution=tower.resolution, dinov2=dinov2, tiled=tiled)
    return CompactCheckpoint.build(about, tower)


@dataclass(frozen=True)
class _Lessons:
    training: list[Lesson]
    held_out: list[Lesson]


def _look(
    config: AdaptConfig, checkpoint: CompactCheckpoint, split: Split, device: torch.device, start: float
) -> _Lessons:
    """Features of all episodes, and of other views of those to train on as far as there is time."""
    files = FeatureFiles.beside(config.store, config.output, checkpoint.tower, device, config.seed)
    console = open_console(stderr=True)
    training = [Lesson(example, []) for example in split.training]
    held_out = [Lesson(example, []) for example in split.held_out]
    for lesson in track(training + held_out, "looking at frames", console=console, transient=True):
        lesson.views.append(files.get(lesson.example.episode.frames, 0))
    more = [(view, lesson) for view in range(1, _VIEWS) for lesson in training]
    for view, lesson in track(more, "in other lights", console=console, transient=True):
        if time.monotonic() > start + _VIEW_TIME * config.time_limit:
            break
        lesson.views.append(files.get(lesson.example.episode.frames, view))
    return _Lessons(training, held_out)


@torch.inference_mode()
def _fit_familiarity(checkpoint: CompactCheckpoint, lessons: _Lessons, device: torch.device) -> None:
    """Notes what pictures look like that the model knows; held-out ones are of the same kind.

    Features on disk are computed in 16 bits and differ from those of a question, in all pictures by about the same.
    Where little moves, that is more than pictures differ by, and must not look strange.
    """

    def means(rows: Sequence[NDArray[np.float16]]) -> torch.Tensor:
        parts = [pooled(from_rows(np.asarray(each), checkpoint.tower.maps, device)).cpu() for each in rows]
        return torch.cat(parts) if parts else torch.zeros(0, len(checkpoint.familiarity.mean))

    stored, asked = [], []
    for lesson in (lessons.held_out or lessons.training)[:_COMPARED]:
        times = [0, len(lesson.views[0]) - 1]
        frames = np.concatenate([as_frames(lesson.example.episode.frames[t : t + 1]) for t in times])
        stored.append(lesson.views[0][times])
        asked.append(pooled(checkpoint.tower(torch.from_numpy(frames).to(device))).cpu())
    known = torch.cat(asked)
    rounding = (known - means(stored)).mean(0)
    checkpoint.familiarity.cpu().fit(
        means([view for lesson in lessons.training for view in lesson.views]) + rounding,
        torch.cat([means([lesson.views[0] for lesson in lessons.held_out]) + rounding, known]),
    )


def _conclude(
    config: AdaptConfig,
    checkpoint: CompactCheckpoint,
    split: Split,
    survey: Survey,
    learned: Learned,
    device: torch.device,
    start: float,
) -> Verdict:
    """Calibrates, judges, saves and says so."""
    folder = config.output / CHECKPOINT
    model = CompactModel(checkpoint, str(folder), config.output.name, device=device)
    console = open_console(stderr=True)
    asked = track(split.held_out, "judging", console=console, transient=True)
    seen = [each for example in asked for each in ask(model, [example])]
    rule = _calibrated(seen)
    verdict = judge(seen, survey, rule)
    spreads = [model.uncertainty(each.example.episode.clip()) for each in seen]
    seen = [replace(each, spread=spread) for each, spread in zip(seen, spreads, strict=True)]
    proposals = propose(seen, [float(spread[-1]) for spread in spreads], survey)
    trained = {
        "verdict": verdict.as_dict(),
        "data": survey.facts,
        "episodes": {
            "training": [each.episode.id for each in split.training],
            "held_out": [each.episode.id for each in split.held_out],
        },
        "steps": learned.steps,
        "best_step": learned.best_step,
        "seconds": round(time.monotonic() - start),
        "interrupted": learned.interrupted,
        "views": "light, colour, small shifts of the camera, and things that lie about",
    }
    threshold = None if verdict.threshold is None else round(verdict.threshold, 4)
    save_compact(folder, checkpoint.configured(success_threshold=threshold, trained=_without_nan(trained)))
    record = {**trained, "proposals": [vars(each) for each in proposals], "provenance": provenance()}
    write_text(config.output / "verdict.json", json.dumps(_without_nan(record), indent=2) + "\n")
    commands = _commands(config, split, survey, verdict)
    page = write_page(config.output / "page", config.output.name, verdict, survey, seen, proposals, commands)
    _say(verdict, learned, survey, proposals, page, commands, config, time.monotonic() - start)
    return verdict


def _calibrated(seen: Sequence[Seen]) -> SuccessRule | None:
    """The success rule with the default patience, chosen on episodes that were not trained on; None if none can be."""
    try:
        return choose_success_rule(success_evidence(seen))
    except ValueError as error:
        logger.warning("no success threshold is chosen: %s", error)
        return None


def _commands(config: AdaptConfig, split: Split, survey: Survey, verdict: Verdict) -> list[str]:
    """What to type next."""
    task = split.training[0].episode.task
    checkpoint = config.output / CHECKPOINT
    again = f"robometer-rl adapt {config.store} --output {config.output}-2"
    if config.also:
        again += f" --also {' '.join(map(str, config.also))}"
    if config.exclude is not None:
        again += f" --exclude {config.exclude}"
    if not survey.hopeless:  # nothing was learned that would be worth going on from
        again += f" --continue {config.output}"
    if not verdict.usable:
        return [again]
    return [
        f"robometer-rl score VIDEO --task {shlex.quote(task)} --model {checkpoint}",
        f"env = RobometerReward(env, {str(checkpoint)!r}, task={task!r})",
        again,
    ]


def _say(
    verdict: Verdict,
    learned: Learned,
    survey: Survey,
    proposals: Sequence[Proposal],
    page: Path,
    commands: Sequence[str],
    config: AdaptConfig,
    seconds: float,
) -> None:
    console = open_console()
    for table in verdict.tables():
        console.print(table)
    console.print(f"verdict: {verdict.headline}", style="bold")
    for reason in verdict.reasons:
        console.print(f"  {reason}", soft_wrap=True)
    for proposal in proposals:
        console.print(f"record next: {proposal.text}", soft_wrap=True)
    threshold = "no success threshold"
    if verdict.threshold is not None:
        early = (
            "" if verdict.early is None else f" ({verdict.early:.0%} of the successes reach it before they are done)"
        )
        threshold = f"success threshold {verdict.threshold:.2f}{early}"
    without = f", {survey.excluded} flagged episodes left out" if survey.excluded is not None else ""
    console.print(
        f"{config.output / CHECKPOINT}: {learned.steps} steps in {seconds / 60:.1f} minutes, features included, "
        f"{threshold}{without}; the page is {page}",
        soft_wrap=True,
    )
    console.print("next:" if verdict.usable else "record what is missing, then:")
    for command in commands:
        console.print(f"  {command}", soft_wrap=True)


def _without_nan(value: Any) -> Any:
    """JSON has no NaN: it becomes null."""
    if isinstance(value, dict):
        return {key: _without_nan(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [_without_nan(entry) for entry in value]
    return None if isinstance(value, float) and math.isnan(value) else value
