import numpy as np
import pytest

from robometer_rl.collecting.metaworld_policies import ExpertPolicy
from robometer_rl.collecting.metaworld_skills import SKILLS, record_episode
from robometer_rl.envs.metaworld import TASKS, make_env

pytest.importorskip("metaworld", reason="needs the extra 'metaworld'")

HAND = slice(0, 3)


@pytest.fixture(scope="module")
def env():
    env = make_env("button-press-topdown", size=32)
    yield env
    env.close()


@pytest.fixture(scope="module")
def record(env):
    recorded = {}

    def record(skill, number=0):
        if (skill, number) not in recorded:
            recorded[skill, number] = record_episode(
                env, skill, np.random.SeedSequence([7, number]), trajectory_id=f"{skill}-{number}", split="test"
            )
        return recorded[skill, number]

    return record


@pytest.mark.parametrize("skill", SKILLS)
def test_an_episode_says_what_happened(record, skill):
    run = record(skill)
    assert run.id == f"{skill}-0"
    assert run.skill == skill
    assert run.split == "test"
    assert run.data_source == "metaworld"
    assert run.is_robot
    assert run.task == TASKS["button-press-topdown"].task
    assert run.instructions == TASKS["button-press-topdown"].paraphrases[-1:]
    assert run.frames.shape == (len(run), 32, 32, 3)
    assert 16 <= len(run) <= 50
    np.testing.assert_array_equal(run.steps, 3 * np.arange(len(run)))
    assert run.success is not None
    assert not run.success[0]
    assert run.state is not None
    assert run.state.shape == (len(run), 21)
    assert np.ptp(run.state[:, -3:], axis=0).max() == 0, "the goal does not move, and is known from the start"
    assert run.distance is not None
    assert run.partial_success is not None
    done = run.distance <= 0.024  # the task's own rule
    np.testing.assert_array_equal(run.success, done)
    assert (run.quality_label == "successful") == run.success[-1] == (run.partial_success == 1.0)
    assert {"metaworld", "mujoco", "camera", "frame_interval", "pace"} <= set(run.metadata)


def test_an_expert_succeeds_and_the_end_is_seen(record):
    for number in range(2):
        run = record("expert", number)
        assert run.quality_label == "successful"
        after = len(run) - run.success_index
        assert 3 <= after <= 10, "some frames show the finished task"
        assert run.success[run.success_index :].all(), "and it stays finished"
        step = run.metadata["expert_success_step"]
        assert 3 * (run.success_index - 1) < step <= 3 * run.success_index


def test_half_way_is_what_the_expert_did_until_it_stood_still(record):
    half, expert = record("stop_halfway"), record("expert")
    stop, success = half.metadata["stop_step"], half.metadata["expert_success_step"]
    assert half.quality_label == "suboptimal"
    assert half.seed == expert.seed
    assert 0.29 <= stop / success <= 0.71
    moving = stop // 3 + 1
    np.testing.assert_array_equal(half.frames[:moving], expert.frames[:moving])
    after = half.state[stop // 3 + 8 :, HAND]  # a hand in motion takes a moment to settle
    assert np.linalg.norm(after[-1] - after[0]) < 0.01


def test_a_wrong_place_is_reached_and_is_wrong(record):
    for number in range(3):
        run = record("wrong_place", number)
        place, final = np.array(run.metadata["place"]), run.state[-1]
        assert np.linalg.norm(place - run.state[0, 4:7]) >= 0.09
        assert np.linalg.norm(place - final[-3:]) >= 0.09
        if run.metadata["leave_step"] == 0 and run.partial_success < 0.01:
            assert np.linalg.norm(final[HAND] - place) < 0.06


def test_random_motion_moves(record):
    run = record("random")
    assert run.quality_label != "successful"
    assert np.ptp(run.state[:, HAND], axis=0).max() > 0.05


def test_a_hand_that_hovers_lingers_beside_what_matters(record):
    for number in range(3):
        run = record("hover", number)
        hand, thing, goal = run.state[:, HAND], run.state[:1, 4:7], run.state[:1, -3:]
        near = np.minimum(np.linalg.norm(hand - thing, axis=1), np.linalg.norm(hand - goal, axis=1)) < 0.25
        slow = np.linalg.norm(np.diff(hand, axis=0), axis=1) < 0.015
        assert (near[1:] & slow).sum() >= 5
        assert np.ptp(hand, axis=0).max() > 0.05, "from more than one side"


def test_what_is_undone_is_the_experts_work(record):
    hows = set()
    for number in range(3):
        run = record("undo", number)
        turn = run.metadata["turn_step"]
        hows.add(run.metadata["how"])
        assert run.distance[: turn // 3 + 2].min() < 0.9 * run.distance[0], "something was done"
        assert len(run) > turn // 3 + 10, "and what came of it is seen"
        if turn > run.metadata["expert_success_step"]:
            assert run.success.any()
        assert run.quality_label != "failure" or not run.success.any()
    assert hows <= {"retrace", "push_back", "overshoot"}


def test_acting_beside_the_object_looks_like_an_expert_and_moves_nothing(env):
    runs = [
        record_episode(env, "wrong_push", np.random.SeedSequence([7, n]), trajectory_id=str(n), frame_interval=15)
        for n in range(6)
    ]
    beside = [run for run in runs if run.metadata["how"] == "beside"]
    assert 0 < len(beside) < 6
    for run in beside:
        assert run.metadata["leave_step"] == 0
        assert np.ptp(run.state[:, HAND], axis=0).max() > 0.1
        assert run.distance[-1] > 0.5 * run.distance[0]


def test_flailing_covers_ground_and_stays_around(record):
    for number in range(2):
        run = record("flail", number)
        hand, anchors = run.state[:, HAND], np.stack([run.state[0, 4:7], run.state[0, -3:]])
        assert np.linalg.norm(np.diff(hand, axis=0), axis=1).mean() > 0.012
        assert np.linalg.norm(hand[len(run) // 2 :, None] - anchors, axis=2).min(axis=1).mean() < 0.4


def test_length_tells_nothing_about_the_outcome(record):
    lengths = {skill: len(record(skill)) for skill in SKILLS}
    for skill in ("stop_halfway", "wrong_place", "random"):
        assert abs(lengths[skill] - lengths["expert"]) <= 1, "same goal and pace, same length"
    assert lengths["noisy"] <= 1.3 * lengths["expert"] + 1


def test_the_same_seeds_are_the_same_episode_whatever_came_before(env, record):
    first = record("noisy")
    again = record_episode(env, "noisy", np.random.SeedSequence([7, 0]), trajectory_id="again", split="test")
    np.testing.assert_array_equal(first.frames, again.frames)
    np.testing.assert_array_equal(first.state, again.state)
    assert first.metadata == again.metadata
    other = record("noisy", 1)
    assert first.seed != other.seed


def test_frames_are_kept_at_the_interval_and_the_last_step_is_among_them(env):
    run = record_episode(env, "expert", np.random.SeedSequence(1), trajectory_id="a", frame_interval=10)
    assert run.steps is not None
    assert run.success is not None
    np.testing.assert_array_equal(run.steps, 10 * np.arange(len(run)))
    assert run.success[-1]


@pytest.mark.parametrize("task", ["drawer-close", "faucet-open", "sweep"])
def test_experts_of_other_tasks_stay_done(task):
    env = make_env(task, render_mode=None)
    observation, info = env.reset(seed=0)
    policy, done = ExpertPolicy(task), []
    for _ in range(130):
        observation, _, _, _, info = env.step(policy.act(observation, info["is_success"]))
        done.append(info["is_success"])
    assert done[-1]
    env.close()
