"""Which weights a run trains: all of them, or a LoRA beside the backbone; and in which precision."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from peft import LoraConfig, inject_adapter_in_model

from robometer_rl.models.robometer.adapters import adapter_of, is_adapter_key
from robometer_rl.models.robometer.backbone import Qwen3VL
from robometer_rl.models.robometer.checkpoint import Checkpoint
from robometer_rl.models.robometer.network import RobometerNetwork
from robometer_rl.models.robometer.prompts import PREF_TOKEN, PROG_TOKEN, SPLIT_TOKEN
from robometer_rl.training.config import LoRA

__all__ = ["attach_lora", "choose_trainable", "require_trainable", "training_precision"]


def require_trainable(network: RobometerNetwork) -> None:
    """Raises `ValueError` if a network is on a backbone whose vision features training does not know."""
    if not isinstance(network.backbone, Qwen3VL):
        raise ValueError(
            f"training takes checkpoints on Qwen3-VL, and this one is on {type(network.backbone).__name__}; it can "
            "predict, and what trains it is the reference's code"
        )


def attach_lora(checkpoint: Checkpoint, lora: LoRA, base: str | None, seed: int) -> None:
    """Puts a new LoRA into a network; its outputs stay the same.

    Args:
        checkpoint: Without an adapter.
        lora: Its shape.
        base: Where the checkpoint is, which the saved adapter will refer to; None to save everything in one file.
        seed: Of the matrices.

    Raises:
        ValueError: The checkpoint has an adapter, or no layers of the names that are to be adapted.
    """
    if adapter_of(checkpoint.network) is not None:
        raise ValueError("the start checkpoint has an adapter; to go on training it, leave the LoRA's rank at 0")
    vocabulary = checkpoint.processor.tokenizer.get_vocab()
    tokens = [vocabulary[token] for token in (SPLIT_TOKEN, PREF_TOKEN, PROG_TOKEN)]
    config = LoraConfig(
        r=lora.rank,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        target_modules=list(lora.targets),
        trainable_token_indices={"embed_tokens": tokens} if lora.new_tokens else None,
        base_model_name_or_path=base,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        inject_adapter_in_model(config, checkpoint.network.get_submodule(f"model.{lora.part}"))


def choose_trainable(network: RobometerNetwork, vision: bool, preference: bool) -> None:
    """Freezes what is not trained.

    Args:
        network: With an adapter, this and the heads are trained; without, everything.
        vision: Whether the vision tower is trained; an adapter of it goes with it.
        preference: Whether there are pairs to train the preference head on.
    """
    network.requires_grad_(True)
    adapter = adapter_of(network)
    if adapter is not None:
        for name, parameter in network.model.named_parameters():
            parameter.requires_grad_(is_adapter_key(name))
    if not vision:
        network.model.visual.requires_grad_(False)
    elif adapter is None or adapter.part != "visual":
        network.model.visual.requires_grad_(True)
    network.preference_head.requires_grad_(preference)
    pools = not network.reads_tokens and network.config.multi_image and network.config.frame_pooling == "attention"
    network.frame_pool_attn.requires_grad_(pools)


@contextmanager
def training_precision(network: RobometerNetwork, half: bool) -> Iterator[None]:
    """Holds weights that are trained in float32, in which small steps are not rounded away, and puts them back.

    Args:
        network: After `choose_trainable`.
        half: Whether the run computes in half precision. Then the frozen backbone of a LoRA, which is most of the
            memory, stays as it is stored; otherwise everything is float32.
    """
    stored = {name: parameter.dtype for name, parameter in network.named_parameters()}
    adapted = adapter_of(network) is not None
    for name, parameter in network.named_parameters():
        # The rows of new tokens are written into the table of all tokens, so both have one precision.
        if parameter.requires_grad or not (half and adapted) or "token_adapter" in name:
            parameter.data = parameter.data.float()
    try:
        yield
    finally:
        for name, parameter in network.named_parameters():
            parameter.data = parameter.data.to(stored[name])
