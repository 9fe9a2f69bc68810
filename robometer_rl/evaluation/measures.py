"""From what a model said about episodes to the numbers that are reported, each with its bootstrap interval.

Everything here is a pure function of `Scores`. The names are those of the JSON file and of the table.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from robometer_rl.data.trajectory import linear_progress
from robometer_rl.evaluation.metrics import (
    Estimate,
    auroc,
    average_precision,
    best_threshold,
    bootstrap,
    distance_rank_correlation,
    mean_tau_a,
    preference_accuracy,
    ranking_accuracy,
    spearman,
    stall_rise,
    success_fail_difference,
    voc_pearson,
    voc_spearman,
    wrong_task_progress,
)
from robometer_rl.evaluation.ranking import QUALITY_RANKS
from robometer_rl.evaluation.scoring import ScoredEpisode, Scores
from robometer_rl.frames import scored_steps
from robometer_rl.rewards import DEFAULT_REWARD, success_holds

__all__ = ["AGENT", "judged_episodes", "measure"]

AGENT: Final = "agent"
"""How the skills of learning agents begin."""

_REGRESSION: Final = 0.2  # of true progress that is lost again in an episode that goes back
_RESAMPLES = 300  # where the statistic is slow: of all frames rather than of one number per episode


def measure(scores: Scores, chosen: Sequence[int] | None = None) -> dict[str, Estimate]:
    """Measures a model on some of the episodes that it scored.

    Args:
        scores: Under one condition.
        chosen: Positions of the episodes to measure on, all by default. Failures among them are still held against
            all successes of their task, so that a group of failures alone can be measured.

    Returns:
        Metrics by name:

        - ``voc_pearson`` against true progress (`robometer_rl.data.labels`), ``voc_pearson_time`` against time until
          first success and 1 from then on, and ``voc_spearman`` against time until first success, over successful
          expert episodes; the same of impostors, a clock that knows how long the episode is (``..._clock``), the model
          shown each frame alone (``..._single_frame``) and shown the first frame over and over (``..._still``).
        - ``success_...`` of single frames (``auroc``, ``auprc``, the best threshold) and of the rule that a reward
          uses (``rule_recall`` on episodes that end in success, ``rule_false_alarms`` on those that never have it).
        - ``success_above_failure``, ``final_tau_a``, ``success_fail_difference``, ``final_progress_<skill>``: whether
          final progress puts the episodes of a task in the order of their quality.
        - ``graded_ranking_accuracy`` and ``graded_error``: whether it follows graded outcomes, where there are any.
        - ``wrong_task_progress`` of experts under another task's instruction, ``stall_rise`` after the robot stops,
          ``regression_correlation`` of progress with true progress where that falls again.
        - ``preference_accuracy_...`` in both orders.
        - ``farming_...``, where there are episodes of learning agents; see `_farming`.

        Without the episodes that it is about, a metric is NaN with a count of 0.
    """
    positions = list(range(len(scores.episodes)) if chosen is None else chosen)
    return {
        **_correlations(scores, positions),
        **_success(scores, positions),
        **_ordering(scores, positions),
        **_grades(scores, positions),
        **_nothing_done(scores, positions),
        **_preference(scores, positions),
        **_farming(scores, positions),
    }


def _correlations(scores: Scores, positions: list[int]) -> dict[str, Estimate]:
    """Correlations on expert episodes, of the model and of the impostors."""
    experts = [scores.episodes[index] for index in positions if scores.episodes[index].is_expert]
    curves = {
        "": [scored.progress for scored in experts],
        "_clock": [np.linspace(0.0, 1.0, len(scored.progress)) for scored in experts],
    }
    if all(scored.still is not None for scored in experts):
        curves["_single_frame"] = [_known(scored.single_frame) for scored in experts]
        curves["_still"] = [_known(scored.still) for scored in experts]
    metrics: dict[str, Estimate] = {}
    for name, values in curves.items():
        truth, time, spearman = [], [], []
        for scored, progress in zip(experts, values, strict=True):
            done = int(scored.episode.success_index or 0)
            linear = linear_progress(len(progress), done)
            truth.append(voc_pearson(progress, _known(scored.truth)))
            time.append(voc_pearson(progress, linear))
            spearman.append(voc_spearman(progress[: done + 1]))
        metrics[f"voc_pearson{name}"] = bootstrap(truth)
        metrics[f"voc_pearson_time{name}"] = bootstrap(time)
        metrics[f"voc_spearman{name}"] = bootstrap(spearman)
    if "_still" in curves:
        metrics["still_progress_range"] = bootstrap([float(np.ptp(progress)) for progress in curves["_still"]])
    return metrics


def _known(values: NDArray[Any] | None) -> NDArray[Any]:
    assert values is not None, "only asked of episodes that have it"
    return values


def _success(scores: Scores, positions: list[int]) -> dict[str, Estimate]:
    """How well success is seen, frame by frame, and by the rule that a reward uses."""
    judged, said, labels = judged_episodes([scores.episodes[index] for index in positions])
    if positions and scores.episodes[positions[0]].success is None:
        return {}  # the model says nothing of success

    def over_frames(statistic: Callable[[Any, Any], float]) -> Estimate:
        def of(rows: NDArray[Any]) -> float:
            drawn = rows.astype(int).tolist()
            return statistic(np.concatenate([said[i] for i in drawn]), np.concatenate([labels[i] for i in drawn]))

        # Frames of an episode are alike, so episodes are what is resampled.
        return bootstrap(np.arange(len(judged)), of, resamples=_RESAMPLES)

    # The rule's patience counts scored frames; a value that is held is not said again.
    asked = [values[scored_steps(len(values), scores.every)] for values in said]
    fires = [bool(success_holds(values, scores.threshold, DEFAULT_REWARD.patience).any()) for values in asked]
    both = len({bool(value) for label in labels for value in np.unique(label)}) == 2
    metrics = {"success_auroc": over_frames(auroc), "success_auprc": over_frames(average_precision)} if both else {}
    if both:
        best = best_threshold(np.concatenate(said), np.concatenate(labels))
        metrics["success_best_threshold"] = _exact(best.threshold, len(judged))
        metrics["success_best_balanced_accuracy"] = _exact(best.balanced_accuracy, len(judged))
    never = [float(fire) for fire, each in zip(fires, judged, strict=True) if each.episode.success_index is None]
    metrics["success_rule_recall"] = bootstrap(
        [float(fire) for fire, each in zip(fires, judged, strict=True) if each.successful]
    )
    metrics["success_rule_false_alarms"] = bootstrap(never)
    return metrics


def judged_episodes(
    episodes: Sequence[ScoredEpisode],
) -> tuple[list[ScoredEpisode], list[NDArray[np.float32]], list[NDArray[np.bool_]]]:
    """Those with recorded success about whose success the model said something; what it said; and the truth."""
    judged = [
        (each, each.success, each.episode.success)
        for each in episodes
        if each.success is not None and each.episode.success is not None
    ]
    return [each for each, _, _ in judged], [said for _, said, _ in judged], [truth for _, _, truth in judged]


def _ordering(scores: Scores, positions: list[int]) -> dict[str, Estimate]:
    """Whether final progress puts episodes of a task in the order of their quality."""
    above_failure: list[float] = []
    taus: list[float] = []
    differences: list[float] = []
    members = _by_task(scores, positions)
    all_members = _by_task(scores, range(len(scores.episodes)))
    for task, episodes in members.items():
        done = [scored.final for scored in all_members[task] if scored.successful]
        failed = [scored.final for scored in episodes if not scored.successful]
        if done:
            ranks = np.arange(len(done) + 1) > 0
            above_failure += [ranking_accuracy(np.array([value, *done]), ranks) for value in failed]
        finals: dict[int, list[float]] = {}
        for scored in episodes:
            finals.setdefault(QUALITY_RANKS[scored.episode.quality_label], []).append(scored.final)
        if len(finals) == len(QUALITY_RANKS):
            taus.append(mean_tau_a(finals))
        if done and failed:
            differences.append(success_fail_difference(done, failed))
    chosen = [scores.episodes[index] for index in positions]
    by_skill = {
        f"final_progress_{skill}": bootstrap([each.final for each in chosen if str(each.episode.skill) == skill])
        for skill in sorted({str(each.episode.skill) for each in chosen})
    }
    return {
        "success_above_failure": bootstrap(above_failure),
        "final_tau_a": bootstrap(taus),
        "success_fail_difference": bootstrap(differences),
        **by_skill,
    }


def _grades(scores: Scores, positions: list[int]) -> dict[str, Estimate]:
    """Final progress beside the graded outcome: pairs of a task in the right order, and how far it is off."""
    pairs = {
        task: [
            (each.final, each.episode.partial_success) for each in episodes if each.episode.partial_success is not None
        ]
        for task, episodes in _by_task(scores, positions).items()
    }
    accuracies = [
        ranking_accuracy(*zip(*members, strict=True))
        for members in pairs.values()
        if len({grade for _, grade in members}) > 1
    ]
    errors = [abs(final - grade) for members in pairs.values() for final, grade in members]
    return {"graded_ranking_accuracy": bootstrap(accuracies), "graded_error": bootstrap(errors)}


def _nothing_done(scores: Scores, positions: list[int]) -> dict[str, Estimate]:
    """What is paid for another task, and for standing still."""
    chosen = [scores.episodes[index] for index in positions]
    rises: list[float] = []
    for scored in chosen:
        episode, stop = scored.episode, scored.episode.metadata.get("stop_step")
        if stop is not None and episode.steps is not None and not bool(episode.success_index):
            frame = min(int(np.searchsorted(episode.steps, stop)), len(episode) - 1)
            rises.append(stall_rise(scored.progress, frame))
    wrong = [wrong_task_progress(scored.wrong_task) for scored in chosen if scored.wrong_task is not None]
    undone = [
        spearman(each.progress, each.truth)
        for each in chosen
        if each.truth is not None and np.max(np.maximum.accumulate(each.truth) - each.truth) >= _REGRESSION
    ]
    return {
        "wrong_task_progress": bootstrap(wrong),
        "stall_rise": bootstrap(rises),
        "regression_correlation": bootstrap(undone),
    }


def _preference(scores: Scores, positions: list[int]) -> dict[str, Estimate]:
    """Accuracy over pairs whose worse episode is among the chosen, asked in both orders."""
    among = set(positions)
    rows = np.array([(pair.better_first, pair.better_second) for pair in scores.pairs if pair.worse in among])
    if not len(rows):
        return {}

    def of(name: str) -> Estimate:
        return bootstrap(rows, lambda sample: getattr(preference_accuracy(sample[:, 0], sample[:, 1]), name))

    return {f"preference_accuracy_{name}": of(name) for name in ("better_first", "better_second", "mean", "both")}


def _farming(scores: Scores, positions: list[int]) -> dict[str, Estimate]:
    """Reward hacking: what learning agents are paid for nothing, and whether their progress is about the goal.

    ``farming_final_progress`` and ``farming_max_progress``: of episodes without success by agents that never succeed
    (a task and a skill, none of whose episodes does). ``farming_success_progress``: final progress of successful
    episodes of these tasks, to be held against them. ``farming_distance_correlation``: mean over agents' episodes of
    the rank correlation of progress with nearness to the goal; ``..._pooled``: over all frames of a task, mean over
    tasks. It is undefined where nothing moves that the simulator measures the distance of, an object that is not
    touched, say. ``farming_truth_correlation`` is that with true progress, which counts the way to the object, too.
    """
    agents = [each for each in (scores.episodes[i] for i in positions) if str(each.episode.skill).startswith(AGENT)]
    if not agents:
        return {}
    able = {(each.task, each.episode.skill) for each in agents if each.successful or _ever_done(each)}
    failing = [each for each in agents if (each.task, each.episode.skill) not in able]
    tasks = {each.task for each in failing}
    done = [each.final for each in scores.episodes if each.successful and each.task in tasks]
    measured = [each for each in agents if each.episode.distance is not None]
    return {
        "farming_final_progress": bootstrap([each.final for each in failing]),
        "farming_max_progress": bootstrap([float(each.progress.max()) for each in failing]),
        "farming_success_progress": bootstrap(done),
        "farming_distance_correlation": bootstrap(
            [distance_rank_correlation(each.progress, _known(each.episode.distance)) for each in measured]
        ),
        "farming_distance_correlation_pooled": _pooled_distance_correlation(measured),
        "farming_truth_correlation": bootstrap(
            [spearman(each.progress, each.truth) for each in agents if each.truth is not None]
        ),
    }


def _ever_done(scored: ScoredEpisode) -> bool:
    return scored.episode.success_index is not None


def _pooled_distance_correlation(episodes: list[ScoredEpisode]) -> Estimate:
    """Within each task over the frames of all its episodes together, mean over tasks; episodes are resampled."""

    def of(rows: NDArray[Any]) -> float:
        frames: dict[str, list[ScoredEpisode]] = {}
        for index in rows.astype(int).tolist():
            frames.setdefault(episodes[index].task, []).append(episodes[index])
        values = [
            distance_rank_correlation(
                np.concatenate([each.progress for each in members]),
                np.concatenate([_known(each.episode.distance) for each in members]),
            )
            for members in frames.values()
        ]
        known = [value for value in values if not np.isnan(value)]
        return float(np.mean(known)) if known else float("nan")

    return bootstrap(np.arange(len(episodes)), of, resamples=_RESAMPLES)


def _by_task(scores: Scores, positions: Sequence[int]) -> dict[str, list[ScoredEpisode]]:
    groups: dict[str, list[ScoredEpisode]] = {}
    for index in positions:
        groups.setdefault(scores.episodes[index].task, []).append(scores.episodes[index])
    return groups


def _exact(value: float, count: int) -> Estimate:
    """A value without an interval."""
    return Estimate(value, float("nan"), float("nan"), count)
