"""From frames to the patches that the vision tower reads: one resize and one reshape per frame, no torchvision."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image

from robometer_rl.documents import DocumentError, brief, parse_json
from robometer_rl.frames import FrameError, as_array
from robometer_rl.models.robometer.config import CheckpointError

__all__ = ["FramePatcher", "Grid", "PatchedFrames", "SquarePatcher", "resize_frame"]

Frames = NDArray[Any] | torch.Tensor
FramesT = TypeVar("FramesT", bound=Frames)

Grid = tuple[int, int]
"""Rows and columns of patches in a frame, before merging."""

_MAX_ASPECT_RATIO = 200
_LARGEST_SIDE = 1024  # of a patch in pixels, and of a merged square in patches


@dataclass
class PatchedFrames:
    """Frames of one size, cut into patches.

    Attributes:
        pixels: (F, rows * columns, 3 * patch_size ** 2) float32 in the order the tower merges them: merge x merge
            neighbours together, channels before pixels. A still image fills both temporal halves of the published
            patch embedding with the same pixels, so only one half is kept (see `vision.embed_patches`). In video
            mode F counts frame pairs and the last axis holds (3, 2, patch, patch). Of `SquarePatcher`: whole pictures
            (F, 3, side, side).
        grid: Rows and columns of patches.
    """

    pixels: torch.Tensor
    grid: Grid

    def __len__(self) -> int:
        return len(self.pixels)


@dataclass(frozen=True)
class FramePatcher:
    """Resizes, normalises and cuts frames as the published preprocessing does (docs/reference.md §2.3).

    Attributes:
        patch_size: Side of a patch in pixels.
        merge_size: Patches per side that the tower merges into one token.
        mean: Per channel, of pixels in [0, 1].
        std: Per channel.
        min_pixels: Smaller frames are enlarged to this area, keeping their shape as closely as the grid allows.
        max_pixels: Larger ones are reduced to it.
    """

    patch_size: int
    merge_size: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    min_pixels: int
    max_pixels: int

    @classmethod
    def from_json(cls, text: str, min_pixels: int, max_pixels: int) -> FramePatcher:
        """Reads a ``preprocessor_config.json``; its own size limits are ignored, as the reference ignores them."""
        settings = _settings(text)
        return cls(
            patch_size=_side(settings, "patch_size"),
            merge_size=_side(settings, "merge_size"),
            mean=_channels(settings, "image_mean", -math.inf),
            std=_channels(settings, "image_std", 0.0),
            min_pixels=min_pixels,
            max_pixels=max_pixels,
        )

    @property
    def factor(self) -> int:
        """Side in pixels of the square that becomes one token."""
        return self.patch_size * self.merge_size

    def resized(self, height: int, width: int) -> tuple[int, int]:
        """Height and width that a frame is resized to: multiples of `factor` within the pixel limits."""
        if max(height, width) / min(height, width) > _MAX_ASPECT_RATIO:
            raise FrameError(f"got frames of {height} x {width}; expected an aspect ratio below {_MAX_ASPECT_RATIO}")
        factor = self.factor
        rows, columns = (max(factor, round(side / factor) * factor) for side in (height, width))
        if rows * columns > self.max_pixels:
            reduction = math.sqrt(height * width / self.max_pixels)
            rows, columns = (max(factor, math.floor(side / reduction / factor) * factor) for side in (height, width))
        elif rows * columns < self.min_pixels:
            growth = math.sqrt(self.min_pixels / (height * width))
            rows, columns = (math.ceil(side * growth / factor) * factor for side in (height, width))
        return rows, columns

    def grid(self, height: int, width: int) -> Grid:
        """Rows and columns of patches of a frame of that size."""
        rows, columns = self.resized(height, width)
        return rows // self.patch_size, columns // self.patch_size

    def tokens(self, grid: Grid) -> int:
        """Tokens that a frame of ``grid`` patches becomes."""
        return grid[0] * grid[1] // self.merge_size**2

    def __call__(self, frames: Frames) -> PatchedFrames:
        """Cuts uint8 RGB frames (F, H, W, 3) of one size into patches, on their device if they are a tensor."""
        grid = self.grid(*frames.shape[1:3])
        return PatchedFrames(self._cut(self.resize(frames), grid), grid)

    def frame_pairs(self, frames: NDArray[np.uint8]) -> PatchedFrames:
        """Cuts frames (F, H, W, 3) of a video into patches of two frames each; an odd last frame is repeated."""
        if len(frames) % 2:
            frames = np.concatenate([frames, frames[-1:]])
        grid = self.grid(*frames.shape[1:3])
        single = self._cut(self.resize_video(frames), grid)
        halves = single.unflatten(2, (3, 1, self.patch_size**2)).unflatten(0, (-1, 2))
        return PatchedFrames(torch.cat([halves[:, 0], halves[:, 1]], dim=3).flatten(2), grid)

    def resize(self, frames: FramesT) -> FramesT:
        """Bicubic resize with Pillow, which the published checkpoints saw; nothing if the size fits already.

        Pillow works on the host: a tensor whose size does not fit goes there and back.
        """
        size = self.resized(*frames.shape[1:3])
        if frames.shape[1:3] == size:
            return frames
        resized = np.stack([resize_frame(frame, *size) for frame in as_array(frames)])
        return torch.from_numpy(resized).to(frames.device) if isinstance(frames, torch.Tensor) else resized  # pyright: ignore[reportReturnType]

    def resize_video(self, frames: NDArray[np.uint8], rounded: bool = True) -> NDArray[Any]:
        """Bicubic resize with torch, whose rounding differs from Pillow's: the reference resizes videos so.

        Args:
            frames: (F, H, W, 3).
            rounded: Whether pixels are whole numbers from 0 to 255 again; float32 otherwise.
        """
        return _resized_by_torch(frames, self.resized(*frames.shape[1:3]), rounded)

    def _cut(self, frames: Frames, grid: Grid) -> torch.Tensor:
        """Normalised patches (F, rows * columns, 3 * patch ** 2) of resized frames (F, H, W, 3)."""
        patch, merge = self.patch_size, self.merge_size
        rows, columns = grid
        pixels = frames if isinstance(frames, torch.Tensor) else torch.from_numpy(np.array(frames, order="C"))
        cut = pixels.reshape(len(frames), rows // merge, merge, patch, columns // merge, merge, patch, 3)
        # Bytes are moved faster than numbers, and a channel at a time is normalised faster than a pixel.
        patches = cut.permute(0, 1, 4, 2, 5, 7, 3, 6).reshape(len(frames), rows * columns, 3, patch * patch)
        scale, shift = _normalisation(self.mean, self.std, pixels.device)
        return patches.to(torch.float32, copy=True).mul_(scale[:, None]).sub_(shift[:, None]).flatten(2)


@dataclass(frozen=True)
class SquarePatcher:
    """Makes squares of frames, whatever their shape, as SmolVLM sees them: `FramePatcher` for models of one size.

    The reference enlarges a frame until its longer side fits, then makes it a square, both with torch's bicubic filter.

    Attributes:
        side: Of the square in pixels.
        patch_size: Side of a patch in pixels.
        merge_size: Patches per side that become one token.
        mean: Per channel, of pixels in [0, 1].
        std: Per channel.
    """

    side: int
    patch_size: int
    merge_size: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]

    @classmethod
    def from_json(cls, text: str, side: int, patch_size: int, merge_size: int) -> SquarePatcher:
        """Reads a ``preprocessor_config.json``; sizes are those of the network, as the reference has them."""
        settings = _settings(text)
        channels = _channels(settings, "image_mean", -math.inf), _channels(settings, "image_std", 0.0)
        return cls(side, patch_size, merge_size, *channels)

    def grid(self, height: int, width: int) -> Grid:
        """Rows and columns of patches of a frame, whatever its size."""
        return self.side // self.patch_size, self.side // self.patch_size

    def tokens(self, grid: Grid) -> int:
        """Tokens that a frame of ``grid`` patches becomes."""
        return grid[0] * grid[1] // self.merge_size**2

    def __call__(self, frames: Frames) -> PatchedFrames:
        """Resizes and normalises uint8 RGB frames (F, H, W, 3) of one size, on their device if they are a tensor."""
        height, width = frames.shape[1:3]
        # As transformers counts: rounded down, and then up to an even number.
        shorter = int(self.side / (max(height, width) / min(height, width)))
        shorter = max(1, shorter + shorter % 2)
        fitted = (shorter, self.side) if width >= height else (self.side, shorter)
        squares = _resized_by_torch(_resized_by_torch(frames, fitted), (self.side, self.side))
        pixels = _normalised(squares, self.mean, self.std).permute(0, 3, 1, 2).contiguous()
        return PatchedFrames(pixels, self.grid(height, width))


def _normalised(frames: Frames, mean: tuple[float, float, float], std: tuple[float, float, float]) -> torch.Tensor:
    pixels = _as_float32(frames)
    scale, shift = _normalisation(mean, std, pixels.device)
    return pixels.mul_(scale).sub_(shift)


def _normalisation(
    mean: tuple[float, float, float], std: tuple[float, float, float], device: torch.device
) -> tuple[torch.Tensor, torch.Tensor]:
    """Per channel, by what pixels in [0, 255] are multiplied, and what is taken away then."""
    scale = torch.tensor([1.0 / (255.0 * each) for each in std], device=device)
    shift = torch.tensor([middle / each for middle, each in zip(mean, std, strict=True)], device=device)
    return scale, shift


def _as_float32(frames: Frames) -> torch.Tensor:
    """A copy."""
    if isinstance(frames, torch.Tensor):
        return frames.to(torch.float32, copy=True)
    return torch.from_numpy(frames.astype(np.float32))


def _resized_by_torch(frames: FramesT, size: tuple[int, int], rounded: bool = True) -> FramesT:
    if frames.shape[1:3] == size:
        return frames
    channels_first = _as_float32(frames).permute(0, 3, 1, 2)
    resized = F.interpolate(channels_first, size=size, mode="bicubic", antialias=True)
    if rounded:
        resized = resized.clamp_(0, 255).round_().to(torch.uint8)
    resized = resized.permute(0, 2, 3, 1).contiguous()
    return resized if isinstance(frames, torch.Tensor) else resized.numpy()  # pyright: ignore[reportReturnType]


def resize_frame(frame: NDArray[np.uint8], rows: int, columns: int) -> NDArray[np.uint8]:
    """One uint8 RGB frame (H, W, 3) in another size, by Pillow's bicubic filter.

    Pillow resizes along one axis and then along the other, rounding in between. Which comes first depends on its
    release; asked for one axis at a time it has no choice. The order is that of Pillow 13, by which the numbers of the
    reference were recorded.
    """
    image = Image.fromarray(frame)
    rows_first = image.height - rows > max(0, 2 * (image.width - columns))
    between = (image.width, rows) if rows_first else (columns, image.height)
    bicubic = Image.Resampling.BICUBIC
    return np.asarray(image.resize(between, bicubic).resize((columns, rows), bicubic))


def _settings(text: str) -> dict[str, Any]:
    try:
        settings = parse_json(text)
    except DocumentError as error:
        raise CheckpointError(f"preprocessor_config.json: {error}") from error
    if not isinstance(settings, dict):
        raise CheckpointError(f"preprocessor_config.json holds {type(settings).__name__}; expected an object")
    return settings


def _side(settings: Mapping[str, Any], name: str) -> int:
    value = settings.get(name)
    if type(value) is not int or not 1 <= value <= _LARGEST_SIDE:
        raise CheckpointError(
            f"preprocessor_config.json: {name} is {brief(value)}; expected an integer from 1 to {_LARGEST_SIDE}"
        )
    return value


def _channels(settings: Mapping[str, Any], name: str, above: float) -> tuple[float, float, float]:
    values = settings.get(name)
    if not isinstance(values, list) or any(type(value) not in (int, float) for value in values) or len(values) != 3:
        raise CheckpointError(f"preprocessor_config.json: {name} is {brief(values)}; expected three numbers")
    if not all(above < value < math.inf for value in values):
        raise CheckpointError(f"preprocessor_config.json: {name} is {values}; expected numbers above {above:g}")
    red, green, blue = map(float, values)
    return red, green, blue


def group_by_grid(patched: Iterable[PatchedFrames]) -> dict[Grid, list[PatchedFrames]]:
    """Collects patched frames of the same grid, which the tower can take as one batch."""
    groups: dict[Grid, list[PatchedFrames]] = {}
    for frames in patched:
        groups.setdefault(frames.grid, []).append(frames)
    return groups
