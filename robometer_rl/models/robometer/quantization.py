"""Weights in 8 bits, through torchao: for inference where memory is short.

Each row of a matrix is stored as int8 with one scale, and multiplied in the model's own precision. The heads,
embeddings, norms and the patch embedding stay as they are: they are small, and values depend on them directly.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import nn

from robometer_rl.models.robometer.network import RobometerNetwork

__all__ = ["WeightFormat", "quantize"]

WeightFormat = Literal["int8"]


def quantize(network: RobometerNetwork, weights: WeightFormat, device: torch.device) -> None:
    """Quantises the backbone's matrices in place and puts the network on ``device``.

    One matrix at a time is copied to the device, so that the unquantised network never needs to fit there.

    Raises:
        ValueError: An unknown format.
        ImportError: torchao is not installed.
    """
    if weights != "int8":
        raise ValueError(f"got weights={weights!r}; expected 'int8', or None for the model's own precision")
    try:
        from torchao.quantization import Int8WeightOnlyConfig, quantize_  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise ImportError("weights='int8' needs torchao: pip install 'robometer-rl[int8]'") from error
    quantize_(network.model, Int8WeightOnlyConfig(), filter_fn=_is_base_matrix, device=device)
    network.to(device)


def _is_base_matrix(module: nn.Module, name: str) -> bool:
    """Whether a module is one of the backbone's matrices, rather than one of an adapter's small ones."""
    return isinstance(module, nn.Linear) and ".lora_" not in name
