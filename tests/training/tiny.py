"""A Robometer of a few thousand parameters, for tests of training."""

from __future__ import annotations

from robometer_rl.models.robometer.checkpoint import Checkpoint
from robometer_rl.training.config import NetworkShape
from robometer_rl.training.from_scratch import make_checkpoint

SHAPE = NetworkShape(
    hidden=64,
    layers=2,
    feed_forward=32,
    key_value_heads=1,
    vision_hidden=32,
    vision_layers=2,
    vision_feed_forward=32,
    deepstack=(0,),
    side=64,
)


def make_tiny(seed: int = 0, max_frames: int = 4) -> Checkpoint:
    return make_checkpoint(SHAPE, ["push the block", "pull the rope"], seed, max_frames)
