"""The benchmark of the server runs at its smallest size; how fast anything is, is not judged."""

from __future__ import annotations

import numpy as np

from benchmarks.serving import Args, measure, show
from tests.golden import CHECKPOINT


def test_everything_is_measured() -> None:
    found = measure(Args(model=str(CHECKPOINT), clients=(1, 2), size=32, steps=8, rounds=1, replicas=False))
    show(found)
    assert [entry["clients"] for entry in found["append"]] == [1, 2]
    for entry in found["append"]:
        assert {"local", "remote", "reference", "share_of_local", "p50_over_local_ms"} <= set(entry)
    assert found["memory_per_history"] > 0
    assert all(np.isfinite(value) for name in ("peek_local", "peek_remote") for value in found[name].values())
