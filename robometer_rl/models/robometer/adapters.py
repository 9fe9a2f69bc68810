"""LoRA adapters (arXiv 2106.09685): what a fine-tune changes, kept apart from the weights that it started from.

An adapted network is taken apart into three: the backbone as it was, a few small matrices, and the heads. On disk::

    adapter_model.safetensors   the matrices, under PEFT's standard names (of Qwen3VLModel, the network's backbone)
    adapter_config.json         the LoRA, and where the base is that it was trained on
    custom_heads.safetensors    the heads, in full

The reference's LoRA runs instead leave one file with everything in it, wrapped keys included (docs/reference.md §2.8);
so do ours when no base is stated. Either way the rows of new tokens may be trained too (``trainable_token_indices``).
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import Enum
from pathlib import Path
from typing import Any

import torch
from peft import (
    LoraConfig,
    PeftConfig,
    get_peft_model_state_dict,
    inject_adapter_in_model,
    set_peft_model_state_dict,
)
from peft.tuners.tuners_utils import BaseTunerLayer
from safetensors import safe_open

from robometer_rl.documents import brief, parse_json, read_text
from robometer_rl.models.robometer.config import CheckpointError, blamed_on
from robometer_rl.models.robometer.network import RobometerNetwork
from robometer_rl.models.robometer.weights import State, check_coverage, read_file, write_file

__all__ = [
    "ADAPTER_CONFIG_FILE",
    "Adapter",
    "adapter_of",
    "attach_adapter",
    "check_base",
    "is_adapter_key",
    "plain_state",
    "read_adapter",
    "restore_adapter",
    "split_adapter",
    "write_adapter",
]

ADAPTER_CONFIG_FILE = "adapter_config.json"
ADAPTER_FILE = "adapter_model.safetensors"
HEADS_FILE = "custom_heads.safetensors"

_PARTS = ("language_model", "visual")
_PEFT_PREFIX = "base_model.model."
_NAME = "default"  # PEFT's name for an adapter that is alone
# What PEFT's standard names leave out of the names of weights; more of the magnitudes of a DoRA (arXiv 2402.09353).
_OF_ADAPTER = re.compile(rf"(?<=lora_magnitude_vector)\.{_NAME}\.weight$|\.{_NAME}(?=\.|$)")
_ADAPTER_KEY = re.compile(r"\.(lora_\w+|trainable_tokens_delta)(\.|$)")
_FINGERPRINT = "base_fingerprint"
_LARGEST_RANK = 1 << 16


@dataclass
class Adapter:
    """One LoRA.

    Attributes:
        lora: Its configuration; ``base_model_name_or_path`` says where the base is, None if nobody stated it.
        part: The part of the backbone that it adapts, ``language_model`` or ``visual``.
        state: Its weights, under PEFT's standard names relative to the part.
        base_fingerprint: Of the base it was trained on, see `fingerprint`; None where no file records it.
    """

    lora: LoraConfig
    part: str
    state: State
    base_fingerprint: str | None = None


def adapter_of(network: RobometerNetwork) -> Adapter | None:
    """The adapter that PEFT's ``inject_adapter_in_model`` put into a part of the backbone; None if there is none.

    Raises:
        CheckpointError: More than one, or one that was not injected into exactly the language model or the tower.
    """
    # PEFT leaves the configurations of its adapters in this attribute of the module that it was given.
    parts = {name: part for name, part in network.model.named_children() if name in _PARTS}
    loras = {name: configs for name, part in parts.items() if (configs := vars(part).get("peft_config"))}
    adapted = {
        name.split(".")[1]
        for name, module in network.model.named_modules(prefix="model")
        if isinstance(module, BaseTunerLayer)
    }
    if not adapted and not loras:
        return None
    if len(loras) != 1 or set(loras) != adapted or list(*loras.values()) != [_NAME]:
        raise CheckpointError(
            f"adapters in {sorted(adapted)}, injected into {sorted(loras)}; a checkpoint holds one adapter named "
            f"{_NAME!r}, injected into network.model.language_model or network.model.visual"
        )
    (part, configs), *_ = loras.items()
    return Adapter(configs[_NAME], part, get_peft_model_state_dict(parts[part], save_embedding_layers=False))


def attach_adapter(network: RobometerNetwork, adapter: Adapter, where: object) -> None:
    """Puts an adapter into a network that has the weights of its base; every key accounted for.

    Args:
        network: Without adapters.
        adapter: Its weights keep their device and precision.
        where: Named in errors.

    Raises:
        CheckpointError: The weights do not fit, or the network has no modules of the names that are adapted.
    """
    part = network.get_submodule(f"model.{adapter.part}")
    # Others are computed from the base's weights, and change these.
    lora = replace(adapter.lora, init_lora_weights=True)
    names = ADAPTER_CONFIG_FILE, ADAPTER_FILE, "in full checkpoints config.yaml, model.safetensors"
    with blamed_on(f"the LoRA in {where} ({', '.join(names)}) does not fit the network"):
        # On the meta device: the weights are assigned below, and nothing is drawn at random.
        inject_adapter_in_model(lora, part, low_cpu_mem_usage=True)
        expected = get_peft_model_state_dict(part, save_embedding_layers=False)
        check_coverage(expected, adapter.state, f"the LoRA in {where}")
        set_peft_model_state_dict(part, adapter.state, low_cpu_mem_usage=True)


def restore_adapter(network: RobometerNetwork, adapter: Adapter, where: object) -> None:
    """Gives the adapter that a network has already the weights of another one of the same shape.

    Args:
        network: With an adapter.
        adapter: Its weights are copied.
        where: Named in errors.

    Raises:
        CheckpointError: The weights do not fit.
    """
    part = network.get_submodule(f"model.{adapter.part}")
    check_coverage(get_peft_model_state_dict(part, save_embedding_layers=False), adapter.state, where)
    set_peft_model_state_dict(part, adapter.state)


def is_adapter_key(key: str) -> bool:
    """Whether a weight of an adapted network is the adapter's, by its name."""
    return _ADAPTER_KEY.search(key) is not None


def plain_state(state: Mapping[str, torch.Tensor]) -> State:
    """The weights of the network without its adapter, under the names they have there."""
    return {
        re.sub(r"\.(token_adapter\.)?base_layer\.", ".", key): tensor
        for key, tensor in state.items()
        if not is_adapter_key(key)
    }


def split_adapter(state: State, settings: Mapping[str, Any], where: object) -> tuple[State, Adapter | None]:
    """Takes a full state apart into the plain network's and the adapter's, if there are adapted layers in it.

    Args:
        state: With keys normalised.
        settings: The checkpoint's ``config.yaml``, whose section ``peft`` describes the LoRA.
        where: That file, for errors.

    Raises:
        CheckpointError: The section describes no LoRA.
    """
    adapted = {key: tensor for key, tensor in state.items() if is_adapter_key(key)}
    if not adapted:
        return state, None
    with blamed_on(f"{where}, section 'peft'"):
        section = dict(settings.get("peft") or {})
        part = _PARTS[bool(section.pop("peft_vision_encoder", False))]
        lora = LoraConfig(**section)
        _check_lora(lora)
    prefix = f"model.{part}."
    weights = {_OF_ADAPTER.sub("", key.removeprefix(prefix)): tensor for key, tensor in adapted.items()}
    return plain_state(state), Adapter(lora, part, weights)


def _check_lora(lora: LoraConfig) -> None:
    """Raises `CheckpointError` for numbers that PEFT takes, and computes nothing or NaN with."""
    ranks = {"r": lora.r, **{f"rank_pattern.{name}": rank for name, rank in dict(lora.rank_pattern or {}).items()}}
    for name, rank in ranks.items():
        if type(rank) is not int or not 1 <= rank <= _LARGEST_RANK:
            raise CheckpointError(f"{name} is {brief(rank)}; expected an integer from 1 to {_LARGEST_RANK}")
    alphas = {"lora_alpha": lora.lora_alpha, **dict(lora.alpha_pattern or {})}
    for name, alpha in {**alphas, "lora_dropout": lora.lora_dropout}.items():
        if type(alpha) not in (int, float) or not math.isfinite(alpha):
            raise CheckpointError(f"{name} is {brief(alpha)}; expected a finite number")
    if not 0 <= lora.lora_dropout < 1:
        raise CheckpointError(f"lora_dropout is {lora.lora_dropout}; expected a probability in [0, 1)")
    for name in ("base_model_name_or_path", "revision"):
        if not isinstance(getattr(lora, name), (str, type(None))):
            raise CheckpointError(f"{name} is {brief(getattr(lora, name))}; expected a text")


def peft_section(adapter: Adapter) -> dict[str, Any]:
    """The section ``peft`` of a ``config.yaml`` from which `split_adapter` knows the LoRA."""
    always = {"bias", "lora_alpha", "lora_dropout", "r", "target_modules"}
    defaults = LoraConfig().to_dict()
    stated = {key: value for key, value in _plain(adapter.lora).items() if key in always or value != defaults[key]}
    return {**stated, "peft_vision_encoder": adapter.part == "visual"}


def read_adapter(directory: Path) -> tuple[Adapter, State]:
    """Reads the adapter and the heads of a directory that holds no backbone.

    Raises:
        CheckpointError: A missing or damaged file, or a PEFT adapter of another kind.
    """
    for name in (ADAPTER_FILE, HEADS_FILE):
        if not (directory / name).is_file():
            raise CheckpointError(f"{directory} has an {ADAPTER_CONFIG_FILE} but no {name}")
    path = directory / ADAPTER_CONFIG_FILE
    with blamed_on(f"{path} is not a PEFT configuration of a LoRA"):
        if not isinstance(parse_json(read_text(path)), dict):
            raise CheckpointError("expected an object")
        lora = PeftConfig.from_pretrained(str(directory))
        if not isinstance(lora, LoraConfig):
            raise CheckpointError(f"it describes an adapter of type {lora.peft_type}; expected LORA")
        _check_lora(lora)
    state = {key.removeprefix(_PEFT_PREFIX): tensor for key, tensor in read_file(directory / ADAPTER_FILE).items()}
    parts = {key.split(".")[0] for key in state}
    if len(parts) != 1 or not parts <= set(_PARTS):
        raise CheckpointError(f"{directory / ADAPTER_FILE} adapts {sorted(parts)}; expected one of {list(_PARTS)}")
    (part,) = parts
    weights = {key.removeprefix(f"{part}."): tensor for key, tensor in state.items()}
    with safe_open(directory / ADAPTER_FILE, framework="pt") as file:
        recorded = (file.metadata() or {}).get(_FINGERPRINT)
    return Adapter(lora, part, weights, recorded), read_file(directory / HEADS_FILE)


def write_adapter(directory: Path, adapter: Adapter, heads: State, base: State) -> None:
    """Writes what `read_adapter` reads; ``base`` are the weights that the adapter was trained on."""
    (directory / ADAPTER_CONFIG_FILE).write_text(json.dumps(_plain(adapter.lora), indent=2, sort_keys=True))
    state = {f"{_PEFT_PREFIX}{adapter.part}.{key}": tensor for key, tensor in adapter.state.items()}
    write_file(directory / ADAPTER_FILE, state, **{_FINGERPRINT: fingerprint(base)})
    write_file(directory / HEADS_FILE, heads)


def check_base(adapter: Adapter, base: State, where: object) -> None:
    """Raises `CheckpointError` unless ``base`` are the weights that the adapter was trained on."""
    if adapter.base_fingerprint not in (None, fingerprint(base)):
        raise CheckpointError(
            f"the adapter in {where} was trained on other weights than those of its base "
            f"{adapter.lora.base_model_name_or_path!r}; give the right one as base_model"
        )


def fingerprint(backbone: Mapping[str, torch.Tensor]) -> str:
    """Tells backbones apart by their keys, shapes, precision and 16 values of every tensor, as stored.

    Training changes nearly every value, so a few of each are enough; reading all of a large model would not be.
    """
    digest = hashlib.sha256()
    for key, tensor in sorted(backbone.items()):
        flat = tensor.flatten()
        sample = flat[:: max(1, len(flat) // 16)][:16]
        digest.update(f"{key} {tuple(tensor.shape)} {tensor.dtype}".encode())
        digest.update(sample.contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _plain(lora: LoraConfig) -> dict[str, Any]:
    """A LoRA's settings as JSON and YAML have them; PEFT keeps some lists in sets, which have no order."""
    plain = {key: sorted(value) if isinstance(value, set) else value for key, value in lora.to_dict().items()}
    return {key: value.value if isinstance(value, Enum) else value for key, value in plain.items()}
