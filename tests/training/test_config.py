"""Contradictions are refused when a configuration is made, before anything is read."""

from pathlib import Path

import pytest

from robometer_rl.training.config import LoRA, Selection, StageConfig, TrainConfig, VisionPretraining

START = {"start": "mini", "pretraining": VisionPretraining(steps=0)}
JOINT = StageConfig(steps=1, vision_learning_rate=1e-4)


def _config(**changes):
    return TrainConfig(data=Path("store"), output=Path("run"), **changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"feature_views": 1}, "augment has no effect"),
        ({"lora": LoRA(rank=4)}, "a start checkpoint"),
        ({**START, "lora": LoRA(rank=4, part="visual"), "joint": JOINT}, "joint stage"),
        ({**START, "lora": LoRA(rank=4, part="visual"), "frozen": StageConfig(steps=0)}, "joint stage"),
        ({"selection": Selection(every=5), "validation_fraction": 0.0}, "needs a split"),
    ],
)
def test_contradictions_between_options(changes, message):
    with pytest.raises(ValueError, match=message):
        _config(**changes)


@pytest.mark.parametrize(
    "changes",
    [
        {"feature_views": 1, "augment": False},
        {"feature_views": 1, "frozen": StageConfig(steps=0)},
        {**START, "lora": LoRA(rank=4), "joint": JOINT},
        {"selection": Selection(every=5, split="validation"), "validation_fraction": 0.0},
    ],
)
def test_what_goes_together(changes):
    _config(**changes)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: StageConfig(batch_size=0), "batch_size"),
        (lambda: StageConfig(accumulate=0), "accumulate"),
        (lambda: StageConfig(bucket_batches=0), "bucket_batches"),
        (lambda: LoRA(rank=-1), "rank"),
        (lambda: LoRA(rank=1, part="visual", new_tokens=True), "new_tokens"),
        (lambda: Selection(every=1, metrics=()), "at least one metric"),
        (lambda: Selection(keep=0), "keep"),
    ],
)
def test_values_out_of_range(make, message):
    with pytest.raises(ValueError, match=message):
        make()
