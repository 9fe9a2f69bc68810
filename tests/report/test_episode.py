from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from robometer_rl.report.episode import EpisodeScores


def scores(success_detected: list[bool]) -> EpisodeScores:
    count = len(success_detected)
    values = np.linspace(0, 1, count, dtype=np.float32)
    return EpisodeScores("open the drawer", 3 * np.arange(count), values, values**2, np.array(success_detected), 0.65)


def test_the_success_frame_is_the_first_on_which_the_rule_holds() -> None:
    assert scores([False, True, False, True]).success_frame == 3
    assert scores([False, False]).success_frame is None


def test_values_are_held_between_frames() -> None:
    held = scores([False, True, True]).hold(np.arange(8))
    assert held.progress.tolist() == [0, 0, 0, 0.5, 0.5, 0.5, 1, 1]
    assert held.success_detected.tolist() == [False] * 3 + [True] * 5
    assert held.numbers.tolist() == list(range(8))


def test_a_row_per_frame_is_written(tmp_path: Path) -> None:
    scores([False, True, True]).write_csv(tmp_path / "episode.csv", np.array([0, 0.15, 2.3]))
    assert (tmp_path / "episode.csv").read_text().splitlines() == [
        "frame,seconds,progress,success,success_detected,uncertainty",
        "0,0.000,0.000000,0.000000,0,",
        "3,0.150,0.500000,0.250000,1,",
        "6,2.300,1.000000,1.000000,1,",
    ]


def test_uncertainty_is_held_and_written_where_it_is_known(tmp_path: Path) -> None:
    known = replace(scores([False, True]), uncertainty=np.array([0.25, 0.0625], np.float32))
    assert known.hold(np.arange(5)).uncertainty.tolist() == [0.25, 0.25, 0.25, 0.0625, 0.0625]
    known.write_csv(tmp_path / "episode.csv")
    rows = (tmp_path / "episode.csv").read_text().splitlines()[1:]
    assert rows == ["0,,0.000000,0.000000,0,0.250000", "3,,1.000000,1.000000,1,0.062500"]
    with pytest.raises(ValueError, match="same frames"):
        replace(known, uncertainty=np.zeros(3, np.float32))


def test_all_values_belong_to_the_same_frames() -> None:
    one, two = np.zeros(1, np.float32), np.zeros(2, np.float32)
    with pytest.raises(ValueError, match=r"same frames.*\{1, 2\}"):
        EpisodeScores("open the drawer", np.arange(2), two, one, np.zeros(2, np.bool_), 0.65)
    with pytest.raises(ValueError, match="at least one"):
        EpisodeScores("open the drawer", np.arange(0), one[:0], one[:0], np.zeros(0, np.bool_), 0.65)
