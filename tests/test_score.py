from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from robometer_rl.frames import FrameError, NestedFrames, TaskError
from robometer_rl.prediction import Prediction
from robometer_rl.score import ScoreConfig, run_score, score, scored_series, tiled_recording
from robometer_rl.video import Recording, VideoError, read_recording, write_video
from tests.fixed_models import BrightnessModel
from tests.report.test_replay import Elements

TASK = "open the drawer"


def grey_frames(levels: list[int], size: int = 32) -> NDArray[np.uint8]:
    """Frames of uniform brightness, so that `BrightnessModel` sees progress ``level / 255``."""
    return np.stack([np.full((size, size, 3), level, np.uint8) for level in levels])


def recording_of(levels: list[int]) -> Recording:
    return Recording(grey_frames(levels), np.arange(len(levels)))


def read_csv(path: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(path.read_text())))


@pytest.fixture
def config(tmp_path: Path) -> ScoreConfig:
    return ScoreConfig(tmp_path / "drawer.npz", TASK, out=tmp_path / "results")


def test_it_writes_predictions_figure_and_overlay(config: ScoreConfig, capsys: pytest.CaptureFixture[str]) -> None:
    levels = [0, 51, 102, 255, 255, 255]
    prediction = score(config, recording_of(levels), BrightnessModel())
    assert config.out is not None
    loaded = Prediction.load(config.out / "prediction.npz")
    np.testing.assert_allclose(loaded.progress, np.array(levels) / 255, atol=1e-6)
    np.testing.assert_array_equal(loaded.success, prediction.success)
    assert (loaded.protocol, loaded.model_id) == ("uniform(8)", "brightness")
    rows = read_csv(config.out / "prediction.csv")
    assert [row["frame"] for row in rows] == [str(number) for number in range(6)]
    assert [float(row["progress"]) for row in rows] == pytest.approx([level / 255 for level in levels], abs=1e-6)
    assert [row["success_detected"] for row in rows] == ["0", "0", "0", "0", "1", "1"]
    assert {row["seconds"] for row in rows} == {""}
    assert Image.open(config.out / "curves.png").size[0] > 1000
    overlay = read_recording(config.out / "overlay.mp4")
    assert len(overlay) == 6
    shown = capsys.readouterr().out
    assert [float(row["uncertainty"]) for row in rows][:2] == pytest.approx([0.0, 0.4], abs=1e-6)
    for expected in (
        "6 in the file, 6 scored",
        "last 1.000",
        "last ±0.000",
        "largest ±0.490",
        "from frame 4",
        "uniform(8)",
        "brightness",
        "float32",
    ):
        assert expected in shown


def test_recordings_of_other_cameras_are_shown_below(tmp_path: Path) -> None:
    pytest.importorskip("cv2")
    top, wrist = tmp_path / "top.npz", tmp_path / "wrist.npz"
    np.savez(top, frames=grey_frames([30, 90, 150, 210, 240]), success=np.arange(5) > 2)
    np.savez(wrist, frames=grey_frames([60, 60, 60, 0], size=16))
    tiled = tiled_recording(top, read_recording(top), [wrist])
    assert tiled.frames.shape == (4, 48, 32, 3)
    np.testing.assert_array_equal(tiled.frames[:, 10, 10, 0], [30, 90, 150, 210])
    np.testing.assert_array_equal(tiled.frames[:, 40, 10, 0], [60, 60, 60, 0])
    assert (tiled.numbers.tolist(), tiled.true_success.tolist()) == ([0, 1, 2, 3], [False, False, False, True])
    model = BrightnessModel()
    prediction = score(ScoreConfig(top, TASK, tile=(wrist,), out=tmp_path / "out"), tiled, model)
    assert prediction.progress[0] == pytest.approx((2 * 30 + 60) / 3 / 255, abs=1e-6)


def test_what_is_tiled_is_synchronised(tmp_path: Path) -> None:
    pytest.importorskip("cv2")
    for name, fps in (("top", 10.0), ("wrist", 10.0), ("side", 25.0)):
        write_video(tmp_path / f"{name}.mp4", grey_frames([30, 90, 150, 210, 30, 90], 64), fps)
    thinned = read_recording(tmp_path / "top.mp4", fps=5)
    tiled = tiled_recording(tmp_path / "top.mp4", thinned, [tmp_path / "wrist.mp4"])
    assert tiled.numbers.tolist() == thinned.numbers.tolist()
    np.testing.assert_allclose(tiled.frames[:, 80, 32, 0], tiled.frames[:, 32, 32, 0], atol=4)
    with pytest.raises(
        FrameError, match=r"25 frames per second and .*top\.mp4 10: what is tiled has to be synchronised"
    ):
        tiled_recording(tmp_path / "top.mp4", thinned, [tmp_path / "side.mp4"])


def test_true_success_that_was_recorded_is_drawn_wherever_the_prediction_is(config: ScoreConfig) -> None:
    frames = grey_frames([0, 51, 102, 255, 255, 255])
    assert config.out is not None
    drawn: list[list[bytes]] = []
    for success in (None, [0, 0, 0, 0, 1, 1]):
        known = {} if success is None else {"success": np.array(success)}
        np.savez(config.video, allow_pickle=False, frames=frames, **known)
        score(config, read_recording(config.video), BrightnessModel())
        drawn.append([(config.out / name).read_bytes() for name in ("curves.png", "overlay.mp4")])
        (section,) = Elements((config.out / "index.html").read_text()).all("section")
        (series,) = json.loads(section["data-replay"] or "")["series"]
        assert series["trueSuccess"] == (None if success is None else [[4, 5]])
    assert all(known != unknown for unknown, known in zip(*drawn, strict=True))


def test_the_overlay_shows_each_frame_above_its_values(config: ScoreConfig) -> None:
    levels = [0, 60, 120, 240]
    score(config, recording_of(levels), BrightnessModel())
    assert config.out is not None
    overlay = read_recording(config.out / "overlay.mp4").frames
    assert overlay.shape[2] == 480
    np.testing.assert_allclose(overlay[:, 100:380, 100:380].mean(axis=(1, 2, 3)), levels, atol=3)
    # The progress bar: blue as far as the progress, dark beyond.
    bar = overlay[:, 480 + 42, 80:400, 2].astype(float)
    filled = (bar > 180).mean(axis=1)
    np.testing.assert_allclose(filled, np.array(levels) / 255, atol=0.05)


def test_scoring_every_few_frames_holds_values_in_between(config: ScoreConfig) -> None:
    every_other = ScoreConfig(config.video, TASK, every=3, protocol="nested(4)", out=config.out)
    levels = [0, 255, 255, 51, 255, 255, 255, 102]
    prediction = score(every_other, recording_of(levels), BrightnessModel())
    assert (prediction.every, prediction.protocol) == (3, str(NestedFrames(4)))
    assert config.out is not None
    rows = read_csv(config.out / "prediction.csv")
    assert [row["frame"] for row in rows] == ["0", "3", "6", "7"]
    overlay = read_recording(config.out / "overlay.mp4").frames
    bar = overlay[:, 480 + 42, 80:400, 2].astype(float)
    held = np.array([0, 0, 0, 51, 51, 51, 255, 102]) / 255
    np.testing.assert_allclose((bar > 180).mean(axis=1), held, atol=0.05)


def test_success_is_counted_on_scored_frames_after_the_first() -> None:
    def success_detected(levels: list[int], every: int) -> list[bool]:
        recording = recording_of(levels)
        prediction = BrightnessModel().predict_steps([_clip(recording)], every=every)[0]
        return scored_series(TASK, recording, prediction, 0.65).scores.success_detected.tolist()

    assert success_detected([255, 255, 255, 0], every=1) == [False, False, True, False]
    # Two frames of the recording are one scored frame: not yet patience's two.
    assert success_detected([0, 0, 255, 255, 0], every=2) == [False, False, False]
    assert success_detected([0, 0, 255, 255, 255], every=2) == [False, False, True]
    assert success_detected([255], every=1) == [False]


def _clip(recording: Recording):
    from robometer_rl.frames import Clip

    return Clip(recording.frames, TASK)


def test_the_threshold_is_the_one_that_the_model_was_calibrated_to(config: ScoreConfig) -> None:
    score(config, recording_of([0, 200, 200, 200]), BrightnessModel(success_threshold=0.9))
    assert config.out is not None
    assert all(row["success_detected"] == "0" for row in read_csv(config.out / "prediction.csv"))


def test_a_thinned_video_keeps_its_own_frame_numbers_and_times(tmp_path: Path) -> None:
    write_video(tmp_path / "drawer.mp4", grey_frames([0, 40, 80, 120, 160, 200, 240]), fps=10)
    config = ScoreConfig(tmp_path / "drawer.mp4", TASK, fps=5, out=tmp_path / "results")
    score(config, read_recording(config.video, config.fps), BrightnessModel())
    rows = read_csv(tmp_path / "results" / "prediction.csv")
    assert [(row["frame"], row["seconds"]) for row in rows] == [
        ("0", "0.000"),
        ("2", "0.200"),
        ("4", "0.400"),
        ("6", "0.600"),
    ]
    assert read_recording(tmp_path / "results" / "overlay.mp4").fps == pytest.approx(5)


def test_a_single_frame_is_scored(config: ScoreConfig) -> None:
    assert len(score(config, recording_of([128]), BrightnessModel())) == 1


def test_results_go_to_a_folder_named_after_the_video(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    score(ScoreConfig(Path("videos/drawer.npz"), TASK), recording_of([0, 255]), BrightnessModel())
    names = sorted(path.name for path in (tmp_path / "outputs" / "score" / "drawer").iterdir())
    assert names == ["curves.png", "index.html", "overlay.mp4", "prediction.csv", "prediction.npz", "video.mp4"]


def test_bad_input_is_found_before_a_model_is_loaded(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"nothing\.mp4"):
        run_score(ScoreConfig(tmp_path / "nothing.mp4", TASK, model="no such model"))
    np.savez(tmp_path / "clip.npz", frames=grey_frames([0, 255]))
    with pytest.raises(TaskError, match="non-empty instruction"):
        run_score(ScoreConfig(tmp_path / "clip.npz", "  ", model="no such model"))
    with pytest.raises(ValueError, match="unknown frame protocol 'first'"):
        run_score(ScoreConfig(tmp_path / "clip.npz", TASK, protocol="first", model="no such model"))
    with pytest.raises(VideoError, match="stores no frame rate"):
        run_score(ScoreConfig(tmp_path / "clip.npz", TASK, fps=3, model="no such model"))
    with pytest.raises(ValueError, match="every must be a positive integer"):
        run_score(ScoreConfig(tmp_path / "clip.npz", TASK, every=0, model="no such model"))
