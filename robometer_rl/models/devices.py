"""Devices and precisions by name."""

from __future__ import annotations

import torch

__all__ = ["multiplies_in_bfloat16", "precision", "usable_device"]

_PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def usable_device(device: str | torch.device) -> torch.device:
    """A device that can be computed on here.

    Raises:
        ValueError: There is no such device.
    """
    try:
        target = torch.device(device)
        torch.empty(0, device=target)
    # Builds of torch without a device's backend assert that it is not asked for.
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"got the device {str(device)!r}, which cannot be used here: {error}") from error
    return target


def precision(name: str | None, device: torch.device) -> torch.dtype | None:
    """The type of weights that a name means on a device; None for the one that they are stored in.

    Raises:
        ValueError: Another name.
    """
    if name is None:
        return None
    if name == "auto":
        return torch.bfloat16 if device.type == "cpu" and multiplies_in_bfloat16() else None
    if name not in _PRECISIONS:
        raise ValueError(f"got the dtype {name!r}; expected one of {sorted([*_PRECISIONS, 'auto'])}")
    return _PRECISIONS[name]


def multiplies_in_bfloat16() -> bool:
    """Whether the processor has instructions for it (AVX-512-BF16, AMX): without them it takes longer."""
    return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
