"""Replay buffers relabelled in memory, beside the agent that learns from them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from robometer_rl.formats.dataset import DatasetOptions, Labels
from robometer_rl.formats.sb3 import BufferDataset, store_labels
from robometer_rl.relabeling.engine import Labeller, label_dataset

__all__ = ["relabel_buffer"]


def relabel_buffer(
    buffer: Any, labeller: Labeller, task: str, cameras: Sequence[str] = (), *, show_progress: bool = False
) -> Labels:
    """Relabels a replay buffer in memory, as that of a running algorithm.

    Args:
        buffer: A `stable_baselines3.common.buffers.ReplayBuffer` or one of its kinds; its ``rewards`` are changed in
            place once all of them are known.
        labeller: The model and the reward.
        task: The instruction.
        cameras: ``obs`` or ``obs/KEY``; may be left out if one observation is an image.
        show_progress: Whether to show a progress bar.

    Returns:
        The labels; ``skipped`` lists the episodes whose transitions keep their rewards.

    Raises:
        SourceError: See `BufferDataset`.
        NothingLabelledError: No episode could be labelled.

    Examples:
        >>> labeller = Labeller(load_reward_model("mini"))                           # doctest: +SKIP
        >>> relabel_buffer(algorithm.replay_buffer, labeller, "open the drawer")     # doctest: +SKIP
    """
    dataset = BufferDataset(buffer, DatasetOptions(Path("replay buffer"), tuple(cameras), (task,)))
    labels = label_dataset(dataset, labeller, show_progress=show_progress)
    store_labels(dataset, labels)
    return labels
