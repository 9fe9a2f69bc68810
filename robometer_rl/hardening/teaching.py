"""Teaching a model what it was farmed by: a compact model is adapted further, a Robometer is fine-tuned."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from robometer_rl.adapting.adapt import CHECKPOINT, adapt
from robometer_rl.adapting.config import AdaptConfig
from robometer_rl.data.labels import group_key
from robometer_rl.data.store import TrajectoryStore
from robometer_rl.data.trajectory import Trajectory
from robometer_rl.hardening.config import HardenConfig
from robometer_rl.models.loading import family_of
from robometer_rl.models.locations import locate
from robometer_rl.models.robometer.adapters import ADAPTER_CONFIG_FILE
from robometer_rl.training.config import TrainConfig
from robometer_rl.training.pipeline import train
from robometer_rl.training.recipes import load_recipe

__all__ = ["add_lessons", "as_in_store", "require_teachable", "teach"]

_MINUTES = 20.0  # for adapting further, which takes two; steps are what limits it, also on a busy machine
_OTHER_TASK = {"clips": 0.25, "pairs": 0.2}  # how often, where there are several tasks to be told apart


def require_teachable(model: str) -> None:
    """Raises `ValueError` where a model is of a kind that nothing here trains."""
    if (family := family_of(model)) not in ("compact", "robometer"):
        raise ValueError(
            f"{model} is a model of the family {family!r}, which nothing here trains; harden a model of `robometer-rl "
            "adapt` or a Robometer, such as mini"
        )


def as_in_store(trajectory: Trajectory, known: Sequence[Trajectory]) -> Trajectory:
    """An agent's episode, of the simulator's task that the recordings of its instruction name, if they name one."""
    environments = {each.metadata.get("environment") for each in known if each.task == trajectory.task}
    if len(environments) != 1 or (environment := environments.pop()) is None:
        return trajectory
    return replace(trajectory, metadata={**trajectory.metadata, "environment": environment})


def add_lessons(store: Path, episodes: Iterable[Trajectory]) -> None:
    """Adds episodes to those that are learned from, unless they are among them.

    The end of a failure of which nothing but its outcome is known counts as worth nothing, or there would be nothing to
    learn of its progress.
    """
    recordings = TrajectoryStore(store)
    recordings.remove_left_over()
    for episode in episodes:
        if episode.id in recordings:
            continue
        is_measured = any(each is not None for each in (episode.progress, episode.distance, episode.state))
        if episode.quality_label != "successful" and not is_measured:
            episode = replace(episode, partial_success=0.0)
        recordings.append(episode)


def teach(config: HardenConfig, model: str, recordings: Path, output: Path) -> Path:
    """Goes on with a model, on the store and what agents were recorded at.

    Args:
        config: What to do.
        model: Where to go on from.
        recordings: Store of agents' episodes.
        output: Folder of this training.

    Returns:
        The checkpoint.

    Raises:
        KeyboardInterrupt: Adapting was interrupted, and has ended with less than it was to learn.
    """
    if family_of(model) == "robometer":
        return train(_fine_tuning(config, model, recordings, output))
    start = Path(model.removeprefix("compact:"))
    adapt(
        AdaptConfig(
            config.store, output, also=(recordings,), minutes=_MINUTES, continued=start, steps=config.steps,
            seed=config.seed,
        )
    )  # fmt: skip
    if json.loads((output / "verdict.json").read_text())["interrupted"]:
        raise KeyboardInterrupt
    return output / CHECKPOINT


def _fine_tuning(config: HardenConfig, model: str, recordings: Path, output: Path) -> TrainConfig:
    """The recipe, from this start and on this data; an adapter is trained further instead of getting another."""
    recipe = replace(load_recipe(config.recipe).config, data=(config.store, recordings), output=output)
    start = model.removeprefix("robometer:")
    is_adapter = (locate(start).directory / ADAPTER_CONFIG_FILE).is_file()
    lora = replace(recipe.lora, rank=0) if is_adapter else recipe.lora
    sampling = recipe.sampling
    if len({group_key(each) for each in TrajectoryStore.open(config.store)}) > 1:
        clips = replace(sampling.clips, other_task=sampling.clips.other_task or _OTHER_TASK["clips"])
        pairs = replace(sampling.pairs, other_task=sampling.pairs.other_task or _OTHER_TASK["pairs"])
        sampling = replace(sampling, clips=clips, pairs=pairs)
    stages = {}
    if config.steps is not None:
        name = "joint" if recipe.joint.steps else "frozen"
        stages[name] = replace(getattr(recipe, name), steps=config.steps)
    return replace(recipe, start=start, lora=lora, sampling=sampling, seed=config.seed, **stages)
