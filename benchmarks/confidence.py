r"""Does a model know when it is wrong, and does `RewardSpec(confidence=...)` pay less for nothing?

    agents="python examples/record_learning_agents.py --split test --arms robometer --episodes 4"
    $agents recordings/agents_level --tasks faucet-close --stages 1000 2000 --learner.mode level --learner.seed 11
    $agents recordings/agents_level --tasks drawer-open button-press-topdown --stages 600 1200 --learner.mode level \
        --learner.seed 11
    $agents recordings/agents_delta --tasks faucet-close drawer-open --stages 600 1200 --learner.mode delta \
        --learner.scale 2 --learner.seed 12
    robometer-rl collect --output recordings/scripted --split test --tasks faucet-close drawer-open button-press-topdown
    python -m benchmarks.confidence --data recordings/agents_level recordings/agents_delta recordings/scripted

Scripted were 5 experts and 2 episodes of every other skill and task. Two questions, where true progress is known:

* *Is doubt a sign of error?* Every frame whose progress is off by more than ``--wrong`` counts as wrong. The AUROC of
  three measures of doubt says how well each tells those frames from the others: the standard deviation of the
  distribution (what `Prediction.uncertainty` is), its entropy, and the width of its central 80 % interval.
* *Who loses by it?* What `level` pays per step and `delta` per episode, for each confidence, to agents and scripts that
  never do the task in an episode, and to episodes that end in success.

Intervals are bootstraps over episodes. Writes results/confidence.json.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tyro
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track
from rich.table import Table

from benchmarks.recording import write_result
from robometer_rl import RewardSpec, load_reward_model
from robometer_rl.data.labels import label_trajectories
from robometer_rl.data.trajectory import Trajectory
from robometer_rl.evaluation.measures import AGENT
from robometer_rl.evaluation.metrics import Estimate, auroc, bootstrap
from robometer_rl.formats.opening import open_episodes
from robometer_rl.models.reward_model import RewardModel
from robometer_rl.prediction import Prediction
from robometer_rl.rewards import Mode, episode_rewards

Floats = NDArray[np.floating]

MODES: tuple[Mode, ...] = ("level", "delta")


@dataclass(frozen=True)
class Args:
    """Options.

    Attributes:
        data: Stores of episodes.
        model: A model with a distribution over progress.
        split: Splits of the stores.
        confidence: Values of ``RewardSpec.confidence`` to pay by, besides none.
        wrong: From which error on a frame counts as wrong.
        name: Of the file with the results.
    """

    data: tuple[Path, ...]
    model: str = "mini"
    split: tuple[str, ...] = ("test",)
    confidence: tuple[float, ...] = (0.6, 0.7, 0.8, 0.85)
    wrong: float = 0.2
    name: str = "confidence"


@dataclass(frozen=True, eq=False)
class Judged:
    """An episode, what was said of its T frames, and the truth."""

    episode: Trajectory
    said: Prediction
    truth: Floats | None

    @property
    def kind(self) -> str | None:
        """Who is paid: an agent or a script that never does the task in it, or an episode that ends in success."""
        if self.episode.success_index is None:
            is_agent = str(self.episode.skill).startswith(AGENT)
            return "agents without success" if is_agent else "scripted failures"
        return "successes" if self.episode.quality_label == "successful" else None


def judge(model: RewardModel, episodes: Sequence[Trajectory]) -> list[Judged]:
    """Asks the model about every frame of every episode."""
    labelled = label_trajectories(list(episodes))
    judged = []
    for episode, labels in track(list(zip(episodes, labelled, strict=True)), "scoring"):
        (said,) = model.predict_steps([episode.clip()])
        judged.append(Judged(episode, said, labels.progress if labels.progress_known.all() else None))
    return judged


def doubts(said: Prediction) -> dict[str, Floats]:
    """(T,) of each measure of doubt."""
    assert said.uncertainty is not None, "the model was asked for it"
    mass = said.progress_distribution / said.progress_distribution.sum(1, keepdims=True)
    values, below = np.linspace(0.0, 1.0, mass.shape[1]), np.cumsum(mass, axis=1)
    low, high = (values[np.minimum((below < share).sum(1), len(values) - 1)] for share in (0.1, 0.9))
    entropy = -(mass * np.log(np.maximum(mass, 1e-12))).sum(1)
    return {"standard deviation": said.uncertainty, "entropy": entropy, "80 % interval": high - low}


def signs_of_error(judged: Sequence[Judged], wrong: float) -> dict[str, Estimate]:
    """AUROC over frames of each measure of doubt; episodes are resampled."""
    known = [each for each in judged if each.truth is not None]
    errors = [np.abs(each.said.progress - np.asarray(each.truth)) > wrong for each in known]
    measures = [doubts(each.said) for each in known]

    def of(name: str) -> Estimate:
        def statistic(rows: NDArray[Any]) -> float:
            drawn = rows.astype(int).tolist()
            is_wrong = np.concatenate([errors[row] for row in drawn])
            found = auroc(np.concatenate([measures[row][name] for row in drawn]), is_wrong)
            return found if 0 < is_wrong.sum() < len(is_wrong) else float("nan")

        return bootstrap(np.arange(len(known)), statistic, resamples=300)

    return {name: of(name) for name in (measures[0] if measures else {})}


def payments(judged: Sequence[Judged], confidence: float | None, threshold: float) -> dict[str, dict[str, Estimate]]:
    """By kind of episode: what each mode pays, per step (level) or per episode (delta), and how much is believed."""
    found: dict[str, dict[str, list[float]]] = {}
    for each in judged:
        if each.kind is None:
            continue
        row = found.setdefault(each.kind, {"believed": []} | {mode: [] for mode in MODES})
        for mode in MODES:
            paid = episode_rewards(
                RewardSpec(mode=mode, confidence=confidence),
                each.said.progress,
                each.said.success,
                np.zeros(len(each.said) - 1),
                terminated=False,
                threshold=threshold,
                uncertainty=each.said.uncertainty,
            )
            row[mode].append(float(paid.rewards.mean() if mode == "level" else paid.rewards.sum()))
        row["believed"].append(float(paid.confident[1:].mean()))
    return {kind: {name: bootstrap(values) for name, values in row.items()} for kind, row in found.items()}


def main(args: Args) -> None:
    """Measures, prints and records."""
    model = load_reward_model(args.model)
    model.require("measuring doubt", progress=True, uncertainty=True)
    opened = open_episodes(args.data, lambda episode: episode.split in args.split)
    episodes = list(opened.trajectories)
    judged = judge(model, episodes)
    signs = signs_of_error(judged, args.wrong)
    threshold = RewardSpec().threshold(model.success_threshold)
    levels = (None, *args.confidence)
    paid = {str(level): payments(judged, level, threshold) for level in levels}
    console = Console()
    console.print(_signs_table(signs, args.wrong), _payments_table(paid))
    plain = {level: _plain(rows) for level, rows in paid.items()}
    counts: dict[str, int] = {}
    for each in judged:
        counts[str(each.episode.skill)] = counts.get(str(each.episode.skill), 0) + 1
    result = {
        "model": model.model_id,
        "wrong": args.wrong,
        "episodes": dict(sorted(counts.items())),
        "tasks": sorted({episode.task for episode in episodes}),
        "signs_of_error": {name: estimate.as_dict() for name, estimate in signs.items()},
        "payments": plain,
    }
    console.print(f"wrote {write_result(args.name, result)}")


def _plain(rows: dict[str, dict[str, Estimate]]) -> dict[str, Any]:
    return {kind: {name: asdict(estimate) for name, estimate in row.items()} for kind, row in rows.items()}


def _signs_table(signs: dict[str, Estimate], wrong: float) -> Table:
    table = Table("doubt", "AUROC", title=f"frames off by more than {wrong:g}", title_justify="left")
    for name, estimate in signs.items():
        table.add_row(name, str(estimate))
    return table


def _payments_table(paid: dict[str, dict[str, dict[str, Estimate]]]) -> Table:
    table = Table("confidence", "episodes", "believed", *MODES, title="what is paid", title_justify="left")
    for level, rows in paid.items():
        for kind, row in rows.items():
            table.add_row(level, kind, *(str(estimate) for estimate in row.values()))
    return table


if __name__ == "__main__":
    main(tyro.cli(Args, description=__doc__))
