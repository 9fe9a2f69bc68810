"""``robometer-rl harden``: agents and a reward model in turns, until what is not done is not paid.

What a run leaves::

    config.json          what was asked for; the same run goes on only with the same
    recordings/          store of the episodes that were learned from, of all rounds
    round-0/             the model as it was given, and an agent that learned from it
    round-N/model/       the model, trained further on the store and the recordings
    round-N/model.json   where its checkpoint is; written when it is finished
    round-N/episodes/    store of all episodes of an agent that learned from it
    round-N/round.json   what they were paid; written when the agent is finished
    hardening.json       all rounds, and the best
    page/index.html      the same for people, with the failures that most was farmed in
"""

from __future__ import annotations

import json
import logging
import math
import shlex
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Final

from rich.progress import track
from rich.table import Table

from robometer_rl.data.labels import label_trajectories
from robometer_rl.data.store import TrajectoryStore
from robometer_rl.data.trajectory import Trajectory
from robometer_rl.documents import DocumentError, parse_json, read_text, without_nan
from robometer_rl.extras import require
from robometer_rl.files import write_text
from robometer_rl.hardening.agent import make_recorded, train_agent
from robometer_rl.hardening.config import HardenConfig
from robometer_rl.hardening.page import write_page
from robometer_rl.hardening.payment import Farming, Paid, choose_lessons, farming_of, later_half, ways
from robometer_rl.hardening.teaching import add_lessons, as_in_store, require_teachable, teach
from robometer_rl.models.loading import load_reward_model
from robometer_rl.models.reward_model import RewardModel
from robometer_rl.provenance import provenance
from robometer_rl.report.terminal import open_console

__all__ = ["Hardened", "Round", "harden"]

logger = logging.getLogger(__name__)

_SUCCESSES: Final = 20  # recorded ones that say what a success is paid


@dataclass(frozen=True)
class Round:
    """A model, and what an agent that had not been seen made of it.

    Attributes:
        number: 0 for the model as it was given.
        model: Its name or checkpoint.
        episodes: Of the agent.
        success: Part of the later half of them in which the task is done.
        farming: What the failures among these are paid, by way of paying.
        lessons: Ids of the agent's episodes that the next round learns from.
        seconds: That training the model, and the agent, took.
    """

    number: int
    model: str
    episodes: int
    success: float
    farming: dict[str, Farming]
    lessons: tuple[str, ...]
    seconds: dict[str, float]

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON, which has no NaN."""
        farming = {way: each.as_dict() for way, each in self.farming.items()}
        return without_nan({**vars(self), "farming": farming})

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Round:
        """The inverse of `as_dict`."""
        farming = {way: Farming.from_dict(each) for way, each in values["farming"].items()}
        return cls(**{**values, "farming": farming, "lessons": tuple(values["lessons"])})


@dataclass(frozen=True)
class Hardened:
    """What became of a model.

    Attributes:
        rounds: In order; the first is the model as it was given.
        best: The one whose agent farmed the least part of what a success is paid.
        holds: Whether the last agent's failures were hardly paid.
    """

    rounds: tuple[Round, ...]
    best: Round
    holds: bool


def harden(config: HardenConfig) -> Hardened:
    """Trains agents on a model and the model on their failures, in turns.

    Args:
        config: What to do.

    Returns:
        All rounds; their models are in the output.

    Raises:
        ImportError: Stable-Baselines3, or what a compact model is trained with, is not installed.
        StoreError: There is no store.
        ValueError: A model that cannot be trained here, an environment that cannot be made, a store without a success
            of the task, or an output with another run.
    """
    known = _begin(config)
    rounds: list[Round] = []
    for number in range(config.rounds + 1):
        rounds.append(_round(config, number, rounds, known))
        share = rounds[-1].farming[config.way].share
        logger.info("round %d: an unseen agent's failures farm %s of what a success is paid", number, _part(share))
        if share < config.pays:
            break
    best = min(rounds, key=lambda each: each.farming[config.way].share)
    hardened = Hardened(tuple(rounds), best, rounds[-1].farming[config.way].share < config.pays)
    _conclude(config, hardened, known)
    return hardened


def _begin(config: HardenConfig) -> list[Trajectory]:
    """Recordings of the task; an output that the run may go on in, made when all that it needs has been seen."""
    require("stable_baselines3", "sb3")
    require_teachable(config.model)
    file = config.output / "config.json"
    if file.exists():
        try:
            before = parse_json(read_text(file))
        except DocumentError as error:
            raise ValueError(f"{file} is damaged ({error}): remove it, or choose another output") from error
        if before != config.identity():
            differing = [name for name, value in config.identity().items() if before.get(name) != value]
            raise ValueError(f"{config.output} holds a run with another {', '.join(differing)}; choose another output")
    known = [each for each in TrajectoryStore.open(config.store) if each.task == config.task]
    if not any(each.quality_label == "successful" for each in known):
        tasks = sorted(set(TrajectoryStore.open(config.store).columns("task")["task"]))
        raise ValueError(
            f"{config.store} holds no success of the task {config.task!r}, by which pay is measured; it has "
            f"recordings of {', '.join(map(repr, tasks[:5]))}"
        )
    if config.distance is None and config.progress is None and any(each.distance is not None for each in known):
        logger.warning(
            "the recordings say how far the task is from being done; with --distance the agents' do, too, and what "
            "they have really reached is not held against the model"
        )
    if not file.exists():
        load_reward_model(config.model).require_for(config.reward, live=True)
        make_recorded(config, config.output / "round-0" / "episodes", 0).close()
        config.output.mkdir(parents=True, exist_ok=True)
        write_text(file, json.dumps(config.identity(), indent=2) + "\n")
    return known


def _round(config: HardenConfig, number: int, before: Sequence[Round], known: Sequence[Trajectory]) -> Round:
    """A round, or what is left to do of it."""
    folder = config.output / f"round-{number}"
    file = folder / "round.json"
    if file.exists():
        logger.info("round %d is finished", number)
        return Round.from_dict(json.loads(file.read_text()))
    folder.mkdir(exist_ok=True)
    name, teaching = (config.model, 0.0) if not before else _taught(config, before[-1], folder, known)
    model = load_reward_model(name)
    started = time.monotonic()
    # An agent is not taken up again: what one has left that was interrupted is not what a whole one does.
    for part in ("episodes", "live"):
        shutil.rmtree(folder / part, ignore_errors=True)
    (folder / "honesty.jsonl").unlink(missing_ok=True)
    train_agent(config, model, folder, number)
    took = time.monotonic() - started
    round_ = _judged(config, number, model, name, folder, known, {"model": round(teaching), "agent": round(took)})
    write_text(file, json.dumps(round_.as_dict(), indent=1) + "\n")
    return round_


def _taught(config: HardenConfig, last: Round, folder: Path, known: Sequence[Trajectory]) -> tuple[str, float]:
    """The checkpoint of a round's model, and the seconds that it took; trained unless it is finished."""
    file = folder / "model.json"
    if not file.exists():
        started = time.monotonic()
        recordings = config.output / "recordings"
        episodes = TrajectoryStore.open(folder.parent / f"round-{last.number}" / "episodes")
        add_lessons(recordings, (as_in_store(episodes[name], known) for name in last.lessons))
        checkpoint = teach(config, last.model, recordings, folder / "model")
        found = {"checkpoint": str(checkpoint.relative_to(folder)), "seconds": round(time.monotonic() - started)}
        write_text(file, json.dumps(found) + "\n")
    found = json.loads(file.read_text())
    return str(folder / found["checkpoint"]), found["seconds"]


def _judged(
    config: HardenConfig,
    number: int,
    model: RewardModel,
    name: str,
    folder: Path,
    known: Sequence[Trajectory],
    seconds: dict[str, float],
) -> Round:
    """What an agent's episodes are paid, beside recorded successes."""
    by = ways(config.confidence, model.bins > 1)
    episodes = _in_order(folder / "episodes", known)
    if not episodes:
        raise ValueError(
            f"no episode of {config.env} has ended within {2 * config.decisions} decisions; give more --decisions, or "
            "an environment that ends its episodes, as in --env-options '{\"max_episode_steps\": 100}'"
        )
    successes = [each for each in known if each.quality_label == "successful"]
    kept_out = [each for each in successes if each.split != "train"]
    shown = kept_out or successes
    agent = _paid(config, model, episodes, known, f"round {number}: looking at the agent")
    expert = _paid(config, model, shown[:: math.ceil(len(shown) / _SUCCESSES)], known, f"round {number}: successes")
    late = later_half(agent)
    return Round(
        number=number,
        model=name,
        episodes=len(agent),
        success=sum(each.succeeds for each in late) / len(late),
        farming=farming_of(late, expert, by),
        lessons=tuple(each.id for each in choose_lessons(agent, config.way, config.keep)),
        seconds=seconds,
    )


def _in_order(store: Path, known: Sequence[Trajectory]) -> list[Trajectory]:
    """An agent's episodes in the order in which it acted."""
    episodes = TrajectoryStore(store)
    found = [as_in_store(each, known) for each in episodes] if len(episodes) else []
    return sorted(found, key=lambda each: each.seed or 0)


def _paid(
    config: HardenConfig, model: RewardModel, episodes: Sequence[Trajectory], known: Sequence[Trajectory], what: str
) -> list[Paid]:
    """What a model pays for recordings, beside what they are worth."""
    by = ways(config.confidence, model.bins > 1)
    labels = label_trajectories(episodes, references=known)
    shown = track(list(zip(episodes, labels, strict=True)), what, console=open_console(stderr=True), transient=True)
    found = []
    for each, label in shown:
        (said,) = model.predict_steps([each.clip()])
        truth = label.progress if label.progress_known.all() else None
        found.append(Paid.of(each.id, each.quality_label == "successful", said, truth, by))
    return found


def _conclude(config: HardenConfig, found: Hardened, known: Sequence[Trajectory]) -> None:
    """Writes it down and says so."""
    record = {
        "rounds": [each.as_dict() for each in found.rounds],
        "best": found.best.number,
        "holds": found.holds,
        "provenance": provenance(),
    }
    write_text(config.output / "hardening.json", json.dumps(record, indent=1) + "\n")
    columns, rows = _rows(found)
    commands = _commands(config, found)
    lead = _verdict(config, found)
    failures = []
    for each in found.rounds:
        episodes = {one.id: one for one in _in_order(config.output / f"round-{each.number}" / "episodes", known)}
        failures.append((each.number, each.model, [episodes[name] for name in each.lessons]))
    page = write_page(config, lead, (columns, rows), failures, commands)
    console = open_console()
    table = Table(title="farmed by failures of unseen agents / paid for success", title_justify="left")
    for column in columns:
        table.add_column(column, no_wrap=True)
    for row in rows:
        table.add_row(*row)
    console.print(table)
    console.print(lead, style="bold", soft_wrap=True)
    console.print(f"the best model is {found.best.model}; the page is {page}", soft_wrap=True)
    console.print("next:")
    for command in commands:
        console.print(f"  {command}", soft_wrap=True)


def _rows(found: Hardened) -> tuple[list[str], list[list[str]]]:
    """The table of farmed progress, a round a row."""
    names = list(found.rounds[0].farming)
    columns = ["round", "agent succeeds", "failures", *names]
    rows = []
    for each in found.rounds:
        pay = [each.farming[name] for name in names]
        cells = [f"{one.farmed.value:.2f} / {one.successes.value:.2f}" if one.farmed.count else "-" for one in pay]
        rows.append([f"{each.number}", f"{each.success:.0%}", f"{pay[0].farmed.count}", *cells])
    return columns, rows


def _verdict(config: HardenConfig, found: Hardened) -> str:
    first, last = (each.farming[config.way].share for each in (found.rounds[0], found.rounds[-1]))
    change = f"{_part(first)} of a success' pay before, {_part(last)} after round {found.rounds[-1].number}"
    if len(found.rounds) == 1 and found.holds:
        return f"verdict: holds as it is; an agent's failures farm {_part(first)} of a success' pay by {config.way}"
    said = "hardened" if found.holds else "failures still pay"
    return f"verdict: {said}; by {config.way} unseen agents' failures farm {change}"


def _part(share: float) -> str:
    return f"{share:.0%}" if math.isfinite(share) else "more than all"


def _commands(config: HardenConfig, found: Hardened) -> list[str]:
    """What to type next."""
    best = shlex.quote(found.best.model)
    commands = [
        f"robometer-rl evaluate {best} {shlex.quote(str(config.store))}",
        f"env = RobometerReward(env, {found.best.model!r}, task={config.task!r})",
    ]
    if not found.holds:
        commands.append(_command(replace(config, rounds=config.rounds + 2)))
    return commands


def _command(config: HardenConfig) -> str:
    """What is typed for it; what has its default is left out."""
    words = ["robometer-rl", "harden", config.model]
    for each in fields(config)[1:]:
        value = getattr(config, each.name)
        if value != each.default or each.name == "rounds":
            words += [f"--{each.name.replace('_', '-')}", str(value)]
    return shlex.join(words)
