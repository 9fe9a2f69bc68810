"""What a Robometer is made of: a language model that sees, as transformers has it, and how it is shown frames.

Published is Qwen3-VL; the reference's code also makes Robometers of Qwen2.5-VL and of SmolVLM, whose first release
transformers calls Idefics3. Their decoders are so much alike that one loop runs them all (`decoder`). What differs is
the vision tower, how a frame is cut for it, the chat template, and whether rope positions are of words or of places.

A ``config.json`` is held against what a network needs of it. What does not fit the weights is found when these are
loaded. What is checked here is the rest: numbers of which no network can be built, or only in ages, or none that
predicts.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar, Final

import torch
from transformers import (
    Idefics3Config,
    Idefics3Model,
    PretrainedConfig,
    PreTrainedModel,
    Qwen2_5_VLConfig,
    Qwen2_5_VLModel,
    Qwen3VLConfig,
    Qwen3VLModel,
    SmolVLMConfig,
    SmolVLMModel,
)

from robometer_rl.documents import DocumentError, brief, parse_json
from robometer_rl.models.robometer.config import CheckpointError, blamed_on
from robometer_rl.models.robometer.patches import FramePatcher, PatchedFrames, SquarePatcher
from robometer_rl.models.robometer.prompts import QWEN2_5_CHAT, QWEN3_CHAT, SMOLVLM_CHAT, Chat
from robometer_rl.models.robometer.vision import encode_frames, rotary_frequencies

__all__ = [
    "BACKBONE_FILE",
    "Backbone",
    "Idefics3",
    "Qwen2_5VL",
    "Qwen3VL",
    "SmolVLM",
    "parse_settings",
    "read_backbone",
]

BACKBONE_FILE: Final = "config.json"

_DEEPEST: Final = 1000  # layers; the largest Qwen3-VL has 94
_WIDEST: Final = 1 << 20  # of anything that a tensor is as wide as
_BATCH: Final = 64  # frames per pass of a tower

_SIZES: Final[Mapping[str, Mapping[str, int]]] = {
    "text_config": {
        "hidden_size": _WIDEST,
        "intermediate_size": _WIDEST,
        "num_hidden_layers": _DEEPEST,
        "num_attention_heads": _WIDEST,
        "num_key_value_heads": _WIDEST,
        "head_dim": _WIDEST,
        "vocab_size": 1 << 24,
        "max_position_embeddings": 1 << 40,
    },
    "vision_config": {
        "hidden_size": _WIDEST,
        "intermediate_size": _WIDEST,
        "out_hidden_size": _WIDEST,
        "depth": _DEEPEST,
        "num_hidden_layers": _DEEPEST,
        "num_heads": _WIDEST,
        "num_attention_heads": _WIDEST,
        "patch_size": 1024,
        "image_size": 1 << 14,
        "window_size": 1 << 14,
        "spatial_merge_size": 64,
        "temporal_patch_size": 2,
        "num_position_embeddings": _WIDEST,
        "in_channels": 3,
        "num_channels": 3,
    },
}
"""The largest value of each size; the smallest is 1. Absent ones have transformers' defaults."""


class Backbone(ABC):
    """A language model that sees, of one shape.

    Args:
        config: The shape, of the class that transformers has for it.

    Attributes:
        config: The same.
        chat: How prompts are written for it.
    """

    chat: ClassVar[Chat]
    _config_class: ClassVar[type[PretrainedConfig]]
    _model_class: ClassVar[type[PreTrainedModel]]

    def __init__(self, config: PretrainedConfig) -> None:
        self.config: Any = config

    @classmethod
    def of(cls, settings: Mapping[str, Any]) -> Backbone:
        """The backbone that a ``config.json`` describes.

        Raises:
            CheckpointError: One that could not be built or could not predict; other errors of transformers for what
                it does not take.
        """
        found = cls(cls._config_class.from_dict(dict(settings)))
        complete = found.config.to_dict()
        text = complete["text_config"]
        _check_text(text)
        found._check(text, complete["vision_config"])
        return found

    @property
    def hidden_size(self) -> int:
        """Width of the decoder."""
        return self.config.get_text_config().hidden_size

    @property
    def vocabulary(self) -> int:
        """Rows of the embedding."""
        return self.config.get_text_config().vocab_size

    def build(self) -> Any:
        """The model without a language-model head, on the device of the context."""
        return self._model_class(self.config)

    @abstractmethod
    def tower(self, model: Any) -> Any:
        """The part of the model that sees."""

    @abstractmethod
    def decoder(self, model: Any) -> Any:
        """The part that reads."""

    @abstractmethod
    def encode(self, model: Any, frames: PatchedFrames) -> torch.Tensor:
        """Features of every frame, see `vision.encode_frames`."""

    @abstractmethod
    def patcher(self, preprocessor_json: str, min_pixels: int, max_pixels: int) -> FramePatcher | SquarePatcher:
        """What cuts frames for it."""

    @abstractmethod
    def restore_buffers(self, model: Any, device: torch.device) -> None:
        """Computes what no file holds, after building on the meta device; always in float32."""

    @abstractmethod
    def _check(self, text: Mapping[str, Any], vision: Mapping[str, Any]) -> None:
        """Raises `CheckpointError` if sections do not go with each other."""


class _QwenVL(Backbone):
    """What both releases of Qwen's models have in common: places as rope positions, and frames of any shape."""

    def tower(self, model: Any) -> Any:
        """See `Backbone.tower`."""
        return model.visual

    def decoder(self, model: Any) -> Any:
        """See `Backbone.decoder`."""
        return model.language_model

    def patcher(self, preprocessor_json: str, min_pixels: int, max_pixels: int) -> FramePatcher:
        """See `Backbone.patcher`."""
        return FramePatcher.from_json(preprocessor_json, min_pixels, max_pixels)

    def restore_buffers(self, model: Any, device: torch.device) -> None:
        """See `Backbone.restore_buffers`."""
        _restore_rotation(model.language_model, device)
        # What makes the tower's depends on the release of transformers; the frequencies in its buffers do not.
        frequencies = rotary_frequencies(model.visual.config).to(device)
        for name in dict(model.visual.rotary_pos_emb.named_buffers()):
            setattr(model.visual.rotary_pos_emb, name, frequencies.clone())

    def _check(self, text: Mapping[str, Any], vision: Mapping[str, Any]) -> None:
        _check_places(text)
        width, heads = vision["hidden_size"], vision["num_heads"]
        if width % heads or (width // heads) % 4:
            raise CheckpointError(f"vision_config: {heads} heads cannot share a hidden_size of {width}")
        if vision["out_hidden_size"] != text["hidden_size"]:
            raise CheckpointError(
                f"vision_config.out_hidden_size is {vision['out_hidden_size']}; expected the decoder's hidden_size, "
                f"{text['hidden_size']}"
            )


class Qwen3VL(_QwenVL):
    """Qwen3-VL (arXiv 2511.21631), of which published checkpoints are made."""

    chat = QWEN3_CHAT
    _config_class = Qwen3VLConfig
    _model_class = Qwen3VLModel

    def encode(self, model: Any, frames: PatchedFrames) -> torch.Tensor:
        """See `Backbone.encode`."""
        return encode_frames(model.visual, frames, _BATCH)

    def _check(self, text: Mapping[str, Any], vision: Mapping[str, Any]) -> None:
        super()._check(text, vision)
        _check_layers("deepstack_visual_indexes", vision)


class Qwen2_5VL(_QwenVL):
    """Qwen2.5-VL (arXiv 2502.13923): its tower looks through windows in most layers, and has no deepstack."""

    chat = QWEN2_5_CHAT
    _config_class = Qwen2_5_VLConfig
    _model_class = Qwen2_5_VLModel

    def encode(self, model: Any, frames: PatchedFrames) -> torch.Tensor:
        """See `Backbone.encode`."""
        tower = model.visual
        encoded = []
        for pixels in frames.pixels.to(tower.device, tower.dtype).split(_BATCH):
            # Both temporal halves of a patch are the same picture.
            doubled = pixels.unflatten(2, (3, 1, -1)).expand(-1, -1, -1, 2, -1).flatten(2)
            grids = torch.tensor([[1, *frames.grid]] * len(pixels), device=tower.device)
            merged = tower(doubled.flatten(0, 1), grid_thw=grids)
            # Earlier releases of transformers return the tensor itself.
            merged = merged if isinstance(merged, torch.Tensor) else merged.pooler_output
            encoded.append(merged.unflatten(0, (len(pixels), 1, -1)))
        return torch.cat(encoded)

    def _check(self, text: Mapping[str, Any], vision: Mapping[str, Any]) -> None:
        super()._check(text, vision)
        _check_layers("fullatt_block_indexes", vision)
        if text["use_sliding_window"]:
            raise CheckpointError("text_config.use_sliding_window is on; expected a decoder that sees all of a prompt")


class SmolVLM(Backbone):
    """SmolVLM2 (arXiv 2504.05299): squares of one size, and positions that count tokens."""

    chat = SMOLVLM_CHAT
    _config_class = SmolVLMConfig
    _model_class = SmolVLMModel

    def tower(self, model: Any) -> Any:
        """See `Backbone.tower`."""
        return model.vision_model

    def decoder(self, model: Any) -> Any:
        """See `Backbone.decoder`."""
        return model.text_model

    def encode(self, model: Any, frames: PatchedFrames) -> torch.Tensor:
        """See `Backbone.encode`."""
        tower = model.vision_model
        batches = frames.pixels.to(tower.device, tower.dtype).split(_BATCH)
        seen = [model.connector(tower(pixel_values=pixels).last_hidden_state) for pixels in batches]
        return torch.cat(seen)[:, None]

    def patcher(self, preprocessor_json: str, min_pixels: int, max_pixels: int) -> SquarePatcher:
        """See `Backbone.patcher`; all frames have one size, whatever the limits."""
        vision = self.config.vision_config
        return SquarePatcher.from_json(
            preprocessor_json, vision.image_size, vision.patch_size, self.config.scale_factor
        )

    def restore_buffers(self, model: Any, device: torch.device) -> None:
        """See `Backbone.restore_buffers`."""
        _restore_rotation(model.text_model, device)

    def _check(self, text: Mapping[str, Any], vision: Mapping[str, Any]) -> None:
        if text["model_type"] != "llama":
            raise CheckpointError(f"text_config.model_type is {brief(text['model_type'])}; expected 'llama'")
        width, heads = vision["hidden_size"], vision["num_attention_heads"]
        if width % heads:
            raise CheckpointError(f"vision_config: {heads} heads cannot share a hidden_size of {width}")
        side, patch, merge = vision["image_size"], vision["patch_size"], self.config.scale_factor
        sizes = (side, patch, merge)
        if any(type(size) is not int or size < 1 for size in sizes) or side % patch or (side // patch) % merge:
            raise CheckpointError(
                f"vision_config.image_size, its patch_size and scale_factor are {brief(sizes)}; expected a side of "
                "whole patches, and of these whole squares that become one token"
            )


class Idefics3(SmolVLM):
    """The first SmolVLM, which transformers calls Idefics3 (arXiv 2408.12637) and reads as it reads SmolVLM2."""

    _config_class = Idefics3Config
    _model_class = Idefics3Model


_BACKBONES: Final[Mapping[str, type[Backbone]]] = {
    "qwen3_vl": Qwen3VL,
    "qwen2_5_vl": Qwen2_5VL,
    "smolvlm": SmolVLM,
    "idefics3": Idefics3,
}
"""By the ``model_type`` of a ``config.json``."""


def parse_settings(text: str) -> dict[str, Any]:
    """The object in a ``config.json``.

    Raises:
        CheckpointError: Not JSON, or no object.
    """
    try:
        settings = parse_json(text)
    except DocumentError as error:
        raise CheckpointError(f"{BACKBONE_FILE}: {error}") from error
    if not isinstance(settings, dict):
        raise CheckpointError(f"{BACKBONE_FILE} holds {type(settings).__name__}; expected an object")
    return settings


def read_backbone(text: str) -> Backbone:
    """The backbone that a ``config.json`` describes.

    Raises:
        CheckpointError: None of those that a Robometer is made of, or one that could not be built or could not predict.
    """
    settings = parse_settings(text)
    kind = settings.get("model_type")
    if not isinstance(kind, str) or kind not in _BACKBONES:
        raise CheckpointError(
            f"{BACKBONE_FILE}: model_type is {brief(kind)}; expected one of {', '.join(map(repr, _BACKBONES))}"
        )
    for section, sizes in _SIZES.items():
        # Qwen2.5-VL's own files have the decoder's settings beside the sections.
        _check_sizes(section, settings.get(section, settings if section == "text_config" else {}), sizes)
    with blamed_on(BACKBONE_FILE):
        return _BACKBONES[kind].of(settings)


def _restore_rotation(decoder: Any, device: torch.device) -> None:
    decoder.rotary_emb = type(decoder.rotary_emb)(config=decoder.config).to(device)


def _check_sizes(section: str, values: Any, sizes: Mapping[str, int]) -> None:
    if not isinstance(values, dict):
        raise CheckpointError(f"{BACKBONE_FILE}: {section} is {brief(values)}; expected an object")
    for name, most in sizes.items():
        value = values.get(name)
        if value is not None and (type(value) is not int or not 1 <= value <= most):
            raise CheckpointError(
                f"{BACKBONE_FILE}: {section}.{name} is {brief(value)}; expected an integer from 1 to {most}"
            )


def _check_text(text: Mapping[str, Any]) -> None:
    heads, groups = text["num_attention_heads"], text["num_key_value_heads"]
    if heads % groups:
        raise CheckpointError(f"{heads} attention heads cannot share {groups} key/value heads")
    _require_positive("rms_norm_eps", text["rms_norm_eps"])
    _require_positive("rope_theta", text["rope_parameters"]["rope_theta"])


def _check_places(text: Mapping[str, Any]) -> None:
    """Rope positions of places share the dimensions of a head."""
    half = (text.get("head_dim") or text["hidden_size"] // text["num_attention_heads"]) // 2
    section = text["rope_parameters"].get("mrope_section", [24, 20, 20])  # transformers' default
    if not isinstance(section, list) or len(section) != 3 or any(type(part) is not int or part < 0 for part in section):
        raise CheckpointError(f"mrope_section is {brief(section)}; expected three sizes: of time, height and width")
    if sum(section) != half:
        raise CheckpointError(
            f"mrope_section is {section}, which sums to {sum(section)}; expected half of head_dim, {half}"
        )


def _check_layers(name: str, vision: Mapping[str, Any]) -> None:
    """Some layers of the tower are special."""
    layers, depth = list(vision[name]), vision["depth"]
    if any(type(layer) is not int or not 0 <= layer < depth for layer in layers) or len(set(layers)) != len(layers):
        raise CheckpointError(f"{name} is {brief(layers)}; expected different layers below {depth}")


def _require_positive(name: str, value: Any) -> None:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < math.inf:
        raise CheckpointError(f"{name} is {brief(value)}; expected a number above 0")
