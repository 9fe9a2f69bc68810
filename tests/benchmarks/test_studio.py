"""The benchmark of the studio runs at its smallest size; how fast anything is, is not judged."""

from __future__ import annotations

import pytest

from tests.studio.browsers import CHROMIUM

pytest.importorskip("gradio")
pytest.importorskip("playwright")
pytestmark = [pytest.mark.slow, pytest.mark.skipif(not CHROMIUM, reason="there is no Chromium to look with")]


def test_an_upload_and_a_store_are_measured(capsys: pytest.CaptureFixture[str]) -> None:
    from benchmarks.studio import Args, measure, show

    found = measure(Args(seconds=1, fps=4, height=64, width=64, rounds=1, episodes=30))
    for part in (found["first"], found["later"], *found["rounds"]):
        assert 0 < part["upload_s"] < part["curve_s"]
        assert part["processor_s"] > 0
    assert 0 < found["memory"]["before_mb"] <= found["memory"]["peak_mb"]
    show(found)
    assert "from the upload to the curve" in capsys.readouterr().out
