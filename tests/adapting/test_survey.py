from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

from robometer_rl.adapting.examples import make_examples, split_examples
from robometer_rl.adapting.survey import Survey, look_at
from robometer_rl.data.trajectory import Trajectory
from tests.adapting.recordings import TASK, recording, recordings


def survey(trajectories: Sequence[Trajectory]) -> Survey:
    examples = make_examples(trajectories)
    return look_at(examples, split_examples(examples, 0.2, 0))


def test_what_is_there_and_what_was_assumed() -> None:
    found = survey(recordings())
    assert (found.missing, found.hopeless) == ((), ())
    assert found.facts["episodes"] == "36, of which 12 succeed"
    assert found.facts["tasks"] == f"{TASK} (36)"
    assert found.facts["outcomes"] == "expert (12), half (12), random (12)"
    assert found.facts["frames"] == "32 x 32"
    assert found.facts["worth of a frame"].startswith("from the recorded distance")
    assert "by seed" in found.facts["training"]


def test_that_only_success_is_known_is_said_with_what_it_means() -> None:
    found = survey([replace(each, distance=None, seed=None) for each in recordings()])
    assert "only success was recorded" in found.facts["worth of a frame"]
    assert "second half of what never succeeds is worth nothing" in found.facts["worth of a frame"]
    assert "they have no seeds" in found.facts["training"]


def experts(count: int) -> list[Trajectory]:
    return [recording("expert", number) for number in range(count)]


@pytest.mark.parametrize(
    ("trajectories", "missing", "hopeless"),
    [
        (experts(36), "0 episodes fail: record 20 failures", "no episode fails"),
        ([recording("half", n) for n in range(36)], "0 episodes succeed: record 20", "no episode succeeds"),
        (recordings(3), "there are 9 episodes: record 60", "9 episodes are too few"),
        (
            experts(18) + [recording("random", 100 + n) for n in range(18)],
            "no failure gets anywhere near",
            None,
        ),
        (experts(18) + [recording("half", 100 + n) for n in range(18)], "every failure gets somewhere", None),
        (
            [replace(each, frames=np.zeros_like(each.frames)) for each in recordings()],
            None,
            "the pictures show nothing",
        ),
        (
            [replace(each, frames=np.repeat(each.frames[:1], len(each), axis=0)) for each in recordings()],
            None,
            "nothing moves in the pictures",
        ),
        (
            [recording("half", n) for n in range(38)] + experts(2),
            "2 episodes succeed: record 20",
            "of the episodes that are kept out",
        ),
        (
            [replace(each, frames=np.full_like(each.frames, (0, 90, 200))) for each in recordings()],
            None,
            "the pictures show nothing",
        ),
        (
            [replace(each, frames=np.zeros_like(each.frames)) for each in recordings()[::12]] + recordings(),
            "3 episodes show nothing, in one colour from end to end",
            None,
        ),
        (recordings(2) * 7, "36 episodes show what another one shows", "6 episodes (42 with copies of them) are too"),
        (
            [replace(each, seed=7) for each in recordings()],
            None,
            "every episode has the seed 7, so that all begin alike",
        ),
        ([replace(each, seed=n % 4) for n, each in enumerate(recordings())], "there are 4 seeds", None),
        (
            [replace(each, distance=np.full(len(each), 0.3)) for each in recordings()],
            None,
            "the recorded distance is no measure of progress: by it every frame in which the task is not done is worth",
        ),
        (
            [replace(each, distance=1.0 - np.asarray(each.distance)) for each in recordings()],  # larger is better
            None,
            "the recorded distance is no measure of progress",
        ),
        (
            [replace(each, progress=np.full(len(each), 0.5)) for each in recordings()],
            None,
            "the recorded progress is no measure of progress: by it every frame in which the task is not done is worth "
            "0.50. Record one that rises",
        ),
        (
            [replace(each, success=np.full(len(each), each.success[-1]), distance=None) for each in recordings()],
            None,
            "in every success the task counts as done in the first frame already",
        ),
        (
            [replace(recording("expert", 900 + n), success=np.ones(10, bool)) for n in range(2)] + recordings(),
            "in 2 episodes the task counts as done in the first frame",
            None,
        ),
    ],
)
def test_what_is_missing_is_said(trajectories: list[Trajectory], missing: str | None, hopeless: str | None) -> None:
    found = survey([replace(each, id=f"{n}") for n, each in enumerate(trajectories)])
    for expected, sentences in ((missing, found.missing), (hopeless, found.hopeless)):
        if expected is not None:
            assert any(sentence.startswith(expected) for sentence in sentences), sentences
    if hopeless is None:
        assert found.hopeless == ()
