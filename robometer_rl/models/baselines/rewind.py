"""``rewind:WHERE``: ReWiND as Robometer's authors train it, a small transformer over vectors of frozen encoders."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from numpy.typing import NDArray
from torch import nn

from robometer_rl.documents import DocumentError, brief, read_text
from robometer_rl.files import OutsideError, inside, new_directory
from robometer_rl.frames import Clip, FrameError, UniformFrames
from robometer_rl.models.baselines.vectors import DINOV2, MINILM, FrameVectors, TextVectors, VectorCache
from robometer_rl.models.devices import usable_device
from robometer_rl.models.locations import locate
from robometer_rl.models.reward_model import RewardModel
from robometer_rl.models.robometer.config import CheckpointError, SettingsLoader
from robometer_rl.models.robometer.heads import decode_progress, make_head
from robometer_rl.models.robometer.weights import (
    WEIGHTS_FILE,
    check_coverage,
    read_weights,
    require_finite,
    write_file,
)
from robometer_rl.prediction import Prediction
from robometer_rl.yaml_documents import parse_yaml

__all__ = [
    "ReWiND",
    "ReWiNDCheckpoint",
    "ReWiNDNetwork",
    "ReWiNDShape",
    "load",
    "read_rewind",
    "write_rewind",
]

_ENCODERS = ("image_encoder.", "text_encoder.")
_TEXT_FOLDER = "text_encoder"  # within a checkpoint
_HEADS = 8  # where settings do not say: the published small network


@dataclass(frozen=True)
class ReWiNDShape:
    """What a network looks like.

    Attributes:
        video_size: Of a frame's vector.
        text_size: Of an instruction's vector.
        hidden_size: Width.
        layers: Depth.
        attention_heads: Per layer.
        outputs: Progress bins; 1 for one value.
        max_len: Most frames with a progress token each; None of a network that has no such tokens.
        causal: Whether a frame sees those before it only.
    """

    video_size: int
    text_size: int
    hidden_size: int
    layers: int
    attention_heads: int
    outputs: int
    max_len: int | None
    causal: bool

    @classmethod
    def of(cls, state: dict[str, torch.Tensor], settings: dict[str, Any]) -> ReWiNDShape:
        """Reads it off the weights, and what they do not show off the settings.

        Settings state bins in two places of which only one was ever used; the weights cannot be wrong.

        Raises:
            CheckpointError: They are those of something else.
        """
        try:
            hidden, video = state["video_proj.weight"].shape
            text = state["text_proj.weight"].shape[1]
            outputs = len(state["progress_head.4.weight"])
        except (KeyError, ValueError) as error:
            raise CheckpointError(f"these are not the weights of a ReWiND: {error} is missing or misshapen") from error
        tokens = state.get("prog_token_A")
        names = [key.split(".") for key in state if key.startswith("transformer.layers.")]
        heads, causal = settings.get("num_attention_heads", _HEADS), settings.get("causal_mask", True)
        if type(heads) is not int or not 1 <= heads <= hidden or hidden % heads or type(causal) is not bool:
            raise CheckpointError(
                f"settings of a ReWiND of width {hidden} give num_attention_heads {brief(heads)} and causal_mask "
                f"{brief(causal)}; expected a divisor of the width, and true or false"
            )
        layers = len({name[2] for name in names})
        max_len = None if tokens is None else tokens.shape[1]
        return cls(video, text, hidden, layers, heads, outputs, max_len, causal)


@dataclass(frozen=True)
class FrameLogits:
    """What the heads say of frames.

    Attributes:
        progress: (B, T, bins) logits, or (B, T) values in [0, 1] of a network without bins.
        success: (B, T) logits.
    """

    progress: torch.Tensor
    success: torch.Tensor


class ReWiNDNetwork(nn.Module):
    """The network; names of its parameters are those of published checkpoints (docs/models.md).

    Sequences are [text, frame, token, frame, token, ...] where there are progress tokens, whose outputs are read, and
    [text, frame, frame, ...] otherwise. A pair is [text, frames of A, frames of B, preference token].

    Args:
        shape: Its shape.
    """

    def __init__(self, shape: ReWiNDShape) -> None:
        super().__init__()
        self.shape = shape
        width = shape.hidden_size
        self.video_proj = nn.Linear(shape.video_size, width)
        self.text_proj = nn.Linear(shape.text_size, width)
        self.first_embedding_A = nn.Parameter(torch.randn(1, 1, width))
        self.first_embedding_B = nn.Parameter(torch.randn(1, 1, width))
        self.preference_token = nn.Parameter(torch.randn(1, 1, width))
        if shape.max_len is not None:
            self.text_position_embedding = nn.Parameter(torch.randn(1, 1, width))
            self.prog_token_A = nn.Parameter(torch.randn(1, shape.max_len, width))
            self.prog_token_B = nn.Parameter(torch.randn(1, shape.max_len, width))
        layer = nn.TransformerEncoderLayer(width, shape.attention_heads, 4 * width, batch_first=True)
        # What nested tensors are for, padding, does not exist here.
        self.transformer = nn.TransformerEncoder(layer, shape.layers, enable_nested_tensor=False)
        self.progress_head = make_head(width, shape.outputs, sigmoid=shape.outputs == 1)
        self.preference_head = make_head(width, 1)
        self.success_head = make_head(width, 1)

    def forward(self, video: torch.Tensor, text: torch.Tensor) -> FrameLogits:
        """Scores clips of one length.

        Args:
            video: (B, T, video_size).
            text: (B, text_size).
        """
        clip = self._clip(video, "A")
        hidden = self._encode([self._text(text), clip])
        return self._read(hidden[:, self._places(1, video.shape[1])])

    def compare(
        self, first: torch.Tensor, second: torch.Tensor, text: torch.Tensor
    ) -> tuple[torch.Tensor, FrameLogits, FrameLogits]:
        """Compares clips, each of one length.

        Returns:
            (B,) logits that the first is better, and what is said of the frames of either.
        """
        parts = [self._text(text), self._clip(first, "A"), self._clip(second, "B")]
        parts.append(self.preference_token.expand(len(text), -1, -1))
        hidden = self._encode(parts)
        second_at = 1 + parts[1].shape[1]
        said = self._read(hidden[:, self._places(1, first.shape[1])])
        said_of_second = self._read(hidden[:, self._places(second_at, second.shape[1])])
        return self.preference_head(hidden[:, -1])[:, 0], said, said_of_second

    def _text(self, text: torch.Tensor) -> torch.Tensor:
        projected = self.text_proj(text)[:, None]
        return projected if self.shape.max_len is None else projected + self.text_position_embedding

    def _clip(self, video: torch.Tensor, side: str) -> torch.Tensor:
        """(B, positions, width) of a clip, with its progress tokens."""
        frames = self.video_proj(video)
        frames = torch.cat([frames[:, :1] + getattr(self, f"first_embedding_{side}"), frames[:, 1:]], dim=1)
        if self.shape.max_len is None:
            return frames
        if frames.shape[1] > self.shape.max_len:
            raise FrameError(f"got {frames.shape[1]} frames; this ReWiND has a progress token for {self.shape.max_len}")
        tokens = getattr(self, f"prog_token_{side}")[:, : frames.shape[1]].expand(len(frames), -1, -1)
        return torch.stack([frames, tokens], dim=2).flatten(1, 2)

    def _places(self, start: int, count: int) -> slice:
        """Where the outputs of ``count`` frames stand whose clip begins at ``start``."""
        return slice(start, start + count) if self.shape.max_len is None else slice(start + 1, start + 2 * count, 2)

    def _encode(self, parts: list[torch.Tensor]) -> torch.Tensor:
        sequence = torch.cat(parts, dim=1)
        length = sequence.shape[1]
        mask = None
        if self.shape.causal:
            mask = torch.ones(length, length, dtype=torch.bool, device=sequence.device).triu(1)
        return self.transformer(sequence, mask=mask)

    def _read(self, hidden: torch.Tensor) -> FrameLogits:
        progress = self.progress_head(hidden)
        return FrameLogits(progress[..., 0] if self.shape.outputs == 1 else progress, self.success_head(hidden)[..., 0])


class ReWiND(RewardModel):
    """A loaded ReWiND; see `RewardModel`.

    What it says of a frame depends on the frames up to it: where the network looks ahead, each frame is asked about
    with its own history.

    Args:
        network: The weights.
        frames: Vectors of frames.
        texts: Vectors of instructions.
        source: What `load_reward_model` was given.
        model_id: Name recorded in outputs.
        max_frames: Frames per clip that it was trained with.
        revision: Commit on the Hub, if known.
    """

    def __init__(
        self,
        network: ReWiNDNetwork,
        frames: FrameVectors,
        texts: TextVectors,
        source: str,
        model_id: str,
        max_frames: int,
        revision: str | None = None,
    ) -> None:
        super().__init__()
        self.network = network.eval().requires_grad_(False)
        self.frames = frames
        self.texts = texts
        self.source = source
        self.model_id = model_id
        self.revision = revision
        self.device = str(next(network.parameters()).device)
        self.bins = network.shape.outputs if network.shape.outputs > 1 else 0
        self.default_protocol = UniformFrames(max_frames)

    @torch.inference_mode()
    def predict(self, clips: Sequence[Clip]) -> list[Prediction]:
        """See `RewardModel.predict`.

        Raises:
            FrameError: More frames than the network has progress tokens for.
        """
        with self.lock:
            found: dict[int, Prediction] = {}
            by_length = sorted(range(len(clips)), key=lambda number: len(clips[number]))
            for _, numbers in groupby(by_length, key=lambda number: len(clips[number])):
                alike = list(numbers)
                found |= zip(alike, self._predict([clips[number] for number in alike]), strict=True)
            return [found[number] for number in range(len(clips))]

    @torch.inference_mode()
    def compare(self, pairs: Sequence[tuple[Clip, Clip]], both_orders: bool = False) -> NDArray[np.float32]:
        """See `RewardModel.compare`; long clips are thinned as the default protocol thins them."""
        with self.lock:
            found = [self._first_is_better(*pair) for pair in pairs]
            if both_orders:
                turned = [self._first_is_better(second, first) for first, second in pairs]
                found = [0.5 * (ahead + 1.0 - behind) for ahead, behind in zip(found, turned, strict=True)]
        return np.array(found, np.float32)

    def _predict(self, clips: Sequence[Clip]) -> list[Prediction]:
        """What is said of clips of one length."""
        video = torch.cat([self._vectors(clip.read()) for clip in clips])
        text = torch.cat([self._text(clip.task) for clip in clips])
        if self.network.shape.causal:
            said = self.network(video, text)
            progress, success = said.progress, said.success
        else:
            histories = [self.network(video[:, : t + 1], text) for t in range(video.shape[1])]
            progress = torch.stack([each.progress[:, -1] for each in histories], dim=1)
            success = torch.stack([each.success[:, -1] for each in histories], dim=1)
        if self.bins:
            progress, distribution = decode_progress(progress)
        else:
            distribution = progress.new_zeros(*progress.shape, 0)
        arrays = zip(*(each.cpu().numpy() for each in (progress, success.sigmoid(), distribution)), strict=True)
        return [
            Prediction(*values, protocol="given", model_id=self.model_id, revision=self.revision) for values in arrays
        ]

    def _first_is_better(self, first: Clip, second: Clip) -> float:
        one, other = (self._vectors(clip.read(self.default_protocol.slots(len(clip) - 1))) for clip in (first, second))
        return float(self.network.compare(one, other, self._text(first.task))[0].sigmoid())

    def _vectors(self, frames: NDArray[np.uint8]) -> torch.Tensor:
        return torch.from_numpy(self.frames(frames))[None].to(self.device)

    def _text(self, task: str) -> torch.Tensor:
        return torch.from_numpy(self.texts(task))[None].to(self.device)


def load(
    where: str,
    device: str | torch.device = "cpu",
    image_encoder: str | None = None,
    text_encoder: str | None = None,
    cache: str | Path | None = None,
) -> ReWiND:
    """Loads a ReWiND; see `robometer_rl.load_reward_model`.

    Args:
        where: A checkpoint directory, or a Hub id with an optional revision.
        device: Where to run.
        image_encoder: DINOv2, as a directory or a Hub id, or ``efficientnet-lite0``; that which the checkpoint names,
            or else the published one, if None.
        text_encoder: The sentence encoder, likewise.
        cache: File in which vectors of frames are kept for the next run.

    Raises:
        CheckpointError: The checkpoint is incomplete or of another kind.
        ImportError: It was trained on ``efficientnet-lite0``, whose package is not installed.
    """
    target = usable_device(device)
    found = locate(where)
    read = read_rewind(found.directory)
    network = read.network
    vectors = FrameVectors.load(image_encoder or read.image_encoder, target, VectorCache(cache))
    texts = TextVectors.load(text_encoder or read.text_encoder, target)
    sizes = network.shape.video_size, network.shape.text_size
    given = vectors.size, texts.size
    if sizes != given:
        raise CheckpointError(f"{where} was trained on vectors of sizes {sizes}; the encoders given make {given}")
    return ReWiND(network.to(target), vectors, texts, where, found.model_id, read.max_frames, found.revision)


@dataclass(frozen=True)
class ReWiNDCheckpoint:
    """What a checkpoint directory holds.

    Attributes:
        network: The weights.
        max_frames: Frames per clip that it was trained with.
        image_encoder: What made its vectors of frames, as `load` takes it.
        text_encoder: What made those of instructions.
    """

    network: ReWiNDNetwork
    max_frames: int
    image_encoder: str = DINOV2
    text_encoder: str = MINILM


def read_rewind(directory: Path) -> ReWiNDCheckpoint:
    """Reads a checkpoint.

    Frozen encoders that some checkpoints carry along in their weights are left out: they are the published ones.

    Raises:
        CheckpointError: A file is missing, damaged or of another kind.
    """
    file = directory / "config.yaml"
    try:
        settings = _mapping(parse_yaml(read_text(file), SettingsLoader))
    except (OSError, DocumentError) as error:
        raise CheckpointError(f"{file} is not that of a ReWiND: {error}") from error
    own = _mapping(_mapping(settings, "model"), "rewind") or _mapping(settings, "rewind")
    state = {key: tensor for key, tensor in read_weights(directory).items() if not key.startswith(_ENCODERS)}
    require_finite(state, directory)
    network = ReWiNDNetwork(ReWiNDShape.of(state, own))
    check_coverage(network.state_dict(), state, directory)
    network.load_state_dict({key: tensor.float() for key, tensor in state.items()})
    most = network.shape.max_len or 16
    max_frames = _mapping(settings, "data").get("max_frames", min(8, most))
    if type(max_frames) is not int or not 1 <= max_frames <= most:
        raise CheckpointError(f"{file}: data.max_frames is {brief(max_frames)}; expected 1..{most}")
    named = _mapping(settings, "encoders")
    image, text = named.get("image", DINOV2), named.get("text", MINILM)
    if type(image) is not str or type(text) is not str:
        raise CheckpointError(f"{file}: encoders are {brief(named)}; expected names of an image and a text encoder")
    return ReWiNDCheckpoint(network, max_frames, image, _beside(directory, text))


def _beside(directory: Path, text_encoder: str) -> str:
    """Where the text encoder is: in the checkpoint, if a folder of that name is there, or where its name says."""
    try:
        folder = inside(directory, text_encoder)
    except OutsideError:
        return text_encoder
    return str(folder) if folder.is_dir() else text_encoder


def write_rewind(directory: Path, checkpoint: ReWiNDCheckpoint) -> None:
    """Writes a checkpoint that `read_rewind` reads, and with it the text encoder if that is a folder.

    Args:
        directory: Which must not exist yet; it appears whole.
        checkpoint: What to write.

    Raises:
        FileExistsError: It exists.
    """
    network, text = checkpoint.network, Path(checkpoint.text_encoder)
    own = {"num_attention_heads": network.shape.attention_heads, "causal_mask": network.shape.causal}
    encoders = {"image": checkpoint.image_encoder, "text": _TEXT_FOLDER if text.is_dir() else checkpoint.text_encoder}
    settings = {"data": {"max_frames": checkpoint.max_frames}, "model": {"rewind": own}, "encoders": encoders}
    with new_directory(directory) as unfinished:
        if text.is_dir():
            shutil.copytree(text, unfinished / _TEXT_FOLDER)
        (unfinished / "config.yaml").write_text(yaml.safe_dump(settings, sort_keys=False))
        write_file(unfinished / WEIGHTS_FILE, network.state_dict())


def _mapping(value: Any, name: str | None = None) -> dict[str, Any]:
    found = value if name is None else value.get(name) or {}
    if not isinstance(found, dict):
        raise CheckpointError(f"config.yaml: {name or 'it'} holds {brief(found)}; expected a mapping")
    return found
