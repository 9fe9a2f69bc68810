"""``robometer-rl adapt``: from recordings to a reward model with a verdict, in one go.

What a run leaves::

    checkpoint/       the model: a compact one (`robometer_rl.models.compact`), or a LoRA of a Robometer
    verdict.json      what it is worth, what it was trained on, and how
    page/index.html   the same for people

A run that ends before its first step leaves nothing.
"""

from __future__ import annotations

import json
import logging
import shlex
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

from rich.progress import track

from robometer_rl.adapting.compact import CompactLearner
from robometer_rl.adapting.config import AdaptConfig
from robometer_rl.adapting.examples import Split, make_examples, split_examples
from robometer_rl.adapting.learner import CHECKPOINT, Learned, Learner, begun_checkpoint
from robometer_rl.adapting.page import write_page
from robometer_rl.adapting.proposals import Proposal, propose
from robometer_rl.adapting.success_rule import SuccessRule, choose_success_rule
from robometer_rl.adapting.survey import Survey, look_at
from robometer_rl.adapting.verdict import Seen, Verdict, ask, judge, success_evidence
from robometer_rl.documents import without_nan
from robometer_rl.extras import require
from robometer_rl.files import write_text
from robometer_rl.formats.opening import OpenedEpisodes, open_episodes
from robometer_rl.models.compact.checkpoint import CONFIG_FILE
from robometer_rl.models.compact.tower import Tower
from robometer_rl.models.robometer.checkpoint import SETTINGS_FILE
from robometer_rl.provenance import provenance
from robometer_rl.report.terminal import open_console

__all__ = ["CHECKPOINT", "adapt"]

logger = logging.getLogger(__name__)

_HELD_OUT: Final = 0.2  # of the episodes


def adapt(config: AdaptConfig, tower: Tower | None = None) -> Verdict:
    """Trains a compact model on recordings, or a LoRA of a Robometer, and judges it.

    Args:
        config: What to do.
        tower: The frozen image network of a new compact model; that which ``config`` names if None.

    Returns:
        The verdict; the model is in ``checkpoint`` within the output.

    Raises:
        StoreError: There is no store, or all of it is damaged.
        TrajectoryError: Recordings that do not fit together, such as states of different widths.
        UnsupportedByModelError: The run to go on from was trained on tiled pictures, and these are single views.
        CompactCheckpointError: There is no run to go on from.
        ImportError: The image network, or what trains a LoRA, is not installed.
        UnknownModelError: There is no such Robometer to start from.
        ValueError: The output holds a model already, or the store no episodes to train on.
    """
    start = time.monotonic()
    learner = _begin(config, tower)
    opened = _select(config)
    examples = make_examples(opened.trajectories)
    split = split_examples(examples, _HELD_OUT, config.seed, learner.trained_on, learner.judged_by)
    survey = look_at(examples, split, None if config.exclude is None else opened.excluded)
    _show_survey(config, survey)
    learned = learner.learn(split, start)
    learner.save(config.output / CHECKPOINT)  # before anything else can go wrong
    return _conclude(config, learner, split, survey, learned, start)


def _begin(config: AdaptConfig, tower: Tower | None) -> Learner:
    """What is to be trained, and an output that nothing is lost in."""
    made = config.output / CHECKPOINT
    if config.continued is None and any((made / name).exists() for name in (CONFIG_FILE, SETTINGS_FILE)):
        raise ValueError(
            f"{config.output} holds a model already; choose another output, or go on from it with "
            f"--continue {config.output}"
        )
    begun = begun_checkpoint(config)
    if config.base is None and (begun is None or not (begun / SETTINGS_FILE).exists()):
        return CompactLearner(config, tower)
    require("accelerate", "train")
    # Here, because it is for an extra that compact models can do without.
    from robometer_rl.adapting.lora import RobometerLearner

    return RobometerLearner(config)


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


def _conclude(
    config: AdaptConfig,
    learner: Learner,
    split: Split,
    survey: Survey,
    learned: Learned,
    start: float,
) -> Verdict:
    """Calibrates, judges, saves and says so."""
    model = learner.model()
    console = open_console(stderr=True)
    asked = track(split.held_out, "judging", console=console, transient=True)
    seen = [each for example in asked for each in ask(model, [example])]
    rule = _calibrated(seen)
    verdict = judge(seen, survey, rule)
    spreads = [learner.uncertainty(each) for each in seen]
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
        **learner.facts,
    }
    threshold = None if verdict.threshold is None else round(verdict.threshold, 4)
    learner.save(config.output / CHECKPOINT, threshold, without_nan(trained))
    record = {**trained, "proposals": [vars(each) for each in proposals], "provenance": provenance()}
    write_text(config.output / "verdict.json", json.dumps(without_nan(record), indent=2) + "\n")
    commands = _commands(config, learner, split, survey, verdict)
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


def _commands(config: AdaptConfig, learner: Learner, split: Split, survey: Survey, verdict: Verdict) -> list[str]:
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
    elif learner.options:
        again += f" {learner.options}"
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
