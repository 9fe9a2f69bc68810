"""Layers written out against transformers' own, through whole models: streams, episodes and clips."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch

from robometer_rl import Clip, load_reward_model
from robometer_rl.frames import NestedFrames
from robometer_rl.models.robometer import decoder, vision
from robometer_rl.models.robometer.inference import Robometer
from robometer_rl.models.robometer.written_out import can_write_out
from robometer_rl.prediction import Prediction, StepPrediction
from robometer_rl.training.config import NetworkShape
from robometer_rl.training.from_scratch import make_checkpoint
from tests.golden import tiny

# Probabilities of what is computed in another order; in bfloat16 as docs/protocols.md has it.
CLOSE = {torch.float32: 1e-5, torch.bfloat16: 0.02}
TASK = "open the top drawer of the cabinet"
SHAPES = {
    "one-head-a-group": NetworkShape(
        hidden=128, layers=2, feed_forward=192, key_value_heads=2, vision_hidden=64, vision_layers=2,
        vision_feed_forward=96, deepstack=(0, 1), side=64,
    ),
    "four-heads-a-group": NetworkShape(
        hidden=256, layers=3, feed_forward=128, key_value_heads=1, vision_hidden=32, vision_layers=3,
        vision_feed_forward=64, deepstack=(), side=64,
    ),
}  # fmt: skip


def model_of(name: str, dtype: torch.dtype) -> Robometer:
    if name == "mini":
        model = load_reward_model("mini", dtype=str(dtype).removeprefix("torch."))
        assert isinstance(model, Robometer)
        return model
    checkpoint = make_checkpoint(SHAPES[name], [TASK], seed=0)
    checkpoint.network.eval().to(dtype)
    return Robometer(checkpoint, source=name, model_id=name)


def streamed(model: Robometer, histories: int) -> list[StepPrediction]:
    """A stride that doubles, histories of two sizes, and some that begin again or miss a step."""
    rng = np.random.default_rng(histories)
    sides = [64 + 32 * (row % 2) for row in range(histories)]
    stream = model.stream([TASK] * histories, NestedFrames(4))
    found = []
    for step in range(8):
        rows = [row for row in range(histories) if step != 5 or row % 3 == 0]
        if step == 4:
            stream.reset(list(range(0, histories, 2)))
        found.append(stream.append([rng.integers(0, 60, (sides[row], 64, 3), np.uint8) for row in rows], rows))
    return found


def asked(model: Robometer, histories: int) -> list[StepPrediction | Prediction]:
    frames = np.random.default_rng(0).integers(0, 60, (6, 64, 96, 3), np.uint8)
    clips = [Clip(frames, TASK), Clip(frames[:3], TASK)]
    return [*streamed(model, histories), *model.predict_steps(clips), *model.predict(clips)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize(
    ("name", "histories"), [*((name, count) for name in SHAPES for count in (1, 5)), ("mini", 1), ("mini", 16)]
)
def test_values_are_those_of_the_layers_themselves(
    name: str, histories: int, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = model_of(name, dtype)
    written_out = asked(model, histories)
    for module in (decoder, vision):
        monkeypatch.setattr(module, "can_write_out", lambda *_: False)
    for one, other in zip(written_out, asked(model, histories), strict=True):
        for values in ("progress", "success", "progress_distribution"):
            found, expected = np.asarray(getattr(one, values)), np.asarray(getattr(other, values))
            np.testing.assert_allclose(found, expected, rtol=0, atol=CLOSE[dtype])


@pytest.mark.parametrize(
    "part", [lambda: tiny().network.tower, lambda: tiny().network.decoder], ids=["tower", "decoder"]
)
def test_gradients_come_from_the_layers_themselves(part: Callable[[], torch.nn.Module]) -> None:
    here = torch.device("cpu")
    assert not can_write_out(part(), here)
    with torch.no_grad():
        assert can_write_out(part(), here)
        assert not can_write_out(part(), torch.device("meta"))
        with torch.autocast("cpu", torch.bfloat16):
            assert not can_write_out(part(), here)


@torch.inference_mode()
def test_what_a_pass_is_given_is_not_written_over() -> None:
    network = tiny().network
    embeddings = torch.randn((2, 5, 64), generator=torch.Generator().manual_seed(0))
    before = embeddings.clone()
    positions = torch.arange(5).expand(3, 2, 5)
    decoder.decode(network.decoder, embeddings, positions, torch.zeros(0, 0, 64), torch.zeros(0, dtype=torch.long))
    torch.testing.assert_close(embeddings, before, rtol=0, atol=0)
