"""Reading and writing checkpoint directories.

A directory holds ``config.yaml`` (settings), ``config.json`` (backbone shape), weights, and the tokenizer and
preprocessor files. The two configuration files are carried through a load and a save, so that a checkpoint that the
reference can read stays one.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import torch
from peft import LoraConfig, inject_adapter_in_model
from safetensors.torch import save_file
from transformers import Qwen3VLConfig
from transformers.models.qwen3_vl.modeling_qwen3_vl import (
    Qwen3VLTextRotaryEmbedding,
    Qwen3VLVisionRotaryEmbedding,
)

from robometer_rl.models.robometer.config import CheckpointError, RobometerConfig
from robometer_rl.models.robometer.network import RobometerNetwork, SpecialIds
from robometer_rl.models.robometer.processing import RobometerProcessor
from robometer_rl.models.robometer.weights import (
    WEIGHTS_FILE,
    check_coverage,
    has_lora,
    normalise_keys,
    read_weights,
)

__all__ = ["Checkpoint", "build_network", "load_checkpoint", "save_checkpoint"]

SETTINGS_FILE = "config.yaml"
BACKBONE_FILE = "config.json"


@dataclass
class Checkpoint:
    """What a directory holds.

    Attributes:
        network: In evaluation mode after loading.
        processor: Tokenizer, prompts, preprocessing.
        backbone_json: The text of ``config.json``, written back as it was read.
    """

    network: RobometerNetwork
    processor: RobometerProcessor
    backbone_json: str

    @property
    def config(self) -> RobometerConfig:
        """Settings."""
        return self.processor.config


def load_checkpoint(
    directory: Path,
    device: str | torch.device = "cpu",
    dtype: torch.dtype | None = None,
    attn_implementation: str = "sdpa",
) -> Checkpoint:
    """Loads a checkpoint directory.

    Args:
        directory: A full checkpoint in any of the layouts that `weights` knows.
        device: Where to put the weights.
        dtype: Precision; as stored if None.
        attn_implementation: A name that transformers knows; ``sdpa`` and ``eager`` can do everything.

    Raises:
        CheckpointError: A missing file or key, or one that does not fit; the message names it.
    """
    settings, backbone_json = _read_text(directory, SETTINGS_FILE), _read_text(directory, BACKBONE_FILE)
    config = RobometerConfig.from_yaml(settings)
    processor = RobometerProcessor.load(directory, config)
    state = normalise_keys(read_weights(directory))
    network = build_network(backbone_json, processor, attn_implementation)
    if has_lora(state):
        _attach_reference_lora(network, config)
    check_coverage(network.state_dict(), state, directory)
    placed = {key: tensor.to(device=device, dtype=dtype) for key, tensor in state.items()}
    network.load_state_dict(placed, strict=True, assign=True)
    _restore_buffers(network, torch.device(device))
    return Checkpoint(network.eval(), processor, backbone_json)


def save_checkpoint(directory: Path, checkpoint: Checkpoint) -> None:
    """Writes a complete checkpoint that `load_checkpoint` reads back with bit-equal outputs."""
    directory.mkdir(parents=True, exist_ok=True)
    (directory / SETTINGS_FILE).write_text(checkpoint.config.to_yaml())
    (directory / BACKBONE_FILE).write_text(checkpoint.backbone_json)
    checkpoint.processor.save(directory)
    state = {key: tensor.detach().cpu().contiguous() for key, tensor in checkpoint.network.state_dict().items()}
    save_file(state, directory / WEIGHTS_FILE, metadata={"format": "pt"})


def build_network(
    backbone_json: str, processor: RobometerProcessor, attn_implementation: str = "sdpa"
) -> RobometerNetwork:
    """A network without weights (on the meta device), shaped by a ``config.json``.

    Raises:
        CheckpointError: The backbone is not a Qwen3-VL, or its vocabulary is not the tokenizer's.
    """
    try:
        settings = json.loads(backbone_json)
    except json.JSONDecodeError as error:
        raise CheckpointError(f"{BACKBONE_FILE} is not valid JSON: {error}") from error
    if settings.get("model_type") != "qwen3_vl":
        raise CheckpointError(f"{BACKBONE_FILE}: model_type is {settings.get('model_type')!r}; expected 'qwen3_vl'")
    backbone = Qwen3VLConfig.from_dict(settings)
    backbone._attn_implementation = attn_implementation
    rows, entries = backbone.text_config.vocab_size, len(processor.tokenizer)
    if rows != entries:
        raise CheckpointError(
            f"{BACKBONE_FILE} has a vocabulary of {rows}, the tokenizer has {entries} entries; the embedding of a "
            "Robometer is cut to the tokenizer's length"
        )
    tokens = processor.tokens
    special = SpecialIds(tokens.image_id, tokens.video_id, tokens.progress_id, tokens.preference_id)
    with torch.device("meta"):
        return RobometerNetwork(backbone, processor.config, special)


def _read_text(directory: Path, name: str) -> str:
    path = directory / name
    if not path.is_file():
        raise CheckpointError(f"{directory} is not a Robometer checkpoint: it has no {name}")
    return path.read_text()


def _attach_reference_lora(network: RobometerNetwork, config: RobometerConfig) -> None:
    """Adapters as the reference's LoRA runs attach them: to the language model, or to the tower instead."""
    section = dict(config.settings.get("peft") or {})
    vision = bool(section.pop("peft_vision_encoder", False))
    try:
        lora = LoraConfig(**section)
    except TypeError as error:
        raise CheckpointError(f"{SETTINGS_FILE}: the section 'peft' does not describe a LoRA: {error}") from error
    inject_adapter_in_model(lora, network.model.visual if vision else network.model.language_model)


def _restore_buffers(network: RobometerNetwork, device: torch.device) -> None:
    """Computes the rotary frequencies, which no file holds, after building on the meta device; always in float32."""
    decoder, tower = network.model.language_model, network.model.visual
    decoder.rotary_emb = Qwen3VLTextRotaryEmbedding(decoder.config).to(device)
    tower.rotary_pos_emb = Qwen3VLVisionRotaryEmbedding(tower.config).to(device)
