"""Many trajectories as one sequence: equal to the list of them, whatever is taken of it."""

import pickle
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from robometer_rl.data.labels import label_trajectories
from robometer_rl.data.pack import PackConfig, pack
from robometer_rl.data.store import StoreError, TrajectoryStore
from robometer_rl.data.trajectories import Facts, Trajectories
from robometer_rl.data.verified import open_verified, selected
from robometer_rl.training.episodes import make_episodes
from tests.data.runs import assert_same, trajectory

UNJUDGED = {"success": None, "progress": None, "distance": None}


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """Half of it sealed, and half of it judged frame by frame."""
    pytest.importorskip("datasets")
    made = TrajectoryStore(tmp_path_factory.mktemp("many") / "store")
    for number in (0, 2, 3, 1, 4, 5):
        fields: dict[str, Any] = UNJUDGED if number % 2 else {}
        made.append(trajectory(f"run.{number}", seed=number, **fields))
        if number == 3:
            made.seal()
    return made


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.integers(0, 11), unique=True).map(sorted), st.data())
def test_a_part_of_a_part_is_what_it_is_of_a_list(store, numbers, data):
    twice = Trajectories.joined([selected(store).trajectories] * 2)
    names = [*store.ids(), *store.ids()]
    part = twice.subset(numbers)
    assert [each.id for each in part.facts()] == [names[number] for number in numbers]
    assert [each.id for each in part] == [names[number] for number in numbers]
    again = data.draw(st.lists(st.integers(0, max(len(numbers) - 1, 0)), unique=True).map(sorted)) if numbers else []
    assert [each.id for each in part.subset(again).facts()] == [names[numbers[number]] for number in again]
    with pytest.raises(IndexError):
        part[len(numbers)]


def test_facts_are_those_of_the_trajectories(store):
    many = selected(store).trajectories
    for fact, each in zip(many.facts(), many, strict=True):
        assert isinstance(fact, Facts)
        for name in ("id", "task", "quality_label", "data_source", "is_robot", "partial_success", "skill", "split"):
            assert getattr(fact, name) == getattr(each, name)
        assert (fact.instructions, fact.size, fact.judged, fact.tiled) == (
            each.instructions, each.size, each.judged, each.tiled,
        )  # fmt: skip
        assert dict(fact.metadata) == dict(each.metadata)
        assert len(fact) == len(each)


def test_labels_that_are_made_when_asked_for_are_those_that_are_made_at_once(store):
    many = selected(store).trajectories
    late, early = label_trajectories(many), label_trajectories(list(many))
    for one, other in zip(late, early, strict=True):
        for name in ("progress", "progress_known", "success", "success_known"):
            np.testing.assert_array_equal(getattr(one, name), getattr(other, name))
    for one, other in zip(make_episodes(many), make_episodes(list(many)), strict=True):
        assert (one.task, one.instructions, len(one), one.grade) == (
            other.task,
            other.instructions,
            len(other),
            other.grade,
        )
        np.testing.assert_array_equal(one.labels.progress, other.labels.progress)


def test_another_process_opens_the_index_itself(store):
    many = selected(store).trajectories
    content = pickle.dumps(many)
    assert_same(pickle.loads(content)[0], many[0])


def test_packed_stores_are_listed_and_damaged_rows_of_them_skipped(store, tmp_path):
    packed = pack(PackConfig(store.path, tmp_path / "packed"))
    found = open_verified(packed.path, lambda each: each.judged)
    assert [each.id for each in found.trajectories.facts()] == ["run.0", "run.2", "run.4"]
    content = (packed.path / "rows.arrow").read_bytes()
    (packed.path / "rows.arrow").write_bytes(content.replace(b"suboptimal", b"suboptim\xff\xff"))
    with pytest.raises(StoreError, match="6 of 6 trajectories"):
        open_verified(packed.path)
