"""Replay buffers for Stable-Baselines3 whose rewards arrive after their transitions."""

from __future__ import annotations

from collections import deque
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray
from stable_baselines3.common.buffers import DictReplayBuffer, ReplayBuffer
from stable_baselines3.common.type_aliases import DictReplayBufferSamples, ReplayBufferSamples
from stable_baselines3.common.vec_env import VecNormalize

from robometer_rl.wrappers.scoring import ScoredStep

__all__ = ["PENDING_KEY", "Label", "LabelledDictReplayBuffer", "LabelledReplayBuffer", "PendingRewards"]

PENDING_KEY = "robometer/pending"
"""The info key under which `PendingRewards` travel from the environments to the buffer."""


class PendingRewards:
    """What one step pays n environments, known later.

    Args:
        step: What the step paid once it is scored.

    Attributes:
        claimed: Whether a buffer waits for them.
    """

    def __init__(self, step: Future[ScoredStep]) -> None:
        self._step = step
        self.claimed = False

    @property
    def are_known(self) -> bool:
        """Whether `wait` would return, or raise, at once."""
        return self._step.done()

    def wait(self) -> NDArray[np.float64]:
        """The rewards, (n,); raises what scoring them raised."""
        return self._step.result().rewards

    def entries(self) -> list[dict[str, Any]]:
        """What each environment's info would have said about the step; waits and raises as `wait` does."""
        return self._step.result().entries


@dataclass(frozen=True)
class Label:
    """Which transition a reward belongs to.

    Attributes:
        slot: Its row in the buffer.
        environment: Its column.
        generation: How often the row had been written before; another transition has its place once this is more.
    """

    slot: int
    environment: int
    generation: int


class LabelledReplayBuffer(ReplayBuffer):
    """A replay buffer for `robometer_rl.wrappers.AsyncVecRobometerReward`: samples labelled transitions only.

    Rewards are written when they arrive, at the next `add` or `sample`. A row, that is one step of all environments, is
    sampled once all its rewards are there; if no row is, `sample` waits. What the scoring thread raised is raised
    here, in the training thread. Saving the buffer (`save_replay_buffer` of an algorithm) first waits for all rewards.

    Args:
        buffer_size: See `stable_baselines3.common.buffers.ReplayBuffer`.
        observation_space: See there.
        *args: See there.
        **kwargs: See there.

    Attributes:
        labels_written: Rewards that were written.
        labels_dropped: Rewards that arrived after their transition had been overwritten, as they do when the buffer has
            fewer rows than steps wait to be scored.

    Raises:
        TypeError: Dictionary observations, or a request for n-step returns.
    """

    def __init__(self, buffer_size: int, observation_space: spaces.Space[Any], *args: Any, **kwargs: Any) -> None:
        if isinstance(observation_space, spaces.Dict) and not isinstance(self, DictReplayBuffer):
            raise TypeError("the observations are dictionaries: use LabelledDictReplayBuffer")
        if "n_steps" in kwargs:
            raise TypeError(
                "n-step returns need the rewards of following steps too, which may not be known yet: "
                "use one-step returns with a labelled replay buffer, or VecRobometerReward, which pays at once"
            )
        super().__init__(buffer_size, observation_space, *args, **kwargs)
        self._waiting: deque[tuple[Label, PendingRewards]] = deque()
        self._generations = np.zeros(self.buffer_size, np.int64)
        self._missing = np.full(self.buffer_size, self.n_envs)
        self._rows_labelled = 0
        self.labels_written = 0
        self.labels_dropped = 0

    @property
    def labels_waiting(self) -> int:
        """Rewards that have not arrived yet, or have not been written."""
        return len(self._waiting)

    def add(self, obs: Any, next_obs: Any, action: Any, reward: Any, done: Any, infos: list[dict[str, Any]]) -> None:
        """Stores one step of all environments; ``reward`` is a placeholder.

        Raises:
            TypeError: The infos hold no pending rewards.
        """
        self._write_arrived()
        pending = [_pending(info) for info in infos]
        slot = self.pos
        self._forget(slot)
        super().add(obs, next_obs, action, reward, done, infos)
        for environment, rewards in enumerate(pending):
            rewards.claimed = True
            self._waiting.append((Label(slot, environment, int(self._generations[slot])), rewards))

    def sample(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, batch_size: int, env: VecNormalize | None = None
    ) -> ReplayBufferSamples | DictReplayBufferSamples:
        """Samples labelled transitions; waits for the first if there is none.

        Raises:
            ValueError: The buffer is empty, or ``env`` normalises rewards.
        """
        if env is not None and env.norm_reward:
            raise ValueError(
                "VecNormalize(norm_reward=True) keeps statistics of rewards when a step is made, which is before they "
                "are known: use VecNormalize(norm_reward=False) and RewardSpec.scale"
            )
        self._write_arrived()
        while self._rows_labelled <= self._is_next_obs_overwritten():
            if not self._waiting:
                raise ValueError("cannot sample from an empty replay buffer")
            self._write_oldest()
        return self._get_samples(self._draw(batch_size), env=env)

    def drain(self) -> None:
        """Waits until all rewards are written."""
        while self._waiting:
            self._write_oldest()

    def reset(self) -> None:
        """Empties the buffer; rewards that are still to come will be dropped."""
        for slot in range(self.size()):
            self._forget(slot)
        super().reset()

    def __getstate__(self) -> dict[str, Any]:
        self.drain()
        return self.__dict__.copy()

    def _draw(self, batch_size: int) -> NDArray[np.int64]:
        """Rows, uniformly among those labelled: drawn again where they are not, since most are."""
        # From the generator that Stable-Baselines3 seeds and draws from.
        rows = np.random.randint(0, self.size(), batch_size)  # noqa: NPY002
        while len(rejected := np.flatnonzero(~self._is_sampleable(rows))):
            rows[rejected] = np.random.randint(0, self.size(), len(rejected))  # noqa: NPY002
        return rows

    def _is_sampleable(self, rows: NDArray[np.int64]) -> NDArray[np.bool_]:
        is_labelled = self._missing[rows] == 0
        return is_labelled & (rows != self.pos) if self._is_next_obs_overwritten() else is_labelled

    def _is_next_obs_overwritten(self) -> bool:
        # The memory-efficient buffer keeps the last next_obs in the row that it writes next.
        return self.optimize_memory_usage and self.full

    def _forget(self, slot: int) -> None:
        """Marks a row as written anew: none of its labels is there, and those of the past no longer count."""
        self._rows_labelled -= int(self._missing[slot] == 0)
        self._missing[slot] = self.n_envs
        self._generations[slot] += 1

    def _write_arrived(self) -> None:
        while self._waiting and self._waiting[0][1].are_known:
            self._write_oldest()

    def _write_oldest(self) -> None:
        label, pending = self._waiting[0]
        reward = pending.wait()[label.environment]
        # Only now: if it raises, it does so again the next time.
        self._waiting.popleft()
        if self._generations[label.slot] != label.generation:
            self.labels_dropped += 1
            return
        self.rewards[label.slot, label.environment] = reward
        self.labels_written += 1
        self._missing[label.slot] -= 1
        self._rows_labelled += int(self._missing[label.slot] == 0)


class LabelledDictReplayBuffer(LabelledReplayBuffer, DictReplayBuffer):
    """`LabelledReplayBuffer` for dictionary observations."""


def _pending(info: dict[str, Any]) -> PendingRewards:
    if PENDING_KEY not in info:
        raise TypeError(
            "a labelled replay buffer waits for rewards that AsyncVecRobometerReward announces, and these infos "
            f"announce none; they have {sorted(info)}. Around other environments use an ordinary replay buffer"
        )
    return info[PENDING_KEY]
