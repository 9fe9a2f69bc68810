"""Vector environments that speak torch: what they get back is tensors, too, on the device they live on."""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from robometer_rl.frames import is_tensor

if TYPE_CHECKING:
    import torch

__all__ = ["copied", "device_of", "infos_on", "like"]

T = TypeVar("T")


def device_of(value: Any) -> torch.device | None:
    """The device of the tensors in what an environment shows; None if it shows no tensors."""
    if is_tensor(value):
        return value.device
    parts = value.values() if isinstance(value, Mapping) else value if isinstance(value, tuple) else ()
    return next((device for part in parts if (device := device_of(part)) is not None), None)


def like(values: NDArray[Any], given: Any) -> Any:
    """Values as an environment gives its own: a tensor on the device of a tensor, an array otherwise.

    Args:
        values: (n,) numbers or truth values.
        given: What the environment gave in their place. Where it has a floating type, numbers get it; a task reward
            of whole numbers or truth values says nothing of the precision of a learned one, which is torch's default
            then.
    """
    if not is_tensor(given):
        return values
    import torch

    if values.dtype == np.bool_:
        return torch.as_tensor(values, device=given.device)
    dtype = given.dtype if given.is_floating_point() else torch.get_default_dtype()
    return torch.as_tensor(values, dtype=dtype, device=given.device)


def infos_on(infos: Mapping[str, Any], device: torch.device, ours: bool = False) -> dict[str, Any]:
    """Infos in which what a reward wrapper has written, and every mask, are tensors on the device.

    Args:
        infos: Of a vector environment.
        device: Where its tensors are.
        ours: Whether all of it is written by the wrapper.
    """
    found: dict[str, Any] = {}
    for key, value in infos.items():
        written = ours or key.removeprefix("_").startswith("robometer/")
        if isinstance(value, Mapping):
            found[key] = infos_on(value, device, written)
        elif written or (key.startswith("_") and key[1:] in infos):
            found[key] = _on(value, device)
        else:
            found[key] = value
    return found


def copied(value: T) -> T:
    """A copy; of a row of a batch the row alone, and not the whole batch."""
    if isinstance(value, Mapping):
        return {key: copied(part) for key, part in value.items()}  # pyright: ignore[reportReturnType]
    if isinstance(value, tuple):
        return tuple(copied(part) for part in value)  # pyright: ignore[reportReturnType]
    return value.clone() if is_tensor(value) else deepcopy(value)  # pyright: ignore[reportReturnType]


def _on(value: Any, device: torch.device) -> Any:
    import torch

    if not isinstance(value, np.ndarray) or value.dtype.kind not in "biuf":
        return value
    # Not every accelerator has numbers of double precision.
    dtype = torch.get_default_dtype() if value.dtype.kind == "f" else None
    return torch.as_tensor(value, dtype=dtype, device=device)
