"""What the benchmarks ask is well-formed, and fixed."""

import pytest

from robometer_rl.collecting.simulators import simulator_of
from robometer_rl.data.published import published
from robometer_rl.evaluation.benchmark.commands import BenchmarkConfig
from robometer_rl.evaluation.benchmark.definitions import NAMES, benchmark


@pytest.mark.parametrize("name", NAMES)
def test_every_benchmark_asks_about_bad_behaviour_first(name):
    made = benchmark(name)
    kinds = list(made.kinds)
    assert kinds[-1] == "alignment", "a clock is perfect there"
    assert "ranking" in kinds
    assert all(drawing.max_frames == 8 and not drawing.padded for drawing in made.kinds.values())
    assert BenchmarkConfig(name, model=("clock",)).folder.name == name


@pytest.mark.parametrize("name", [name for name in NAMES if benchmark(name).recordings])
def test_recordings_are_of_tasks_that_there_are_and_of_goals_that_training_never_sees(name):
    for recordings in benchmark(name).recordings.values():
        skills = {skill for task in recordings.tasks for skill in simulator_of(task).skills_of(task)}
        assert all(recordings.episodes.of(skill) for skill in skills), "every way to fail is there"
        assert recordings.split == "test"
        assert recordings.seed not in (0, 1, 7), "with which robometer-mini's data was recorded"


def test_published_numbers_are_about_sets_of_the_benchmark():
    for name in NAMES:
        made = benchmark(name)
        keys = set() if made.group is None else set(published().keys([made.group], ["eval"]))
        assert {number.set for number in made.published} <= keys | {"mean"}
        assert all(number.kind in made.kinds and number.where for number in made.published)


def test_a_name_that_is_none_is_an_error_in_words():
    with pytest.raises(ValueError, match="no benchmark 'meta-world'; expected one of metaworld, libero"):
        benchmark("meta-world")


def test_options_are_checked_before_anything_is_recorded(tmp_path):
    (tmp_path / "file").write_text("")
    for fields, words in (
        ({"model": ()}, "got no model"),
        ({"limit": 0}, "limit must be at least 1, got 0"),
        ({"output": tmp_path / "file"}, "output must be a folder"),
    ):
        with pytest.raises(ValueError, match=words):
            BenchmarkConfig("metaworld", **{"model": ("clock",), **fields})
