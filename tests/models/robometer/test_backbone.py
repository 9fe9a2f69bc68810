"""The shape of the backbone: what could not be built, or not predict, is refused by the name of the setting."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest

from robometer_rl.models.robometer.backbone import parse_settings, read_backbone
from robometer_rl.models.robometer.config import CheckpointError
from tests.golden import CHECKPOINT

TEXT = (CHECKPOINT / "config.json").read_text()


def changed(section: str | None, **values: Any) -> str:
    settings = json.loads(TEXT)
    (settings if section is None else settings[section]).update(values)
    return json.dumps(settings)


def test_the_published_shape_is_read() -> None:
    config = read_backbone(TEXT).config
    assert config.get_text_config().num_hidden_layers == 3
    assert config.get_text_config().head_dim == 16


@pytest.mark.parametrize(
    ("section", "values", "named"),
    [
        ("text_config", {"hidden_size": -4}, "text_config.hidden_size is -4; expected an integer from 1"),
        ("text_config", {"hidden_size": True}, "text_config.hidden_size is True"),
        ("text_config", {"hidden_size": 64.0}, "text_config.hidden_size is 64.0"),
        ("text_config", {"num_hidden_layers": 10**9}, "text_config.num_hidden_layers is 1000000000"),
        ("text_config", {"head_dim": 10**12}, "text_config.head_dim is 1000000000000"),
        ("text_config", {"head_dim": None}, "head_dim"),
        ("text_config", {"vocab_size": "635"}, "text_config.vocab_size is '635'"),
        ("text_config", {"num_key_value_heads": 3}, "4 attention heads cannot share 3 key/value heads"),
        ("text_config", {"rms_norm_eps": -1.0}, "rms_norm_eps is -1.0; expected a number above 0"),
        ("text_config", {"rope_theta": 0.0}, "rope_theta is 0.0; expected a number above 0"),
        ("text_config", {"rope_scaling": {"rope_type": "default", "mrope_section": [4, 2]}}, "mrope_section is [4, 2]"),
        ("text_config", {"rope_scaling": {"rope_type": "default", "mrope_section": [4, 2, 3]}}, "sums to 9"),
        ("vision_config", {"depth": 10**9}, "vision_config.depth is 1000000000"),
        ("vision_config", {"patch_size": "\\0"}, "vision_config.patch_size is"),
        ("vision_config", {"in_channels": 4}, "vision_config.in_channels is 4; expected an integer from 1 to 3"),
        ("vision_config", {"num_heads": 3}, "3 heads cannot share a hidden_size of 32"),
        ("vision_config", {"out_hidden_size": 32}, "out_hidden_size is 32; expected the decoder's hidden_size, 64"),
        ("vision_config", {"deepstack_visual_indexes": [0, 2]}, "deepstack_visual_indexes is [0, 2]"),
        ("vision_config", {"deepstack_visual_indexes": [1, 1]}, "deepstack_visual_indexes is [1, 1]"),
        (None, {"vision_config": [1]}, "vision_config is [1]; expected an object"),
        (None, {"model_type": ["qwen3_vl"] * 10**4}, "model_type is ['qwen3_vl', "),
        (None, {"text_config": "x" * 10**5}, "text_config is 'xxx"),
    ],
)
def test_a_shape_that_cannot_be_is_named(section: str | None, values: dict[str, Any], named: str) -> None:
    start = time.process_time()
    with pytest.raises(CheckpointError) as raised:
        read_backbone(changed(section, **values))
    assert named in str(raised.value)
    assert "config.json" in str(raised.value)
    assert len(str(raised.value)) < 2500
    assert time.process_time() - start < 20


@pytest.mark.parametrize("text", ["", "[]", "3", "{", '{"a": NaN}', "[" * 100_000])
def test_what_is_no_object_is_named(text: str) -> None:
    with pytest.raises(CheckpointError, match=r"config\.json"):
        parse_settings(text)


def test_absent_sizes_are_those_of_transformers() -> None:
    settings = json.loads(TEXT)
    del settings["vision_config"]["temporal_patch_size"]
    assert read_backbone(json.dumps(settings)).config.to_dict()["vision_config"]["temporal_patch_size"] == 2
