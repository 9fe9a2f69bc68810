from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from robometer_rl.evaluation.evaluate import SCHEMA_VERSION
from robometer_rl.evaluation.published.commands import SCHEMA_VERSION as PUBLISHED_VERSION
from robometer_rl.studio.results import read_results, side_by_side, unlike


def results(model: str, value: float | None) -> dict[str, Any]:
    return {
        "schema_version": SCHEMA_VERSION,
        "model": model,
        "protocol": "nested(8)",
        "metrics": {
            "voc_pearson": {"value": value, "low": 0.1, "high": 0.9, "count": 7},
            "voc_pearson_clock": {"value": 0.5, "low": None, "high": None, "count": 7},
        },
        "verdict": {"light": "red", "sentences": ["It is <b>bad</b>."], "checks": []},
    }


def test_models_stand_side_by_side_with_controls_and_verdicts() -> None:
    shown = side_by_side({"one.json": results("mini", 0.8), "two.json": results("<i>other</i>", None)})
    assert "0.800 (0.100 to 0.900), 7" in shown
    assert "0.500, 7" in shown
    assert shown.index("voc_pearson<") < shown.index("Controls") < shown.index("voc_pearson_clock<")
    assert "<b>" not in shown
    assert "<i>" not in shown
    assert shown.count("pill bad") == 2


def published(model: str, accuracy: float, sha: str = "abc") -> dict[str, Any]:
    estimate = {"value": accuracy, "low": None, "high": None, "count": 7}
    rows = [
        {"name": model, "control": False, "legacy": {"preference_accuracy": 0.75}, "corrected": {"accuracy": estimate}},
        {"name": "clock", "control": True, "legacy": {}, "corrected": {"accuracy": {**estimate, "value": 0.5}}},
    ]
    matrix = {"about": "right answers", "rows": ["push"], "columns": ["first", "second"], "values": [[0.5, None]]}
    return {
        "schema_version": PUBLISHED_VERSION,
        "model": model,
        "evaluations": [
            {
                "kind": "preference",
                "set": "<b>metaworld</b>",
                "frame_rule": "uniform(8), whole clips",
                "manifest": {"questions": 7, "sha256": sha},
                "rows": rows,
                "matrix": matrix,
            }
        ],
    }


def test_files_of_one_name_stay_apart() -> None:
    assert unlike(["evaluation.json", "a", "evaluation.json"]) == ["evaluation.json", "a", "evaluation.json (2)"]


def test_the_references_evaluations_stand_in_one_table_with_their_controls_and_matrices() -> None:
    files = {"one.json": published("mini", 0.8), "two.json": published("other", 0.6)}
    shown = side_by_side({**files, "own.json": results("mini", 0.8)})
    assert "mini (one.json)" in shown
    assert "0.800, 7" in shown
    assert shown.index("mini (one.json)") < shown.index("other (two.json)") < shown.index(">clock<")
    assert shown.count(">clock<") == 2, "once beside corrected numbers, once beside legacy ones"
    assert shown.count("data:image/png;base64") == 2
    assert "<b>" not in shown
    assert "cannot be compared" not in shown
    assert "voc_pearson_clock" in shown, "other results stand there, too"
    others = side_by_side({"one.json": published("mini", 0.8), "two.json": published("other", 0.6, "def")})
    assert "cannot be compared" in others


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"kind": "guess"}, "of no kind that is known"),
        ({"rows": None}, "has no 'rows'"),
        ({"rows": [{"name": "mini"}]}, "this is no row"),
        ({"rows": [{"name": "m", "control": False, "legacy": {}, "corrected": {"a": 1}}]}, "these are no metrics"),
        ({"matrix": {"about": "a", "rows": ["x"], "columns": ["y"], "values": [[0.1, 0.2]]}}, "shape"),
        ({"matrix": []}, "this is no matrix"),
    ],
)
def test_what_is_wrong_in_a_file_is_an_error_that_says_so(change: dict[str, Any], said: str) -> None:
    broken = published("mini", 0.8)
    broken["evaluations"][0] |= change
    with pytest.raises(ValueError, match=said):
        side_by_side({"one.json": broken})


def test_what_is_no_result_is_named(tmp_path: Path) -> None:
    path = tmp_path / "mine.json"
    for text, said in [
        ("{", "mine.json: it is not valid JSON"),
        ("[]", "is no result of robometer-rl evaluate"),
        (json.dumps({**results("mini", 0.1), "schema_version": 1}), "has the version 1"),
    ]:
        path.write_text(text)
        with pytest.raises(ValueError, match=said):
            read_results(path)
    path.write_text(json.dumps(results("mini", 0.1)))
    assert read_results(path)["model"] == "mini"
