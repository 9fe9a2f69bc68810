"""One function that turns a name into a reward model."""

from __future__ import annotations

from pathlib import Path

import torch

from robometer_rl.models.locations import UnknownModelError, locate
from robometer_rl.models.reward_model import RewardModel
from robometer_rl.models.robometer.checkpoint import load_checkpoint
from robometer_rl.models.robometer.inference import Robometer
from robometer_rl.models.robometer.quantization import WeightFormat

__all__ = ["UnknownModelError", "load_reward_model"]


def load_reward_model(
    name: str | Path,
    device: str | torch.device = "cpu",
    dtype: str | None = None,
    attn_implementation: str = "sdpa",
    weights: WeightFormat | None = None,
    base_model: str | Path | None = None,
) -> RewardModel:
    """Loads a reward model.

    Args:
        name: ``"mini"`` (embedded in the package), a checkpoint directory, or a Hub id with an optional revision
            (``"robometer/Robometer-4B"``, ``"robometer/Robometer-4B@<tag, branch or commit>"``; the default branch
            if none is given). docs/checkpoints.md lists the layouts that load.
        device: Where to run, such as ``"cuda"``.
        dtype: ``"float32"``, ``"bfloat16"`` or ``"float16"``; as stored in the checkpoint if None.
        attn_implementation: ``"sdpa"`` or ``"eager"`` can do everything; others that transformers knows can `predict`
            and `compare`.
        weights: ``"int8"`` keeps the backbone's matrices in 8 bits, a quarter of float32 (extra ``int8``); None keeps
            them in ``dtype``.
        base_model: Where the base of a checkpoint is that does not hold everything itself, instead of where the
            checkpoint says: a directory, or a Hub id. Adapters take their weights from it; checkpoints without a
            tokenizer take that from it.

    Raises:
        UnknownModelError: The name means nothing here.
        CheckpointError: The checkpoint is incomplete or of another kind.
        ValueError: A device or dtype that is not to be had here.

    Example:
        >>> model = load_reward_model("mini")
        >>> model.model_id
        'robometer-mini'
    """
    target = _device(device)
    found = locate(name)
    checkpoint = load_checkpoint(found.directory, target, _dtype(dtype), attn_implementation, weights, base_model)
    return Robometer(checkpoint, source=str(name), model_id=found.model_id, revision=found.revision)


def _device(device: str | torch.device) -> torch.device:
    try:
        target = torch.device(device)
        torch.empty(0, device=target)
    # Builds of torch without a device's backend assert that it is not asked for.
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"got the device {str(device)!r}, which cannot be used here: {error}") from error
    return target


def _dtype(name: str | None) -> torch.dtype | None:
    known = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
    if name is None:
        return None
    if name not in known:
        raise ValueError(f"got the dtype {name!r}; expected one of {sorted(known)}")
    return known[name]
