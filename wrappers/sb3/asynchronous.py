"""The reward wrapper for Stable-Baselines3 and models slower than the environment: rewards arrive later."""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import Any, TypeVar

import numpy as np
from gymnasium.error import ClosedEnvironmentError
from numpy.typing import NDArray
from stable_baselines3.common.vec_env import VecEnv
from stable_baselines3.common.vec_env.base_vec_env import VecEnvObs, VecEnvStepReturn

from robometer_rl.frames import FrameProtocol
from robometer_rl.models.reward_model import RewardModel
from robometer_rl.rewards import DEFAULT_REWARD, RewardSpec
from robometer_rl.wrappers.frame_sources import FrameSources
from robometer_rl.wrappers.observation_reader import Moment
from robometer_rl.wrappers.rendering import without_frames
from robometer_rl.wrappers.sb3.replay_buffer import PENDING_KEY, PendingRewards
from robometer_rl.wrappers.sb3.vec_env import Received, VecRobometerReward
from robometer_rl.wrappers.sb3.vec_reader import views
from robometer_rl.wrappers.scoring import ScoredStep, as_reward_spec
from robometer_rl.wrappers.tasks import TaskSource

__all__ = ["AsyncVecRobometerReward", "ScoringThread", "UnclaimedRewardError"]

T = TypeVar("T")

logger = logging.getLogger(__name__)

_CLOSED = "close() has ended the scoring of this AsyncVecRobometerReward: make another one"


class UnclaimedRewardError(RuntimeError):
    """Steps are made, and nobody waits for their rewards."""


class ScoringThread:
    """Runs jobs one after the other on a thread of its own.

    Args:
        capacity: How many jobs may wait or run; `submit` blocks while there are as many.
    """

    def __init__(self, capacity: int) -> None:
        self._executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix="robometer-scoring")
        self._free = threading.BoundedSemaphore(capacity)
        self._failure: BaseException | None = None
        self._is_closed = False

    def submit(self, job: Callable[[], T]) -> Future[T]:
        """Has the job run after those before it, and returns what it will return.

        Raises:
            gymnasium.error.ClosedEnvironmentError: The thread has ended.
            BaseException: What an earlier job raised.
        """
        self.raise_failure()
        self.require_open()
        self._free.acquire()
        try:
            future = self._executor.submit(self._run, job)
        except RuntimeError as error:
            # Closed while this call waited for a place, which it must not keep.
            self._free.release()
            raise ClosedEnvironmentError(_CLOSED) from error
        future.add_done_callback(lambda _: self._free.release())
        return future

    def raise_failure(self) -> None:
        """Raises what a job raised, if one has."""
        if self._failure is not None:
            raise self._failure

    def require_open(self) -> None:
        """Raises `gymnasium.error.ClosedEnvironmentError` once the thread was ended."""
        if self._is_closed:
            raise ClosedEnvironmentError(_CLOSED)

    def close(self) -> None:
        """Waits for the jobs that were submitted, and ends the thread."""
        self._is_closed = True
        self._executor.shutdown()
        if self._failure is not None:
            logger.error("scoring had stopped with %r; steps after that were not paid", self._failure)

    def _run(self, job: Callable[[], T]) -> T:
        # A history that misses a frame would be paid wrongly from then on: after a failure nothing runs any more.
        self.raise_failure()
        try:
            return job()
        except BaseException as error:
            self._failure = error
            raise


class AsyncVecRobometerReward(VecRobometerReward):
    """Pays what a reward model sees, later: for off-policy algorithms and models slower than the environment.

    A step copies the frames that will be scored and returns at once, with NaN for rewards. A thread scores them, in
    order, and `robometer_rl.wrappers.LabelledReplayBuffer` writes the rewards into the transitions, which it samples
    from then on. The rewards are those that `robometer_rl.wrappers.VecRobometerReward` would have paid.

    When ``max_pending`` steps wait to be scored, the next one waits too: nothing is ever left out. The wrapper expects
    a labelled buffer to claim the rewards of every step, and refuses to go on when none does; evaluate in another
    environment, wrapped in `VecRobometerReward` or not at all.

    The infos of a step know its task reward only. What else `VecRobometerReward` says about an episode appears in
    ``episodes`` once its last frame is scored, and `robometer_rl.wrappers.RewardHonestyCallback` waits for it.

    Args:
        venv: The vector environment.
        model: A reward model, shared and never closed, or a string for `robometer_rl.load_reward_model`.
        task: The instruction, or where it comes from: `robometer_rl.wrappers.tasks.TaskSource`.
        reward: How predictions become a reward. ``terminate_on_success`` is refused: whether a step ends the episode
            must be known when it is made.
        frames: See `VecRobometerReward`.
        protocol: Which frames of a history the model is shown; None for the model's default.
        success_key: Info key of true success; None for ``is_success``, else ``success`` (`robometer_rl.true_success`).
        max_pending: How many steps may wait to be scored.

    Attributes:
        episodes: The last 100 episodes that were scored to their end: their ``robometer/episode`` and, if known,
            ``robometer/true_success``, with the number of their ``environment``.

    Examples:
        With ``make_env``, which makes an environment with ``render_mode="rgb_array"``:

        >>> from stable_baselines3 import SAC
        >>> from stable_baselines3.common.env_util import make_vec_env
        >>> from robometer_rl.wrappers import AsyncVecRobometerReward, LabelledReplayBuffer, RenderToInfo
        >>> venv = make_vec_env(make_env, wrapper_class=RenderToInfo)
        >>> venv = AsyncVecRobometerReward(venv, "mini", task="open the drawer")
        >>> agent = SAC("MlpPolicy", venv, replay_buffer_class=LabelledReplayBuffer, buffer_size=100)
        >>> agent = agent.learn(10)
        >>> agent.replay_buffer.drain()
        >>> agent.replay_buffer.labels_written
        10
        >>> venv.close()
    """

    def __init__(
        self,
        venv: VecEnv,
        model: RewardModel | str,
        task: TaskSource,
        reward: RewardSpec | Mapping[str, Any] = DEFAULT_REWARD,
        frames: FrameSources = "render",
        protocol: FrameProtocol | str | None = None,
        success_key: str | None = None,
        max_pending: int = 64,
    ) -> None:
        """See the class.

        Raises:
            ValueError: ``terminate_on_success``, or ``max_pending`` is not a positive integer; or as
                `VecRobometerReward`.
            TypeError: As `VecRobometerReward`.
        """
        if isinstance(max_pending, bool) or not isinstance(max_pending, int) or max_pending < 1:
            raise ValueError(f"max_pending must be a positive integer, got {max_pending!r}")
        spec = as_reward_spec(reward)
        if spec.terminate_on_success:
            raise ValueError(
                "terminate_on_success needs the prediction before the next step is made: use VecRobometerReward, or "
                "RewardSpec(terminate_on_success=False)"
            )
        super().__init__(venv, model, task, spec, frames, protocol, success_key)
        self._thread = ScoringThread(max_pending)
        self._last: PendingRewards | None = None
        # The callback of an algorithm may stop it between a step and its storage, so one unclaimed step is forgiven
        # once a buffer has shown itself.
        self._may_miss = False
        self.episodes: deque[dict[str, Any]] = deque(maxlen=100)

    def reset(self) -> VecEnvObs:
        """Resets the environments; their new histories start when what came before has been scored.

        Raises:
            gymnasium.error.ClosedEnvironmentError: After `close`.
            BaseException: What the scoring thread raised.
        """
        self._thread.require_open()
        with self._scorer.guard.resetting():
            observations = self.venv.reset()
            self._last = None
            moment = self._read_reset(np.arange(self.num_envs), observations)
            self._thread.submit(partial(self._scorer.begin, moment))
        return observations

    def step_async(self, actions: NDArray[Any]) -> None:
        """Begins a step.

        Raises:
            gymnasium.error.ResetNeeded: Nothing was reset yet, or an error in the last step or reset has left the
                episodes in pieces.
            gymnasium.error.ClosedEnvironmentError: After `close`.
            UnclaimedRewardError: No buffer waits for the rewards of the step before.
            BaseException: What the scoring thread raised.
        """
        self._thread.raise_failure()
        self._thread.require_open()
        self._scorer.guard.require_whole()
        self._require_claimed()
        self.venv.step_async(actions)

    def step_wait(self) -> VecEnvStepReturn:
        """Waits for the environments, and for a place in the queue.

        Returns:
            Observations, NaN for each reward, dones and infos.

        Raises:
            gymnasium.error.ResetNeeded: See `step_async`.
            BaseException: What the scoring thread raised.
        """
        with self._scorer.guard.stepping():
            received = self._receive()
            self._last = PendingRewards(self._thread.submit(self._job(received)))
        infos = [without_frames(info) for info in received.infos]
        for index, info in enumerate(infos):
            info["robometer/task_reward"] = float(received.task_rewards[index])
            info[PENDING_KEY] = self._last
        return received.observations, np.full(self.num_envs, np.nan), received.dones, infos

    def _job(self, received: Received) -> Callable[[], ScoredStep]:
        """Reads all that it takes to pay a step, so that it can be done later."""
        moment = self._scorer.reader.step(received.view, received.dones)
        ended = np.flatnonzero(received.dones)
        outcomes = {index: self._scorer.reader.outcome(received.view(index)) for index in ended.tolist()}
        next_moment = self._read_reset(ended, received.observations)
        terminated = received.dones & ~received.truncated
        return partial(self._pay, moment, received.task_rewards, terminated, received.truncated, outcomes, next_moment)

    def close(self) -> None:
        """Waits for the steps that are still to be scored, and closes the environments."""
        self._thread.close()
        super().close()

    def _read_reset(self, indices: NDArray[np.int64], observations: VecEnvObs) -> Moment:
        reset_infos = self.venv.unwrapped.reset_infos
        for index in indices.tolist():
            self.reset_infos[index] = without_frames(reset_infos[index])
        return self._scorer.reader.reset(indices, views(observations, reset_infos))

    def _pay(
        self,
        moment: Moment,
        task_rewards: NDArray[np.float64],
        terminated: NDArray[np.bool_],
        truncated: NDArray[np.bool_],
        outcomes: Mapping[int, dict[str, Any]],
        next_moment: Moment,
    ) -> ScoredStep:
        """Pays one step and begins the episodes that follow those that ended in it; on the scoring thread."""
        step = self._scorer.pay(moment, task_rewards, terminated, truncated)
        for index, outcome in outcomes.items():
            step.entries[index].update(outcome)
            ended = {"environment": index, "robometer/episode": step.entries[index]["robometer/episode"]}
            self.episodes.append(ended | outcome)
        self._scorer.begin(next_moment)
        return step

    def _require_claimed(self) -> None:
        if self._last is None:
            return
        if not self._last.claimed and not self._may_miss:
            raise UnclaimedRewardError(
                "no replay buffer waits for the rewards of the last step, which AsyncVecRobometerReward pays later. "
                "Use an off-policy algorithm (SAC, TD3, DQN, ...) with replay_buffer_class=LabelledReplayBuffer, or "
                "LabelledDictReplayBuffer if observations are dictionaries. On-policy algorithms, n-step and "
                "hindsight buffers, and evaluation need rewards at once: use VecRobometerReward for these"
            )
        self._may_miss = self._last.claimed
