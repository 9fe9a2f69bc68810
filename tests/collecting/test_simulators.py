import pytest

from robometer_rl.collecting.collect import EpisodeCounts
from robometer_rl.collecting.simulators import LIBERO, METAWORLD, SIMULATORS, SKILLS, simulator_of


def test_a_task_belongs_to_one_simulator():
    assert simulator_of("drawer-open") is METAWORLD
    assert simulator_of("libero_90-28") is LIBERO
    names = [task for simulator in SIMULATORS for task in simulator.tasks]
    assert len(names) == len(set(names))


def test_an_unknown_task_is_told_what_there_is():
    with pytest.raises(ValueError, match=r"'fly'.*drawer-open.*libero_90-28"):
        simulator_of("fly")


def test_every_skill_of_every_task_can_be_counted():
    counts = EpisodeCounts()
    for simulator in SIMULATORS:
        for task in simulator.tasks:
            assert set(simulator.skills_of(task)) <= set(SKILLS)
    assert all(counts.of(skill) >= 0 for skill in SKILLS)


def test_only_objects_are_dropped_or_mistaken():
    assert {"drop", "wrong_object"} <= set(LIBERO.skills_of("libero_spatial-0"))
    assert not {"drop", "wrong_object"} & set(LIBERO.skills_of("libero_90-28"))
    assert not {"drop", "wrong_object"} & set(METAWORLD.skills_of("pick-place"))
