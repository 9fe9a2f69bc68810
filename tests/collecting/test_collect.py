import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from robometer_rl.collecting.collect import (
    DEFAULT_TASKS,
    HELD_OUT_TASKS,
    CollectConfig,
    EpisodeCounts,
    RecordingMismatchError,
    _batches,
    _Episode,
    _interleaved,
    collect,
)
from robometer_rl.collecting.metaworld_skills import SKILLS, record_episode
from robometer_rl.data.store import TrajectoryStore
from robometer_rl.envs.metaworld import TASKS, make_env


def files(path: Path) -> dict[str, bytes]:
    return {str(file.relative_to(path)): file.read_bytes() for file in path.rglob("*") if file.is_file()}


def counts(**asked: int) -> EpisodeCounts:
    """What is asked, and nothing else."""
    return EpisodeCounts(**{**dict.fromkeys(SKILLS, 0), **asked})


def config(path: Path, **fields) -> CollectConfig:
    chosen = {"tasks": ("drawer-close", "plate-slide"), "episodes": counts(expert=1, random=1), "size": 32}
    return CollectConfig(path, **{**chosen, "frame_interval": 10, **fields})


def test_the_same_seed_gives_the_same_bytes_whatever_the_workers_and_the_interruptions(tmp_path):
    pytest.importorskip("metaworld", reason="needs the extra 'metaworld'")
    store = collect(config(tmp_path / "one", workers=1))
    assert sorted((t.metadata["environment"], t.skill) for t in store) == [
        ("drawer-close", "expert"),
        ("drawer-close", "random"),
        ("plate-slide", "expert"),
        ("plate-slide", "random"),
    ]
    store.verify()

    collect(config(tmp_path / "two", tasks=("plate-slide",), episodes=counts(expert=1)))
    begun = {name: (tmp_path / "two" / name).stat().st_mtime_ns for name in files(tmp_path / "two") if "frames" in name}
    collect(config(tmp_path / "two", tasks=("plate-slide", "drawer-close"), workers=2))
    assert files(tmp_path / "one") == files(tmp_path / "two")
    for name, modified in begun.items():
        assert (tmp_path / "two" / name).stat().st_mtime_ns == modified, f"{name} was recorded again"

    with pytest.raises(RecordingMismatchError, match=r"\(32, 10\).*\(48, 10\)"):
        collect(config(tmp_path / "one", size=48))
    assert len(collect(config(tmp_path / "one"))) == 4, "nothing is left to record"


MAIN = """
import sys
from pathlib import Path
from tests.collecting.test_collect import config, counts
from robometer_rl.collecting.collect import collect

if __name__ == "__main__":
    collect(config(Path(sys.argv[1]), tasks=("drawer-close",), episodes=counts(expert=6000), workers=1))
"""


@pytest.mark.parametrize(
    ("skill", "facts"),
    [
        ("noisy", {"noise": 0.38636, "pace": 0.85021, "expert_success_step": 67}),
        ("stop_halfway", {"pace": 0.86380, "expert_success_step": 71, "stop_step": 34}),
        ("wrong_place", {"pace": 0.71763, "expert_success_step": 79, "leave_step": 44}),
        ("random", {"noise": 1.15766, "pace": 0.70473, "expert_success_step": 86}),
    ],
)
def test_a_name_stands_for_the_same_episode_as_ever(tmp_path, skill, facts):
    """A recording of an earlier version can be continued: these were drawn when the skills were first recorded."""
    pytest.importorskip("metaworld", reason="needs the extra 'metaworld'")
    asked = CollectConfig(tmp_path)
    env = make_env("button-press-topdown", size=32)
    seeds = _Episode("button-press-topdown", skill, 0).seeds(asked)
    metadata = record_episode(env, skill, seeds, trajectory_id="any", frame_interval=30).metadata
    env.close()
    assert {name: metadata[name] for name in facts} == pytest.approx(facts, abs=1e-5)


def test_an_interrupt_leaves_a_valid_store(tmp_path):
    pytest.importorskip("metaworld", reason="needs the extra 'metaworld'")
    program, output = tmp_path / "main.py", tmp_path / "store"
    program.write_text(MAIN)
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    process = subprocess.Popen([sys.executable, str(program), str(output)], env=environment, start_new_session=True)
    while not list((output / "rows").glob("*.json")):
        assert process.poll() is None
        time.sleep(0.1)
    os.killpg(process.pid, signal.SIGINT)  # what a terminal does on Ctrl-C: everyone is told
    process.wait()
    assert process.returncode != 0
    store = TrajectoryStore(output)
    store.verify()
    assert 1 <= len(store) < 6000


def test_any_part_of_a_recording_is_balanced():
    asked = CollectConfig(Path("unused"), episodes=counts(expert=20, noisy=10, random=10, hover=10, flail=10))
    episodes = list(_interleaved(asked))
    assert len(episodes) == len(set(episodes)) == 60 * len(DEFAULT_TASKS)
    third = episodes[: len(episodes) // 3]
    per_task = {task: sum(episode.task == task for episode in third) for task in DEFAULT_TASKS}
    assert set(per_task.values()) == {20}
    experts = sum(episode.skill == "expert" for episode in third) / len(third)
    assert experts == pytest.approx(1 / 3, abs=0.05)


def test_batches_have_one_task_and_lose_nothing():
    episodes = list(
        _interleaved(CollectConfig(Path("unused"), episodes=counts(expert=7, noisy=3, stop_halfway=1, undo=2)))
    )
    batches = list(_batches(episodes))
    assert all(len({episode.task for episode in batch}) == 1 for batch in batches)
    assert sorted(str(episode) for batch in batches for episode in batch) == sorted(map(str, episodes))


def test_names_and_seeds_tell_every_episode_apart(tmp_path):
    seen: set[tuple[int, ...]] = set()
    names: set[str] = set()
    count = 0
    for split in ("train", "test"):
        for seed in (0, 1):
            asked = CollectConfig(tmp_path, split=split, seed=seed, episodes=EpisodeCounts(**dict.fromkeys(SKILLS, 3)))
            for episode in _interleaved(asked):
                seen.add(tuple(episode.seeds(asked).generate_state(4)))
                names.add(episode.name(asked))
                count += 1
    assert len(seen) == len(names) == count == 4 * len(DEFAULT_TASKS) * len(SKILLS) * 3


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"tasks": ("drawer-open", "fly")}, "'fly'.*drawer-open"),
        ({"tasks": ()}, "tasks empty"),
        ({"tasks": ("sweep", "sweep")}, "named twice"),
        ({"frame_interval": 0}, "frame_interval must be at least 1, got 0"),
        ({"workers": 0}, "workers must be at least 1"),
        ({"episodes": EpisodeCounts(expert=-1)}, r"negative.*\['expert'\]"),
        ({"seed": -1}, "seed must be at least 0"),
    ],
)
def test_a_recording_that_makes_no_sense_is_refused(tmp_path, fields, message):
    with pytest.raises(ValueError, match=message):
        CollectConfig(tmp_path, **fields)


def test_tasks_have_words_and_held_out_tasks_are_not_trained():
    assert set(DEFAULT_TASKS) | set(HELD_OUT_TASKS) <= set(TASKS)
    assert not set(DEFAULT_TASKS) & set(HELD_OUT_TASKS)
    assert len(DEFAULT_TASKS) >= 32
    assert len(HELD_OUT_TASKS) == 5


def test_recording_needs_no_torch():
    heavy = "{'torch', 'metaworld', 'mujoco'}"
    code = f"import sys, robometer_rl.collecting.collect; print(*sorted({heavy} & set(sys.modules)))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == ""
