"""Batched environments on tensors: what they are paid is what the same frames pay in arrays, and stays on their device.

`TensorWorld` speaks torch as simulators on accelerators do, in the words of Gymnasium or of ManiSkill.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium.vector import AutoresetMode, SyncVectorEnv, VectorEnv
from hypothesis import given, settings
from hypothesis import strategies as st

from robometer_rl import RewardSpec, load_reward_model
from robometer_rl.frames import FrameError, as_array
from robometer_rl.models.robometer.patches import FramePatcher
from robometer_rl.wrappers.masked_reset import ResetMaskError
from robometer_rl.wrappers.tensors import copied, device_of, like
from robometer_rl.wrappers.vector import RobometerReward
from robometer_rl.wrappers.vector_infos import final_key
from tests.fixed_models import BrightnessModel, PixelModel
from tests.wrappers.worlds import TASK, NoiseWorld

CHECKPOINT = Path(__file__).parents[1] / "fixtures" / "robometer_tiny" / "checkpoint"
MODES = list(AutoresetMode)
MODEL = PixelModel(success_threshold=0.5)
DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA"))]


class TensorWorld(VectorEnv[Any, Any, Any]):
    """Worlds of noise whose observations, rewards, flags and infos are tensors.

    Args:
        count: Environments.
        mode: How they reset.
        says: ``"final_obs"`` or ``"final_observation"``; with the latter, resets of some are told ``env_idx``, as
            ManiSkill has it.
        device: Where the tensors are.
        dtype: Of rewards.
        size: Of frames.
    """

    def __init__(
        self,
        count: int,
        mode: AutoresetMode = AutoresetMode.DISABLED,
        says: str = "final_obs",
        device: str = "cpu",
        dtype: torch.dtype = torch.float32,
        size: int = 8,
    ) -> None:
        inside = AutoresetMode.DISABLED if mode is AutoresetMode.SAME_STEP else mode
        inner = SyncVectorEnv([partial(NoiseWorld, size=size)] * count, autoreset_mode=inside)
        self.inner, self.num_envs, self.mode, self.says = inner, count, mode, says
        self.device, self.dtype = torch.device(device), dtype
        self.metadata = {"autoreset_mode": mode}
        self.single_observation_space, self.observation_space = inner.single_observation_space, inner.observation_space
        self.single_action_space, self.action_space = inner.single_action_space, inner.action_space
        self.render_mode = "rgb_array"
        self.over = torch.zeros(count, dtype=torch.bool)

    def reset(self, *, seed: Any = None, options: dict[str, Any] | None = None) -> Any:
        mask = np.ones(self.num_envs, bool)
        if options is not None and self.says == "final_observation" and "env_idx" in options:
            assert options["env_idx"].device == self.device
            mask = np.isin(np.arange(self.num_envs), options["env_idx"].cpu().numpy())
        elif options is not None and "reset_mask" in options:
            mask = as_array(options["reset_mask"])
        observations, infos = self.inner.reset(seed=seed, options={"reset_mask": mask})
        self.over[torch.as_tensor(mask)] = False
        return self.speak(observations), self.reported(infos)

    def step(self, actions: Any) -> Any:
        assert actions.device == self.device
        observations, rewards, terminated, truncated, infos = self.inner.step(actions.cpu().numpy())
        flags = [torch.as_tensor(each, device=self.device) for each in (terminated, truncated)]
        observations, infos = self.speak(observations), self.reported(infos)
        self.over = (flags[0] | flags[1]).cpu()
        if self.mode is AutoresetMode.SAME_STEP and bool(self.over.any()):
            final = {self.says: copied(observations), "final_info": copied(infos)}
            done = self.over.clone().to(self.device)
            observations, begun = self.reset(options={"reset_mask": self.over.numpy(), "env_idx": done.nonzero()[:, 0]})
            for key, each in begun.items():
                infos[key][done] = each[done]
            infos |= final | {f"_{key}": done for key in final}
        return observations, torch.as_tensor(rewards).to(self.device, self.dtype), *flags, infos

    def reported(self, infos: dict[str, Any]) -> dict[str, Any]:
        """All environments report, those that were left out zeros, as simulators of batches do."""
        return {key: self.speak(each) for key, each in infos.items() if key in ("is_success", "wrist", "number", "t")}

    def speak(self, value: Any) -> Any:
        if isinstance(value, dict):
            return {key: self.speak(part) for key, part in value.items()}
        return torch.tensor(np.asarray(value), device=self.device)

    def render(self) -> Any:
        return self.speak(np.stack(self.inner.render() or ()))


def actions(env: RobometerReward, device: str) -> torch.Tensor:
    return torch.zeros(env.num_envs, dtype=torch.int64, device=device)


OPERATIONS = st.lists(st.one_of(st.just("step"), st.lists(st.booleans(), min_size=3, max_size=3)), max_size=10)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("says", ["final_obs", "final_observation"])
@pytest.mark.parametrize("mode", MODES)
@settings(max_examples=10, deadline=None)
@given(script=OPERATIONS, every=st.integers(1, 3), ends=st.booleans(), seed=st.integers(0, 50))
def test_tensors_pay_what_arrays_pay(
    mode: AutoresetMode, says: str, device: str, script: list[Any], every: int, ends: bool, seed: int
) -> None:
    spec = RewardSpec(task_weight=0.5, success_bonus=1.0, every=every, terminate_on_success=ends, patience=1)
    arguments: dict[str, Any] = {"reward": spec, "frames": ("obs/image", "info/wrist")}
    theirs = RobometerReward(TensorWorld(3, mode, says, device, torch.float64), MODEL, TASK, **arguments)
    ours = RobometerReward(SyncVectorEnv([NoiseWorld] * 3, autoreset_mode=mode), MODEL, TASK, **arguments)
    same(theirs.reset(seed=seed)[1], ours.reset(seed=seed)[1], np.ones(3, bool))
    over = np.zeros(3, bool)
    for operation in script:
        mask = over if operation == "step" else np.array(operation) | over
        if mask.any() and (mode is AutoresetMode.DISABLED or operation != "step"):
            options = {"reset_mask": torch.tensor(mask, device=device)}
            same(theirs.reset(options=options)[1], ours.reset(options={"reset_mask": mask})[1], mask)
            over[:] = False
            continue
        observations, rewards, terminated, truncated, infos = theirs.step(actions(theirs, device))
        seen, paid, *flags, said = ours.step(np.zeros(3, np.int64))
        assert {each.device.type for each in (rewards, terminated, truncated)} == {device}
        assert rewards.dtype is torch.float64
        np.testing.assert_array_equal(rewards.cpu(), paid)
        for flag, expected in zip((terminated, truncated), flags, strict=True):
            np.testing.assert_array_equal(torch.as_tensor(flag).cpu(), expected)
        np.testing.assert_array_equal(observations["image"].cpu(), seen["image"])
        same(infos, said, np.ones(3, bool))
        over = (flags[0] | flags[1]) & (mode is AutoresetMode.DISABLED)
        if mode is AutoresetMode.SAME_STEP and (done := flags[0] | flags[1]).any():
            same(infos["final_info"], said["final_info"], done)
            last = infos[final_key(infos)]["image"].cpu()
            for index in np.flatnonzero(done).tolist():
                np.testing.assert_array_equal(last[index], said["final_obs"][index]["image"])


def same(theirs: dict[str, Any], ours: dict[str, Any], mask: np.ndarray) -> None:
    """What the wrapper says of the environments in the mask is the same, and its tensors are tensors."""
    keys = [key for key in ours if key.startswith("robometer/")]
    assert keys == [key for key in theirs if key.startswith("robometer/")]
    for key in keys:
        assert isinstance(theirs[f"_{key}"], torch.Tensor)
        np.testing.assert_array_equal(theirs[f"_{key}"].cpu() & torch.tensor(mask), ours[f"_{key}"] & mask)
        if isinstance(ours[key], dict):
            assert device_of(theirs[key]) == theirs[f"_{key}"].device
            continue
        assert isinstance(theirs[key], torch.Tensor)
        where = ours[f"_{key}"] & mask
        np.testing.assert_allclose(theirs[key].cpu().numpy()[where], ours[key][where], rtol=1e-6)


SHOWN = {
    "bytes": lambda frames: frames,
    "fractions": lambda frames: frames.float() / 255,
    "channels_first": lambda frames: frames.permute(0, 3, 1, 2),
    "half": lambda frames: (frames.float() / 255).half(),
    "integers": lambda frames: frames.long(),
}


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("size", [20, 64])
@pytest.mark.parametrize("kind", SHOWN)
def test_frames_reach_the_network_as_tensors(
    kind: str, size: int, device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = load_reward_model(str(CHECKPOINT), device=device)
    rng = np.random.default_rng(0)
    frames = torch.tensor(rng.integers(0, 256, (12, 2, size, size, 3), np.uint8), device=device)
    arrays, tensors = (model.stream([TASK, "close the drawer"]) for _ in range(2))
    patched = []
    patch = FramePatcher.__call__
    monkeypatch.setattr(FramePatcher, "__call__", lambda self, images: patched.append(images) or patch(self, images))
    for shown in frames:
        given = SHOWN[kind](shown)
        expected = arrays.append(given.cpu().numpy())
        patched.clear()
        said = tensors.append(given)
        assert all(isinstance(images, torch.Tensor) and images.device == shown.device for images in patched)
        assert len(patched[0]) == 2, "frames of one kind are cut at once"
        np.testing.assert_allclose(said.progress, expected.progress, atol=1e-6)
        assert said.success is not None
        assert expected.success is not None
        np.testing.assert_allclose(said.success, expected.success, atol=1e-6)
        np.testing.assert_allclose(
            tensors.peek(given, [0, 1]).progress, arrays.peek(given.cpu().numpy(), [0, 1]).progress, atol=1e-6
        )


def test_a_history_may_go_on_with_tensors_after_arrays_and_keeps_no_batch() -> None:
    model = load_reward_model(str(CHECKPOINT))
    frames = np.random.default_rng(1).integers(0, 256, (3, 4, 64, 64, 3), np.uint8)
    expected, mixed = (model.stream([TASK] * 4) for _ in range(2))
    for number, shown in enumerate(frames):
        given = [torch.tensor(frame) if (number + place) % 2 else frame for place, frame in enumerate(shown)]
        batch = torch.tensor(shown)
        given = list(batch) if number == 1 else given
        np.testing.assert_allclose(mixed.append(given).progress, expected.append(shown).progress, atol=1e-6)
        batch.zero_()  # an environment that draws into one buffer
    kept = [frame for history in mixed._histories for frame in history.frames.values()]  # pyright: ignore[reportAttributeAccessIssue]
    tensors = [frame for frame in kept if isinstance(frame, torch.Tensor)]
    assert len(tensors) == 4
    assert {tensor.untyped_storage().nbytes() for tensor in tensors} == {64 * 64 * 3}


@pytest.mark.parametrize("frames", ["render", "obs/image", lambda observation, info: observation["image"] / 255.0])
def test_every_source_of_frames_may_give_tensors(frames: Any) -> None:
    mode = AutoresetMode.NEXT_STEP
    theirs = RobometerReward(TensorWorld(2, mode), MODEL, TASK, frames=frames)
    ours = RobometerReward(SyncVectorEnv([NoiseWorld] * 2, autoreset_mode=mode), MODEL, TASK, frames=frames)
    theirs.reset(seed=3)
    ours.reset(seed=3)
    for _ in range(12):
        rewards = theirs.step(actions(theirs, "cpu"))[1]
        np.testing.assert_allclose(rewards, ours.step(np.zeros(2, np.int64))[1], rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize(
    ("given", "dtype"),
    [(torch.float32, torch.float32), (torch.bfloat16, torch.bfloat16), (torch.bool, torch.float32)],
)
def test_rewards_have_the_type_of_the_task_reward_unless_that_is_no_fraction(given: Any, dtype: Any) -> None:
    env = RobometerReward(TensorWorld(2, dtype=given), MODEL, TASK, frames="obs/image")
    env.reset(seed=0)
    assert env.step(actions(env, "cpu"))[1].dtype is dtype
    assert like(np.zeros(2), np.zeros(2)).dtype == np.float64


@pytest.mark.parametrize("chosen", [[1], [0, 2]])
def test_some_are_reset_by_number_as_maniskill_does(chosen: list[int]) -> None:
    env = RobometerReward(TensorWorld(3, says="final_observation"), MODEL, TASK, frames="obs/image")
    env.reset(seed=0)
    _, infos = env.reset(options={"env_idx": torch.tensor(chosen)})
    assert infos["_robometer/reset_progress"].nonzero()[:, 0].tolist() == chosen
    for wrong in ([3], [-1], [0.5], []):
        with pytest.raises(ValueError, match=r"'env_idx'.*expected numbers of environments from 0 to 2"):
            env.reset(options={"env_idx": torch.tensor(wrong)})


class Spoiled(TensorWorld):
    """Gives one thing as it should not."""

    def __init__(self, place: int, spoil: Any) -> None:
        super().__init__(2)
        self.place, self.spoil = place, spoil

    def step(self, actions: Any) -> Any:
        given = list(super().step(actions))
        given[self.place] = self.spoil(given[self.place])
        return tuple(given)


@pytest.mark.parametrize(
    ("place", "spoil", "message"),
    [
        (1, lambda rewards: rewards[:, None], r"gave rewards of shape \(2, 1\); expected \(2,\), one for each env"),
        (2, lambda flags: flags[:1], r"gave terminations of shape \(1,\); expected \(2,\)"),
        (3, lambda flags: flags.any(), r"gave truncations of shape \(\); expected \(2,\)"),
        (1, lambda rewards: rewards.to("meta"), "the rewards of .* cannot be read: .*on the device meta"),
        (0, lambda seen: {**seen, "image": seen["image"].to("meta")}, "environment 0.*obs/image.*on the device meta"),
        (0, lambda seen: {**seen, "image": seen["image"][..., 0]}, "environment 0, frames='obs/image'.*grey frames"),
        (0, lambda seen: {**seen, "image": seen["image"] * 1.0}, "environment 0.*floating point pixels from 0 to 255"),
        (0, lambda seen: {**seen, "image": seen["image"].int() - 1}, "environment 0.*pixels from -1 to"),
    ],
)
def test_what_cannot_be_read_says_what_was_given_and_expected(place: int, spoil: Any, message: str) -> None:
    env = RobometerReward(Spoiled(place, spoil), MODEL, TASK, frames="obs/image")
    env.reset(seed=0)
    with pytest.raises(ValueError, match=message):
        env.step(actions(env, "cpu"))


def test_one_environment_with_another_picture_is_named() -> None:
    def dark(observation: Any, info: Any) -> Any:
        return torch.full((4, 4, 3), float(info["number"] % 2) * 2)

    env = RobometerReward(TensorWorld(2), MODEL, TASK, frames=dark)
    numbers = [TensorWorld(2).reset(seed=seed)[1]["number"] % 2 for seed in range(9)]
    seed, parity = next((seed, each) for seed, each in enumerate(numbers) if each.sum() == 1)
    with pytest.raises(FrameError, match=rf"environment {int(parity.argmax())}.*floating point pixels from 2 to 2"):
        env.reset(seed=seed)


def test_an_environment_that_asks_for_neither_mask_nor_numbers_is_found_out() -> None:
    class Deaf(TensorWorld):
        def reset(self, *, seed: Any = None, options: dict[str, Any] | None = None) -> Any:
            return super().reset(seed=seed)

    env = RobometerReward(Deaf(2), BrightnessModel(), TASK, frames="obs/image")
    env.reset(seed=0)
    with pytest.raises(ResetMaskError, match="nobody has asked for it"):
        env.reset(options={"reset_mask": torch.tensor([True, False])})
