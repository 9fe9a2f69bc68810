"""The shape of the backbone: a ``config.json`` as transformers reads it, held against what a network needs of it.

What does not fit the weights is found when these are loaded. What is checked here is the rest: numbers of which no
network can be built, or only in ages, or none that predicts.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Final

from transformers import Qwen3VLConfig

from robometer_rl.documents import DocumentError, brief, parse_json
from robometer_rl.models.robometer.config import CheckpointError, blamed_on

__all__ = ["BACKBONE_FILE", "backbone_config", "parse_settings"]

BACKBONE_FILE: Final = "config.json"

_DEEPEST: Final = 1000  # layers; the largest Qwen3-VL has 94
_WIDEST: Final = 1 << 20  # of anything that a tensor is as wide as

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
        "num_heads": _WIDEST,
        "patch_size": 1024,
        "spatial_merge_size": 64,
        "temporal_patch_size": 2,
        "num_position_embeddings": _WIDEST,
        "in_channels": 3,
    },
}
"""The largest value of each size; the smallest is 1. Absent ones have transformers' defaults."""


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


def backbone_config(text: str) -> Qwen3VLConfig:
    """The backbone that a ``config.json`` describes.

    Raises:
        CheckpointError: Not a Qwen3-VL, or one that could not be built or could not predict.
    """
    settings = parse_settings(text)
    if settings.get("model_type") != "qwen3_vl":
        raise CheckpointError(
            f"{BACKBONE_FILE}: model_type is {brief(settings.get('model_type'))}; expected 'qwen3_vl'"
        )
    for section, sizes in _SIZES.items():
        _check_sizes(section, settings.get(section, {}), sizes)
    with blamed_on(BACKBONE_FILE):
        config = Qwen3VLConfig.from_dict(settings)
        complete = config.to_dict()
        _check_text(complete["text_config"])
        _check_vision(complete["vision_config"], complete["text_config"]["hidden_size"])
    return config


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
    rope = text["rope_parameters"]
    _require_positive("rope_theta", rope["rope_theta"])
    half = text["head_dim"] // 2
    section = rope.get("mrope_section", [24, 20, 20])  # transformers' default
    if not isinstance(section, list) or len(section) != 3 or any(type(part) is not int or part < 0 for part in section):
        raise CheckpointError(f"mrope_section is {brief(section)}; expected three sizes: of time, height and width")
    if sum(section) != half:
        raise CheckpointError(
            f"mrope_section is {section}, which sums to {sum(section)}; expected half of head_dim, {half}"
        )


def _check_vision(vision: Mapping[str, Any], hidden_size: int) -> None:
    width, heads, depth = vision["hidden_size"], vision["num_heads"], vision["depth"]
    if width % heads or (width // heads) % 4:
        raise CheckpointError(f"vision_config: {heads} heads cannot share a hidden_size of {width}")
    if vision["out_hidden_size"] != hidden_size:
        raise CheckpointError(
            f"vision_config.out_hidden_size is {vision['out_hidden_size']}; expected the decoder's hidden_size, "
            f"{hidden_size}"
        )
    taps = vision["deepstack_visual_indexes"]
    if any(type(tap) is not int or not 0 <= tap < depth for tap in taps) or len(set(taps)) != len(taps):
        raise CheckpointError(f"deepstack_visual_indexes is {brief(taps)}; expected different layers below {depth}")


def _require_positive(name: str, value: Any) -> None:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < math.inf:
        raise CheckpointError(f"{name} is {brief(value)}; expected a number above 0")
