"""``robometer-rl evaluate alignment|ranking|confusion|preference``: the evaluations of the reference."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, ClassVar, Final

import tyro

from robometer_rl.data.judgements import compared
from robometer_rl.data.trajectory import Trajectory
from robometer_rl.evaluation.evaluate import EvaluateConfig, run_evaluate
from robometer_rl.evaluation.page import production_facts
from robometer_rl.evaluation.published.judging import (
    Judged,
    Kind,
    judge,
    main_numbers,
    tables,
    write_reference_files,
)
from robometer_rl.evaluation.published.questions import Dataset, Drawing
from robometer_rl.files import write_text
from robometer_rl.formats.opening import are_published, open_episodes, place_name
from robometer_rl.models.reward_model import RewardModel
from robometer_rl.provenance import provenance
from robometer_rl.report.recordings import MOST_SHOWN
from robometer_rl.report.terminal import open_console

__all__ = [
    "SCHEMA_VERSION",
    "AlignmentConfig",
    "ConfusionConfig",
    "PreferenceConfig",
    "PublishedConfig",
    "RankingConfig",
    "judge_stores",
    "open_datasets",
    "parse_evaluate",
    "run_any_evaluate",
]

logger = logging.getLogger(__name__)

SCHEMA_VERSION: Final = 1
"""Of ``evaluation.json``."""

_WIDEST = 1000  # columns of a table


@dataclass(frozen=True)
class PublishedConfig:
    """An evaluation that the reference makes, with its numbers (legacy) beside corrected ones.

    Attributes:
        model: What `load_reward_model` takes.
        data: Stores of trajectories, each a data set that is called like its folder, or published data where it lies,
            as in ``rbm:processed_datasets``, of which each collection is a data set.
        select: Of published data only these groups or collections, as in ``rbm-1m-ood``.
        joint: Judge all stores as one set.
        split: The splits of them to evaluate on; all by default, as in the reference.
        max_frames: Most frames of a clip, T; as many as the model is shown by its own rule if None.
        legacy: The reference's questions and numbers alone: clips are padded, and prefix t is judged by its slot t.
        pad_frames: Whether clips of ``--legacy`` are padded, as the reference's option of this name says.
        controls: Also judge what sees nothing, and the model asked about something else; five times the questions.
        seed: Of what is drawn.
        output: Folder for ``evaluation.json``, the page (``index.html``), the answers (``answers.jsonl``: an
            interrupted evaluation goes on from them), and the reference's files.
        page: Most recordings on the page, those that the model is most wrong about; 0 for no page.
        device: Where to run.
        dtype: Precision; as stored if None.
    """

    kind: ClassVar[Kind]

    model: tyro.conf.Positional[str]
    data: tyro.conf.Positional[tuple[Path, ...]]
    select: tuple[str, ...] = ()
    joint: bool = False
    split: tuple[str, ...] = ()
    max_frames: int | None = None
    legacy: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    pad_frames: bool = True
    controls: bool = True
    seed: int = 42
    output: Path = Path("outputs/evaluation")
    page: int = MOST_SHOWN
    device: str = "cpu"
    dtype: str | None = None

    def __post_init__(self) -> None:
        if not self.data:
            raise ValueError("got no store; expected one or more folders with recorded episodes")
        if self.output.exists() and not self.output.is_dir():
            raise ValueError(f"output must be a folder, got the file {self.output}")
        for name, least in self._least().items():
            if (value := getattr(self, name)) is not None and value < least:
                raise ValueError(f"{name} must be at least {least}, got {value}")

    def _least(self) -> dict[str, int]:
        """The lowest value of each number."""
        return {"max_frames": 1, "seed": 0, "page": 0}

    def drawing(self, model: RewardModel) -> Drawing:
        """What is drawn for ``model``."""
        return Drawing(
            max_frames=self.max_frames or model.default_protocol.max_frames,
            padded=self.pad_frames,
            seed=self.seed,
            **self._drawn(),
        )

    def _drawn(self) -> dict[str, Any]:
        return {}


@dataclass(frozen=True)
class AlignmentConfig(PublishedConfig):
    """Does progress of successful episodes grow with time?

    Attributes:
        prefixes: Judge so many growing prefixes of an episode, 0 for one per frame; whole clips if None.
        trajectories: Most episodes of a set, drawn at random; 0 for all.
    """

    kind = "alignment"
    prefixes: int | None = None
    trajectories: int = 10

    def _least(self) -> dict[str, int]:
        return {**super()._least(), "prefixes": 0, "trajectories": 0}

    def _drawn(self) -> dict[str, Any]:
        return {"prefixes": self.prefixes, "trajectories": self.trajectories or None}


@dataclass(frozen=True)
class RankingConfig(PublishedConfig):
    """Do episodes of a task come out in the order of their quality?

    Attributes:
        prefixes: Judge every prefix, and rewards by their last, mean and sum, instead of whole clips.
        per_quality: Most episodes of a task and quality; 0 for all.
        tasks: Most tasks; 0 for all.
        graded: Sets of graded outcomes: most episodes of a task.
    """

    kind = "ranking"
    prefixes: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    per_quality: int = 0
    tasks: int = 20
    graded: int = 5

    def _least(self) -> dict[str, int]:
        return {**super()._least(), "per_quality": 0, "tasks": 0, "graded": 2}

    def _drawn(self) -> dict[str, Any]:
        return {
            "prefixes": 0 if self.prefixes else None,
            "per_quality": self.per_quality or None,
            "tasks": self.tasks or None,
            "graded": self.graded,
        }


@dataclass(frozen=True)
class ConfusionConfig(PublishedConfig):
    """Is a video worth most under its own instruction? Every episode is asked about under every task of the set."""

    kind = "confusion"


@dataclass(frozen=True)
class PreferenceConfig(PublishedConfig):
    """Is the better of two episodes of a task preferred, in both orders?

    Attributes:
        preferences: Answers that people gave in the studio, as in outputs/studio/preferences.jsonl: the better episode
            is the one that most of them preferred, and the numbers are how often the model agrees with people. Without
            them it is the one of higher quality.
        per_task: Most pairs of a task; 0 for all.
        pairs: Most pairs of a set; 0 for all.
    """

    kind = "preference"
    preferences: Path | None = None
    per_task: int = 0
    pairs: int = 100

    def _least(self) -> dict[str, int]:
        return {**super()._least(), "per_task": 0, "pairs": 0}

    def _drawn(self) -> dict[str, Any]:
        return {"per_task": self.per_task or None, "pairs": self.pairs or None}


_KINDS: Final[dict[str, type[PublishedConfig]]] = {
    each.kind: each for each in (AlignmentConfig, RankingConfig, ConfusionConfig, PreferenceConfig)
}


def parse_evaluate(words: Sequence[str], program: str) -> EvaluateConfig | PublishedConfig:
    """Options of ``robometer-rl evaluate [KIND] MODEL STORE...``; a model in a folder of that name is ``./KIND``."""
    if words and words[0] in _KINDS:
        return tyro.cli(_KINDS[words[0]], args=list(words[1:]), prog=f"{program} {words[0]}")
    return tyro.cli(EvaluateConfig, args=list(words), prog=program)


def run_any_evaluate(config: EvaluateConfig | PublishedConfig) -> None:
    """Evaluates as ``config`` says."""
    if isinstance(config, EvaluateConfig):
        run_evaluate(config)
        return
    preferences = config.preferences if isinstance(config, PreferenceConfig) else None
    datasets = open_datasets(config.data, config.joint, config.split, preferences, config.select)
    from robometer_rl.models.loading import load_reward_model

    judge_stores(config, load_reward_model(config.model, config.device, config.dtype), datasets)


def open_datasets(
    places: Sequence[Path],
    joint: bool,
    split: Sequence[str] = (),
    preferences: Path | None = None,
    select: Sequence[str] = (),
) -> list[Dataset]:
    """The sets that are judged.

    Args:
        places: Folders of stores, or published data in place, see `open_episodes`.
        joint: All of them are one set.
        split: Splits of them; all if none is named.
        preferences: Answers of people, which say what is better in place of quality.
        select: Groups and collections of published data.

    Raises:
        DocumentError: A line of ``preferences`` is none.
        StoreError: There is no such store, or it is damaged throughout.
        SourceError: There is no such published data, or nothing of it that is selected.
        ValueError: A place has no such episodes of robots, people compared none of them, or a selection of nothing.
    """
    found: list[Dataset] = []
    called: list[list[str]] = []  # what notes call the store of each episode
    for place, is_published in zip(places, are_published(places, select), strict=True):
        rows = open_episodes(
            [place],
            lambda each: each.is_robot and (not split or each.split in split),
            select if is_published else (),
        ).trajectories
        if not rows:
            raise ValueError(
                f"{place} has no episodes of robots" + (f" of the split {' or '.join(split)}" if split else "")
            )
        collections: dict[str, list[Trajectory]] = {}
        for each in rows:
            # Published data say themselves which collection an episode is of.
            name = (each.source or "").partition("#")[0] if is_published else place.resolve().name
            collections.setdefault(name, []).append(each)
        found += [Dataset((name,), tuple(members)) for name, members in collections.items()]
        called += [[place_name(place)] * len(members) for members in collections.values()]
    if joint:
        names = tuple(name for each in found for name in each.names)
        found = [Dataset(names, tuple(episode for each in found for episode in each.episodes))]
        called = [[name for each in called for name in each]]
    if preferences is None:
        return found
    return [_with_preferences(each, names, preferences) for each, names in zip(found, called, strict=True)]


def _with_preferences(dataset: Dataset, called: Sequence[str], preferences: Path) -> Dataset:
    people = compared(preferences, dataset.episodes, called)
    logger.info("%s: %s", ", ".join(dataset.names), people)
    return replace(dataset, compared=people.pairs)


def judge_stores(config: PublishedConfig, model: RewardModel, datasets: Sequence[Dataset]) -> list[Judged]:
    """Evaluates, prints the tables and writes the files.

    Args:
        config: How; its ``model``, ``data`` and what selects episodes are not looked at.
        model: What to judge.
        datasets: On what.

    Raises:
        ValueError: A set has nothing to ask about, see `judge`.
        UnsupportedByModelError: The model cannot answer such questions.
    """
    from robometer_rl.evaluation.published.answers import answerers
    from robometer_rl.evaluation.published.page import write_published_page

    if config.kind != "preference":
        model.require(f"the evaluation {config.kind!r}", progress=True)
    tiled = all(episode.tiled for dataset in datasets for episode in dataset.episodes)
    model.require_views(f"the evaluation {config.kind!r}", tiled=tiled)
    config.output.mkdir(parents=True, exist_ok=True)
    asked = answerers([model], config.output / "answers.jsonl", config.controls, show_progress=True)
    drawing = config.drawing(model)
    judged: list[Judged] = []
    for dataset in datasets:
        judged.append(judge(config.kind, dataset, drawing, asked, config.legacy))
        for table in tables(judged[-1]):
            open_console(width=max(open_console().width, open_console(width=_WIDEST).measure(table).maximum)).print(
                table
            )
        write_reference_files(config.output, judged)
    document = _document(config, model, judged)
    write_text(config.output / "evaluation.json", json.dumps(document, indent=2) + "\n")
    found = [line for each in judged for line in main_numbers(each)]
    found.append(f"wrote {config.output}; read each number beside those of the controls (docs/evaluation.md)")
    logger.info("%s", "\n".join(found))
    if config.page:
        page = write_published_page(config.output, judged, asked[0], _facts(document), config.page)
        open_console().print(f"see it, worst answers first: open {page}", soft_wrap=True)
    return judged


def _document(config: PublishedConfig, model: RewardModel, judged: Sequence[Judged]) -> dict[str, Any]:
    """What is written as ``evaluation.json``."""
    return {
        "schema_version": SCHEMA_VERSION,
        "model": model.model_id,
        "revision": model.revision,
        "dtype": model.dtype,
        "record": model.record,
        "unanswered": model.unanswered,
        "seed": config.seed,
        "legacy_only": config.legacy,
        "preferences": config.preferences.name if isinstance(config, PreferenceConfig) and config.preferences else None,
        "evaluations": [each.as_dict() for each in judged],
        "provenance": provenance(),
    }


def _facts(document: Mapping[str, Any]) -> dict[str, str]:
    about = {"Seed": str(document["seed"])}
    if document["preferences"]:
        about["Better episodes"] = f"as people said in {document['preferences']}"
    return production_facts(document, about)
