"""The learned reward as a transform of TorchRL, for single, batched and parallel environments (extra ``offline``)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any, NoReturn, TypeAlias

import numpy as np
import torch
from gymnasium import spaces
from numpy.typing import NDArray
from tensordict import TensorDictBase
from torchrl.data import Bounded, Composite, Unbounded
from torchrl.envs import EnvBase, Transform

from robometer_rl.frames import FrameProtocol, as_array
from robometer_rl.models.reward_model import RewardModel
from robometer_rl.rewards import DEFAULT_REWARD, RewardSpec
from robometer_rl.wrappers.frame_sources import View
from robometer_rl.wrappers.observation_reader import Views
from robometer_rl.wrappers.scoring import EpisodeScorer, as_model, as_reward_spec
from robometer_rl.wrappers.tasks import TaskSource
from robometer_rl.wrappers.tensors import like

__all__ = ["RobometerReward"]

Key: TypeAlias = str | tuple[str, ...]
Bools = NDArray[np.bool_]
_SAID = "robometer"


class RobometerReward(Transform):
    """Pays what a reward model sees instead of, or beside, the environment's own reward.

    What `robometer_rl.wrappers.vector.RobometerReward` does, with the same numbers and one call of the model for all
    environments of a batch: put it around a `ParallelEnv`, not into its workers. Frames on an accelerator stay there.

    ``reward`` becomes the learned one. Under ``"robometer"`` there are ``progress``, ``success_detected`` and
    ``task_reward``, the environment's own. With ``terminate_on_success`` the step on which the success rule fires is
    ``terminated``, and TorchRL resets that environment as any other that is done.

    Args:
        model: A reward model, shared and never closed, or a string for `robometer_rl.load_reward_model`.
        task: The instruction; a list with one for each environment, in the order of the flattened batch; or a callable
            of one environment's part of the tensordict, and of an info that is empty.
        reward: How predictions become a reward.
        frames: The key of the frames, as in ``"pixels"`` or ``("pixels", "top")``; a list of keys for several cameras.
        protocol: Which frames of a history the model is shown; None for the model's default.

    Raises:
        TaskError: The task is not an instruction.
        ValueError: A `RewardSpec` that is none, or several instructions but not one for each environment.
        TypeError: A model, reward or protocol of another type.

    Examples:
        >>> from torchrl.envs import TransformedEnv
        >>> from torchrl.envs.libs.gym import GymWrapper
        >>> from robometer_rl.wrappers.torchrl import RobometerReward
        >>> base = GymWrapper(make_env(), from_pixels=True)
        >>> env = TransformedEnv(base, RobometerReward("mini", task="open the drawer"))
        >>> steps = env.rollout(2)
        >>> steps["next", "reward"].shape, steps["next", "robometer", "progress"].shape
        (torch.Size([2, 1]), torch.Size([2, 1]))
    """

    def __init__(
        self,
        model: RewardModel | str,
        task: TaskSource,
        reward: RewardSpec | Mapping[str, Any] = DEFAULT_REWARD,
        frames: Key | list[Key] = "pixels",
        protocol: FrameProtocol | str | None = None,
    ) -> None:
        """See the class."""
        self._frames = list(frames) if isinstance(frames, list) else [frames]
        super().__init__(in_keys=[*self._frames, "reward"], out_keys=["reward"])
        self._arguments: dict[str, Any] = {"task": task, "protocol": protocol}
        self.model = as_model(model)
        self.reward = as_reward_spec(reward)
        self._scorer: EpisodeScorer | None = None

    def set_container(self, container: Any) -> None:
        """Belongs to another environment from now on: histories begin anew."""
        self._scorer = None
        super().set_container(container)

    def clone(self) -> RobometerReward:
        """A copy with histories of its own, and the same model."""
        copy = super().clone()
        copy._scorer = None
        return copy

    def transform_reward_spec(self, reward_spec: Any) -> Any:
        """The learned reward has no bounds, and the form of the environment's own."""
        own = reward_spec["reward"] if isinstance(reward_spec, Composite) else reward_spec
        dtype = own.dtype if own.dtype.is_floating_point else torch.get_default_dtype()
        learned = Unbounded(shape=own.shape, dtype=dtype, device=own.device)
        if not isinstance(reward_spec, Composite):
            return learned
        reward_spec["reward"] = learned
        return reward_spec

    def transform_observation_spec(self, observation_spec: Any) -> Any:
        """With what the model says."""
        own = self._inside.full_reward_spec["reward"]
        batch, device = self._inside.batch_size, observation_spec.device
        said = {
            "progress": Bounded(0.0, 1.0, shape=own.shape, dtype=torch.float32, device=device),
            "success_detected": Unbounded(shape=own.shape, dtype=torch.bool, device=device),
            "task_reward": own.clone(),
        }
        observation_spec[_SAID] = Composite(said, shape=batch, device=device)
        return observation_spec

    @property
    def _inside(self) -> EnvBase:
        """The environment inside."""
        inside = self.parent
        if inside is None:
            raise RuntimeError("this transform belongs to no environment: TransformedEnv(env, RobometerReward(...))")
        return inside

    def _reset(self, tensordict: TensorDictBase, tensordict_reset: TensorDictBase) -> TensorDictBase:
        count = max(1, tensordict_reset.batch_size.numel())
        asked = None if tensordict is None else tensordict.get("_reset", None)
        mask = np.ones(count, np.bool_) if asked is None else as_array(asked).reshape(count, -1).any(axis=1)
        scorer = self._scorer = self._scorer or self._made(count)
        with scorer.guard.resetting(everything=bool(mask.all())):
            scorer.start(np.flatnonzero(mask), self._views(tensordict_reset, count))
        own = self._inside.full_reward_spec["reward"].zero()
        return self._said(tensordict_reset, np.zeros(count, np.bool_), own)

    def _reset_on_native_autoreset(
        self, tensordict: TensorDictBase, tensordict_reset: TensorDictBase
    ) -> TensorDictBase:
        return self._reset(tensordict, tensordict_reset)

    def _step(self, tensordict: TensorDictBase, next_tensordict: TensorDictBase) -> TensorDictBase:
        scorer = self._scorer
        if scorer is None:
            raise RuntimeError("this transform has seen no reset; call env.reset() before the first env.step()")
        scorer.require_running()
        own = next_tensordict["reward"]
        count = len(scorer.over)
        if own.numel() != count:
            raise ValueError(
                f"got rewards of shape {tuple(own.shape)} in a batch of {tuple(next_tensordict.batch_size)}; expected "
                "one for each environment (of several agents, each needs an environment of its own)"
            )
        ends = [self._flags(next_tensordict, key, count) for key in ("terminated", "truncated")]
        with scorer.guard.stepping():
            rewards = as_array(own).reshape(count).astype(np.float64)
            step = scorer.step(self._views(next_tensordict, count), rewards, *ends)
        detected = np.array([entry["robometer/success_detected"] for entry in step.entries])
        next_tensordict.set("reward", like(step.rewards, own).view(own.shape))
        if self.reward.terminate_on_success:
            terminated = like(step.terminated, own).view(own.shape)
            next_tensordict.set("terminated", terminated)
            next_tensordict.set("done", next_tensordict["done"] | terminated)
        return self._said(next_tensordict, detected, own)

    def _said(self, tensordict: TensorDictBase, detected: Bools, own: torch.Tensor) -> TensorDictBase:
        assert self._scorer is not None, "made at the first reset"
        progress = torch.as_tensor(self._scorer.progress, dtype=torch.float32, device=own.device)
        tensordict.set((_SAID, "progress"), progress.view(own.shape))
        tensordict.set((_SAID, "success_detected"), like(detected, own).view(own.shape))
        tensordict.set((_SAID, "task_reward"), own)
        return tensordict

    def _made(self, count: int) -> EpisodeScorer:
        return EpisodeScorer(
            self.model,
            **self._arguments,
            reward=self.reward,
            frames=tuple(_camera(key) for key in self._frames),
            success_key=None,
            num_envs=count,
            observation_space=spaces.Dict({}),
            render_camera=_refuse_render,
            read_attribute=_refuse_attribute,
        )

    def _views(self, tensordict: TensorDictBase, count: int) -> Views:
        rows = tensordict.reshape(count)
        return cache(lambda index: View(index, rows[index], {}))

    def _flags(self, tensordict: TensorDictBase, key: str, count: int) -> Bools:
        given = tensordict.get(key, None)
        return np.zeros(count, np.bool_) if given is None else np.array(as_array(given).reshape(count), np.bool_)


def _camera(key: Key) -> Any:
    def frame(observation: TensorDictBase, info: Any) -> torch.Tensor:
        found = observation.get(key, None)
        if found is None:
            raise KeyError(f"frames={key!r}: the tensordict has {sorted(map(str, observation.keys(True, True)))}")
        return found

    return frame


def _refuse_render(every: int) -> NoReturn:
    raise ValueError("frames come from a key of the tensordict")


def _refuse_attribute(name: str, indices: Sequence[int]) -> NoReturn:
    raise ValueError(f"TaskFromAttribute({name!r}) has no environments to ask; give the task, or a callable")
