"""``robometer-rl demo``: three policies in a Meta-World task, paid by what a reward model sees."""

from __future__ import annotations

import platform
import shlex
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Final

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray
from PIL import Image
from rich.progress import track
from rich.table import Table

from robometer_rl.collecting.metaworld_policies import ExpertPolicy, Policy, RandomPolicy, StopHalfwayPolicy
from robometer_rl.envs.metaworld import CONTROL_HZ, TASKS, make_env
from robometer_rl.files import write_text
from robometer_rl.frames import Clip, FrameProtocol
from robometer_rl.models.reward_model import RewardModel
from robometer_rl.provenance import versions
from robometer_rl.report.episode import EpisodeScores
from robometer_rl.report.figures import LIGHT, Curve, Panel, draw_figure, save_picture
from robometer_rl.report.replay import Replay, Series, Video, render_page, shown_frames, spread_band
from robometer_rl.report.terminal import open_console
from robometer_rl.rewards import RewardSpec
from robometer_rl.video import write_video
from robometer_rl.wrappers import RobometerReward

__all__ = ["DemoConfig", "DemoEpisode", "demo", "run_demo"]

# Steps after the expert's success, so that it can be seen, and what an expert that never succeeds is given.
_LINGER: Final = 21
_PATIENCE: Final = 200

# Slower than the robot, which moves faster than the eye can compare.
_PLAYBACK_FPS: Final = 12.0


@dataclass(frozen=True)
class DemoConfig:
    """Watch three policies in a Meta-World task whose reward is what the embedded model sees.

    An expert, one that stops half-way and a random one start from the same state. Prints a table and writes the
    curves, the videos and a page that shows them (index.html).
    """

    task: str = "drawer-open"
    """A Meta-World task, without the version at its end."""
    model: str = "mini"
    """The embedded 'mini', a checkpoint directory, or a Hub id."""
    device: str = "cpu"
    """Where the model runs, such as 'cuda'."""
    every: int = 3
    """Render and score every so many steps; the reward of a step between them is 0."""
    seed: int = 1
    """Of the positions of the objects, and of the random policy."""
    out: Path = Path("outputs/demo")
    """Folder for the results."""

    def __post_init__(self) -> None:
        if self.seed < 0:
            raise ValueError(f"seed must be at least 0, got {self.seed}")


@dataclass(frozen=True)
class DemoEpisode:
    """One episode of one policy.

    Attributes:
        name: Of the policy.
        description: What the policy does.
        frames: (N, H, W, 3) uint8, the frames that were scored; the first is that of the reset, which pays nothing.
        scores: What the model said about them, after which steps.
        rewards: (N,) what the steps since the frame before were paid.
        done: (N,) bool, whether the simulator says that the task is done in that frame.
        true_success: Whether the simulator says that the task is done at the end.
        predicted_success: Whether the success rule holds at the end.
        learned_return: Sum of the rewards.
        protocol: Which frames the model was shown.
    """

    name: str
    description: str
    frames: NDArray[np.uint8]
    scores: EpisodeScores
    rewards: NDArray[np.float64]
    done: NDArray[np.bool_]
    true_success: bool
    predicted_success: bool
    learned_return: float
    protocol: FrameProtocol

    def values(self) -> dict[str, str | bool]:
        """A row of the table."""
        return {
            "True success": self.true_success,
            "Predicted success": self.predicted_success,
            "Final progress": f"{self.scores.progress[-1]:.3f}",
            "Return": f"{self.learned_return:+.3f}",
        }


def run_demo(config: DemoConfig) -> None:
    """Runs the demonstration with the model that ``config`` names."""
    from robometer_rl.models.loading import load_reward_model

    demo(config, load_reward_model(config.model, config.device))


def demo(config: DemoConfig, model: RewardModel) -> list[DemoEpisode]:
    """Runs the three policies, writes the results and shows a summary.

    Args:
        config: The task and where to write.
        model: The model, whatever ``config.model`` says.

    Raises:
        ValueError: An unknown task or a wrong interval.
        ImportError: Meta-World is not installed.
    """
    spec = RewardSpec(mode="delta", every=config.every)
    success_step = _rehearse(config)
    num_steps = success_step + _LINGER
    console = open_console()
    episodes = [
        _run(config, model, spec, num_steps, cast)
        for cast in track(_cast(config, success_step), "three policies", console=open_console(stderr=True))
    ]
    _write(config, model, spec, episodes)
    console.print(_table(config, episodes))
    console.print(f"Curves, videos and a page that shows them: {config.out / 'index.html'}", soft_wrap=True)
    return episodes


def _rehearse(config: DemoConfig) -> int:
    """Steps in which the expert succeeds from the starting state, found without rendering."""
    with make_env(config.task, render_mode=None) as env:
        policy = ExpertPolicy(config.task)
        observation, info = env.reset(seed=config.seed)
        step = 0
        while step < _PATIENCE and not info["is_success"]:
            observation, _, _, _, info = env.step(policy.act(observation, info["is_success"]))
            step += 1
    return step


@dataclass(frozen=True)
class _Cast:
    """One of the policies, to be run for one episode."""

    name: str
    description: str
    policy: Policy


def _cast(config: DemoConfig, success_step: int) -> list[_Cast]:
    expert, half = ExpertPolicy(config.task), success_step // 2
    halfway = StopHalfwayPolicy(ExpertPolicy(config.task), half)
    return [
        _Cast("expert", "The simulator's scripted policy.", expert),
        _Cast("half-way", f"The same, standing still from step {half} on.", halfway),
        _Cast("random", "Smooth random motion.", RandomPolicy(np.random.default_rng(config.seed))),
    ]


class _KeepFrames(gym.Wrapper[Any, Any, Any, Any]):
    """Keeps what was rendered, so that the videos show exactly what was scored."""

    def __init__(self, env: gym.Env[Any, Any]) -> None:
        super().__init__(env)
        self.frames: list[NDArray[np.uint8]] = []

    def render(self) -> Any:
        frame = self.env.render()
        assert isinstance(frame, np.ndarray), "make_env renders arrays"
        self.frames.append(frame)
        return frame


def _run(config: DemoConfig, model: RewardModel, spec: RewardSpec, num_steps: int, cast: _Cast) -> DemoEpisode:
    camera = _KeepFrames(make_env(config.task, max_episode_steps=num_steps))
    task = TASKS[config.task].task
    paid = [0.0]
    with RobometerReward(camera, model, task=task, reward=spec, frames="render") as env:
        observation, info = env.reset(seed=config.seed)
        scored = [(0, _of_reset(model, camera.frames[0], task, info))]
        step, over, owed = 0, False, 0.0
        while not over:
            observation, reward, terminated, truncated, info = env.step(
                cast.policy.act(observation, info["is_success"])
            )
            step, over, owed = step + 1, terminated or truncated, owed + float(reward)
            if info["robometer/scored"]:
                scored.append((step, info))
                paid.append(owed)
                owed = 0.0
    scores = EpisodeScores(
        task=task,
        numbers=np.array([step for step, _ in scored]),
        progress=np.array([info["robometer/progress"] for _, info in scored], np.float32),
        success=np.array([info["robometer/success"] for _, info in scored], np.float32) if model.has_success else None,
        success_detected=np.array([info["robometer/success_detected"] for _, info in scored]),
        threshold=spec.threshold(model.success_threshold),
        uncertainty=np.array([info["robometer/uncertainty"] for _, info in scored], np.float32)
        if "robometer/uncertainty" in info
        else None,
    )
    return DemoEpisode(
        name=cast.name,
        description=cast.description,
        frames=np.stack(camera.frames),
        scores=scores,
        rewards=np.array(paid),
        done=np.array([bool(info["is_success"]) for _, info in scored]),
        true_success=info["robometer/true_success"],
        predicted_success=info["robometer/success_detected"],
        learned_return=info["robometer/episode"]["return"],
        protocol=model.default_protocol,
    )


def _of_reset(model: RewardModel, frame: NDArray[np.uint8], task: str, info: Mapping[str, Any]) -> dict[str, Any]:
    """What infos of steps say, of the frame that the reset shows: wrappers give its progress alone."""
    (said,) = model.predict_steps([Clip(frame[None], task)], model.default_protocol)
    return {
        **info,
        "robometer/progress": info["robometer/reset_progress"],
        "robometer/success_detected": False,
        **({} if said.success is None else {"robometer/success": float(said.success[0])}),
        **({} if said.uncertainty is None else {"robometer/uncertainty": float(said.uncertainty[0])}),
    }


def _write(config: DemoConfig, model: RewardModel, spec: RewardSpec, episodes: list[DemoEpisode]) -> None:
    config.out.mkdir(parents=True, exist_ok=True)
    save_picture(_figure(config, model, episodes), config.out / "curves.png")
    for episode in episodes:
        write_video(config.out / f"{episode.name}.mp4", episode.frames, _PLAYBACK_FPS)
    page = render_page(
        title=f"Robometer as the reward: {TASKS[config.task].task}",
        lead="Three policies start from the same state of a Meta-World task. Each step pays the change of the progress "
        "that the reward model sees in the camera's frames; the simulator's own reward is not used. Point at the "
        "curves, or press Play.",
        replays=[_together(episodes), *(_alone(episode) for episode in episodes)],
        facts=_facts(config, model, spec),
        command=_command(config),
    )
    write_text(config.out / "index.html", page)


def _together(episodes: list[DemoEpisode]) -> Replay:
    """All policies under one cursor."""
    series = [replace(_series(episode), video=number) for number, episode in enumerate(episodes)]
    return Replay("the three policies", series, [_video(episode) for episode in episodes])


def _alone(episode: DemoEpisode) -> Replay:
    return Replay(episode.name, [_series(episode)], [_video(episode)], episode.description, episode.values())


def _video(episode: DemoEpisode) -> Video:
    return Video(episode.name, f"{episode.name}.mp4", np.arange(len(episode.frames)) / _PLAYBACK_FPS)


def _series(episode: DemoEpisode) -> Series:
    steps, scores = np.arange(len(episode.frames)), episode.scores
    return Series(
        episode.name,
        steps,
        scores,
        episode.rewards,
        band=None if scores.uncertainty is None else spread_band(scores.progress, scores.uncertainty),
        shown=shown_frames(str(episode.protocol), steps),
        true_success=episode.done,
        counted="step",
    )


def _figure(config: DemoConfig, model: RewardModel, episodes: list[DemoEpisode]) -> Image.Image:
    def curves(values: Callable[[EpisodeScores], NDArray[np.float32] | None]) -> list[Curve]:
        said = [(episode, values(episode.scores)) for episode in episodes]
        return [
            Curve(episode.name, episode.scores.numbers, values, color)
            for (episode, values), color in zip(said, LIGHT.series, strict=False)
            if values is not None
        ]

    panels = [Panel("Progress", curves(lambda scores: scores.progress))]
    if model.has_success:
        success = curves(lambda scores: scores.success)
        panels.append(Panel("Success probability", success, episodes[0].scores.threshold))
    return draw_figure(TASKS[config.task].task, _origin(config, model), panels)


def _origin(config: DemoConfig, model: RewardModel) -> str:
    return f"{_name(model)} · {model.default_protocol} · every {config.every} steps · {model.dtype}"


def _name(model: RewardModel) -> str:
    return f"{model.model_id}@{model.revision}" if model.revision else model.model_id


def _facts(config: DemoConfig, model: RewardModel, spec: RewardSpec) -> dict[str, str]:
    threshold = spec.threshold(model.success_threshold)
    rule = f"probability ≥ {threshold:.2f} on {spec.patience} consecutive scored frames"
    packages = ("robometer-rl", "torch", "transformers", "gymnasium", "metaworld", "mujoco")
    return {
        "Model": f"{_name(model)}, {model.dtype}",
        "Frame protocol": str(model.default_protocol),
        "Reward": f"{spec.mode}, rendered and scored every {spec.every} steps",
        "Success rule": rule,
        "Environment": f"Meta-World {config.task}, seed {config.seed}, {CONTROL_HZ} steps per second",
        "Instruction": TASKS[config.task].task,
        "Versions": ", ".join(f"{name} {number}" for name, number in versions(packages).items())
        + f", Python {platform.python_version()}",
    }


def _command(config: DemoConfig) -> str:
    options = (f"--{field.name} {shlex.quote(str(getattr(config, field.name)))}" for field in fields(config))
    return " ".join(["robometer-rl demo", *options])


def _table(config: DemoConfig, episodes: list[DemoEpisode]) -> Table:
    table = Table(title=f"Meta-World {config.task}: {TASKS[config.task].task}", title_justify="left")
    table.add_column("Policy", style="bold")
    for column in episodes[0].values():
        table.add_column(column, justify="right")
    for episode in episodes:
        cells = (("yes" if cell else "no") if isinstance(cell, bool) else cell for cell in episode.values().values())
        table.add_row(episode.name, *cells)
    return table
