from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from robometer_rl.report.episode import EpisodeScores
from robometer_rl.report.figures import DARK
from robometer_rl.report.overlay import overlay_frames


def scores(count: int = 3, success_detected: bool = False, task: str = "open the drawer") -> EpisodeScores:
    values = np.linspace(0, 1, count, dtype=np.float32)
    return EpisodeScores(task, np.arange(count), values, values, np.full(count, success_detected), 0.65)


def frames(count: int, height: int, width: int) -> NDArray[np.uint8]:
    return np.full((count, height, width, 3), 200, np.uint8)


@pytest.mark.parametrize(
    ("size", "picture"),
    [
        ((128, 128), (480, 480)),  # enlarged
        ((480, 640), (480, 640)),  # as it is
        ((1080, 1920), (540, 960)),  # reduced
        ((1280, 720), (720, 404)),  # portrait: as high as allowed, on a strip of the least width
        ((33, 1000), (32, 960)),
    ],
)
def test_pictures_have_an_even_comfortable_size(size: tuple[int, int], picture: tuple[int, int]) -> None:
    (image,) = overlay_frames(frames(1, *size), scores(1))
    assert image.shape == (picture[0] + 172, max(480, picture[1]), 3)
    assert image.shape[0] % 2 == image.shape[1] % 2 == 0
    bright = (image[: picture[0]] > 180).all(axis=2)
    assert bright.mean(axis=0).round().sum() == picture[1]


def test_the_lamp_is_lit_while_the_success_rule_holds() -> None:
    green = np.array([int(DARK.success[start : start + 2], 16) for start in (1, 3, 5)])

    def lamp(success_detected: bool) -> NDArray[np.uint8]:
        (image,) = overlay_frames(frames(1, 480, 480), scores(1, success_detected))
        return image[480 + 62, 480 - 16 - 6]

    assert np.abs(lamp(True).astype(int) - green).max() < 10
    assert np.abs(lamp(False).astype(int) - green).max() > 60


def test_curves_grow_with_the_frames() -> None:
    images = list(overlay_frames(frames(30, 128, 128), scores(30)))
    history = np.array([image[480 + 80 : 480 + 136, 16:464, 2] > 150 for image in images])
    reach = [np.nonzero(seen.any(axis=0))[0].max() for seen in history]
    assert (np.diff(reach) > 0).all()
    assert reach[0] < 20
    assert reach[-1] > 435


def strip(image: NDArray[np.uint8], top: int, bottom: int) -> NDArray[np.int64]:
    return image[480 + top : 480 + bottom].astype(np.int64)


def test_marks_are_explained_below_the_curves() -> None:
    (image,) = overlay_frames(frames(1, 480, 480), scores(1))
    silent = EpisodeScores("open the drawer", np.arange(1), np.zeros(1, np.float32), None, np.zeros(1, bool), 0.65)
    (without,) = overlay_frames(frames(1, 480, 480), silent)
    assert np.ptp(strip(image, 140, 168)) > 100
    assert np.ptp(strip(without, 140, 168), axis=(0, 1)).max() == 0, "there are no marks of success to be explained"


def test_true_success_is_a_bar_over_the_frames_that_were_seen() -> None:
    done = np.array([False] * 10 + [True] * 10 + [False] * 10)
    known = list(overlay_frames(frames(30, 480, 480), scores(30), done))
    unknown = list(overlay_frames(frames(30, 480, 480), scores(30)))
    edge = [
        np.abs(strip(a, 80, 85) - strip(b, 80, 85)).max(axis=(0, 2)) > 60 for a, b in zip(known, unknown, strict=True)
    ]
    assert not edge[9].any()
    assert 0 < edge[12].sum() < edge[19].sum() == edge[29].sum()
    left, right = np.flatnonzero(edge[29])[[0, -1]]
    assert left == pytest.approx(16 + 5 + 10 / 29 * 438, abs=3)
    assert right == pytest.approx(16 + 5 + 19 / 29 * 438, abs=3)
    assert np.abs(strip(known[0], 140, 168) - strip(unknown[0], 140, 168)).max() > 100, "and is explained"
    with pytest.raises(ValueError, match="got 3 true_success, expected 4"):
        list(overlay_frames(frames(4, 32, 32), scores(4), np.zeros(3, bool)))


def test_a_curve_at_0_does_not_hide_the_other() -> None:
    none = np.zeros(30, np.float32)
    *_, image = overlay_frames(frames(30, 480, 480), EpisodeScores("push", np.arange(30), none, none, none > 1, 0.65))
    for color in (DARK.progress, DARK.success):
        rgb = np.array([int(color[start : start + 2], 16) for start in (1, 3, 5)])
        assert (np.abs(strip(image, 120, 136) - rgb).max(axis=2) < 40).any(axis=0).sum() > 400


def test_a_long_task_does_not_run_into_the_frame_number() -> None:
    (short,) = overlay_frames(frames(1, 128, 128), scores(1, task="x"))
    (long,) = overlay_frames(frames(1, 128, 128), scores(1, task="open the drawer " * 30))
    np.testing.assert_array_equal(short[480:510, 380:], long[480:510, 380:])


def test_every_frame_has_its_values() -> None:
    with pytest.raises(ValueError, match="got 4 frames, expected 3"):
        list(overlay_frames(frames(4, 32, 32), scores(3)))


@pytest.mark.parametrize("task", ["two\nlines", "a\x1b[2J\r\x00b", "caf\udce9", "", "😀 抽屉"])
def test_any_task_is_drawn_as_one_line(task: str) -> None:
    (plain,) = overlay_frames(frames(1, 128, 128), scores(1, task="x"))
    (image,) = overlay_frames(frames(1, 128, 128), scores(1, task=task))
    np.testing.assert_array_equal(image[480 + 32 :], plain[480 + 32 :])
    assert np.ptp(image[480 : 480 + 6].reshape(-1, 3), axis=0).max() == 0
