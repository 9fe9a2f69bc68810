"""An address is a model's name for every command, and the reference's client script works at our server."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import requests

from robometer_rl.cli import main
from robometer_rl.data.store import TrajectoryStore
from robometer_rl.data.trajectory import Trajectory
from robometer_rl.frames import Clip
from robometer_rl.models.loading import load_reward_model
from robometer_rl.prediction import Prediction
from robometer_rl.serving.service import Settings
from tests.fixed_models import BrightnessModel
from tests.golden import CHECKPOINT
from tests.relabeling.episodes import record, write_npz
from tests.serving.servers import Running, serving

FAMILY = """
from tests.fixed_models import BrightnessModel

def load(where):
    return BrightnessModel()
"""


@pytest.fixture
def local(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The name of a model in this process; results are written beside the test's other files."""
    (tmp_path / "brightness_family.py").write_text(FAMILY)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    return "brightness_family:x"


@pytest.fixture(scope="module")
def remote() -> Iterator[str]:
    with serving(BrightnessModel) as running:
        yield running.url


@pytest.fixture
def store(tmp_path: Path) -> str:
    """Episodes that grow brighter as far as they succeed."""
    made = TrajectoryStore(tmp_path / "store")
    for number in range(6):
        levels = np.linspace(0, 250 if number % 2 else 60 + number, 6).astype(np.uint8)
        frames = np.repeat(levels, 8 * 8 * 3).reshape(6, 8, 8, 3)
        success = levels > 200
        label = "successful" if success[-1] else "failure"
        made.append(Trajectory(str(number), "push", frames, label, "made-up", success=success))
    return str(made.path)


def test_score_says_the_same(local: str, remote: str) -> None:
    np.savez("clip.npz", frames=np.random.default_rng(0).integers(0, 256, (5, 16, 16, 3), dtype=np.uint8))
    for model, out in ((local, "local"), (remote, "remote")):
        assert main(["score", "clip.npz", "--task", "push", "--model", model, "--out", out]) == 0
    one, other = (Prediction.load(Path(out, "prediction.npz")) for out in ("local", "remote"))
    np.testing.assert_array_equal(one.progress, other.progress)
    np.testing.assert_array_equal(np.asarray(one.success), np.asarray(other.success))
    assert (one.protocol, one.model_id) == (other.protocol, other.model_id)


def test_evaluate_finds_the_same(local: str, remote: str, store: str) -> None:
    for model, out in ((local, "local.json"), (remote, "remote.json")):
        assert main(["evaluate", model, store, "--split", "train", "--output", out]) == 0
    one, other = (json.loads(Path(out).read_text()) for out in ("local.json", "remote.json"))
    assert one["metrics"] == other["metrics"]
    assert one["metrics"]["success_auroc"]["value"] == 1.0


def test_calibrate_chooses_the_same(local: str, remote: str, store: str) -> None:
    for model, out in ((local, "local"), (remote, "remote")):
        assert main(["calibrate", model, store, "--patience", "1", "--output", out]) == 0
    one, other = (json.loads(Path(out, "calibration.json").read_text()) for out in ("local", "remote"))
    assert one["chosen"] == other["chosen"]
    assert Path("local/reward.json").read_text() == Path("remote/reward.json").read_text()


@pytest.mark.slow
def test_workers_of_ray_label_by_an_address(local: str, remote: str, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("ray")
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    write_npz(Path("data"), {str(number): record(5, number) for number in range(4)})
    words = ["relabel", "data", "--task", "push"]
    assert main([*words, "--model", local, "--output", "local"]) == 0
    assert main([*words, "--model", remote, "--output", "remote", "--engine", "ray", "--workers", "2"]) == 0
    for number in range(4):
        one, other = (np.load(Path(out, f"{number}.npz")) for out in ("local", "remote"))
        np.testing.assert_array_equal(one["robometer/progress"], other["robometer/progress"])
        np.testing.assert_array_equal(one["rewards"], other["rewards"])


# --- The reference's client script ---


def evaluate_batch_npy(url: str, frames: np.ndarray, task: str, use_frame_steps: bool) -> tuple[np.ndarray, np.ndarray]:
    """The calls that the script makes, with the library that it uses."""
    key = "sample_0_trajectory_frames"
    array = io.BytesIO()
    np.save(array, frames)
    array.seek(0)
    trajectory = {
        "frames": {"__numpy_file__": key},
        "frames_shape": list(frames.shape),
        "task": task,
        "id": "0",
        "metadata": {"subsequence_length": len(frames)},
        "video_embeddings": None,
    }
    sample = json.dumps({"sample_type": "progress", "trajectory": trajectory})
    answer = requests.post(
        f"{url.rstrip('/')}/evaluate_batch_npy",
        files={key: (f"{key}.npy", array, "application/octet-stream")},
        data={"sample_0": sample, "use_frame_steps": str(use_frame_steps).lower()},
        timeout=120.0,
    )
    answer.raise_for_status()
    said = answer.json()
    progress = np.asarray(said["outputs_progress"]["progress_pred"][0], np.float32)
    return progress, np.asarray((said.get("outputs_success") or {}).get("success_probs", [[]])[0], np.float32)


@pytest.fixture(scope="module")
def with_token() -> Iterator[Running]:
    with serving(lambda: load_reward_model(CHECKPOINT), Settings(tokens=("secret",))) as running:
        yield running


def test_the_calls_of_the_reference_s_script_are_answered(with_token: Running) -> None:
    """Also its only way to show a token, which is to have it in the address."""
    url = with_token.url.replace("http://", "http://user:secret@")
    frames = np.random.default_rng(0).integers(0, 256, (5, 32, 32, 3), dtype=np.uint8)
    model = load_reward_model(CHECKPOINT)
    progress, success = evaluate_batch_npy(url, frames, "push", use_frame_steps=False)
    (expected,) = model.predict([Clip(frames, "push")])
    np.testing.assert_allclose(progress, expected.progress, atol=1e-6)
    np.testing.assert_allclose(success, np.asarray(expected.success), atol=1e-6)
    dense, _ = evaluate_batch_npy(url, frames, "push", use_frame_steps=True)
    shown = [Clip(frames[np.linspace(0, count - 1, 4).astype(int)], "push") for count in range(1, 6)]
    np.testing.assert_allclose(dense, [said.progress[-1] for said in model.predict(shown)], atol=1e-6)
    with pytest.raises(requests.HTTPError, match="401"):
        evaluate_batch_npy(with_token.url, frames, "push", use_frame_steps=False)
    with pytest.raises(requests.HTTPError, match="422"):
        evaluate_batch_npy(url, frames, "", use_frame_steps=False)
