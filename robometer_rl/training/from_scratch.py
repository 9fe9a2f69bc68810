"""A Robometer made from scratch: the published class and prompts on a small backbone with its own tokenizer."""

from __future__ import annotations

import json
from collections.abc import Iterable

import torch
from transformers import Qwen3VLConfig

from robometer_rl.frames import NestedFrames
from robometer_rl.models.robometer.checkpoint import Checkpoint
from robometer_rl.models.robometer.config import RobometerConfig
from robometer_rl.models.robometer.network import RobometerNetwork, SpecialIds
from robometer_rl.models.robometer.processing import RobometerProcessor
from robometer_rl.training.shape import HEAD_DIM, VISION_HEAD_DIM, NetworkShape
from robometer_rl.training.tokenizer import train_tokenizer

__all__ = ["make_checkpoint"]

_PATCH, _MERGE = 16, 2
_MROPE_SECTION = [12, 10, 10]  # time, height, width: half of a head's dimensions


def make_checkpoint(shape: NetworkShape, tasks: Iterable[str], seed: int, max_frames: int = 8) -> Checkpoint:
    """A randomly initialised checkpoint; the same arguments give the same weights.

    Args:
        shape: Sizes.
        tasks: Instructions that the tokenizer is trained on.
        seed: Of the weights.
        max_frames: Most frames shown at once.
    """
    tokenizer = train_tokenizer(tasks)
    config = RobometerConfig(
        max_frames=max_frames,
        base_model="robometer-mini",
        default_protocol=NestedFrames(max_frames),
        # A square of one token less and one more per side, so that any frame becomes about side x side.
        min_pixels=(shape.side * (shape.side - _PATCH * _MERGE)),
        max_pixels=(shape.side * (shape.side + _PATCH * _MERGE)),
    )
    processor = RobometerProcessor(tokenizer, _preprocessor_json(), config)
    backbone_json = _backbone_json(shape, tokenizer.get_vocab())
    tokens = processor.tokens
    special = SpecialIds(tokens.image_id, tokens.video_id, tokens.progress_id, tokens.preference_id)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = RobometerNetwork(Qwen3VLConfig.from_dict(json.loads(backbone_json)), config, special)
    return Checkpoint(network, processor, backbone_json)


def _backbone_json(shape: NetworkShape, vocabulary: dict[str, int]) -> str:
    text = {
        "model_type": "qwen3_vl_text",
        "hidden_size": shape.hidden,
        "intermediate_size": shape.feed_forward,
        "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.hidden // HEAD_DIM,
        "num_key_value_heads": shape.key_value_heads,
        "head_dim": HEAD_DIM,
        "hidden_act": "silu",
        "vocab_size": len(vocabulary),
        "max_position_embeddings": 4096,
        "rms_norm_eps": 1e-6,
        "rope_theta": 10000.0,
        "rope_scaling": {"rope_type": "default", "mrope_section": _MROPE_SECTION, "mrope_interleaved": True},
        "attention_bias": False,
        "attention_dropout": 0.0,
        "initializer_range": 0.02,
        "bos_token_id": vocabulary["<|endoftext|>"],
        "eos_token_id": vocabulary["<|im_end|>"],
        "tie_word_embeddings": True,
        "dtype": "float32",
    }
    vision = {
        "model_type": "qwen3_vl",
        "depth": shape.vision_layers,
        "hidden_size": shape.vision_hidden,
        "intermediate_size": shape.vision_feed_forward,
        "num_heads": shape.vision_hidden // VISION_HEAD_DIM,
        "patch_size": _PATCH,
        "spatial_merge_size": _MERGE,
        "temporal_patch_size": 2,
        "out_hidden_size": shape.hidden,
        "num_position_embeddings": (shape.side // _PATCH) ** 2,
        "deepstack_visual_indexes": list(shape.deepstack),
        "in_channels": 3,
        "hidden_act": "gelu_pytorch_tanh",
        "initializer_range": 0.02,
        "dtype": "float32",
    }
    return json.dumps(
        {
            "architectures": ["RBM"],
            "model_type": "qwen3_vl",
            "dtype": "float32",
            "text_config": text,
            "vision_config": vision,
            "image_token_id": vocabulary["<|image_pad|>"],
            "video_token_id": vocabulary["<|video_pad|>"],
            "vision_start_token_id": vocabulary["<|vision_start|>"],
            "vision_end_token_id": vocabulary["<|vision_end|>"],
            "tie_word_embeddings": True,
        },
        indent=2,
    )


def _preprocessor_json() -> str:
    return json.dumps(
        {
            "image_processor_type": "Qwen2VLImageProcessorFast",
            "processor_class": "Qwen3VLProcessor",
            "patch_size": _PATCH,
            "merge_size": _MERGE,
            "temporal_patch_size": 2,
            "image_mean": [0.5, 0.5, 0.5],
            "image_std": [0.5, 0.5, 0.5],
            "do_convert_rgb": True,
            "do_normalize": True,
            "do_rescale": True,
            "do_resize": True,
            "resample": 3,
            "rescale_factor": 1 / 255,
            "size": {"longest_edge": 16777216, "shortest_edge": 65536},
        },
        indent=2,
    )
