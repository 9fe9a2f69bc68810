"""The same checkpoint in LeRobot's own port of the Robometer: pictures, words and numbers are those of this library."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip("lerobot.rewards.robometer", reason="run by `make test-lerobot`")

from lerobot.rewards.robometer.modeling_robometer import (  # pyright: ignore[reportMissingImports]
    ROBOMETER_FEATURE_PREFIX,
    RobometerRewardModel,
    decode_progress_outputs,
)
from lerobot.rewards.robometer.processor_robometer import (  # pyright: ignore[reportMissingImports]
    RobometerEncoderProcessorStep,
)

from robometer_rl import Clip, load_reward_model
from tests.golden import BASE, CHECKPOINT, LOGITS, clips, frames
from tests.models.robometer.test_checkpoint import lerobot

CLIPS = {
    "one size": clips("progress_batch", "prog0", "prog1", "prog2"),
    "a size that is not a multiple of 32": [Clip(frames("odd"), "push the button")],
    "small, three frames": [Clip(frames("small"), "Öffne die 'Schublade' …")],
    "one frame": [Clip(frames("prog0")[:1], "push the button")],
}


@pytest.fixture(scope="module")
def theirs(tmp_path_factory: pytest.TempPathFactory) -> RobometerRewardModel:
    directory = lerobot(tmp_path_factory.mktemp("theirs"), torch_dtype="float32", device="cpu", pretrained_path="here")
    return RobometerRewardModel.from_pretrained(directory, strict=True)


@pytest.mark.parametrize("name", CLIPS)
def test_progress_and_success_are_those_of_lerobots_port(theirs: RobometerRewardModel, name: str) -> None:
    encoder = RobometerEncoderProcessorStep(base_model_id=str(BASE))
    for clip in CLIPS[name]:
        encoded = encoder.encode_samples([(clip.read(), clip.task)])
        with torch.inference_mode():
            progress, success = theirs._compute_rbm_logits(dict(encoded))
        expected = decode_progress_outputs(progress, success, is_discrete_mode=True)
        (ours,) = load_reward_model(CHECKPOINT).predict([clip])
        # Before Pillow 13, which LeRobot does not take, frames were resized in another order of their axes.
        tolerance = LOGITS if "multiple" not in name else 1e-3
        np.testing.assert_allclose(ours.progress, expected["progress_pred"][0], rtol=0, atol=tolerance)
        assert ours.success is not None
        np.testing.assert_allclose(ours.success, expected["success_probs"][0], rtol=0, atol=tolerance)


def test_a_reward_is_progress_in_the_last_frame(theirs: RobometerRewardModel) -> None:
    (clip, *_) = CLIPS["one size"]
    encoded = RobometerEncoderProcessorStep(base_model_id=str(BASE)).encode_samples([(clip.read(), clip.task)])
    reward = theirs.compute_reward({f"{ROBOMETER_FEATURE_PREFIX}{name}": value for name, value in encoded.items()})
    (ours,) = load_reward_model(CHECKPOINT).predict([clip])
    np.testing.assert_allclose(reward.numpy(), ours.progress[-1:], rtol=0, atol=LOGITS)


def test_what_lerobot_saves_is_loaded_here(theirs: RobometerRewardModel, tmp_path: Path) -> None:
    theirs.save_pretrained(tmp_path / "saved")
    clip = CLIPS["one size"][0]
    (ours,), (saved,) = (load_reward_model(name).predict([clip]) for name in (CHECKPOINT, tmp_path / "saved"))
    np.testing.assert_allclose(saved.progress, ours.progress, rtol=0, atol=1e-5)
