"""Every example runs at its smallest size; what an agent learns in seconds is not judged."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from robometer_rl import load_reward_model
from robometer_rl.cli import main
from robometer_rl.data.store import TrajectoryStore
from robometer_rl.monitor import MonitorSpec
from robometer_rl.rewards import RewardSpec
from robometer_rl.video import write_video

ROOT = Path(__file__).parents[2]
# A checkpoint of random numbers will do to show that they run.
CHECKPOINT = ROOT / "tests" / "fixtures" / "robometer_tiny" / "checkpoint"


def run(name: str, output: Path, *arguments: str) -> str:
    """Runs an example as its users do; returns what it prints."""
    command = [sys.executable, str(ROOT / "examples" / f"{name}.py"), "--smoke", "--output", str(output), *arguments]
    variables = {**os.environ, "OMP_NUM_THREADS": "1", "MUJOCO_GL": "egl"}
    done = subprocess.run(command, cwd=output, env=variables, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture
def simulator() -> None:
    pytest.importorskip("metaworld")


@pytest.mark.usefixtures("simulator")
def test_sb3_metaworld_keeps_what_it_was_paid_beside_what_it_achieved(tmp_path: Path) -> None:
    words = ["--arm", "robometer", "--model", str(CHECKPOINT)]
    shown = run("sb3_metaworld", tmp_path, *words)
    assert shown.count("of unseen episodes succeed") == 2
    folder = tmp_path / "smoke" / "drawer-close-robometer-0"
    episodes = [json.loads(line) for line in (folder / "honesty.jsonl").read_text().splitlines()]
    assert len(episodes) == 20
    assert {episode["length"] for episode in episodes} == {10}
    before = (folder / "result.json").read_text()
    found = json.loads(before)
    assert found["finished"]
    assert {len(found[name]) for name in ("success", "noisy_success", "value", "worth", "entropy_weight")} == {2}
    assert shown.endswith(run("sb3_metaworld", tmp_path, *words))
    assert (folder / "result.json").read_text() == before, "a finished run is not repeated"


@pytest.mark.usefixtures("simulator")
def test_sb3_metaworld_pays_for_time_and_limits_what_it_pays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(ROOT / "examples")
    import sb3_metaworld

    clock = sb3_metaworld.make_task(sb3_metaworld.Args(arm="clock", scale=2.0, max_decisions=5), frames=False)
    clock.reset(seed=0)
    paid = [float(clock.step(clock.action_space.sample())[1]) for _ in range(5)]
    assert paid == pytest.approx([0.4] * 5)
    clock.close()
    args = sb3_metaworld.Args(arm="robometer_sparse", model=str(CHECKPOINT), mode="delta", scale=1e6, envs=1, clip=0.25)
    venv = sb3_metaworld.make_training_envs(args)
    venv.reset()
    _, rewards, _, _ = venv.step(np.zeros((1, 4), np.float32))
    assert abs(rewards[0]) == 0.25
    venv.close()


@pytest.mark.usefixtures("simulator")
def test_ppo_vector_learns_from_what_a_model_pays(tmp_path: Path) -> None:
    shown = run("ppo_vector", tmp_path, "--model", str(CHECKPOINT))
    assert "40 decisions" in shown
    assert "of 2 unseen episodes" in shown
    folder = tmp_path / "smoke" / "drawer-close-robometer-0"
    result = json.loads((folder / "result.json").read_text())
    assert (result["decisions"], len(result["paid"])) == ([20, 40], 2)
    assert (folder / "agent.pt").is_file()
    assert (folder / "live").is_dir()


def test_ppo_vector_learns_in_any_environment_and_says_what_it_needs(tmp_path: Path) -> None:
    pytest.importorskip("gym_pusht")
    words = ["--env", "gym_pusht/PushT-v0", "--imports", "gym_pusht"]  # with mini, which shrinks its large pictures
    shown = run("ppo_vector", tmp_path, *words, "--task", "push the T onto the target")
    assert "done in 0% before and 0% after training" in shown
    assert "nan" not in (tmp_path / "smoke" / "gym_pusht-PushT-v0-robometer-0" / "result.json").read_text().lower()
    with pytest.raises(AssertionError, match="needs an instruction"):
        run("ppo_vector", tmp_path, *words)


@pytest.mark.usefixtures("simulator")
@pytest.mark.parametrize("servers", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_sb3_remote_is_paid_by_other_processes(tmp_path: Path, servers: int) -> None:
    shown = run("sb3_remote", tmp_path, "--model", str(CHECKPOINT), "--servers", str(servers))
    assert shown.count("serving ") == servers
    assert f"80 rewards from {','.join(line.split()[-1] for line in shown.splitlines() if 'serving ' in line)}" in shown
    assert (tmp_path / "agent.zip").is_file()


@pytest.mark.usefixtures("simulator")
def test_offline_policy_ranking_records_and_ranks(tmp_path: Path) -> None:
    shown = run("offline_policy_ranking", tmp_path, "--model", str(CHECKPOINT))
    assert "Kendall's tau_a" in shown
    result = json.loads((tmp_path / "smoke" / "drawer-open.json").read_text())
    assert result["episodes"] == 4
    assert {policy["name"]: policy["success_rate"] for policy in result["policies"]} == {"policy_0": 0, "policy_1": 1}
    assert result["distinct_success_rates"] == 2
    # Only the last step is scored, and as it is scored among all others.
    model = load_reward_model(str(CHECKPOINT))
    for policy in result["policies"]:
        store = TrajectoryStore.open(tmp_path / "smoke" / "drawer-open")
        clips = [episode.clip() for episode in store if episode.skill == policy["name"]]
        finals = [prediction.progress[-1] for prediction in model.predict_steps(clips)]
        assert policy["score"]["value"] == pytest.approx(float(np.mean(finals)), abs=1e-5)


def write_recordings(folder: Path) -> None:
    """Two policies in videos: one whose picture gets brighter, and one whose picture does not."""
    for policy, end in (("brighter", 200), ("dark", 20)):
        (folder / policy).mkdir(parents=True)
        for number in range(2):
            levels = np.linspace(20, end, 8).astype(np.uint8) + number
            write_video(folder / policy / f"{number}.mp4", np.tile(levels[:, None, None, None], (1, 32, 32, 3)), fps=5)


def test_offline_policy_ranking_takes_a_folder_of_videos_per_policy(tmp_path: Path) -> None:
    write_recordings(tmp_path / "videos")
    words = ["--recordings", "videos", "--task", "light the lamp", "--model", str(CHECKPOINT)]
    shown = run("offline_policy_ranking", tmp_path, *words)
    assert "only true success could say" in shown
    result = json.loads((tmp_path / "smoke" / "videos.json").read_text())
    assert {policy["name"] for policy in result["policies"]} == {"brighter", "dark"}
    assert (result["tau_a"], result["episodes"], result["task"]) == (None, 4, "light the lamp")
    page = tmp_path / "smoke" / "videos-page"
    assert "brighter, episode 1" in (page / "index.html").read_text()
    assert len(list(page.glob("*.mp4"))) == 2 + 4, "one of each policy together, and each alone"


def test_offline_policy_ranking_takes_listed_videos_and_one_split_of_them(tmp_path: Path) -> None:
    write_recordings(tmp_path / "videos")
    lines = [
        {"video": f"{policy}/{number}.mp4", "task": task, "quality": quality, "skill": policy, "split": split}
        for policy, quality in (("brighter", "successful"), ("dark", "failure"))
        for number, split in ((0, "train"), (1, "test"))
        for task in ("light the lamp", "open the window")
    ]
    (tmp_path / "videos" / "videos.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    words = ["--recordings", "videos", "--task", "light the lamp", "--split", "test", "--model", str(CHECKPOINT)]
    assert "Kendall's tau_a" in run("offline_policy_ranking", tmp_path, *words)
    result = json.loads((tmp_path / "smoke" / "videos.json").read_text())
    assert (result["episodes"], result["split"], result["distinct_success_rates"]) == (2, "test", 2)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((), "expected a folder of videos per policy, their instruction by --task"),
        (("--task", "light the lamp", "--split", "test"), "and no --split"),
    ],
)
def test_offline_policy_ranking_says_what_it_misses(tmp_path: Path, words: tuple[str, ...], message: str) -> None:
    write_recordings(tmp_path / "videos")
    with pytest.raises(AssertionError, match=message):
        run("offline_policy_ranking", tmp_path, "--recordings", "videos", "--model", str(CHECKPOINT), *words)


@pytest.mark.usefixtures("simulator")
def test_calibrate_threshold_writes_a_reward(tmp_path: Path) -> None:
    shown = run("calibrate_threshold", tmp_path, "--model", str(CHECKPOINT))
    spec = RewardSpec.from_json((tmp_path / "smoke" / "reward.json").read_text())
    assert f"{spec.success_threshold:.3f}" in shown


@pytest.mark.usefixtures("simulator")
def test_relabel_then_train_compares_rewards(tmp_path: Path) -> None:
    shown = run("relabel_then_train", tmp_path, "--model", str(CHECKPOINT))
    assert "robometer" in shown
    result = json.loads((tmp_path / "smoke" / "drawer-close-0.json").read_text())
    assert set(result["curves"]) == {"robometer", "sparse", "imitation"}
    assert [len(curve) for curve in result["curves"].values()] == [2, 2, 2]
    assert list((tmp_path / "smoke" / "tensorboard").rglob("events*"))


def test_a_teacher_takes_over_when_a_monitor_says_so(tmp_path: Path) -> None:
    monitor = tmp_path / "monitor.json"
    monitor.write_text(MonitorSpec(window=3, gain=1.0).to_json())  # nothing gains so much
    shown = run("takeover", tmp_path, "--model", str(CHECKPOINT), "--monitor", str(monitor))
    assert "weak alone" in shown
    (ways,) = json.loads((tmp_path / "smoke" / "takeover.json").read_text())["outcomes"].values()
    assert [[each["taken_over"] for each in ways[name]] for name in ("weak alone", "monitor")] == [[None], [15]]
    assert ways["monitor"][0]["reason"] in ("stalled", "regressing")
    assert ways["random times"][0]["taken_over"] == 15


def labelled_recordings(folder: Path) -> Path:
    """Two episodes with pictures, 39 numbers beside each and four per action, labelled by the command."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    for number in range(2):
        np.savez(
            folder / f"{number}.npz",
            front=rng.integers(0, 256, (9, 32, 32, 3), np.uint8),
            observation=rng.normal(size=(9, 39)),
            actions=rng.uniform(-1, 1, (8, 4)),
            rewards=np.arange(8) == 7,
            success=np.array(bool(number)),
        )
    words = ["relabel", str(folder), "--task", "open the drawer", "--model", str(CHECKPOINT)]
    assert main(words) == 0
    return folder.with_name(f"{folder.name}-robometer")


def test_offline_rl_learns_from_a_labelled_dataset_without_its_environment(tmp_path: Path) -> None:
    pytest.importorskip("torchrl")
    dataset = labelled_recordings(tmp_path / "recordings")
    shown = run("offline_rl", tmp_path, str(dataset))
    assert "distance from successful actions" in shown
    result = json.loads((tmp_path / "smoke" / "recordings-robometer-0.json").read_text())
    assert set(result["distance_from_successful_actions"]) == {"robometer", "original", "imitation"}
    assert (result["episodes"], result["data_success"]) == (1, 0.5), "the other one is kept out"


CORRIDOR = """
import gymnasium as gym
import numpy as np


class Corridor(gym.Env):
    observation_space = gym.spaces.Box(-np.inf, np.inf, (39,))
    action_space = gym.spaces.Box(-1, 1, (4,))

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return np.zeros(39, np.float32), {}

    def step(self, action):
        assert self.action_space.contains(action), action
        return np.ones(39, np.float32), 0.0, False, False, {"is_success": True} if self.says else {}


for says in (True, False):
    entry = type("Corridor", (Corridor,), {"says": says})
    gym.register(f"Corridor{says}-v0", entry, max_episode_steps=3)
"""


def test_offline_rl_judges_policies_in_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("torchrl")
    dataset = labelled_recordings(tmp_path / "recordings")
    (tmp_path / "corridor.py").write_text(CORRIDOR)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), str(ROOT)]))
    words = [str(dataset), "--arms", "imitation", "--imports", "corridor"]
    assert "100%" in run("offline_rl", tmp_path, *words, "--env", "CorridorTrue-v0")
    result = json.loads((tmp_path / "smoke" / "recordings-robometer-0.json").read_text())
    assert (result["true_success"], result["episodes"]) == ({"imitation": 1.0}, 2)
    assert (tmp_path / "smoke" / "recordings-robometer-imitation-0.pt").is_file()
    with pytest.raises(AssertionError, match="the infos of CorridorFalse-v0 say nothing of success"):
        run("offline_rl", tmp_path, *words, "--env", "CorridorFalse-v0")


@pytest.mark.slow
def test_sb3_libero_learns_in_two_processes(tmp_path: Path) -> None:
    pytest.importorskip("libero")
    words = ["--arm", "robometer_sparse", "--envs", "2", "--model", str(CHECKPOINT)]
    run("sb3_libero", tmp_path, *words)
    result = json.loads((tmp_path / "smoke" / "libero_90-28-robometer_sparse-0" / "result.json").read_text())
    assert result["finished"]
    assert len(result["steps"]) == 2


@pytest.mark.slow
def test_policies_are_ranked_in_libero_too(tmp_path: Path) -> None:
    pytest.importorskip("libero")
    run("offline_policy_ranking", tmp_path, "--task", "libero_90-28", "--model", str(CHECKPOINT))
    result = json.loads((tmp_path / "smoke" / "libero_90-28.json").read_text())
    assert [policy["success_rate"] for policy in result["policies"]] in ([0, 1], [1, 0])
