"""Policy ranking: do trajectories of a task come out in the order of their quality (docs/reference.md §8.2).

`policy_ranking`, `partial_success_ranking` and `quality_preference` give the reference's numbers under its names. Some
mislead: its ``kendall`` is tau_a, and its ``ranking_acc`` decides ties by the order of the rows.
`robometer_rl.evaluation.metrics` has the functions to use for new measurements.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

import numpy as np
from numpy.typing import ArrayLike

from robometer_rl.evaluation.metrics import kendall_tau_a, mean_tau_a

__all__ = ["QUALITY_RANKS", "partial_success_ranking", "policy_ranking", "quality_preference", "trajectory_reward"]

QUALITY_RANKS = {"failure": 1, "suboptimal": 2, "successful": 3}

_DIFFERENCES = {
    "succ_subopt_diff": ("successful", "suboptimal"),
    "subopt_fail_diff": ("suboptimal", "failure"),
    "succ_fail_diff": ("successful", "failure"),
}


def trajectory_reward(progress: ArrayLike, aggregation: str = "last", relative: bool = False) -> float:
    """One number per trajectory from the (T,) progress values of its prefixes.

    Args:
        progress: Predicted values.
        aggregation: ``last``, ``avg`` or ``sum``.
        relative: The values are differences, to be summed up first.
    """
    values = np.asarray(progress, dtype=np.float64)
    if relative:
        values = np.cumsum(values)
    match aggregation:
        case "last":
            return float(values[-1])
        case "avg":
            return float(values.mean())
        case "sum":
            return float(values.sum())
    raise ValueError(f"unknown aggregation {aggregation!r}; expected 'last', 'avg' or 'sum'")


def policy_ranking(tasks: Sequence[str], labels: Sequence[str], rewards: ArrayLike) -> dict[str, float]:
    """Ranking metrics of trajectories with quality labels.

    Args:
        tasks: (n,) task of each trajectory. Tasks with one label only are left out.
        labels: (n,) keys of `QUALITY_RANKS`.
        rewards: (n,) one value per trajectory.

    Returns:
        ``kendall`` (mean tau_a over one trajectory per label, mean over tasks), ``kendall_rewind`` (tau_a of the
        labels' mean rewards), ``{avg,min,max}_{succ_subopt,subopt_fail,succ_fail}_diff`` over tasks, and
        ``ranking_acc`` pooled over pairs, also per pair of labels. NaN where no task has the labels.

    Raises:
        ValueError: An unknown label.
    """
    unknown = sorted(set(labels) - set(QUALITY_RANKS))
    if unknown:
        raise ValueError(f"got quality labels {unknown}; expected some of {sorted(QUALITY_RANKS)}")
    values = np.asarray(rewards, dtype=np.float64)
    groups = [group for group in _by_task(tasks) if len({labels[index] for index in group}) > 1]
    by_label = [
        {label: values[[i for i in group if labels[i] == label]] for label in {labels[i] for i in group}}
        for group in groups
    ]
    means = [{label: float(scores.mean()) for label, scores in task.items()} for task in by_label]
    result = {
        "kendall": _nanmean([mean_tau_a({QUALITY_RANKS[k]: v for k, v in task.items()}) for task in by_label]),
        "kendall_rewind": _nanmean(
            [kendall_tau_a([QUALITY_RANKS[label] for label in task], list(task.values())) for task in means]
        ),
    }
    for name, (better, worse) in _DIFFERENCES.items():
        differences = [task[better] - task[worse] for task in means if better in task and worse in task]
        for prefix, reduce in (("avg", np.mean), ("min", np.min), ("max", np.max)):
            result[f"{prefix}_{name}"] = float(reduce(differences)) if differences else float("nan")
    return result | _ranking_accuracies(groups, labels, values)


def _ranking_accuracies(groups: list[list[int]], labels: Sequence[str], values: np.ndarray) -> dict[str, float]:
    correct: dict[str, list[bool]] = {"ranking_acc": []}
    for i, j in (pair for group in groups for pair in combinations(group, 2)):
        if labels[i] == labels[j]:
            continue
        right = (QUALITY_RANKS[labels[i]] > QUALITY_RANKS[labels[j]]) == bool(values[i] > values[j])
        correct["ranking_acc"].append(right)
        first, second = sorted((labels[i], labels[j]), key=QUALITY_RANKS.__getitem__)
        correct.setdefault(f"ranking_acc_{first}_vs_{second}", []).append(right)
    accuracies = {name: float(np.mean(hits)) if hits else float("nan") for name, hits in correct.items()}
    return accuracies | {"ranking_acc_all_pairs": accuracies["ranking_acc"]}


def partial_success_ranking(
    tasks: Sequence[str], partial_success: Sequence[float], rewards: ArrayLike
) -> dict[str, float]:
    """Ranking metrics of trajectories with graded outcomes in [0, 1].

    Returns:
        ``ranking_acc_rba``: pooled over pairs of a task with different outcomes. ``kendall_rewind_rba``: tau_a between
        thirds of the outcome range and their mean rewards, mean over tasks with two thirds or more.
    """
    values = np.asarray(rewards, dtype=np.float64)
    hits: list[bool] = []
    taus: list[float] = []
    for group in _by_task(tasks):
        pairs = [(i, j) for i, j in combinations(group, 2) if partial_success[i] != partial_success[j]]
        hits += [(partial_success[i] > partial_success[j]) == bool(values[i] > values[j]) for i, j in pairs]
        thirds: dict[int, list[float]] = {}
        for index in group:
            thirds.setdefault(min(2, int(partial_success[index] * 3)), []).append(float(values[index]))
        if len(thirds) > 1:
            taus.append(kendall_tau_a(list(thirds), [float(np.mean(third)) for third in thirds.values()]))
    return {"ranking_acc_rba": float(np.mean(hits)) if hits else float("nan"), "kendall_rewind_rba": _nanmean(taus)}


def quality_preference(predictions: Sequence[int | None], labels: Sequence[int]) -> dict[str, float]:
    """Accuracy of preferences between trajectories of different quality (docs/reference.md §8.4).

    The reference asks with the better trajectory first throughout, which cannot tell a model that always answers "A"
    from a good one; `robometer_rl.evaluation.metrics.preference_accuracy` is for both orders.

    Args:
        predictions: (n,) 1 where the first trajectory is preferred, 0 where the second one is, None without an answer.
        labels: (n,) likewise of the truth.

    Returns:
        ``preference_accuracy`` over the pairs that were answered, NaN if none was; ``num_correct``, ``num_total`` and
        ``num_skipped``.
    """
    answered = [(said, true) for said, true in zip(predictions, labels, strict=True) if said is not None]
    correct = sum(said == true for said, true in answered)
    return {
        "preference_accuracy": correct / len(answered) if answered else float("nan"),
        "num_correct": correct,
        "num_total": len(answered),
        "num_skipped": len(predictions) - len(answered),
    }


def _by_task(tasks: Sequence[str]) -> list[list[int]]:
    groups: dict[str, list[int]] = {}
    for index, task in enumerate(tasks):
        groups.setdefault(task, []).append(index)
    return list(groups.values())


def _nanmean(values: Sequence[float]) -> float:
    known = [value for value in values if not np.isnan(value)]
    return float(np.mean(known)) if known else float("nan")
