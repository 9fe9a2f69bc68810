"""From answers to numbers: those of the reference as it computes them, and what they should be.

The reference's (``legacy``) have the names and the files that it gives them; docs/evaluation.md lists what is wrong
with them. The corrected ones are about clips that are not padded and go by their last frame, count ties half, leave
out what is undefined and say how much that is, and have an interval over episodes, tasks or pairs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from robometer_rl.evaluation.metrics import (
    Estimate,
    bootstrap,
    kendall_tau_b,
    mean_tau_a,
    pearson,
    preference_accuracy,
    ranking_accuracy,
    success_fail_difference,
    voc_pearson,
    voc_spearman,
)
from robometer_rl.evaluation.published.matrices import confusion_matrix
from robometer_rl.evaluation.published.questions import Dataset, Pair, Question, by_episode, grade_level
from robometer_rl.evaluation.ranking import (
    QUALITY_RANKS,
    partial_success_ranking,
    policy_ranking,
    quality_preference,
    trajectory_reward,
)

__all__ = [
    "Legacy",
    "alignment",
    "confusion",
    "legacy_alignment",
    "legacy_confusion",
    "legacy_preference",
    "legacy_ranking",
    "preference",
    "ranking",
]

_SUFFIXES: Final = ("last", "avg", "sum")
_DETAILS: Final = ("kendall", "kendall_rewind", "succ_subopt_diff", "subopt_fail_diff", "succ_fail_diff")
_GRADING: Final = ("roboreward", "roboarena")  # data sources whose graded outcomes the reference judges by

Floats = NDArray[np.floating[Any]]


@dataclass(frozen=True)
class Legacy:
    """What the reference would say.

    Attributes:
        metrics: By its keys; those that are undefined are left out, as it does.
        results: Every question and its answer, as its ``_results.json``.
        documents: Further JSON files, by the end of their names.
    """

    metrics: Mapping[str, float]
    results: Sequence[Mapping[str, Any]]
    documents: Mapping[str, Any] = field(default_factory=dict)


def legacy_alignment(dataset: Dataset, questions: Sequence[Question], answers: Sequence[Floats]) -> Legacy:
    """Correlation and squared error of progress and time: of prefix t it takes slot t."""
    losses, correlations, deltas, errors = [], [], [], []
    source = questions[0].episode.data_source if questions else ""
    for members in by_episode(questions):
        curve, target = _legacy_curve([(questions[n], answers[n]) for n in members])
        episode = questions[members[0]].episode
        grade = episode.partial_success
        if episode.quality_label == "successful":
            losses.append(float(np.mean((np.subtract(curve, target)) ** 2)))
            r = pearson(target, curve)
            correlations.append(0.0 if np.isnan(r) else r)
        if grade is not None and any(name in source for name in _GRADING):
            deltas.append(abs(curve[-1] - grade))
        if grade is not None and "roboreward" in source:
            errors.append(float(abs(grade_level(curve[-1]) - grade_level(grade))))
    metrics = {"loss": losses, "pearson": correlations, "partial_success_abs_delta": deltas, "mae": errors}
    found = {name: float(np.mean(values)) for name, values in metrics.items() if values}
    results = [
        _result(each, said, {"data_gen_strategy": "reward_alignment"}, {"num_frames": len(each.episode)})
        for each, said in zip(questions, answers, strict=True)
    ]
    return Legacy(found, results)


def _legacy_curve(prefixes: Sequence[tuple[Question, Floats]]) -> tuple[list[float], list[float]]:
    if prefixes[0][0].last is None:
        question, said = prefixes[0]
        return [float(value) for value in said], question.targets(corrected=False)
    slots = [min(number, len(said) - 1) for number, (_, said) in enumerate(prefixes)]
    curve = [float(said[slot]) for slot, (_, said) in zip(slots, prefixes, strict=True)]
    return curve, [each.targets(corrected=False)[slot] for slot, (each, _) in zip(slots, prefixes, strict=True)]


def alignment(dataset: Dataset, questions: Sequence[Question], answers: Sequence[Floats]) -> dict[str, Estimate]:
    """Progress beside time up to first success.

    Returns:
        ``voc_pearson_time`` and ``voc_spearman`` over episodes, as in `robometer_rl.evaluation.measures`,
        ``squared_error``, and of graded outcomes ``graded_error`` and ``level_error`` on levels of 1 to 5.
    """
    found: dict[str, list[float]] = {"voc_pearson_time": [], "voc_spearman": [], "squared_error": []}
    for members in by_episode(questions):
        prefixes = [(questions[n], answers[n]) for n in members]
        if prefixes[0][0].last is None:
            question, said = prefixes[0]
            curve, target = list(said), question.targets(corrected=True)
        else:
            curve = [said[-1] for _, said in prefixes]
            target = [each.targets(corrected=True)[-1] for each, _ in prefixes]
        episode = prefixes[0][0].episode
        values = np.asarray(curve, np.float64)
        if episode.quality_label == "successful":
            found["voc_pearson_time"].append(voc_pearson(values, target))
            # Up to and with the first frame that is worth 1: what follows has no order.
            found["voc_spearman"].append(voc_spearman(values[: int(np.argmax(target)) + 1]))
            found["squared_error"].append(float(np.mean((values - target) ** 2)))
        if (grade := episode.partial_success) is not None:
            found.setdefault("graded_error", []).append(abs(float(values[-1]) - grade))
            found.setdefault("level_error", []).append(float(abs(grade_level(float(values[-1])) - grade_level(grade))))
    return {name: bootstrap(values) for name, values in found.items()}


def legacy_ranking(dataset: Dataset, questions: Sequence[Question], answers: Sequence[Floats]) -> Legacy:
    """Order of the episodes of a task by their last, mean and summed reward."""
    groups = by_episode(questions)
    episodes = [questions[members[0]].episode for members in groups]
    finals = [[float(answers[n][-1]) for n in members] for members in groups]
    graded = bool(episodes) and any(name in episodes[0].data_source for name in _GRADING)
    tasks = [each.task for each in episodes]
    rewards = {how: [float(np.float32(trajectory_reward(values, how))) for values in finals] for how in _SUFFIXES}

    def measured(how: str, chosen: Sequence[int]) -> dict[str, float]:
        of, values = [tasks[n] for n in chosen], [rewards[how][n] for n in chosen]
        if graded:
            return partial_success_ranking(of, [episodes[n].partial_success or 0.0 for n in chosen], values)
        return policy_ranking(of, [episodes[n].quality_label for n in chosen], values)

    everything = range(len(episodes))
    found = {f"{key}_{how}": value for how in _SUFFIXES for key, value in measured(how, everything).items()}
    details: dict[str, dict[str, float | None]] = {}
    listed: dict[str, list[dict[str, Any]]] = {}
    for task in dict.fromkeys(tasks):
        chosen = [n for n in everything if tasks[n] == task]
        details[task] = {}
        for how in _SUFFIXES:
            suffix, said = ("" if how == "last" else f"_{how}"), measured(how, chosen)
            if graded:
                said = {name: said[f"{name}_rba"] for name in ("ranking_acc", "kendall_rewind")}
            else:
                said = {name: said.get(name, said.get(f"avg_{name}", float("nan"))) for name in _DETAILS}
            details[task] |= {f"{k}{suffix}": None if np.isnan(v) else v for k, v in said.items()}
        listed[task] = [
            {f"final_predicted_reward_{how}": rewards[how][n] for how in _SUFFIXES}
            | {"video_path": episodes[n].source, "id": episodes[n].id}
            | (
                {"partial_success": episodes[n].partial_success}
                if graded
                else {"quality_label": episodes[n].quality_label}
            )
            for n in chosen
        ]
    results = [_result(each, said, _facts(each.episode), {}) for each, said in zip(questions, answers, strict=True)]
    documents = {"task_groups": listed, "task_details": details}
    return Legacy({name: value for name, value in found.items() if not np.isnan(value)}, results, documents)


def ranking(dataset: Dataset, questions: Sequence[Question], answers: Sequence[Floats]) -> dict[str, Estimate]:
    """Order of the episodes of a task by progress in their last frame.

    Returns:
        Over tasks: ``ranking_accuracy`` of pairs (ties half), ``kendall_tau_b``, and by quality label ``final_tau_a``
        (mean over one episode per label), ``success_fail_difference`` and the accuracy of each pair of labels.
    """
    finals: dict[str, list[tuple[Question, float]]] = {}
    for members in by_episode(questions):
        last = questions[members[-1]]
        finals.setdefault(last.task, []).append((last, float(answers[members[-1]][-1])))
    found: dict[str, list[float]] = {"ranking_accuracy": [], "kendall_tau_b": []}
    for members in finals.values():
        values = [value for _, value in members]
        if dataset.graded:
            ranks = [each.episode.partial_success or 0.0 for each, _ in members]
        else:
            ranks = [float(QUALITY_RANKS[each.episode.quality_label]) for each, _ in members]
            by_label: dict[str, list[float]] = {}
            for each, value in members:
                by_label.setdefault(each.episode.quality_label, []).append(value)
            _by_labels(by_label, found)
        found["ranking_accuracy"].append(ranking_accuracy(values, ranks))
        found["kendall_tau_b"].append(kendall_tau_b(values, ranks))
    return {name: bootstrap(values) for name, values in found.items()}


def _by_labels(by_label: Mapping[str, list[float]], found: dict[str, list[float]]) -> None:
    labels = sorted(by_label, key=QUALITY_RANKS.__getitem__)
    for low, worse in enumerate(labels):
        for better in labels[low + 1 :]:
            values, ranks = (
                [*by_label[worse], *by_label[better]],
                [0] * len(by_label[worse]) + [1] * len(by_label[better]),
            )
            found.setdefault(f"{better}_above_{worse}", []).append(ranking_accuracy(values, ranks))
    found.setdefault("final_tau_a", []).append(mean_tau_a({QUALITY_RANKS[name]: by_label[name] for name in labels}))
    others = [value for name in labels if name != "successful" for value in by_label[name]]
    found.setdefault("success_fail_difference", []).append(
        success_fail_difference(by_label.get("successful", []), others)
    )


def legacy_confusion(dataset: Dataset, questions: Sequence[Question], answers: Sequence[Floats]) -> Legacy:
    """The trace of the matrix of tasks against the rest; what was not asked is 0."""
    matrix = np.nan_to_num(confusion_matrix(dataset, questions, answers).values)
    count, trace = len(matrix), float(np.trace(matrix))
    off = float(matrix.sum()) - trace
    mean, rest = trace / max(count, 1), off / (count**2 - count) if count > 1 else 0.0
    metrics = {
        "trace": trace,
        "off_diagonal_sum": off,
        "trace_minus_offdiag": trace - off,
        "avg_diagonal": mean,
        "avg_off_diagonal": rest,
        "normalized_trace_minus_offdiag": mean - rest,
    }
    results = [
        _result(each, said, {"lang_task": each.task, "video_task": each.episode.task}, {})
        for each, said in zip(questions, answers, strict=True)
    ]
    return Legacy(metrics, results)


def confusion(dataset: Dataset, questions: Sequence[Question], answers: Sequence[Floats]) -> dict[str, Estimate]:
    """Whether a video is worth most under its own instruction.

    Returns:
        Over videos: ``own_task_first`` (ties shared), ``own_task_reciprocal_rank``, and ``own_task_margin`` over the
        mean of the other instructions.
    """
    found: dict[str, list[float]] = {"own_task_first": [], "own_task_reciprocal_rank": [], "own_task_margin": []}
    for members in by_episode(questions):
        said = {questions[n].task: float(answers[n][-1]) for n in members}
        own = said.pop(questions[members[0]].episode.task, None)
        if own is None or not said:
            continue
        above, equal = sum(value > own for value in said.values()), sum(value == own for value in said.values())
        found["own_task_first"].append(0.0 if above else 1.0 / (1 + equal))
        found["own_task_reciprocal_rank"].append(1.0 / (1 + above + equal / 2))
        found["own_task_margin"].append(own - float(np.mean(list(said.values()))))
    return {name: bootstrap(values) for name, values in found.items()}


def legacy_preference(dataset: Dataset, pairs: Sequence[Pair], said: NDArray[np.float32]) -> Legacy:
    """Share of pairs in which the better episode is preferred, which is always shown first."""
    preferred = [float(value > 0.5) for value in said[:, 0]]
    metrics = quality_preference([int(value) for value in preferred], [1] * len(pairs))
    results = [
        {
            "preference_pred": value,
            "preference_labels": 1.0,
            "is_correct": True,
            "task": pair.better.task,
            "data_source": pair.better.episode.data_source,
            "chosen_data_gen_strategy": None,
            "rejected_data_gen_strategy": None,
            "metadata": {
                "chosen_metadata": _of_pair(pair.better),
                "rejected_metadata": _of_pair(pair.worse),
            },
        }
        for pair, value in zip(pairs, preferred, strict=True)
    ]
    accuracy = metrics["preference_accuracy"]
    return Legacy({} if np.isnan(accuracy) else {"preference_accuracy": accuracy}, results)


def preference(dataset: Dataset, pairs: Sequence[Pair], said: NDArray[np.float32]) -> dict[str, Estimate]:
    """Accuracy of preferences over pairs that are asked in both orders, as in `robometer_rl.evaluation.measures`."""
    rows = said.astype(np.float64)

    def of(name: str) -> Estimate:
        return bootstrap(rows, lambda drawn: getattr(preference_accuracy(drawn[:, 0], drawn[:, 1]), name))

    return {f"preference_accuracy_{name}": of(name) for name in ("better_first", "better_second", "mean", "both")}


def _facts(episode: Any) -> dict[str, Any]:
    return {"quality_label": episode.quality_label, "data_source": episode.data_source, "task": episode.task}


def _of_pair(question: Question) -> dict[str, Any]:
    episode = question.episode
    graded = {} if episode.partial_success is None else {"partial_success": episode.partial_success}
    return {**_facts(episode), "id": episode.id, "video_path": None, **graded}


def _result(question: Question, said: Floats, facts: Mapping[str, Any], of_prefix: Mapping[str, Any]) -> dict[str, Any]:
    episode = question.episode
    prefix = {} if question.last is None else {"frame_step": question.last, **of_prefix}
    return {
        "progress_pred": [float(value) for value in said],
        "task": question.task,
        "data_source": episode.data_source,
        "data_gen_strategy": None,
        "metadata": {"id": episode.id, **facts, "video_path": episode.source, **prefix},
        "id": episode.id,
        "video_path": episode.source,
        "partial_success": episode.partial_success,
        "target_progress": question.targets(corrected=False),
        "quality_label": episode.quality_label,
    }
