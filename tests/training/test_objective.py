"""The legacy loss against one training step of the reference, through its network: losses and gradients."""

import numpy as np
import pytest
import torch
from torch.nn.functional import one_hot

from robometer_rl.data.targets import progress_targets, success_labels, success_mask, two_hot
from robometer_rl.frames import Clip
from robometer_rl.models.robometer.checkpoint import load_checkpoint
from robometer_rl.training.collate import TrainingBatch
from robometer_rl.training.config import LossWeights
from robometer_rl.training.objective import Objective
from tests.golden import CHECKPOINT, arrays, frames, report

RECORDED = arrays("train_step")
SETUP = report("train_step")["setup"]
WEIGHTS = LossWeights(progress=1.0, success=1.0, preference=1.0, grounding=0.0, legacy=True)
PARTS = {
    "progress": {"progress": "train/prog_loss", "success": "train/success_loss"},
    "preference": {
        "progress": "train/pref_prog_loss",
        "success": "train/pref_success_loss",
        "preference": "train/preference_loss",
    },
}


@pytest.fixture
def checkpoint():
    return load_checkpoint(CHECKPOINT)


def _shown(kind):
    """What the reference was shown: name, quality and frames of every clip, trajectory A of a pair first."""
    if kind == "progress":
        return [tuple(clip[:3]) for clip in SETUP["progress"]]
    ordered = []
    for pair, label in zip(SETUP["preference"], RECORDED["preference__preference_labels"], strict=True):
        chosen, rejected = (tuple(pair[side]) for side in ("chosen", "rejected"))
        ordered += [chosen, rejected] if label == 1 else [rejected, chosen]
    return ordered


def _batch(checkpoint, kind):
    clips, progress, success, known = [], [], [], []
    for name, quality, order in _shown(kind):
        clips.append(Clip(frames(name)[order], SETUP["task"]))
        ramp = progress_targets(order, len(order), legacy=True)
        progress.append(ramp)
        success.append(success_labels(ramp, quality))
        known.append(success_mask(ramp, success[-1], quality))
    pairs = kind == "preference"
    processor = checkpoint.processor
    targets = torch.from_numpy(two_hot(np.concatenate(progress), 10))
    count = len(targets)
    return TrainingBatch(
        clips=None if pairs else processor.progress_inputs(clips),
        pairs=processor.preference_inputs(list(zip(clips[::2], clips[1::2], strict=True))) if pairs else None,
        progress=targets,
        progress_mask=torch.from_numpy(_recorded_mask(kind)).float(),
        success=torch.from_numpy(np.concatenate(success)),
        success_mask=torch.from_numpy(np.concatenate(known)).float(),
        preference=torch.from_numpy(RECORDED["preference__preference_labels"]).float() if pairs else torch.zeros(0),
        said=torch.zeros(count, dtype=torch.long),
        shown=torch.zeros(count, dtype=torch.long),
    )


def _recorded_targets(kind):
    if kind == "progress":
        return RECORDED["progress__target_progress"].reshape(-1, 10)
    sides = [RECORDED[f"preference__target_progress_{side}"] for side in "AB"]
    return np.stack(sides, axis=1).reshape(-1, 10)


def _recorded_mask(kind):
    """Per frame: whether its clip counts, and whether it does."""
    if kind == "progress":
        counts, frame = (RECORDED[f"progress__{name}"] for name in ("target_progress_mask", "predict_last_frame_mask"))
        return (counts.reshape(-1, 1) * frame).reshape(-1)
    sides = [
        RECORDED[f"preference__target_progress_{side}_mask"].reshape(-1, 1)
        * RECORDED[f"preference__predict_last_frame_mask_{side}"]
        for side in "AB"
    ]
    return np.stack(sides, axis=1).reshape(-1)


@pytest.mark.parametrize("kind", ["progress", "preference"])
def test_a_step_equals_the_references(checkpoint, kind):
    batch = _batch(checkpoint, kind)
    np.testing.assert_allclose(batch.progress, _recorded_targets(kind), atol=1e-6)
    objective = Objective(checkpoint, WEIGHTS).eval()
    loss = objective(batch)["loss"]
    recorded = report("train_step")[kind]
    assert loss.item() == pytest.approx(recorded["total"], abs=1e-4)
    sums = objective.take_sums()
    for name, reference in PARTS[kind].items():
        assert sums[name] == pytest.approx(recorded["info"][reference], abs=1e-4), name
    loss.backward()
    for key, gradient in RECORDED.items():
        if key.startswith(f"{kind}__grad__"):
            torch.testing.assert_close(
                _gradient(checkpoint, key.split("__")[-1]), torch.from_numpy(gradient), atol=1e-4, rtol=1e-3, msg=key
            )


def _gradient(checkpoint, name):
    network = checkpoint.network
    if name == "prog_token_embedding":
        return network.model.language_model.embed_tokens.weight.grad[network.special.progress]
    parameter = network.get_parameter(name)
    return torch.zeros_like(parameter) if parameter.grad is None else parameter.grad


def test_only_the_first_trajectory_of_a_pair_is_supervised(checkpoint):
    batch = _batch(checkpoint, "preference")
    objective = Objective(checkpoint, WEIGHTS).eval()
    before = objective(batch)["loss"].item()
    second = torch.tensor([0.0] * 8 + [1.0] * 8).repeat(2).bool()
    batch.progress[second] = one_hot(torch.tensor(3), 10).float()
    batch.success[second] = 1.0
    assert objective(batch)["loss"].item() == before
    batch.progress[~second] = one_hot(torch.tensor(3), 10).float()
    assert objective(batch)["loss"].item() != before


def test_by_default_both_are_supervised_on_the_scale_of_their_mean(checkpoint):
    batch = _batch(checkpoint, "progress")
    default = Objective(checkpoint, LossWeights(success=0.0, grounding=0.0)).eval()(batch)["loss"]
    legacy = Objective(checkpoint, LossWeights(success=0.0, grounding=0.0, legacy=True)).eval()(batch)["loss"]
    assert default.item() == pytest.approx(8 * legacy.item(), rel=1e-5)
