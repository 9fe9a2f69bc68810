from __future__ import annotations

import pytest
import torch

from robometer_rl.models.compact.network import KeypointNetwork, NetworkShape
from robometer_rl.models.compact.tower import COARSE, FINE, Features
from tests.models.compact.tiny import SHAPE


@pytest.fixture
def network() -> KeypointNetwork:
    torch.manual_seed(0)
    return KeypointNetwork(SHAPE).eval()


def features(count: int) -> Features:
    generator = torch.Generator().manual_seed(1)
    return Features(
        torch.randn(count, FINE, 8, 8, generator=generator), torch.randn(count, COARSE, 4, 4, generator=generator)
    )


@torch.inference_mode()
def test_a_detector_says_where_it_looks(network: KeypointNetwork) -> None:
    """Let the first detector see one bright pixel and nothing else: its place is that pixel's."""
    fine, coarse = features(1)
    fine.zero_()
    fine[0, 0, 2, 5] = 1.0
    network.fine.weight.zero_()
    network.fine.bias.zero_()
    network.fine.weight[0, 0] = 1.0
    network.coarse.weight.zero_()
    network.mix.weight.zero_()
    network.mix.weight[0, 0, 1, 1] = 1.0
    network.attend.weight.zero_()
    network.attend.bias.zero_()
    network.attend.weight[0, 0] = 100.0
    x, y = network.encode(Features(fine, coarse))[0, :2].tolist()
    assert (x, y) == pytest.approx((2 * 5 / 7 - 1, 2 * 2 / 7 - 1), abs=1e-4)


@torch.inference_mode()
def test_a_frame_is_answered_from_those_up_to_it(network: KeypointNetwork) -> None:
    vectors = network.encode(features(6))[None]
    tasks = network.tasks(["open the drawer"])
    whole = network(vectors, tasks)
    for length in range(1, 7):
        part = network(vectors[:, :length], tasks)
        torch.testing.assert_close(part.progress, whole.progress[..., :length])
        newest = network.newest(vectors, torch.tensor([length]), tasks)
        torch.testing.assert_close(newest.progress[:, 0], whole.progress[:, 0, length - 1])
        torch.testing.assert_close(newest.success[:, 0], whole.success[:, 0, length - 1])


@torch.inference_mode()
def test_instructions_of_a_batch_do_not_meddle(network: KeypointNetwork) -> None:
    together = network.tasks(["open", "close the big drawer", "push"])
    for row, text in zip(together, ["open", "close the big drawer", "push"], strict=True):
        torch.testing.assert_close(network.tasks([text])[0], row)


def test_heads_differ_and_answer_for_every_frame(network: KeypointNetwork) -> None:
    answers = network(network.encode(features(6)).reshape(2, 3, -1), network.tasks(["a", "b"]))
    assert answers.progress.shape == answers.success.shape == (SHAPE.heads, 2, 3)
    assert float((answers.progress[0] - answers.progress[1]).abs().min().detach()) > 0


@pytest.mark.parametrize("value", [0, -1, 1.5, True])
def test_a_shape_is_made_of_positive_integers(value: float) -> None:
    with pytest.raises(ValueError, match="heads of a network is a positive integer"):
        NetworkShape(heads=value)  # pyright: ignore[reportArgumentType]
