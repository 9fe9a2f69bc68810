"""A Robometer to start from, made of a language model that sees: its weights, five new tokens, and new heads."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from torch import Tensor
from transformers import AddedToken, AutoTokenizer

from robometer_rl.files import new_files
from robometer_rl.models.robometer.backbone import BACKBONE_FILE, read_backbone
from robometer_rl.models.robometer.checkpoint import SETTINGS_FILE, Checkpoint, build_network
from robometer_rl.models.robometer.config import CheckpointError, RobometerConfig
from robometer_rl.models.robometer.heads import make_head
from robometer_rl.models.robometer.processing import PREPROCESSOR_FILE, RobometerProcessor
from robometer_rl.models.robometer.prompts import EXTRA_TOKENS
from robometer_rl.models.robometer.weights import WEIGHTS_FILE, normalise_keys, read_weights, write_file

__all__ = ["is_language_model", "start_on_meta", "write_start"]

_EMBEDDING = "model.language_model.embed_tokens.weight"


def is_language_model(directory: Path) -> bool:
    """Whether a directory holds a Qwen3-VL, and not a Robometer made of one."""
    file = directory / BACKBONE_FILE
    if not file.is_file() or any(
        (place / SETTINGS_FILE).is_file() for place in (directory, directory.absolute().parent)
    ):
        return False
    settings = json.loads(file.read_text())
    return settings.get("model_type") == "qwen3_vl" and settings.get("type") != "robometer"


def write_start(source: Path, name: str, target: Path, max_frames: int, seed: int) -> None:
    """Writes a complete Robometer checkpoint with the weights of a Qwen3-VL.

    As in the reference, the table of embeddings is cut to the length of the tokenizer with the new tokens in it. Their
    rows are those that the language model's table holds in reserve, or the mean of all rows where it holds none.

    Args:
        source: Directory of the Qwen3-VL.
        name: What the checkpoint's settings call it: a Hub id, or the directory.
        target: Directory to write.
        max_frames: Most frames shown at once.
        seed: Of the heads.

    Raises:
        CheckpointError: A file is missing, or its weights are those of something else.
    """
    backbone_json, processor = _described(source, name, max_frames)
    state = normalise_keys(read_weights(source))
    if _EMBEDDING not in state:
        raise CheckpointError(f"the weights in {source} have no {_EMBEDDING}; expected those of a Qwen3-VL")
    state[_EMBEDDING] = _resized(state[_EMBEDDING], len(processor.tokenizer))
    hidden = state[_EMBEDDING].shape[1]
    state |= _heads(hidden, processor.config, state[_EMBEDDING].dtype, seed)

    # The settings come last: with them a checkpoint is complete.
    with new_files(target, last=SETTINGS_FILE) as files:
        (files / BACKBONE_FILE).write_text(backbone_json)
        write_file(files / WEIGHTS_FILE, state)
        processor.save(files)
        (files / SETTINGS_FILE).write_text(processor.config.to_yaml())


def start_on_meta(source: Path, name: str, max_frames: int) -> Checkpoint:
    """What `write_start` makes of a Qwen3-VL, without weights: these need not be there.

    Args:
        source: Directory with the Qwen3-VL's settings, tokenizer and preprocessor.
        name: What the checkpoint's settings call it.
        max_frames: Most frames shown at once.

    Raises:
        CheckpointError: A file is missing.
    """
    backbone_json, processor = _described(source, name, max_frames)
    return Checkpoint(build_network(processor), processor, backbone_json)


def _described(source: Path, name: str, max_frames: int) -> tuple[str, RobometerProcessor]:
    """The backbone's settings, with the new tokens in its vocabulary, and what writes prompts with them."""
    preprocessor = source / PREPROCESSOR_FILE
    if not preprocessor.is_file():
        raise CheckpointError(f"{source} has no {PREPROCESSOR_FILE}; a start needs its tokenizer and preprocessor")
    tokenizer = AutoTokenizer.from_pretrained(source, local_files_only=True, trust_remote_code=False)
    tokenizer.add_tokens([AddedToken(token, special=True, normalized=False) for token in EXTRA_TOKENS])
    settings = json.loads((source / BACKBONE_FILE).read_text())
    settings["text_config"]["vocab_size"] = len(tokenizer)
    backbone_json = json.dumps(settings, indent=2)
    config = RobometerConfig(max_frames=max_frames, base_model=name)
    return backbone_json, RobometerProcessor(tokenizer, preprocessor.read_text(), config, read_backbone(backbone_json))


def _resized(table: Tensor, rows: int) -> Tensor:
    if len(table) >= rows:
        return table[:rows].clone()
    mean = table.float().mean(dim=0, keepdim=True).to(table.dtype)
    return torch.cat([table, mean.expand(rows - len(table), -1)])


def _heads(hidden: int, config: RobometerConfig, dtype: torch.dtype, seed: int) -> dict[str, Tensor]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        heads = {
            "progress_head": make_head(hidden, config.progress_outputs, sigmoid=not config.discrete),
            "preference_head": make_head(hidden, 1),
            "success_head": make_head(hidden, 1),
            "frame_pool_attn": torch.nn.Linear(hidden, 1, bias=False),
        }
    return {
        f"{name}.{key}": tensor.to(dtype) for name, head in heads.items() for key, tensor in head.state_dict().items()
    }
