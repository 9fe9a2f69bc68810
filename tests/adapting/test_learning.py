from __future__ import annotations

import math
import time
from pathlib import Path

import pytest
import torch

from robometer_rl.adapting import learning
from robometer_rl.adapting.examples import make_examples
from robometer_rl.adapting.features import FeatureFiles
from robometer_rl.adapting.learner import Learned
from robometer_rl.adapting.learning import Lesson, learn
from robometer_rl.models.compact.network import KeypointNetwork
from tests.adapting.recordings import recordings, tower
from tests.models.compact.tiny import SHAPE

CPU = torch.device("cpu")


@pytest.fixture
def lessons(tmp_path: Path) -> list[Lesson]:
    files = FeatureFiles(tmp_path, tower(), CPU, 0)
    return [
        Lesson(each, [files.get(each.episode.frames, view) for view in (0, 1)]) for each in make_examples(recordings(4))
    ]


def network() -> KeypointNetwork:
    torch.manual_seed(0)
    return KeypointNetwork(SHAPE)


def taught(lessons: list[Lesson], made: KeypointNetwork, steps: int, seconds: float = 1e6) -> Learned:
    return learn(
        made,
        lessons[::2],
        lessons[1::2],
        maps=tower().maps,
        steps=steps,
        deadline=time.monotonic() + seconds,
        device=CPU,
        seed=0,
    )


def test_the_same_seed_learns_the_same(lessons: list[Lesson]) -> None:
    one, other = network(), network()
    first, second = taught(lessons, one, 3), taught(lessons, other, 3)
    # Products in 16 bits are rounded by where in memory they lie, and the first steps have the size of the rate.
    assert first.loss == pytest.approx(second.loss, abs=0.01)
    for name, tensor in one.state_dict().items():
        torch.testing.assert_close(other.state_dict()[name], tensor, atol=1e-2, rtol=0)


def test_it_learns(lessons: list[Lesson]) -> None:
    few, many = taught(lessons, network(), 1), taught(lessons, network(), 200)
    assert many.loss < few.loss - 0.05
    assert (many.steps, many.interrupted) == (200, False)


def test_the_clock_ends_it_but_not_before_the_first_step(lessons: list[Lesson]) -> None:
    assert taught(lessons, network(), 10_000, seconds=-1.0).steps == 1


def test_the_best_weights_are_kept(lessons: list[Lesson], monkeypatch: pytest.MonkeyPatch) -> None:
    """Judged after every step; the second judgement is the best."""
    monkeypatch.setattr(learning, "_JUDGED_EVERY", 1)
    seen: list[dict[str, torch.Tensor]] = []
    losses = iter([0.5, 0.3, 0.4, 0.6, 0.6])

    def loss(self: object, judged: KeypointNetwork) -> float:
        seen.append({name: tensor.clone() for name, tensor in judged.state_dict().items()})
        return next(losses)

    monkeypatch.setattr(learning._Judge, "loss", loss)
    made = network()
    assert taught(lessons, made, 4).best_step == 2
    for name, tensor in made.state_dict().items():
        assert torch.equal(tensor, seen[1][name])


def test_an_interruption_keeps_the_best_so_far(lessons: list[Lesson], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(learning, "_JUDGED_EVERY", 1)
    drawn = learning._Batches.loss
    steps = iter(range(100))

    def interrupted(self: learning._Batches, made: KeypointNetwork) -> torch.Tensor:
        if next(steps) == 2:
            raise KeyboardInterrupt
        return drawn(self, made)

    monkeypatch.setattr(learning._Batches, "loss", interrupted)
    found = taught(lessons, network(), 50)
    assert (found.steps, found.interrupted) == (2, True)
    assert found.best_step in (1, 2)
    assert math.isfinite(found.loss)


def test_other_tasks_are_shown_with_wrong_instructions(lessons: list[Lesson]) -> None:
    batches = learning._Batches(lessons, tower().maps, CPU, 0)
    batches._by_task["another"] = ["fry an egg"]
    drawn = [batches._instruction(lessons[0].example) for _ in range(400)]
    wrong = [text for text, is_wrong in drawn if is_wrong]
    assert set(wrong) == {"fry an egg"}
    assert 20 < len(wrong) < 120
    assert {text for text, is_wrong in drawn if not is_wrong} == {lessons[0].example.episode.task}


def test_the_learning_rate_rises_and_falls() -> None:
    rates = [learning.rate_at(part) for part in (0.0, 0.05, 0.1, 0.5, 1.0, 2.0)]
    assert rates[0] < rates[1] < rates[2] == pytest.approx(1.0)
    assert rates[2] > rates[3] > rates[4] == rates[5] == pytest.approx(0.0)
