"""Contradictions are refused when a configuration is made, before anything is read."""

from dataclasses import asdict
from pathlib import Path

import pytest

from robometer_rl.training.config import LoRA, LossWeights, Selection, StageConfig, TrainConfig, VisionPretraining
from robometer_rl.training.sampling import PairStrategies, SamplingConfig

START = {"start": "mini", "pretraining": VisionPretraining(steps=0)}
NAN = float("nan")
JOINT = StageConfig(steps=1, vision_learning_rate=1e-4)


def _config(**changes):
    return TrainConfig(data=(Path("store"),), output=Path("run"), **changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"feature_views": 1}, "augment has no effect"),
        ({"lora": LoRA(rank=4)}, "a start checkpoint"),
        ({**START, "lora": LoRA(rank=4, part="visual"), "joint": JOINT}, "joint stage"),
        ({**START, "lora": LoRA(rank=4, part="visual"), "frozen": StageConfig(steps=0)}, "joint stage"),
        ({"selection": Selection(every=5), "validation_fraction": 0.0}, "needs a split"),
        ({"weights": (1.0, 2.0)}, "one number for each of the 1 places in data, got 2"),
        ({"weights": (0.0,)}, "weights must be numbers above 0"),
        ({"weights": (NAN,)}, "weights must be numbers above 0"),
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
        (lambda: Selection(every=-1), "every of Selection must be a whole number of at least 0, got -1"),
        (lambda: Selection(episodes=0), "episodes"),
        (lambda: LossWeights(progress=NAN), r"progress of LossWeights must be a number in \[0, inf\), got nan"),
        (lambda: LossWeights(preference=-1.0), "preference"),
        (lambda: LossWeights(0.0, 0.0, 0.0, 0.0), "must be above 0, got 0 for all"),
        (lambda: LoRA(rank=1, alpha=0), "alpha"),
        (lambda: LoRA(rank=1, dropout=1.0), r"dropout of LoRA must be a number in \[0, 1\), got 1.0"),
        (lambda: LoRA(rank=1, targets=()), "at least one layer"),
        (lambda: StageConfig(steps=-1), "steps"),
        (lambda: StageConfig(max_grad_norm=-1.0), "max_grad_norm"),
        (lambda: StageConfig(vision_learning_rate=0.0), "vision_learning_rate"),
        (lambda: _config(save_every=0), "save_every"),
        (lambda: _config(seed=2**32), "seed"),
        (lambda: _config(validation_fraction=NAN), "validation_fraction"),
    ],
)
def test_values_out_of_range(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize("stage", [StageConfig, VisionPretraining])
@pytest.mark.parametrize(
    ("name", "wrong", "right"),
    [
        ("learning_rate", (0.0, -1e-3, NAN, float("inf")), (1e-9,)),
        ("weight_decay", (-0.1, NAN, float("inf")), (0.0,)),
        ("warmup", (-0.1, 1.1, NAN), (0.0, 1.0)),
        ("steps", (-1, 2**40), (0,)),
        ("batch_size", (0, -1), (1,)),
    ],
)
def test_schedules(stage, name, wrong, right):
    for value in right:
        stage(**{name: value})
    for value in wrong:
        with pytest.raises(ValueError, match=f"{name} of {stage.__name__} must be .*, got {value}"):
            stage(**{name: value})


def test_pairs_of_people_are_drawn_where_there_are_any():
    people = Path("preferences.jsonl")
    assert _config(preferences=people).sampling.pairs.human == pytest.approx(sum(asdict(PairStrategies()).values()))
    own = SamplingConfig(pairs=PairStrategies(human=0.3))
    assert _config(preferences=people, sampling=own).sampling is own
    alone = SamplingConfig(pairs=PairStrategies(0, 0, 0, 0, 0, human=1))
    assert _config(preferences=people, sampling=alone).sampling is alone
    assert _config().sampling.pairs.human == 0
    with pytest.raises(ValueError, match="name them with preferences"):
        _config(sampling=own)
    with pytest.raises(ValueError, match=r"set sampling\.pair_fraction above 0"):
        _config(preferences=people, sampling=SamplingConfig(pair_fraction=0.0))


def test_one_place_is_given_by_its_path():
    given = [TrainConfig(data=place, output=Path("run")) for place in (Path("store"), "store", (Path("store"),))]  # pyright: ignore[reportArgumentType]
    assert [config.data for config in given] == [(Path("store"),)] * 3
