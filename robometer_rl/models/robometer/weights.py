"""Weight files of the layouts in circulation, as one mapping from our key names to tensors.

Known layouts (docs/reference.md §2.8), all safetensors, one file or shards with an index:

- published: ``model.visual.*``, ``model.language_model.*``, the three heads, ``frame_pool_attn.weight``;
- the same with a second ``model.`` in front of the backbone (files saved through Unsloth, or converted by LeRobot);
- the reference's LoRA runs: every key of the adapted part wrapped by PEFT
  (``...base_model.model.*.base_layer.weight``, ``...lora_A.default.weight``); `adapters` takes these apart.
"""

from __future__ import annotations

import errno
import logging
import re
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from robometer_rl.documents import parse_json, read_text
from robometer_rl.files import OutsideError, check_regular, inside
from robometer_rl.models.robometer.config import CheckpointError, blamed_on

__all__ = [
    "State",
    "check_coverage",
    "common_precision",
    "normalise_keys",
    "read_file",
    "read_weights",
    "require_finite",
    "write_file",
]

logger = logging.getLogger(__name__)

WEIGHTS_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"

# Present in some files, without a place in the network: the tied language-model head, and buffers that are computed.
_IGNORED = re.compile(r"(^|\.)lm_head\.weight$|\.rotary_emb\.inv_freq$")

# What a network can compute in. Others are stored with scales beside them, which nobody would apply here.
_PRECISIONS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)

State = dict[str, torch.Tensor]


def read_weights(directory: Path) -> State:
    """Reads all tensors of a checkpoint directory under the keys the files use.

    Raises:
        CheckpointError: No weights, a missing shard, a tensor in two shards, a shard without a tensor that the index
            promises, a damaged file.
    """
    if (directory / WEIGHTS_FILE).is_file():
        return read_file(directory / WEIGHTS_FILE)
    index = directory / INDEX_FILE
    if not index.is_file():
        raise CheckpointError(f"{directory} has no weights: expected {WEIGHTS_FILE} or {INDEX_FILE}")
    with blamed_on(f"{index} is not a weight index"):
        places = _places(parse_json(read_text(index)))
    state: State = {}
    for name in sorted(set(places.values())):
        with blamed_on(index):
            path = _shard(index, name)
        shard = read_file(path)
        if twice := sorted(set(state) & set(shard)):
            raise CheckpointError(f"{path} holds tensors that another shard holds too: {_listed(twice)}")
        state |= shard
    if absent := sorted(set(places) - set(state)):
        named = [f"{key} ({places[key]})" for key in absent]
        raise CheckpointError(f"{index} promises tensors that no shard has: {_listed(named)}")
    return state


def _places(index: object) -> Mapping[str, str]:
    """The shard of every tensor."""
    places = index.get("weight_map") if isinstance(index, dict) else None
    if not isinstance(places, dict) or not all(isinstance(shard, str) for shard in places.values()):
        raise CheckpointError("expected an object with 'weight_map', the file name of every tensor")
    return places


def _shard(index: Path, name: str) -> Path:
    try:
        path = inside(index.parent, name)
    except OutsideError as error:
        raise CheckpointError(f"{index} names a shard outside of its directory: {error}") from error
    if not path.is_file():
        raise CheckpointError(f"{index} names the shard {name}, which is missing")
    return path


def read_file(path: Path) -> State:
    """Reads one safetensors file; tensors are mapped, not copied, until they are used.

    Where two names share a tensor, safetensors' `save_model` stores it under one and notes the other in the metadata
    (LeRobot's conversions keep the embedding under ``lm_head.weight``, to which it is tied); both names are returned.
    """
    check_regular(path)
    try:
        with safe_open(path, framework="pt") as file:
            state = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
            metadata: Mapping[str, str] = file.metadata() or {}
    except SafetensorError as error:
        raise CheckpointError(f"{path} is not a readable safetensors file: {error}") from error
    if others := sorted(key for key, tensor in state.items() if tensor.dtype not in _PRECISIONS):
        raise CheckpointError(
            f"{path} holds {_listed(others)} in {state[others[0]].dtype}; expected float16, bfloat16 or float32 (give "
            "the checkpoint that was not quantised, and quantise it with the option weights)"
        )
    return state | {name: state[kept] for name, kept in metadata.items() if kept in state and name not in state}


def write_file(path: Path, state: Mapping[str, torch.Tensor], **notes: str) -> None:
    """Writes one safetensors file.

    Args:
        path: The file.
        state: Tensors by name.
        notes: Metadata of the file besides the ``format`` that others expect there.

    Raises:
        OSError: It cannot be written.
    """
    on_host = {key: tensor.detach().cpu().contiguous() for key, tensor in state.items()}
    try:
        save_file(on_host, path, metadata={"format": "pt", **notes})
    except SafetensorError as error:
        raise OSError(errno.EIO, str(error), str(path)) from error


def normalise_keys(state: Mapping[str, torch.Tensor]) -> State:
    """Renames keys of any known layout to the network's, and drops the few that have no place in it.

    PEFT's own names inside adapted layers (``base_layer``, ``lora_A.default``) stay.
    """
    renamed: State = {}
    for key, tensor in state.items():
        name = re.sub(r"^model\.(?=model\.)", "", key)
        name = name.replace(".base_model.model.", ".", 1)
        if _IGNORED.search(name):
            logger.info("ignored %s: it has no place in a Robometer", key)
            continue
        if name in renamed:
            raise CheckpointError(f"two tensors are named {name} once prefixes are removed; one of them is {key}")
        renamed[name] = tensor
    return renamed


def common_precision(state: Mapping[str, torch.Tensor], where: object) -> torch.dtype:
    """The precision that most of the numbers of a state have, which the network then has as a whole.

    Trainers leave heads or norms in float32 beside a backbone in bfloat16. Layers of two precisions cannot be
    multiplied with each other, and the backbone is what takes the memory.
    """
    sizes: Counter[torch.dtype] = Counter()
    for tensor in state.values():
        sizes[tensor.dtype] += tensor.numel()
    if not sizes:
        raise CheckpointError(f"the weights in {where} are empty")
    (most, _), *others = sizes.most_common()
    if others:
        names = " and ".join(str(dtype).removeprefix("torch.") for dtype, _ in others)
        logger.info(
            "%s has weights in %s, too; all are taken in %s, since most are. The option dtype chooses another "
            "precision",
            where,
            names,
            str(most).removeprefix("torch."),
        )
    return most


def require_finite(state: Mapping[str, torch.Tensor], where: object) -> None:
    """Raises `CheckpointError` if a weight is NaN or infinite, since nothing that is predicted with it is a number."""
    wrong = sorted(key for key, tensor in state.items() if not _is_finite(tensor))
    if wrong:
        precision = str(state[wrong[0]].dtype).removeprefix("torch.")
        raise CheckpointError(f"weights in {where} are NaN or infinite in {precision}: {_listed(wrong)}")


def _is_finite(tensor: torch.Tensor) -> bool:
    if tensor.is_meta or not tensor.numel():
        return True
    # One pass and no copies: a large model's weights are still on disk. NaN is the least and the largest of numbers.
    low, high = torch.aminmax(tensor.detach())
    return bool(low.isfinite() & high.isfinite())


def check_coverage(expected: Mapping[str, torch.Tensor], found: Mapping[str, torch.Tensor], where: object) -> None:
    """Every key accounted for, with the right shape.

    Raises:
        CheckpointError: Names the missing, unexpected or misshapen tensors.
    """
    problems = []
    if missing := sorted(set(expected) - set(found)):
        problems.append(f"missing {_listed(missing)}")
    if unexpected := sorted(set(found) - set(expected)):
        problems.append(f"unexpected {_listed(unexpected)}")
    problems += [
        f"{key} has shape {tuple(found[key].shape)}, expected {tuple(tensor.shape)}"
        for key, tensor in sorted(expected.items())
        if key in found and found[key].shape != tensor.shape
    ]
    if problems:
        raise CheckpointError(f"the weights in {where} do not fit the network: " + "; ".join(problems))


def _listed(keys: list[str], most: int = 8) -> str:
    more = f" and {len(keys) - most} more" if len(keys) > most else ""
    return ", ".join(keys[:most]) + more
