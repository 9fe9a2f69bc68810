"""Files of a run as somebody else may have left them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from robometer_rl.files import OutsideError
from robometer_rl.live import LIVE, Begun, Ended, Failure, LiveEpisode, Point, Run, RunFolder

BEGUN = Begun("000000000-0", 0, 0, 1e9, ["open the drawer"], 0.65, 1, "nested(8)", "mini")
POINT = Point(0, 0, 0.25, None, 0.1, False, 0.0, None, 0, b"\xff\xd8")
ENDED = Ended(9, 9, 0.5, None, False)


def test_episodes_and_runs_are_read_as_they_were_written(tmp_path: Path) -> None:
    folder, episode = RunFolder(tmp_path / "run"), LiveEpisode(BEGUN, [POINT], 2, ENDED)
    assert folder.written is None
    run = Run(4, 1, 7, 2, [Failure.of(episode)])
    folder.begin(run)
    folder.write_running(episode)
    folder.write_failure(episode)
    assert folder.read() == Run(4, 1, 7, 2, (Failure.of(episode),))
    assert folder.running() == folder.failure(BEGUN.key) == episode
    assert folder.written is not None


@pytest.mark.parametrize("name", ["../live", "/etc/passwd", "a/../../b", ""])
def test_names_that_lead_elsewhere_are_refused(tmp_path: Path, name: str) -> None:
    folder = RunFolder(tmp_path)
    folder.begin(Run(1, 0))
    with pytest.raises((OutsideError, FileNotFoundError)):
        folder.failure(name)


@pytest.mark.parametrize(
    "text",
    ["", "[]", "{}", '{"version": 2}', '{"version": 1, "environments": 0, "watched": 0}', '{"version": 1, "x": 1}']
    + [json.dumps({"version": 1, "environments": 1, "watched": 0, "failures": each}) for each in ("no", [3], [{}])],
)
def test_something_else_is_no_run(tmp_path: Path, text: str) -> None:
    (tmp_path / LIVE).write_text(text)
    with pytest.raises(ValueError, match="is none of a run"):
        RunFolder(tmp_path).read()


def lines(**changes: Any) -> str:
    head, point = (json.loads(line) for line in LiveEpisode(BEGUN, [POINT]).lines().splitlines())
    part = head if set(changes) <= set(head) else point
    part |= changes
    return f"{json.dumps(head)}\n{json.dumps(point)}\n"


@pytest.mark.parametrize(
    "text",
    ["", "[]\n", "{}\n", "half a line", lines()[:-9] + "\n"]
    + [lines(**{name: None}) for name in ("key", "tasks", "every", "interval", "step", "progress", "picture")]
    + [lines(tasks=[1]), lines(tasks=[]), lines(threshold=2.0), lines(picture="?"), lines(other=1), lines(achieved=3)],
)
def test_something_else_is_no_episode(tmp_path: Path, text: str) -> None:
    (tmp_path / "running.jsonl").write_text(text)
    with pytest.raises(ValueError, match="holds no episode of a run"):
        RunFolder(tmp_path).running()
