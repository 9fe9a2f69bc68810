"""The benchmark of the server runs at its smallest size; how fast anything is, is not judged."""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks import recording, serving
from benchmarks.serving import Args, measure, measured, show
from tests.golden import CHECKPOINT

SMALL = Args(model=str(CHECKPOINT), clients=(1, 2), size=32, steps=8, rounds=1, replicas=False)


def test_everything_is_measured_and_a_run_goes_on_where_it_ended() -> None:
    found: dict[str, Any] = {}
    kept: list[dict[str, Any]] = []
    measure(SMALL, found, lambda parts: kept.append(dict(parts)))
    assert [len(each) for each in kept] == list(range(1, 7))
    assert [entry["clients"] for entry in (found["append 1"], found["append 2"])] == [1, 2]
    for entry in (found["append 1"], found["append 2"]):
        assert {"local", "remote", "reference", "share_of_local", "p50_over_local_ms"} <= set(entry)
    assert found["memory per history"] > 0
    assert all(np.isfinite(value) for name in ("peek local", "peek remote") for value in found[name].values())
    assert found["one server"]["frames_per_s"] > 0
    show(found)
    before = deepcopy(found)
    del found["append 2"]
    measure(SMALL, found, lambda parts: kept.append(dict(parts)))
    assert len(kept) == 7
    assert {name: found[name] for name in found if name != "append 2"} == {
        name: before[name] for name in before if name != "append 2"
    }


def test_parts_of_a_run_with_other_options_are_not_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (recording, serving):
        monkeypatch.setattr(module, "RESULTS", tmp_path)
    assert measured({"steps": 8}, "serving") == {}
    recording.write_result("serving", {"options": {"steps": 8}, "parts": {"one server": {}}})
    assert measured({"steps": 8}, "serving") == {"one server": {}}
    assert measured({"steps": 9}, "serving") == {}
