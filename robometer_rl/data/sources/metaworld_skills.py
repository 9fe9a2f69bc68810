"""Recorded Meta-World episodes by policies that differ in skill.

A reward model that has only seen experts takes any motion for progress. So the same task, with goals drawn the same
way, is also acted out badly: with noise, half-way, in the wrong place, at random. Bad episodes are as long as good
ones, so that nothing can be read off the length: the expert is rehearsed on the same goal first, without rendering.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any, Literal, Protocol, get_args

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from robometer_rl.data.sources.metaworld import CAMERA, CONTROL_HZ, MetaWorldEnv, state_of
from robometer_rl.data.trajectory import QualityLabel, Trajectory
from robometer_rl.frames import as_frame

__all__ = [
    "DATA_SOURCE",
    "SKILLS",
    "ExpertPolicy",
    "NoisyPolicy",
    "Policy",
    "RandomPolicy",
    "Skill",
    "StopHalfwayPolicy",
    "WrongPlacePolicy",
    "record_episode",
]

DATA_SOURCE = "metaworld"

Skill = Literal["expert", "noisy", "stop_halfway", "wrong_place", "random"]
SKILLS: tuple[Skill, ...] = get_args(Skill)

Observation = NDArray[np.float64]
Action = NDArray[np.float32]

_PATIENCE = 200  # steps after which a rehearsal counts as failed
_LINGER = 3  # steps that an expert goes on after first success: some tasks are judged at a threshold still moving
_SUBOPTIMAL = 0.25  # part of the way to the goal from which a failure counts as nearly there


class Policy(Protocol):
    """Acts for one episode; a new episode takes a new policy."""

    def act(self, observation: Observation, success: bool) -> Action:
        """Hand velocity and gripper effort (4,) float32 in [-1, 1].

        Args:
            observation: What the environment returned last.
            success: Whether the task is done now, ``info["is_success"]``.
        """
        ...


class ExpertPolicy:
    """The scripted policy of a task at a fraction of its speed; it stands still once the task is done."""

    def __init__(self, task: str, pace: float = 1.0) -> None:
        """A policy for ``task`` (as in ``drawer-open``) with its hand velocity multiplied by ``pace``."""
        from metaworld.policies import ENV_POLICY_MAP

        self._scripted = ENV_POLICY_MAP[f"{task}-v3"]()
        self._pace = pace
        self._done_for = 0

    def act(self, observation: Observation, success: bool) -> Action:
        """See `Policy.act`."""
        self._done_for += bool(success or self._done_for)
        with warnings.catch_warnings():  # some scripts ask for more than the simulator grants, and say so
            warnings.simplefilter("ignore")
            action = np.clip(self._scripted.get_action(observation), -1.0, 1.0).astype(np.float32)
        action[:3] *= 0.0 if self._done_for > _LINGER else self._pace
        return action


class NoisyPolicy:
    """Another policy disturbed by smooth Gaussian noise, also after the task is done."""

    def __init__(self, policy: Policy, rng: np.random.Generator, magnitude: float) -> None:
        """Adds noise of standard deviation ``magnitude`` to the actions of ``policy``."""
        self._policy = policy
        self._noise = _SmoothNoise(rng, memory=0.8, magnitude=magnitude)

    def act(self, observation: Observation, success: bool) -> Action:
        """See `Policy.act`."""
        return np.clip(self._policy.act(observation, success) + self._noise.next(), -1.0, 1.0).astype(np.float32)


class StopHalfwayPolicy:
    """Another policy that stands still from some step on."""

    def __init__(self, policy: Policy, stop_step: int) -> None:
        """Follows ``policy`` for ``stop_step`` steps, then keeps the hand and the gripper as they are."""
        self._policy = policy
        self._left = stop_step
        self._gripper = np.float32(0.0)

    def act(self, observation: Observation, success: bool) -> Action:
        """See `Policy.act`."""
        if self._left > 0:
            self._left -= 1
            action = self._policy.act(observation, success)
            self._gripper = action[3]
            return action
        return np.array([0.0, 0.0, 0.0, self._gripper], np.float32)


class WrongPlacePolicy:
    """Goes to a wrong place and stays there, perhaps after following another policy part of the way."""

    def __init__(
        self, policy: Policy, leave_step: int, place: NDArray[np.float64], pace: float = 1.0, grip_every: int = 0
    ) -> None:
        """Follows ``policy`` for ``leave_step`` steps, then moves to ``place`` (3,) in metres at ``pace``.

        The gripper closes and opens every ``grip_every`` steps; 0 keeps it open.
        """
        self._policy = policy
        self._leave_step = leave_step
        self._place = place
        self._pace = pace
        self._grip_every = grip_every
        self._step = -1

    def act(self, observation: Observation, success: bool) -> Action:
        """See `Policy.act`."""
        self._step += 1
        if self._step < self._leave_step:
            return self._policy.act(observation, success)
        velocity = self._pace * np.clip(10.0 * (self._place - observation[:3]), -1.0, 1.0)
        closed = self._grip_every > 0 and (self._step // self._grip_every) % 2 == 1
        return np.append(velocity, 1.0 if closed else -1.0).astype(np.float32)


class RandomPolicy:
    """Smooth random motion."""

    def __init__(self, rng: np.random.Generator, magnitude: float = 0.8) -> None:
        """Actions of standard deviation ``magnitude`` before they are clipped to [-1, 1]."""
        self._noise = _SmoothNoise(rng, memory=0.93, magnitude=magnitude)

    def act(self, observation: Observation, success: bool) -> Action:
        """See `Policy.act`."""
        return np.clip(self._noise.next(), -1.0, 1.0).astype(np.float32)


class _SmoothNoise:
    """A stationary first-order autoregressive process in 4 dimensions with standard deviation ``magnitude``."""

    def __init__(self, rng: np.random.Generator, memory: float, magnitude: float) -> None:
        self._rng = rng
        self._memory = memory
        self._magnitude = magnitude
        self._value = rng.standard_normal(4)

    def next(self) -> NDArray[np.float64]:
        fresh = np.sqrt(1.0 - self._memory**2) * self._rng.standard_normal(4)
        self._value = self._memory * self._value + fresh
        return self._magnitude * self._value


@dataclass(frozen=True)
class _Plan:
    """One episode, before it is recorded.

    Attributes:
        policy: Who acts.
        max_steps: When it ends at the latest.
        tail: Steps recorded after first success.
        facts: What was drawn, for the metadata.
    """

    policy: Policy
    max_steps: int
    tail: int
    facts: dict[str, Any]


def _plan(env: gym.Env[Any, Any], task: str, skill: Skill, seed: int, rng: np.random.Generator) -> _Plan:
    pace = float(rng.uniform(0.7, 1.0))
    tail = int(rng.integers(8, 25))
    observation, expert_steps = _rehearse(env, ExpertPolicy(task, pace), seed)
    usual = _PATIENCE if expert_steps is None else expert_steps
    facts: dict[str, Any] = {"pace": pace, "expert_success_step": expert_steps}
    policy: Policy = ExpertPolicy(task, pace)
    max_steps = usual + tail
    if skill == "noisy":
        facts["noise"] = float(rng.uniform(0.2, 1.0))
        policy = NoisyPolicy(policy, rng, facts["noise"])
        max_steps = int(1.25 * usual) + tail
    elif skill == "stop_halfway":
        facts["stop_step"] = round(usual * float(rng.uniform(0.3, 0.7)))
        policy = StopHalfwayPolicy(policy, facts["stop_step"])
    elif skill == "wrong_place":
        facts["leave_step"] = round(usual * float(rng.uniform(0.1, 0.6))) if rng.random() < 0.4 else 0
        place = _wrong_place(rng, around=observation[4:7], goal=observation[36:39])
        facts["place"] = place.tolist()
        grip_every = int(rng.integers(8, 25)) if rng.random() < 0.5 else 0
        policy = WrongPlacePolicy(policy, facts["leave_step"], place, pace, grip_every)
    elif skill == "random":
        facts["noise"] = float(rng.uniform(0.4, 1.2))
        policy = RandomPolicy(rng, facts["noise"])
    return _Plan(policy, max_steps, tail, facts)


def _rehearse(env: gym.Env[Any, Any], policy: Policy, seed: int) -> tuple[Observation, int | None]:
    """The reset observation of ``seed``, and the number of steps in which ``policy`` succeeds there, if it does."""
    start, info = env.reset(seed=seed)
    observation = start
    for step in range(1, _PATIENCE + 1):
        observation, _, _, _, info = env.step(policy.act(observation, info["is_success"]))
        if info["is_success"]:
            return start, step
    return start, None


def _wrong_place(
    rng: np.random.Generator, around: NDArray[np.float64], goal: NDArray[np.float64]
) -> NDArray[np.float64]:
    """A hand position off the object and the goal: beside the object half of the time, else anywhere in reach."""
    low, high = np.array([-0.35, 0.45, 0.08]), np.array([0.35, 0.9, 0.4])
    while True:
        if rng.random() < 0.5:
            direction = rng.standard_normal(3)
            place = around + rng.uniform(0.1, 0.2) * direction / np.linalg.norm(direction)
        else:
            place = rng.uniform(low, high)
        place = np.clip(place, low, high)
        if min(np.linalg.norm(place - around), np.linalg.norm(place - goal)) >= 0.09:
            return place


def record_episode(
    env: gym.Env[Any, Any],
    skill: Skill,
    seeds: np.random.SeedSequence,
    *,
    trajectory_id: str,
    split: str = "train",
    frame_interval: int = 3,
) -> Trajectory:
    """Acts out and records one episode; the same seeds give the same trajectory, whatever ``env`` did before.

    Only frames that are kept are rendered: the reset frame, every ``frame_interval``-th after it, and the last.
    Successful means done in the last frame. Suboptimal is an episode that was done and undone, that stopped on the
    way, or that covered a quarter of the simulator's distance to the goal; its partial success is the part covered.

    Args:
        env: As `robometer_rl.data.sources.metaworld.make_env` makes it.
        skill: Who acts.
        seeds: Source of the goal and of everything the policy draws.
        trajectory_id: The id to record under.
        split: The split to record under.
        frame_interval: Environment steps between kept frames.

    Raises:
        BlankFrameError: A frame has one colour only.
    """
    metaworld = env.unwrapped
    assert isinstance(metaworld, MetaWorldEnv)
    seed = int(seeds.generate_state(1)[0] >> 1)
    plan = _plan(env, metaworld.task, skill, seed, np.random.default_rng(seeds))
    kept = _act_out(env, plan, seed, frame_interval)
    partial = 1.0 if kept.success[-1] else _part_covered(kept.distance)
    return Trajectory(
        id=trajectory_id,
        task=metaworld.instruction,
        frames=kept.frames,
        quality_label=_quality(kept.success, partial, skill),
        data_source=DATA_SOURCE,
        partial_success=partial,
        success=kept.success,
        state=kept.state,
        distance=kept.distance,
        steps=kept.steps,
        instructions=metaworld.paraphrases,
        skill=skill,
        seed=seed,
        split=split,
        metadata={
            "environment": metaworld.task,
            "camera": CAMERA,
            "control_hz": CONTROL_HZ,
            "frame_interval": frame_interval,
            "metaworld": version("metaworld"),
            "mujoco": version("mujoco"),
            **plan.facts,
        },
    )


@dataclass(frozen=True)
class _Kept:
    """What is kept of an episode, one entry per frame; the fields of `Trajectory`."""

    frames: NDArray[np.uint8]
    steps: NDArray[np.int64]
    success: NDArray[np.bool_]
    state: NDArray[np.float32]
    distance: NDArray[np.float32]


def _act_out(env: gym.Env[Any, Any], plan: _Plan, seed: int, frame_interval: int) -> _Kept:
    observation, info = env.reset(seed=seed)
    frames, steps, success = [_frame(env)], [0], [info["is_success"]]
    state, distance = [state_of(observation)], [info["distance"]]
    end = _on_grid(plan.max_steps, frame_interval)
    done_before = False
    step = 0
    while step < end:
        step += 1
        observation, _, _, _, info = env.step(plan.policy.act(observation, info["is_success"]))
        if info["is_success"] and not done_before:
            done_before = True
            end = min(end, _on_grid(step + plan.tail, frame_interval))
        if step % frame_interval == 0:
            frames.append(_frame(env))
            steps.append(step)
            success.append(info["is_success"])
            state.append(state_of(observation))
            distance.append(info["distance"])
    return _Kept(np.stack(frames), np.array(steps), np.array(success), np.stack(state), np.array(distance, np.float32))


def _frame(env: gym.Env[Any, Any]) -> NDArray[np.uint8]:
    return as_frame(env.render())


def _on_grid(step: int, interval: int) -> int:
    """``step`` rounded up to a multiple of ``interval``, so that the last step is one whose frame is kept."""
    return -(-step // interval) * interval


def _part_covered(distance: NDArray[np.float32]) -> float:
    """How much of the way from the first distance to zero the last one has covered, in [0, 1]."""
    return float(np.clip(1.0 - distance[-1] / max(float(distance[0]), 1e-6), 0.0, 1.0))


def _quality(success: NDArray[np.bool_], partial: float, skill: Skill) -> QualityLabel:
    if success[-1]:
        return "successful"
    if success.any() or partial >= _SUBOPTIMAL or skill == "stop_halfway":
        return "suboptimal"
    return "failure"
