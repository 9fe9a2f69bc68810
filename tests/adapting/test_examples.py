from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from robometer_rl.adapting.examples import MOST_FRAMES, make_examples, outcome, split_examples
from tests.adapting.recordings import LENGTH, recording, recordings


@pytest.mark.parametrize(
    ("fields", "basis"),
    [
        ({"progress": np.linspace(0, 0.3, LENGTH)}, "progress"),
        ({}, "distance"),
        ({"distance": None}, "success"),
        ({"distance": None, "success": None}, "outcome"),
    ],
)
def test_what_labels_are_taken_from(fields: dict[str, Any], basis: str) -> None:
    (example,) = make_examples([recording("half", 1, **fields)])
    assert example.basis == basis
    assert example.measured == (basis in ("progress", "distance"))
    assert not example.succeeds


def test_the_end_of_a_failure_is_worth_nothing_where_only_success_was_judged() -> None:
    done, failed = make_examples([recording("expert", 1, distance=None), recording("half", 2, distance=None)])
    assert done.labels.progress_known.all()
    assert done.labels.progress[-1] == 1.0
    assert failed.labels.progress_known.tolist() == [False] * (LENGTH // 2) + [True] * (LENGTH - LENGTH // 2)
    assert failed.labels.progress.max() == 0.0


def test_a_graded_failure_is_worth_its_grade() -> None:
    (graded,) = make_examples([recording("half", 1, distance=None, partial_success=0.4)])
    assert graded.labels.progress[-1] == pytest.approx(0.4)
    assert graded.labels.progress_known[-1]


def test_long_episodes_are_thinned_with_their_labels() -> None:
    long = recording("expert", 1)
    frames, count = np.repeat(long.frames[:], 20, axis=0), 20 * LENGTH
    ramp = np.linspace(0, 1, count)
    (example,) = make_examples([replace(long, frames=frames, success=ramp > 0.99, distance=None, progress=ramp)])
    assert len(example.episode) == len(example.labels.progress) == MOST_FRAMES
    np.testing.assert_allclose(example.labels.progress, np.linspace(0, 1, MOST_FRAMES), atol=0.01)


def test_every_kind_is_divided_and_seeds_stay_together() -> None:
    twins = [replace(each, id=f"{each.id}-again") for each in recordings()]
    examples = make_examples([*recordings(), *twins])
    split = split_examples(examples, 0.25, seed=0)
    assert split.by == "seed"
    for kind in ("expert", "half", "random"):
        assert sum(outcome(each) == kind for each in split.held_out) == 6
    kept_out = {each.episode.seed for each in split.held_out}
    assert kept_out.isdisjoint({each.episode.seed for each in split.training})
    assert len(split.training) + len(split.held_out) == len(examples)
    again = split_examples(examples, 0.25, seed=0)
    assert [each.episode.id for each in again.held_out] == [each.episode.id for each in split.held_out]


def test_what_was_trained_on_is_never_kept_out_again() -> None:
    before = split_examples(make_examples(recordings(6)), 0.25, seed=0)
    trained = [each.episode.id for each in before.training]
    kept = [each.episode.id for each in before.held_out]
    grown = split_examples(make_examples(recordings(12)), 0.25, seed=0, trained_on=trained, kept=kept)
    found = {each.episode.id for each in grown.held_out}
    assert set(kept) < found
    assert found.isdisjoint(trained)
    assert len(found) in (8, 9, 10), "a quarter of what is new is kept out, too"


def test_without_seeds_episodes_are_divided() -> None:
    split = split_examples(make_examples([replace(each, seed=None) for each in recordings()]), 0.25, seed=0)
    assert split.by == "episode"
    assert len(split.held_out) == 9


def test_kinds_with_few_episodes_are_trained_on_and_still_held_out_together() -> None:
    kinds = [replace(recording("half", number), skill=f"kind {number // 2}") for number in range(10)]
    split = split_examples(make_examples(kinds), 0.2, seed=0)
    assert len(split.held_out) == 2
    assert len({outcome(each) for each in split.held_out}) == 2


def test_an_outcome_has_a_name_without_a_skill() -> None:
    examples = make_examples([recording("expert", 1, skill=None), recording("half", 2, skill=None)])
    assert [outcome(each) for each in examples] == ["success", "failure"]
