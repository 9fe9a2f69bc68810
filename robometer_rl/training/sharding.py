"""Training whose weights are spread over processes (FSDP2), and saves that any number of processes goes on from.

A save names every weight and every state of the optimizer as one process has them, whole, whoever wrote it: one
process, several that have all weights each (DDP), or several that share them (FSDP). So a training that began with
eight processes goes on with four, and one that was interrupted on a small machine goes on on a large one.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_optimizer_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy

__all__ = [
    "computes_in",
    "divide_batch",
    "gathered_weights",
    "load_optimizer",
    "load_weights",
    "optimizer_state",
]

_WHOLE = StateDictOptions(full_state_dict=True, cpu_offload=True)


def divide_batch(batch_size: int, accumulate: int, began: int, processes: int) -> tuple[int, int]:
    """How processes divide the batch of a step that was chosen for another number of them.

    Args:
        batch_size: Most samples of a forward pass of a process.
        accumulate: Forward passes per step of each process that the training began with.
        began: How many these were.
        processes: How many there are now.

    Returns:
        Samples per forward pass and forward passes per step, for each process.

    Raises:
        ValueError: They cannot have equal shares of it.
    """
    total = batch_size * accumulate * began
    share, rest = divmod(total, processes)
    if rest:
        fitting = [number for number in range(1, 2 * max(began, processes) + 1) if total % number == 0]
        raise ValueError(
            f"this training began with {began} processes and batches of {total} samples, of which {processes} "
            f"processes cannot have equal shares; go on with {', '.join(map(str, fitting))} processes"
        )
    passes = next(number for number in range(1, share + 1) if share % number == 0 and share // number <= batch_size)
    return share // passes, passes


def computes_in(dtype: torch.dtype) -> MixedPrecisionPolicy:
    """Layers compute in ``dtype``; gradients are added up, and losses are given back, in float32 as in one process."""
    return MixedPrecisionPolicy(param_dtype=dtype, reduce_dtype=torch.float32)


@contextmanager
def gathered_weights(module: nn.Module, reshards: bool) -> Iterator[None]:
    """Gives every process all weights of a sharded module for a while, for what does not go through its forward.

    Args:
        module: The outermost of those that are sharded.
        reshards: Whether the others let go of their weights after each forward pass otherwise.
    """
    shards = [each for each in module.modules() if isinstance(each, FSDPModule)]
    for shard in shards:
        shard.set_reshard_after_forward(False, recurse=False)
        shard.unshard()
    try:
        yield
    finally:
        for shard in shards:
            shard.reshard()
            if shard is not module:
                shard.set_reshard_after_forward(reshards, recurse=False)


def optimizer_state(module: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """The state of an optimizer by names of weights, whole; the same for any number of processes.

    All of them have to ask; the first one is given it.
    """
    return dict(get_optimizer_state_dict(module, optimizer, options=_WHOLE))


def load_optimizer(module: nn.Module, optimizer: torch.optim.Optimizer, file: Path) -> None:
    """Puts what `optimizer_state` gave back into an optimizer of the same weights.

    The file is mapped into memory, so that each process reads its own share of it.
    """
    state = torch.load(file, map_location="cpu", mmap=True, weights_only=True)
    set_optimizer_state_dict(module, optimizer, state, options=StateDictOptions(full_state_dict=True))


def load_weights(module: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Puts whole weights into a module, of which each process may have a share."""
    set_model_state_dict(module, dict(state), options=StateDictOptions(full_state_dict=True))
