"""What `benchmarks.own_environment` has measured, as tables of docs/results.md; bold is what is aimed at."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from statistics import mean
from typing import Any

from benchmarks.foreign.worlds import ALTERED
from benchmarks.recording import markdown_table

__all__ = ["tables"]

_NAMES = {
    "fetch": "FetchPickAndPlace", "lift": "robosuite's Lift", "pusht": "PushT", "reacher": "dm_control's reacher",
    "reach": "FetchReach",
}  # fmt: skip
_LABELS = {"distance": "distance", "state": "state", "success": "success alone", "progress": "progress"}

Result = Mapping[str, Any]
Met = Callable[[float], bool]


def tables(results: Sequence[Result]) -> str:
    """All of them, means over data seeds where there are several."""
    if not results:
        return "Nothing has been measured yet."
    groups: dict[tuple[str, str, int], list[Result]] = {}
    for each in results:
        groups.setdefault((each["world"], each["labels"], each["episodes"]), []).append(each)
    ordered = sorted(groups, key=lambda key: (list(_LABELS).index(key[1]), key[0], key[2]))
    found = [groups[key] for key in ordered]
    return "\n".join([_quality(found), _use(found), _altered(found)])


def _name(group: Sequence[Result]) -> str:
    first = group[0]
    count = "" if first["episodes"] == 60 else f", {first['episodes']} episodes"
    return f"{_NAMES[first['world']]}, {_LABELS[first['labels']]}{count}"


def _seeds(group: Sequence[Result]) -> str:
    return ", ".join(str(each["seed"]) for each in group)


def _quality(groups: Iterable[Sequence[Result]]) -> str:
    head = [
        "World, labels", "Seeds", "Success above failure (clock, one frame)", "Success AUROC", "Final progress: expert",
        "wrong place (true)", "no contact", "random", "Correlation with the truth (clock, one frame)",
    ]  # fmt: skip
    rows = []
    for group in groups:
        weak = group[0]["labels"] == "success"
        order = _mean(group, "success_above_failure")
        impostors = [_mean(group, f"success_above_failure_{name}") for name in ("clock", "one_frame")]
        truth = _mean(group, "correlation")
        others = [_mean(group, f"correlation_{name}") for name in ("clock", "one_frame")]
        wrong, true = _final(group, "wrong_place"), _final(group, "wrong_place", "true_final")
        rows.append([
            _name(group),
            _seeds(group),
            f"{_bold(order, _least(0.9 if weak else 0.95), 3)} ({impostors[0]:.2f}, {impostors[1]:.3f})",
            _bold(_mean(group, "success_auroc"), None if weak else _least(0.95), 3),
            _bold(_final(group, "expert"), None if weak else _least(0.9)),
            f"{wrong:.2f} ({true:.2f})",
            _bold(_final(group, "no_contact"), None if weak else _most(0.25)),
            _bold(_final(group, "random"), _most(0.2 if weak else 0.1)),
            f"{_bold(truth, None if weak else _least(max(others)), 3)} ({others[0]:.2f}, {others[1]:.3f})",
        ])  # fmt: skip
    rows.append(["Aimed at, per-frame labels", "", "0.95, and more than both", "0.95", "0.9", "", "at most 0.25",
                 "at most 0.1", "more than both"])  # fmt: skip
    rows.append(["Aimed at, success alone", "", "0.9", "", "", "", "", "at most 0.2", ""])
    return markdown_table(head, rows)


def _use(groups: Iterable[Sequence[Result]]) -> str:
    head = [
        "World, labels", "Still picture", "Wrapped return, experts less random", "Success rule: successes seen",
        "false alarms", "Verdict", "Processor, s", "Minutes on a busy machine", "A frame, ms: drawn", "scored", "mini",
    ]  # fmt: skip
    rows = []
    for group in groups:
        weak = group[0]["labels"] == "success"
        verdicts = [each["verdict"]["verdict"]["verdict"] for each in group]
        timed = [each["streaming_ms"] for each in group if "streaming_ms" in each]
        rows.append([
            _name(group),
            _bold(_mean(group, "still"), _most(0.1)),
            _bold(mean(each["wrapped_return"]["difference"] for each in group), None if weak else _least(0.7)),
            f"{_mean(group, 'recall'):.2f}",
            f"{_mean(group, 'false_alarms'):.2f}",
            ", ".join(verdicts),
            f"{_mean(group, 'processor_seconds'):.0f}",
            f"{_mean(group, 'seconds') / 60:.1f}",
            *(f"{mean(each[name] for each in timed):.0f}" if timed else "" for name in ("drawing", "adapted", "mini")),
        ])  # fmt: skip
    rows.append(["Aimed at", "at most 0.1", "0.7", "", "", "usable", "", "10, idle", "", "less than drawn", ""])
    return markdown_table(head, rows)


def _altered(groups: Iterable[Sequence[Result]]) -> str:
    head = ["World, labels"]
    for what in ALTERED:
        head += [f"{what}: success above failure", "expert, random", "says that it is strange"]
    rows = []
    for group in groups:
        asked = [each for each in group if "altered" in each]
        if not asked:
            continue
        row = [_name(group)]
        for what in ALTERED:
            seen = [each["altered"][what] for each in asked]
            row += [
                f"{_mean(seen, 'success_above_failure'):.3f}",
                f"{_final(seen, 'expert'):.2f}, {_final(seen, 'random'):.2f}",
                ", ".join("yes" if each["warned"] else "no" for each in seen),
            ]
        rows.append(row)
    return markdown_table(head, rows) if rows else ""


def _mean(group: Sequence[Result], name: str) -> float:
    return mean(each[name] for each in group)


def _final(group: Sequence[Result], kind: str, which: str = "final") -> float:
    return mean(each[which][kind] for each in group)


def _bold(value: float, met: Met | None, digits: int = 2) -> str:
    """The number, bold if it meets what is aimed at; None where nothing is."""
    shown = f"{value:.{digits}f}"
    return f"**{shown}**" if met is not None and met(value) else shown


def _least(limit: float) -> Met:
    return lambda value: value >= limit


def _most(limit: float) -> Met:
    return lambda value: value <= limit
