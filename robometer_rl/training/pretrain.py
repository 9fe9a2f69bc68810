"""Pre-training of a new vision tower: read the simulator's state off single frames.

Most of the time of training from scratch goes into learning to see. Frames are plentiful, one at a time is cheap, and
where hand, gripper, objects and goal are is what progress will be a function of.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.data import Dataset
from transformers import TrainingArguments
from transformers.models.qwen3_vl.modeling_qwen3_vl import Qwen3VLVisionModel

from robometer_rl.data.augment import augment_frames
from robometer_rl.data.trajectory import Trajectory
from robometer_rl.models.robometer.checkpoint import Checkpoint
from robometer_rl.models.robometer.patches import FramePatcher, PatchedFrames, SquarePatcher
from robometer_rl.models.robometer.vision import encode_frames
from robometer_rl.training.trainer import LogLines, SavingTrainer, resumed, samples_of

__all__ = ["FrameStates", "StateReader", "pretrain_vision"]

_READER_WIDTH = 256
_SHARP = 0.1  # standard deviations: smaller errors are squared, larger ones count linearly


class FrameStates(Dataset[tuple[NDArray[np.uint8], NDArray[np.float32]]]):
    """Single frames with the standardised state of the simulator; the position decides which frame and how changed.

    Args:
        trajectories: With states of one width. Their frames are decoded now and kept in memory.
        length: How many frames to draw.
        seed: Of the order and of the augmentation.

    Raises:
        ValueError: A trajectory without a state.
    """

    def __init__(self, trajectories: Sequence[Trajectory], length: int, seed: int) -> None:
        states = [trajectory.state for trajectory in trajectories if trajectory.state is not None]
        if len(states) < len(trajectories):
            raise ValueError("vision pre-training needs the simulator's state in every trajectory; some have none")
        state = np.concatenate(states)
        deviation = state.std(axis=0)
        moving = deviation > 1e-3  # entries that never change have nothing to teach
        self._targets = ((state - state.mean(axis=0)) / np.where(moving, deviation, 1.0))[:, moving]
        self._frames = [trajectory.clip().read() for trajectory in trajectories]
        self._starts = np.cumsum([0, *(len(frames) for frames in self._frames)])
        self._length = length
        self._seed = seed

    @property
    def width(self) -> int:
        """Entries of a target."""
        return self._targets.shape[1]

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index: int) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
        if not 0 <= index < self._length:
            raise IndexError(index)
        total = int(self._starts[-1])
        epoch, position = divmod(index, total)
        if position == 0 or epoch != self._epoch:
            self._epoch = epoch
            self._order = np.random.default_rng([self._seed, epoch]).permutation(total)
        row = int(self._order[position])
        trajectory = int(np.searchsorted(self._starts, row, side="right")) - 1
        frame = self._frames[trajectory][row - self._starts[trajectory]]
        return augment_frames(frame[None], (self._seed, index))[0], self._targets[row].astype(np.float32)

    _epoch = -1


class StateReader(nn.Module):
    """A vision tower with a throw-away head that reads the state off all of its outputs.

    Args:
        tower: What is trained.
        tokens: Tokens of a frame.
        width: Entries of the state.
    """

    def __init__(self, tower: Qwen3VLVisionModel, tokens: int, width: int) -> None:
        super().__init__()
        self.tower = tower
        levels = 1 + len(tower.deepstack_visual_indexes)
        hidden = tower.config.out_hidden_size
        self.norm = nn.LayerNorm(hidden)
        self.head = nn.Sequential(
            nn.Linear(levels * tokens * hidden, _READER_WIDTH), nn.GELU(), nn.Linear(_READER_WIDTH, width)
        )

    def forward(self, pixels: Tensor, rows: int, columns: int, state: Tensor) -> dict[str, Tensor]:
        """Error of the predicted state.

        Args:
            pixels: (F, patches, values) of one grid, see `robometer_rl.models.robometer.patches.PatchedFrames`.
            rows: Of the grid.
            columns: Of the grid.
            state: (F, width) standardised.
        """
        features = encode_frames(self.tower, PatchedFrames(pixels, (rows, columns)), batch_size=len(pixels))
        predicted = self.head(self.norm(features).flatten(1)).float()
        return {"loss": F.smooth_l1_loss(predicted, state, beta=_SHARP), "predicted": predicted}


class _FrameCollator:
    def __init__(self, patcher: FramePatcher | SquarePatcher) -> None:
        self._patcher = patcher

    def __call__(self, items: Sequence[tuple[NDArray[np.uint8], NDArray[np.float32]]]) -> dict[str, Tensor | int]:
        patched = self._patcher(np.stack([frame for frame, _ in items]))
        state = torch.from_numpy(np.stack([state for _, state in items]))
        return {"pixels": patched.pixels, "rows": patched.grid[0], "columns": patched.grid[1], "state": state}


def pretrain_vision(checkpoint: Checkpoint, trajectories: Sequence[Trajectory], arguments: TrainingArguments) -> None:
    """Trains the vision tower of ``checkpoint`` in place.

    Args:
        checkpoint: A new network.
        trajectories: With states and frames of one size.
        arguments: See `robometer_rl.training.trainer.training_arguments`.
    """
    patcher = checkpoint.processor.patcher
    dataset = FrameStates(trajectories, samples_of(arguments), arguments.seed)
    tokens = patcher.tokens(patcher.grid(*trajectories[0].frames.shape[1:3]))
    tower = checkpoint.network.model.visual
    tower.requires_grad_(True)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(arguments.seed)
        reader = StateReader(tower, tokens, dataset.width)
    trainer = SavingTrainer(model=reader, args=arguments, train_dataset=dataset, data_collator=_FrameCollator(patcher))
    if trainer.is_fsdp_enabled:
        raise ValueError("the vision tower of a new network is pre-trained without FSDP; use a configuration for DDP")
    LogLines.attach(trainer)
    trainer.train(resume_from_checkpoint=resumed(arguments))
    tower.eval()
