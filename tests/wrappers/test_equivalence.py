"""Scalar, vector and SB3 wrappers pay the same, and what the whole episode scored at once says."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import robometer_rl
from robometer_rl.frames import NestedFrames, UniformFrames
from robometer_rl.models.reward_model import RewardModel
from robometer_rl.rewards import RewardSpec
from robometer_rl.wrappers.tasks import TaskFromAttribute, TaskFromInfo
from tests.fixed_models import PixelModel
from tests.wrappers.drivers import KINDS, check_log, make_driver

CHECKPOINT = Path(__file__).parents[1] / "fixtures" / "robometer_tiny" / "checkpoint"


@dataclass(frozen=True)
class Case:
    """A model, how exactly it must agree, and the worlds it is shown."""

    model: Callable[[], RewardModel]
    tolerance: float
    size: int


def _mini() -> RewardModel:
    return robometer_rl.load_reward_model("mini", dtype="float32")


CASES = [
    pytest.param(Case(PixelModel, 1e-6, 8), id="pixel"),
    # A quarter of a minute and more for each kind of wrapper.
    pytest.param(Case(_mini, 1e-4, 64), id="mini", marks=pytest.mark.slow),
]


@pytest.fixture(scope="module", params=CASES)
def case(request: pytest.FixtureRequest) -> Case:
    return request.param


@pytest.fixture(scope="module")
def model(case: Case) -> RewardModel:
    return case.model()


@pytest.mark.parametrize("kind", KINDS)
def test_2000_random_steps_are_paid_as_recorded_episodes(kind: str, case: Case, model: RewardModel) -> None:
    spec = RewardSpec(mode="delta", task_weight=0.5)
    driver = make_driver(kind, 4, model, spec, size=case.size)
    driver.reset(seed=7)
    for _ in range(620 if kind == "next_step" else 500):
        driver.step()
    compared = check_log(driver, model, spec, tolerance=case.tolerance, size=case.size)
    assert compared >= 2000
    lengths = {len(played.rewards) for index in range(4) for played in driver.log[index]}
    assert lengths >= set(range(1, 10))


@pytest.fixture(scope="module", params=[CHECKPOINT, "mini"], ids=["random-weights", "mini"])
def network(request: pytest.FixtureRequest) -> RewardModel:
    return robometer_rl.load_reward_model(request.param, dtype="float32")


@pytest.mark.parametrize("kind", KINDS)
def test_networks_agree_too(kind: str, network: RewardModel) -> None:
    """Their streams batch, cache and reset."""
    spec = RewardSpec(every=2)
    driver = make_driver(kind, 4, network, spec, size=64)
    driver.reset(seed=7)
    for _ in range(25):
        driver.step()
    check_log(driver, network, spec, tolerance=1e-4, size=64)


SPECS = {
    "level": RewardSpec(mode="level", every=2, unscored="zero"),
    "level-hold": RewardSpec(mode="level", every=3, scale=2.0),
    "delta-bonus": RewardSpec(success_threshold=0.5, success_bonus=5.0, every=2),
    "delta-ends": RewardSpec(success_threshold=0.5, patience=1, success_bonus=5.0, terminate_on_success=True),
    "delta-ends-every": RewardSpec(success_threshold=0.3, terminate_on_success=True, every=2),
    "potential": RewardSpec(mode="potential", gamma=0.9, task_weight=1.0, every=2),
    "potential-ends": RewardSpec(
        mode="potential", gamma=0.9, task_weight=1.0, success_threshold=0.4, patience=1, terminate_on_success=True
    ),
    "potential-keep": RewardSpec(mode="potential", gamma=0.9, allow_pure_shaping=True, terminal_potential="keep"),
    "success": RewardSpec(mode="success", success_threshold=0.4, every=2),
    "level-confident": RewardSpec(mode="level", confidence=0.3),
    "delta-confident": RewardSpec(confidence=0.3, every=2),
    "potential-confident": RewardSpec(mode="potential", gamma=0.9, task_weight=1.0, confidence=0.3),
    "success-zero": RewardSpec(mode="success", success_threshold=0.4, every=2, unscored="zero"),
}


@pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS)
@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_reward(kind: str, spec: RewardSpec) -> None:
    model = PixelModel()
    driver = make_driver(kind, 3, model, spec)
    driver.reset(seed=3)
    for _ in range(40):
        driver.step()
    check_log(driver, model, spec)
    if spec.terminate_on_success:
        ended = [played for index in range(3) for played in driver.log[index] if played.end == (True, False)]
        assert len(ended) > 3


FRAMES: dict[str, tuple[Any, tuple[str, ...]]] = {
    "obs": ("obs/image", ("obs/image",)),
    "info": ("info/wrist", ("info/wrist",)),
    "callable": (lambda observation, info: observation["image"], ("obs/image",)),
    "callable-info": (lambda observation, info: info["wrist"], ("info/wrist",)),
    "cameras": (("render", "obs/image", "info/wrist"), ("render", "obs/image", "info/wrist")),
}


@pytest.mark.parametrize(("frames", "cameras"), FRAMES.values(), ids=FRAMES)
@pytest.mark.parametrize("kind", KINDS)
def test_frame_sources(kind: str, frames: Any, cameras: tuple[str, ...]) -> None:
    model, spec = PixelModel(), RewardSpec(success_threshold=0.5, terminate_on_success=True, every=2)
    driver = make_driver(kind, 3, model, spec, frames)
    driver.reset(seed=1)
    for _ in range(40):
        driver.step()
    check_log(driver, model, spec, cameras=cameras)


def from_info(observation: Any, info: Any) -> str:
    return info["instruction"]


TASKS = {"info": TaskFromInfo("instruction"), "attribute": TaskFromAttribute("instruction"), "callable": from_info}


@pytest.mark.parametrize("task", TASKS.values(), ids=TASKS)
@pytest.mark.parametrize("kind", KINDS)
def test_the_task_of_each_episode(kind: str, task: Any) -> None:
    model, spec = PixelModel(), RewardSpec(success_threshold=0.6, patience=1, terminate_on_success=True)
    cameras = ("obs/image", "info/wrist")
    driver = make_driver(kind, 3, model, spec, cameras, task)
    driver.reset(seed=1)
    for _ in range(40):
        driver.step()
    check_log(driver, model, spec, cameras=cameras, task=None)


SPEC_STRATEGY = st.builds(
    RewardSpec,
    mode=st.sampled_from(["level", "delta", "potential", "success"]),
    task_weight=st.sampled_from([0.0, 0.25]),
    gamma=st.just(0.9),
    terminal_potential=st.sampled_from(["zero", "keep"]),
    success_threshold=st.sampled_from([0.2, 0.5, 0.8]),
    patience=st.integers(1, 3),
    success_bonus=st.sampled_from([0.0, 2.0]),
    terminate_on_success=st.booleans(),
    every=st.integers(1, 4),
    unscored=st.sampled_from(["hold", "zero"]),
    allow_pure_shaping=st.just(True),
)


@settings(max_examples=60)
@given(data=st.data(), kind=st.sampled_from(KINDS), spec=SPEC_STRATEGY)
def test_any_order_of_steps_and_resets(data: st.DataObject, kind: str, spec: RewardSpec) -> None:
    num_envs = data.draw(st.integers(1, 3), label="num_envs")
    frames = data.draw(st.sampled_from(["render", "obs/image", ("info/wrist", "render")]), label="frames")
    protocol = data.draw(st.sampled_from([UniformFrames(3), NestedFrames(3)]), label="protocol")
    model = PixelModel(protocol)
    driver = make_driver(kind, num_envs, model, spec, frames)
    driver.reset(seed=data.draw(st.integers(0, 1000), label="seed"))
    masks = st.lists(st.booleans(), min_size=num_envs, max_size=num_envs).filter(any)
    for mask in data.draw(st.lists(st.one_of(st.none(), st.none(), st.none(), masks), max_size=25), label="resets"):
        if mask is None:
            driver.step()
        else:
            driver.reset(mask=None if all(mask) else np.array(mask))
    check_log(driver, model, spec, cameras=(frames,) if isinstance(frames, str) else frames)


@pytest.mark.parametrize("kind", KINDS)
def test_one_model_call_per_step_and_none_between_scored_frames(kind: str) -> None:
    model = PixelModel()
    spec = RewardSpec(every=4)
    driver = make_driver(kind, 3, model, spec, max_length=1)
    driver.reset(seed=0)
    before = model.calls
    driver.step()
    # All episodes last one step, so that this one is scored; only NEXT_STEP has not yet scored the reset frames.
    per_step = {"scalar": 6, "next_step": 1}.get(kind, 2)
    assert model.calls - before == per_step
