"""The Robometer network: a language model that sees, without its own head, and three heads.

Its shape and the names of its weights are published: docs/reference.md §2.5, §2.6.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from robometer_rl.models.robometer.backbone import Backbone
from robometer_rl.models.robometer.config import RobometerConfig
from robometer_rl.models.robometer.decoder import KeyValues, Prefix, decode, decode_chosen
from robometer_rl.models.robometer.heads import make_head, pool_frames
from robometer_rl.models.robometer.patches import PatchedFrames, group_by_grid
from robometer_rl.models.robometer.processing import RobometerInputs
from robometer_rl.models.robometer.tokens import FrameBlocks, SpecialIds

__all__ = ["RobometerNetwork", "RobometerOutput"]


@dataclass
class RobometerOutput:
    """Raw outputs for all frames of a batch, flattened: the frames of the first prompt, then of the second, ...

    Attributes:
        progress: (F, bins) logits, or (F,) progress of a continuous head.
        success: (F,) logits.
        preference: (B,) logits that trajectory A is better; None for single clips.
        sides: Per prompt, how many of the F frames belong to each of its trajectories.
        frames: (F, hidden) vectors that progress and success were read from.
    """

    progress: torch.Tensor
    success: torch.Tensor
    preference: torch.Tensor | None
    sides: list[tuple[int, ...]]
    frames: torch.Tensor


class RobometerNetwork(nn.Module):
    """Submodule names are the checkpoint's key names.

    Args:
        backbone: What it is made of, with the vocabulary already cut to the tokenizer's length.
        config: Head and pooling settings.
        special: Token ids.
    """

    def __init__(self, backbone: Backbone, config: RobometerConfig, special: SpecialIds) -> None:
        super().__init__()
        hidden = backbone.hidden_size
        self.backbone = backbone
        self.config = config
        self.special = special
        self.model: Any = backbone.build()
        self.progress_head = make_head(hidden, config.progress_outputs, sigmoid=not config.discrete)
        self.preference_head = make_head(hidden, 1)
        self.success_head = make_head(hidden, 1)
        # Every published file has it, used or not.
        self.frame_pool_attn = nn.Linear(hidden, 1, bias=False)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.frame_pool_attn.weight.device

    @property
    def dtype(self) -> torch.dtype:
        """Precision of the heads, which is the backbone's."""
        return self.frame_pool_attn.weight.dtype

    @property
    def decoder(self) -> Any:
        """The backbone's decoder."""
        return self.backbone.decoder(self.model)

    @property
    def tower(self) -> Any:
        """The backbone's vision tower."""
        return self.backbone.tower(self.model)

    @property
    def reads_tokens(self) -> bool:
        """Whether the heads read a progress token after each frame, rather than pool its patches."""
        return self.config.per_frame_token and self.config.multi_image

    def require_room(self, prompt: FrameBlocks) -> None:
        """Raises `ValueError` if a prompt is longer than the decoder was made for.

        Asked before anything is computed or kept of its frames: how many there are comes from a protocol, which is a
        word of the user's.
        """
        most = self.decoder.config.max_position_embeddings
        if prompt.starts[-1] > most:
            raise ValueError(
                f"a prompt of {len(prompt.blocks)} such frames and this task takes {prompt.starts[-1]} positions, and "
                f"this model was made for {most}; choose a protocol with fewer frames, or a shorter task"
            )

    def encode(self, frames: list[PatchedFrames]) -> list[torch.Tensor]:
        """Vision features of every frame: (1 + D, tokens, hidden) each, in order; see `vision.encode_frames`.

        Runs of frames that have one size go through the tower together, wherever they stand.
        """
        encoded: dict[int, torch.Tensor] = {}
        for grid, runs in group_by_grid(frames).items():
            devices = {run.pixels.device for run in runs}
            # Of histories that began on the host and go on elsewhere.
            parts = [run.pixels if len(devices) == 1 else run.pixels.to(self.device) for run in runs]
            pixels = torch.cat(parts)
            features = self.backbone.encode(self.model, PatchedFrames(pixels, grid))
            for run, part in zip(runs, features.split([len(run) for run in runs]), strict=True):
                encoded[id(run)] = part
        return [feature for run in frames for feature in encoded[id(run)]]

    def forward(self, inputs: RobometerInputs) -> RobometerOutput:
        """One full pass over clips or pairs."""
        features = inputs.features if inputs.features is not None else self.encode(inputs.frames or [])
        ids, positions = inputs.input_ids, inputs.position_ids
        if self.reads_tokens:
            read = (ids == self.special.progress) | (ids == self.special.preference)
            # Of each row the tokens that something is read at, in order, and others where a row has fewer of them.
            chosen = (~read).byte().argsort(dim=1, stable=True)[:, : int(read.sum(dim=1).max())]
            hidden = self._decode_chosen(ids, positions, features, chosen)
            ids = ids.gather(1, chosen)
            frames = hidden[ids == self.special.progress]
        else:
            hidden, _ = self.decode(ids, positions, features)
            pooled = torch.isin(ids, torch.tensor(self.special.pooled, device=ids.device))
            more = len(self.special.pooled) - 1
            frames = self._pool(hidden[pooled], [feature.shape[1] + more for feature in features])
        preference = None
        if any(len(sides) == 2 for sides in inputs.sides):
            preference = self.preference_head(hidden[ids == self.special.preference]).squeeze(-1)
        return RobometerOutput(*self.read(frames), preference, inputs.sides, frames)

    def decode(
        self,
        ids: torch.Tensor,
        positions: torch.Tensor,
        features: list[torch.Tensor],
        prefix: Prefix | None = None,
        keep: bool = False,
        rows: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor, KeyValues]:
        """Decoder outputs of token rows with visual features in their places; see `decoder.decode`.

        Args:
            ids: (B, S).
            positions: (3, B, S).
            features: Of every frame in ``ids``, in order of appearance.
            prefix: Cached tokens in front of the rows.
            keep: Whether to return the keys and values of the new tokens.
            rows: `visual_rows` of ``ids``, for callers that know them without asking the device.
        """
        rows = self.visual_rows(ids) if rows is None else rows
        return decode(self.decoder, *self._embed(ids, positions, features, rows), rows, prefix, keep)

    def _decode_chosen(
        self, ids: torch.Tensor, positions: torch.Tensor, features: list[torch.Tensor], chosen: torch.Tensor
    ) -> torch.Tensor:
        """What `decode` gives for (B, R) tokens of the rows; see `decoder.decode_chosen`."""
        # Of a dry run the ids are the only tensor that is not on the meta device.
        rows, chosen = self.visual_rows(ids).to(self.device), chosen.to(self.device)
        return decode_chosen(self.decoder, *self._embed(ids, positions, features, rows), rows, chosen)

    def _embed(
        self, ids: torch.Tensor, positions: torch.Tensor, features: list[torch.Tensor], rows: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Embeddings with visual features in their places, positions as the decoder takes them, deepstack features."""
        positions = positions if self.backbone.chat.axes == 3 else positions[0]
        embeddings = self.decoder.embed_tokens(ids)
        if not features:
            return embeddings, positions, embeddings.new_zeros(0)
        visual = torch.cat(features, dim=1)
        if visual.shape[1] != len(rows):
            raise ValueError(f"{visual.shape[1]} visual features for {len(rows)} image tokens")
        flat = embeddings.flatten(0, 1).index_copy(0, rows, visual[0].to(embeddings.dtype))
        return flat.view_as(embeddings), positions, visual[1:]

    def read(self, frames: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Progress and success outputs of (F, hidden) frame vectors."""
        progress = self.progress_head(frames)
        return progress if self.config.discrete else progress.squeeze(-1), self.success_head(frames).squeeze(-1)

    def visual_rows(self, ids: torch.Tensor) -> torch.Tensor:
        """Where the visual tokens of (B, S) ids stand in the flattened batch."""
        return (ids == self.special.visual).flatten().nonzero().squeeze(-1)

    def _pool(self, tokens: torch.Tensor, counts: list[int]) -> torch.Tensor:
        pooling = self.config.frame_pooling
        if not self.config.multi_image:
            pooling = "mean" if self.config.average_temporal_patches else "boundary"
        temperature = self.config.frame_pooling_temperature
        return pool_frames(tokens, counts, pooling, self.frame_pool_attn, temperature)
