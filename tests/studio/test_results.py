from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from robometer_rl.evaluation.evaluate import SCHEMA_VERSION
from robometer_rl.studio.results import read_results, side_by_side


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
