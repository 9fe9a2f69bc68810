"""Several cameras in one picture: where each pixel is, and how views are resized."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from robometer_rl.data.trajectories import are_tiled
from robometer_rl.data.trajectory import TrajectoryError
from robometer_rl.evaluation.calibration import score_success
from robometer_rl.evaluation.scoring import Scoring, score_episodes
from robometer_rl.frames import FrameError, UniformFrames
from robometer_rl.models.controls import ChangedModel
from robometer_rl.models.reward_model import UnsupportedByModelError
from robometer_rl.relabeling.engine import Labeller, label_dataset
from robometer_rl.score import ScoreConfig, score
from robometer_rl.studio.asking import Asking
from robometer_rl.tiles import TiledFrames, TileLayout, tile, tile_views
from robometer_rl.video import Recording
from robometer_rl.wrappers import RobometerReward, Tiles
from tests.data.episodes import make_episodes_of_two_tasks
from tests.fixed_models import BrightnessModel
from tests.relabeling.episodes import MemoryDataset, record
from tests.wrappers.worlds import BrightnessWorld

cv2 = pytest.importorskip("cv2")


def plain(level: int, height: int = 36, width: int = 64) -> np.ndarray:
    return np.full((height, width, 3), level, np.uint8)


def test_the_published_size_follows_from_the_primary_view():
    picture = tile([plain(1, 360, 640), plain(2), plain(3)])
    assert picture.shape == (540, 640, 3)
    assert (picture[:360] == 1).all()
    assert (picture[360:, :320] == 2).all()
    assert (picture[360:, 320:] == 3).all()


@pytest.mark.parametrize("count", range(1, 8))
def test_every_pixel_is_where_the_layout_says(count):
    """Written out pixel by pixel, as the layout is published."""
    width, height = 101, 77
    picture = tile([plain(200), *(plain(10 * number + 10) for number in range(count))], TileLayout(width, height))
    top = int(height * (2 / 3))
    columns = max(1, int(np.ceil(np.sqrt(count))))
    rows = int(np.ceil(count / columns))
    for y in range(height):
        for x in range(width):
            row = min((y - top) // ((height - top) // rows), rows - 1)
            number = row * columns + min(x // (width // columns), columns - 1)
            expected = 200 if y < top else 10 * number + 10 if number < count else 0
            assert picture[y, x, 0] == expected, (x, y)


@pytest.mark.parametrize("size", [(400, 500), (10, 12), (400, 12)])
def test_views_are_resized_by_area(size):
    views = [np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8) for seed in range(2)]
    picture = tile(views, TileLayout(60, 90))
    np.testing.assert_array_equal(picture[:60], cv2.resize(views[0], (60, 60), interpolation=cv2.INTER_AREA))
    np.testing.assert_array_equal(picture[60:], cv2.resize(views[1], (60, 30), interpolation=cv2.INTER_AREA))


def test_recordings_are_tiled_when_they_are_asked_for():
    rng = np.random.default_rng(0)
    views = {
        name: rng.integers(0, 256, (length, 12, 16, 3), dtype=np.uint8)
        for name, length in [("wrist", 130), ("top", 150), ("front", 140)]
    }
    tiled = tile_views(views, "top")
    assert tiled.shape == (130, 18, 16, 3)
    every = np.stack([tile([views[name][t] for name in ("top", "wrist", "front")]) for t in range(130)])
    np.testing.assert_array_equal(tiled[:], every)
    np.testing.assert_array_equal(tiled[100], every[100])
    np.testing.assert_array_equal(tiled[[129, 0, 70]], every[[129, 0, 70]])
    np.testing.assert_array_equal(tiled[5:100:9], every[5:100:9])
    assert tiled[3:3].shape == (0, 18, 16, 3)
    other = tile_views(views, "top", ["front", "wrist"], TileLayout(32, 30, 0.5))
    np.testing.assert_array_equal(
        other[7], tile([views[name][7] for name in ("top", "front", "wrist")], TileLayout(32, 30, 0.5))
    )


def test_what_cannot_be_tiled_is_an_error_in_words():
    with pytest.raises(FrameError, match="a primary view and at least one other"):
        tile([plain(1)])
    with pytest.raises(FrameError, match="a primary view and at least one other"):
        tile([])
    with pytest.raises(FrameError, match="too small for 6 views"):
        tile([plain(1)] * 6, TileLayout(2, 3))
    with pytest.raises(FrameError, match="no view 'side' to be tiled; there are top"):
        tile_views({"top": plain(1)[None]}, "top", ["side"])
    with pytest.raises(FrameError, match="without frames"):
        TiledFrames([])
    with pytest.raises(ValueError, match="primary_fraction"):
        TileLayout(primary_fraction=1.0)
    with pytest.raises(ValueError, match="width"):
        TileLayout(width=0)


class TiledModel(BrightnessModel):
    """Was trained on tiled pictures."""

    model_id = "tiled"
    tiled = True


EPISODES = make_episodes_of_two_tasks(2)
TILED_EPISODES = [replace(each, metadata={**each.metadata, "tiled": True}) for each in EPISODES]
RECORDING = Recording(np.zeros((4, 16, 16, 3), np.uint8), np.arange(4))
OPENED = MemoryDataset({"0": record(3, 0)})


@pytest.mark.parametrize(
    ("purpose", "ask"),
    [
        ("scoring a recording", lambda model, path: score(ScoreConfig(path, "push", out=path), RECORDING, model)),
        ("relabelling", lambda model, path: label_dataset(OPENED, Labeller(model))),
        ("frames='render'", lambda model, path: RobometerReward(BrightnessWorld([1, 2]), model, "push")),
        ("evaluation on episodes", lambda model, path: score_episodes(model, EPISODES, Scoring(UniformFrames(4)))),
        (
            "evaluation on episodes",
            lambda model, path: score_episodes(model, TILED_EPISODES + EPISODES, Scoring(UniformFrames(4))),
        ),
        ("a success rule", lambda model, path: score_success(model, EPISODES)),
        ("scoring a recording", lambda model, path: list(Asking(model, RECORDING.frames, ["push"]))),
        ("a success rule", lambda model, path: score_success(ChangedModel("shuffled", model), EPISODES)),
    ],
)
def test_a_model_of_tiled_pictures_refuses_single_views(purpose, ask, tmp_path):
    with pytest.raises(UnsupportedByModelError, match=f"^{purpose}.* shows single views to the model .*in one picture"):
        ask(TiledModel(), tmp_path / "out")
    assert not (tmp_path / "out").exists()
    ask(BrightnessModel(), tmp_path / "out")


def test_a_model_of_tiled_pictures_takes_tiled_ones(tmp_path):
    model = TiledModel()
    assert len(score(ScoreConfig(tmp_path / "a.npz", "push", tiled=True, out=tmp_path / "out"), RECORDING, model)) == 4
    assert len(score_success(model, TILED_EPISODES)[0]) == len(EPISODES)
    RobometerReward(BrightnessWorld([1, 2]), model, "push", frames=Tiles("render", "obs"))
    with pytest.raises(UnsupportedByModelError, match="single views"):
        RobometerReward(BrightnessWorld([1, 2]), model, "push", frames=(Tiles("render", "obs"), "obs"))


def test_what_is_learned_from_is_of_one_kind():
    assert (are_tiled(EPISODES), are_tiled(TILED_EPISODES)) == (False, True)
    with pytest.raises(TrajectoryError, match="a model learns from one kind"):
        are_tiled([*EPISODES, TILED_EPISODES[0]])
