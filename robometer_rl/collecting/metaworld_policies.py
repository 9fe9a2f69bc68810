"""Policies that act in Meta-World well, badly, or like an agent that explores.

A policy acts for one episode. Most of what goes wrong is composed: follow an expert up to a step, then do something
else (`SwitchPolicy`), such as going from place to place (`VisitPolicy`) or thrashing about (`FlailPolicy`).
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "Action",
    "ExpertPolicy",
    "FlailPolicy",
    "NoisyPolicy",
    "Observation",
    "Policy",
    "RandomPolicy",
    "StopHalfwayPolicy",
    "SwitchPolicy",
    "Visit",
    "VisitPolicy",
    "WrongPlacePolicy",
]

Observation = NDArray[np.float64]
Action = NDArray[np.float32]

_LINGER = 3  # steps that an expert goes on after first success: some tasks are judged at a threshold still moving
_ARRIVED = 0.015  # metres from a place at which the hand counts as there
_STUCK = 30  # steps after which a hand that cannot get to a place stops trying


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


class SwitchPolicy:
    """One policy up to a step, another from then on."""

    def __init__(self, first: Policy, switch_step: int, then: Policy) -> None:
        """Follows ``first`` for ``switch_step`` steps, and ``then`` afterwards."""
        self._first = first
        self._left = switch_step
        self._then = then

    def act(self, observation: Observation, success: bool) -> Action:
        """See `Policy.act`."""
        if self._left > 0:
            self._left -= 1
            return self._first.act(observation, success)
        return self._then.act(observation, success)


@dataclass(frozen=True, eq=False)
class Visit:
    """Somewhere to go.

    Attributes:
        place: Hand position (3,) in metres.
        gripper: Gripper effort on the way there and there, from -1 (open) to 1 (closed).
        linger: Steps to stay.
    """

    place: NDArray[np.float64]
    gripper: float = -1.0
    linger: int = 0


class VisitPolicy:
    """Goes straight from place to place, lingers at each, and stays at the last one."""

    def __init__(self, visits: Sequence[Visit], rng: np.random.Generator, pace: float = 1.0, tremor: float = 0.0):
        """Makes ``visits`` (at least one) at ``pace``, the hand disturbed by smooth noise of size ``tremor``."""
        if not visits:
            raise ValueError("no visits; expected at least one place to go")
        self._visits = list(visits)
        self._noise = _SmoothNoise(rng, memory=0.8, magnitude=tremor)
        self._pace = pace
        self._travelled = 0
        self._stayed = 0

    def act(self, observation: Observation, success: bool) -> Action:
        """See `Policy.act`."""
        visit = self._visits[0]
        way = visit.place - observation[:3]
        self._travelled += 1
        if self._stayed or np.linalg.norm(way) < _ARRIVED or self._travelled > _STUCK:
            self._stayed += 1
            if self._stayed > visit.linger and len(self._visits) > 1:
                self._visits.pop(0)
                self._travelled = self._stayed = 0
        velocity = self._pace * np.clip(10.0 * way, -1.0, 1.0)
        action = np.append(velocity, visit.gripper) + self._noise.next() * [1.0, 1.0, 1.0, 0.0]
        return np.clip(action, -1.0, 1.0).astype(np.float32)


class FlailPolicy:
    """Full-speed jerks, each held for a while, that keep coming back to a place.

    So acts an untrained agent whose actions saturate, as far as it stays where there is something to break.
    """

    def __init__(self, rng: np.random.Generator, around: NDArray[np.float64], radius: float, hold: int) -> None:
        """Thrashes within about ``radius`` metres of ``around`` (3,); an action is held for ``hold`` steps."""
        self._rng = rng
        self._around = around
        self._radius = radius
        self._hold = hold
        self._left = 0
        self._action = np.zeros(4)

    def act(self, observation: Observation, success: bool) -> Action:
        """See `Policy.act`."""
        way = self._around - observation[:3]
        if self._left == 0:
            self._left = self._hold
            self._action = self._rng.choice([-1.0, 0.0, 1.0], size=4, p=[0.4, 0.2, 0.4])
            if np.linalg.norm(way) > self._radius:
                self._action[:3] = np.clip(10.0 * way, -1.0, 1.0)
        self._left -= 1
        return self._action.astype(np.float32)


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
