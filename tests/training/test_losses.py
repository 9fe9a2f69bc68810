import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import tensor

from robometer_rl.training.losses import ClassCounts, count_classes, preference_loss, progress_loss, success_loss

FIXTURES = Path(__file__).parents[1] / "fixtures" / "robometer_tiny"


@pytest.fixture(scope="module")
def arrays():
    with np.load(FIXTURES / "losses.npz") as data:
        return {name: torch.from_numpy(data[name]) for name in data}


@pytest.fixture(scope="module")
def values():
    return json.loads((FIXTURES / "losses.json").read_text())


@pytest.mark.parametrize(
    ("case", "predictions", "targets", "frame_mask", "loss_type"),
    [
        ("progress_discrete", "progress_logits", "target_c51", "frame_mask_ones", "discrete"),
        ("progress_discrete_no_frame_mask", "progress_logits", "target_c51", None, "discrete"),
        ("progress_discrete_last_mask", "progress_logits", "target_c51", "frame_mask_last", "discrete"),
        ("progress_discrete_hard_bins", "progress_logits", "target_hard_bins", "frame_mask_ones", "discrete"),
        ("progress_l2", "progress_pred_continuous", "target_continuous", "frame_mask_ones", "l2"),
        ("progress_l1", "progress_pred_continuous", "target_continuous", "frame_mask_ones", "l1"),
        ("progress_l2_no_frame_mask", "progress_pred_continuous", "target_continuous", None, "l2"),
    ],
)
def test_legacy_progress_loss_and_gradient_equal_the_reference(
    arrays, values, case, predictions, targets, frame_mask, loss_type
):
    mask = arrays["sample_mask"] if frame_mask is None else arrays["sample_mask"] * arrays[frame_mask]
    leaf = arrays[predictions].clone().requires_grad_()
    loss = progress_loss(leaf, arrays[targets], mask, loss_type, legacy=True)
    loss.backward()
    assert loss.item() == pytest.approx(values[case]["loss"], abs=1e-6)
    torch.testing.assert_close(leaf.grad, arrays[f"{case}__grad"], atol=1e-6, rtol=1e-4)


def test_legacy_progress_loss_is_the_mean_divided_by_the_clip_length(arrays):
    mask = arrays["sample_mask"] * arrays["frame_mask_ones"]
    legacy = progress_loss(arrays["progress_logits"], arrays["target_c51"], mask, legacy=True)
    mean = progress_loss(arrays["progress_logits"], arrays["target_c51"], mask)
    assert mean.item() == pytest.approx(8 * legacy.item(), rel=1e-5)


@pytest.mark.parametrize("case", ["success_discrete", "success_discrete_quality", "success_min_success_0.3"])
def test_legacy_success_loss_and_gradient_equal_the_reference(arrays, values, case):
    used = arrays[f"{case}__masked_loss"] != 0
    leaf = arrays["success_logits"].clone().requires_grad_()
    labels = arrays["success_labels"]
    loss = success_loss(leaf, labels, used, legacy=True)
    loss.backward()
    assert loss.item() == pytest.approx(values[case]["loss"], rel=1e-5)
    torch.testing.assert_close(leaf.grad, arrays[f"{case}__grad"], atol=1e-6, rtol=1e-4)
    assert [count.item() for count in count_classes(labels, used)] == [
        values[case]["num_positives"],
        values[case]["num_negatives"],
    ]


def test_success_loss_gives_both_classes_the_same_weight():
    logits = tensor([2.0, -1.0, -1.0, -1.0])
    labels = tensor([1.0, 0.0, 0.0, 0.0])
    expected = 0.5 * (np.log1p(np.exp(-2.0)) + np.log1p(np.exp(-1.0)))
    assert success_loss(logits, labels, torch.ones(4)).item() == pytest.approx(expected, rel=1e-6)


def test_success_loss_of_one_class_is_its_mean_and_of_nothing_is_zero():
    logits = tensor([0.0, 0.0])
    assert success_loss(logits, torch.zeros(2), torch.ones(2)).item() == pytest.approx(np.log(2))
    assert success_loss(logits, torch.zeros(2), torch.zeros(2)).item() == 0.0
    assert progress_loss(torch.zeros(2, 10), torch.zeros(2, dtype=torch.long), torch.zeros(2)).item() == 0.0


def test_preference_loss_prefers_the_first_for_label_one():
    assert preference_loss(tensor([3.0]), tensor([1.0])) < preference_loss(tensor([3.0]), tensor([0.0]))
    assert preference_loss(tensor([1000.0]), tensor([0.0])).item() == pytest.approx(50.0)


def test_pieces_with_different_masks_add_up_to_the_whole_batch():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(12, 10, generator=generator, requires_grad=True)
    success = torch.randn(12, generator=generator, requires_grad=True)
    targets = torch.rand(12, 10, generator=generator).softmax(-1)
    labels = (torch.arange(12) % 5 == 0).float()
    mask = (torch.arange(12) % 3 != 1).float()
    whole = progress_loss(logits, targets, mask) + success_loss(success, labels, mask)
    expected = torch.autograd.grad(whole, [logits, success])
    counts = ClassCounts(*count_classes(labels, mask))
    pieces = [slice(0, 2), slice(2, 7), slice(7, 12)]
    total = sum(
        progress_loss(logits[piece], targets[piece], mask[piece], normalizer=mask.sum())
        + success_loss(success[piece], labels[piece], mask[piece], normalizer=counts)
        for piece in pieces
    )
    assert isinstance(total, torch.Tensor)
    assert total.item() == pytest.approx(whole.item(), rel=1e-6)
    for actual, gradient in zip(torch.autograd.grad(total, [logits, success]), expected, strict=True):
        torch.testing.assert_close(actual, gradient, atol=1e-6, rtol=1e-5)
