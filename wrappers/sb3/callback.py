"""Keeping a learned reward honest while an agent of Stable-Baselines3 learns from it."""

from __future__ import annotations

import json
import logging
import warnings
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.vec_env import VecEnv

from robometer_rl.evaluation.reward_hacking import Agreement, EpisodeOutcome, FarmingWatch, agreement
from robometer_rl.files import append_line, whole_lines, write_text
from robometer_rl.wrappers.sb3.check import check_algorithm, steps_per_decision
from robometer_rl.wrappers.sb3.replay_buffer import PENDING_KEY, PendingRewards
from robometer_rl.wrappers.sb3.vec_env import VecRobometerReward
from robometer_rl.wrappers.sb3.vec_reader import layers

__all__ = ["OutcomeCounter", "RewardFarmingWarning", "RewardHonestyCallback", "evaluate_honesty"]

logger = logging.getLogger(__name__)


_FALSE_SUCCESS = 0.2  # part of a window without true success that is taken for success


class RewardFarmingWarning(UserWarning):
    """Learned return rises while true success does not, or episodes are taken for successes and none is one."""


class OutcomeCounter:
    """Makes the outcomes of episodes from the infos of steps.

    An episode was predicted to be a success if the success rule held after any of its steps. Whether it was one is
    what the reward wrapper says at its end, ``robometer/true_success``; see `robometer_rl.true_success`.

    Args:
        num_envs: Number of environments.
    """

    def __init__(self, num_envs: int) -> None:
        self._predicted = np.zeros(num_envs, np.bool_)

    def step(self, index: int, info: Mapping[str, Any], done: bool) -> EpisodeOutcome | None:
        """Takes note of one step of one environment; returns the outcome if it ended the episode.

        Raises:
            ValueError: The environment pays no learned reward, or does not say whether the task is done.
        """
        self._predicted[index] |= bool(info.get("robometer/success_detected", False))
        if not done:
            return None
        if "robometer/episode" not in info:
            raise ValueError(
                "the info at the end of an episode has no 'robometer/episode': wrap the environment in "
                "robometer_rl.wrappers.VecRobometerReward, and leave its info keys where they are"
            )
        if "robometer/true_success" not in info:
            raise ValueError(
                f"the info at the end of an episode does not say whether the task is done; it has {sorted(info)}. Give "
                "the reward wrapper success_key=, the info key that says so"
            )
        episode = info["robometer/episode"]
        outcome = EpisodeOutcome(
            learned_return=episode["return"],
            true_return=episode["task_return"],
            predicted_success=bool(self._predicted[index]),
            true_success=info["robometer/true_success"],
            length=episode["length"],
        )
        self._predicted[index] = False
        return outcome


def evaluate_honesty(agent: BaseAlgorithm, venv: VecEnv, episodes: int, deterministic: bool = True) -> Agreement:
    """Lets an agent act and compares what it is paid with what it achieves.

    Args:
        agent: Whose policy acts.
        venv: Environments that pay the learned reward, apart from those that the agent learns in; they are reset first.
        episodes: Episodes, shared evenly between the environments, so that short ones are not preferred.
        deterministic: Whether the policy acts without its noise.

    Raises:
        ValueError: Not a positive number of episodes; otherwise see `OutcomeCounter.step`.
    """
    if episodes < 1:
        raise ValueError(f"an evaluation needs at least one episode, got {episodes}")
    counter = OutcomeCounter(venv.num_envs)
    left = np.array([(episodes + index) // venv.num_envs for index in range(venv.num_envs)])
    outcomes: list[EpisodeOutcome] = []
    observations: Any = venv.reset()
    while left.any():
        actions, _ = agent.predict(observations, deterministic=deterministic)
        observations, _, dones, infos = venv.step(actions)
        for index in range(venv.num_envs):
            outcome = counter.step(index, infos[index], bool(dones[index]))
            if outcome is not None and left[index]:
                left[index] -= 1
                outcomes.append(outcome)
    return agreement(outcomes)


@dataclass(frozen=True)
class _Step:
    """A step of all environments whose rewards may still have to arrive.

    Attributes:
        number: ``num_timesteps`` after it.
        dones: Whether it ended the episode of each environment.
        known: What is said of it; or where that will be.
    """

    number: int
    dones: list[bool]
    known: Sequence[Mapping[str, Any]] | PendingRewards

    @classmethod
    def of(cls, number: int, infos: Sequence[Mapping[str, Any]], dones: Sequence[bool]) -> _Step:
        """Keeps of the infos what is needed later."""
        # Infos may hold observations, which need not be kept until rewards arrive.
        return cls(number, [bool(done) for done in dones], infos[0].get(PENDING_KEY, infos))

    @property
    def is_known(self) -> bool:
        return not isinstance(self.known, PendingRewards) or self.known.are_known

    def infos(self) -> Sequence[Mapping[str, Any]]:
        """All that is said; waits for it."""
        return self.known.entries() if isinstance(self.known, PendingRewards) else self.known


class RewardHonestyCallback(BaseCallback):
    """Logs what is paid beside what is achieved, and warns of reward hacking (farming).

    Under ``honesty/`` the logger gets, over the last ``window`` episodes, the fields of
    `robometer_rl.evaluation.reward_hacking.Agreement`: learned and true return and their correlation, predicted and
    true success, and how often either is taken for the other. Under ``honesty_eval/`` it gets the same of evaluations.
    `robometer_rl.evaluation.reward_hacking.FarmingWatch` decides when to warn; ``honesty/suspicious_windows`` is its
    count.
    Before the first step it calls `robometer_rl.wrappers.check_algorithm`. Steps of
    `robometer_rl.wrappers.AsyncVecRobometerReward` are looked at once their rewards have arrived, the last of them when
    learning ends.

    Args:
        window: Episodes that are summarised, and that are compared with earlier ones.
        record: JSON lines to append to: one per episode and one per evaluation, NaN and infinity as null. Where
            training goes on from a save, lines about what came after it are dropped. None writes none.
        eval_env: Environments that pay the same reward for `evaluate_honesty`; None for no evaluations.
        eval_every: Steps (``num_timesteps``) between evaluations.
        eval_episodes: Episodes of an evaluation.
        live: Folder in which the first environment's running episode and the highest-paid failures of all are shown to
            ``robometer-rl ui --live FOLDER``, see `robometer_rl.wrappers.scoring.ScoringWrapper.record_live`. Where
            sub-environments have a reward wrapper each, of the first one alone. None shows nothing.

    Warns:
        RewardFarmingWarning: Learned return rises while true success does not, or a fifth of a window's episodes are
            taken for successes and none is one. Once, until true success rises.

    Examples:
        With ``make_env``, which makes an environment with ``render_mode="rgb_array"``:

        >>> from stable_baselines3 import SAC
        >>> from stable_baselines3.common.env_util import make_vec_env
        >>> from robometer_rl.wrappers import RenderToInfo, RewardHonestyCallback, VecRobometerReward
        >>> venv = make_vec_env(make_env, wrapper_class=RenderToInfo)
        >>> venv = VecRobometerReward(venv, "mini", task="open the drawer")
        >>> agent = SAC("MlpPolicy", venv, buffer_size=100).learn(10, callback=RewardHonestyCallback())
    """

    def __init__(
        self,
        window: int = 50,
        record: str | Path | None = None,
        eval_env: VecEnv | None = None,
        eval_every: int = 10_000,
        eval_episodes: int = 20,
        live: str | Path | None = None,
    ) -> None:
        """See the class.

        Raises:
            ValueError: A window below 2, or evaluations without a distance or episodes.
            TypeError: ``record`` or ``live`` is no path.
        """
        super().__init__()
        if eval_every < 1 or eval_episodes < 1:
            raise ValueError(f"eval_every and eval_episodes must be at least 1, got {eval_every} and {eval_episodes}")
        self.watch = FarmingWatch(window)
        self._outcomes: deque[EpisodeOutcome] = deque(maxlen=window)
        self._record = None if record is None else Path(record)
        self._live = None if live is None else Path(live)
        self._eval_env = eval_env
        self._eval_every = eval_every
        self._eval_episodes = eval_episodes
        self._next_evaluation = eval_every
        self._warned = False
        self._unseen: deque[_Step] = deque()

    @property
    def outcomes(self) -> Sequence[EpisodeOutcome]:
        """The last episodes, oldest first."""
        return tuple(self._outcomes)

    def _on_training_start(self) -> None:
        check_algorithm(self.model)
        self._counter = OutcomeCounter(self.training_env.num_envs)
        self._unseen.clear()  # what a learning that failed has left
        if self._record is not None:
            self._record.parent.mkdir(parents=True, exist_ok=True)
            if self._record.exists():
                _forget(self._record, self.num_timesteps)
        if self._live is not None:
            self._show(self._live)
        # A run that is continued goes on where its evaluations were.
        self._next_evaluation = (self.num_timesteps // self._eval_every + 1) * self._eval_every

    def _on_step(self) -> bool:
        self._unseen.append(_Step.of(self.num_timesteps, self.locals["infos"], self.locals["dones"]))
        self._catch_up(wait=False)
        if self._eval_env is not None and self.num_timesteps >= self._next_evaluation:
            self._next_evaluation += self._eval_every
            self._evaluate(self._eval_env)
        return True

    def _on_training_end(self) -> None:
        self._catch_up(wait=True)
        if self._live is not None:
            self._call_rewards("stop_live")

    def _show(self, folder: Path) -> None:
        # Inside sub-environments a wrapper counts the steps of its own.
        around = self._reward_wrapper() is not None
        per_decision = 1 if around else steps_per_decision(self.training_env) / self.training_env.num_envs
        self._call_rewards("record_live", folder, steps=int(self.num_timesteps * per_decision))

    def _reward_wrapper(self) -> VecRobometerReward | None:
        """The reward wrapper around all environments; None where each has its own."""
        return next((layer for layer in layers(self.training_env) if isinstance(layer, VecRobometerReward)), None)

    def _call_rewards(self, method: str, *args: Any, **kwargs: Any) -> None:
        """Calls a method of the reward wrapper, that of the first environment where each has its own."""
        wrapper = self._reward_wrapper()
        if wrapper is not None:
            getattr(wrapper, method)(*args, **kwargs)
            return
        self.training_env.env_method(method, *args, indices=[0], **kwargs)

    def _catch_up(self, wait: bool) -> None:
        """Looks at the steps so far, or at those whose rewards have arrived."""
        while self._unseen and (wait or self._unseen[0].is_known):
            step = self._unseen.popleft()
            for index, (info, done) in enumerate(zip(step.infos(), step.dones, strict=True)):
                outcome = self._counter.step(index, info, done)
                if outcome is not None:
                    self._note(step.number, outcome)

    def _note(self, step: int, outcome: EpisodeOutcome) -> None:
        self._outcomes.append(outcome)
        self._write(step, {"kind": "episode", **asdict(outcome)})
        found = agreement(self._outcomes)
        self._log("honesty", found)
        self._warn_of_false_success(step, found)
        comparison = self.watch.add(outcome)
        if comparison is None:
            return
        self.logger.record("honesty/suspicious_windows", self.watch.suspicious)
        self._warned = self._warned and not comparison.learning
        if self.watch.farming and not self._warned:
            self._warned = True
            warnings.warn(
                f"at step {step} the agent seems to farm the learned reward: {comparison}. Look at its "
                "highest-paid failures; docs/reward_design.md says what to do",
                RewardFarmingWarning,
                stacklevel=2,
            )

    def _warn_of_false_success(self, step: int, found: Agreement) -> None:
        """What never rose was perhaps paid for nothing from the start."""
        is_full = found.episodes == self._outcomes.maxlen
        if self._warned or not is_full or found.true_success_rate > 0.0 or found.false_positive_rate < _FALSE_SUCCESS:
            return
        self._warned = True
        warnings.warn(
            f"at step {step} the model took {found.false_positive_rate:.0%} of the last {found.episodes} episodes for "
            "successes, and none was one: `robometer-rl calibrate` finds another success threshold from labelled "
            "episodes, and docs/reward_design.md says what else to do",
            RewardFarmingWarning,
            stacklevel=2,
        )

    def _evaluate(self, venv: VecEnv) -> None:
        found = evaluate_honesty(self.model, venv, self._eval_episodes)
        self._log("honesty_eval", found)
        self._write(self.num_timesteps, {"kind": "evaluation", **found.as_dict()})
        logger.info("step %d: %s", self.num_timesteps, found)

    def _log(self, section: str, found: Agreement) -> None:
        for name, value in found.as_dict().items():
            # What is undefined so far (no success yet, say) would be drawn as a gap, and printed as nan.
            if not np.isnan(value):
                self.logger.record(f"{section}/{name}", value)

    def _write(self, step: int, entry: dict[str, Any]) -> None:
        if self._record is None:
            return
        plain = {
            key: None if isinstance(value, float) and not np.isfinite(value) else value for key, value in entry.items()
        }
        append_line(self._record, json.dumps({"step": step, **plain}))


def _forget(record: Path, after: int) -> None:
    """Drops the lines of a record about later steps than ``after``: they are made again."""
    lines = whole_lines(record)
    write_text(record, "".join(f"{line}\n" for line in lines if json.loads(line)["step"] <= after))
