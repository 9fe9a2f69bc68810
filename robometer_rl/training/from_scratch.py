"""A Robometer made from scratch: the published class and prompts on a small backbone with its own tokenizer."""

from __future__ import annotations

import json
from collections.abc import Iterable
from itertools import product
from typing import Any, cast

import torch
from tokenizers import Tokenizer
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel
from tokenizers.trainers import BpeTrainer
from transformers import AddedToken, Qwen2Tokenizer

from robometer_rl.data.trajectories import Trajectories
from robometer_rl.data.trajectory import Trajectory
from robometer_rl.frames import NestedFrames
from robometer_rl.models.robometer.backbone import read_backbone
from robometer_rl.models.robometer.checkpoint import Checkpoint
from robometer_rl.models.robometer.config import RobometerConfig
from robometer_rl.models.robometer.network import RobometerNetwork
from robometer_rl.models.robometer.processing import RobometerProcessor
from robometer_rl.models.robometer.prompts import (
    ANNOUNCE_A,
    ANNOUNCE_B,
    CLOSING,
    EXTRA_TOKENS,
    caption,
    preference_prompt,
    progress_prompt,
)
from robometer_rl.training.config import HEAD_DIM, VISION_HEAD_DIM, NetworkShape

__all__ = ["QWEN_TOKENS", "instructions", "instructions_with", "make_checkpoint", "train_tokenizer"]

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
    backbone_json = _backbone_json(shape, tokenizer.get_vocab())
    backbone = read_backbone(backbone_json)
    processor = RobometerProcessor(tokenizer, _preprocessor_json(), config, backbone)
    special = processor.tokens.special_ids(config.multi_image)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = RobometerNetwork(backbone, config, special)
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


_OBJECTS = """
alphabet soup|apple|baguette|ball|banana|basket|basketball|basketball hoop|bell pepper|bin|block|blue block|blue cup
board|book|bookshelf|bottle|bowl|bread|box|black bowl|bucket|butter|button|cabinet|cabinet door|cable|cake|can|candle
card|carrot|cereal box|chair|charger|cheese|chocolate pudding|cloth|coffee|coffee button|coffee machine|coffee mug
coffee pot|container|cookie box|cord|corn|cream cheese|cube|cup|cupboard|cushion|cutting board|desk|dial|dish
dishwasher|door|door handle|door lock|drawer|drawer handle|egg|eraser|faucet|faucet handle|fork|frying pan|garlic
glass|glove|goal|green block|green bowl|hammer|handle|hole|hook|jar|ketchup|kettle|key|keyboard|knife|knob|ladle|lamp
laptop|laundry|lever|lid|light switch|lock|marker|microwave|microwave door|milk|moka pot|mouse|mug|mushroom|nail|napkin
nut|object|onion|orange|orange juice|oven|oven door|pan|paper|peg|pen|pencil|pepper|phone|pillow|pitcher|plate|plug
pot|potato|puck|purple block|rack|ramekin|red block|red mug|remote|ring|rope|round nut|sauce|salad dressing|salt|screw
screwdriver|shelf|shirt|shoe|sink|soap|soccer ball|sock|soda can|spatula|sponge|spoon|stick|stopper|stove|strawberry
switch|table|tap|teapot|thermos|tissue box|toaster|tomato|tomato sauce|tool|towel|toy|tray|trash|vase|wall
water bottle|whisk|white bowl|window|wine bottle|wine rack|wooden block|wrench|yellow block|yellow cup
"""

_COLOURS = "red|green|blue|yellow|black|white|orange|purple|pink|brown|grey|silver|wooden|metal|plastic|small|large"

_PLACES = """
on the table|on the shelf|in the bin|in the box|in the basket|in the drawer|in the sink|on the plate|on the stove
on top of the cabinet|next to the plate|on the left|on the right|to the left of the bowl|to the right of the mug
into the hole|onto the peg|against the wall|behind the wall|over the wall|at the goal|to the goal|at the target position
on the target|into the goal|into the net|through the hoop|under the table|between the blocks|in front of the plate
at the front|at the back|in the middle|from the top|from the side|with the handle|with the gripper|with the stick
without touching the wall|out of the hole|out of the drawer|all the way|half way|slowly|carefully|upside down
"""

_VERBS = """
approach|assemble|bring|clean up|close|disassemble|drop|empty|fill|flip|fold|grab|grasp|hammer|hand over|hang|hit
hold|insert|kick|knock over|lay down|lift|lift up|lock|move|open|pick up|place|pour|press|press down|pull|pull down
pull out|push|push away|push down|push in|put|put away|put down|raise|reach|reach for|release|remove|retrieve|rotate
scoop|screw|set|shut|slide|slide open|spin|squeeze|stack|sweep|take|take off|take out|throw|tilt|touch|turn|turn off
turn on|twist|unfold|unlock|unplug|unscrew|wipe|wrap
"""

_SENTENCES = """
pick up the {0} and place it {1}
take the {0} and put it {1}
move the {0} so that it is {1}
the robot should put the {0} {1}
put the {0} {1}
bring the gripper to the {0}
slide the {0} until it is {1}
lift the {0} and hold it there
grab the {0} and carry it {1}
"""


def _entries(text: str) -> list[str]:
    return [entry for line in text.strip().splitlines() for entry in line.split("|")]


def instructions() -> list[str]:
    """A few thousand instructions, always the same ones in the same order."""
    objects, verbs, places = _entries(_OBJECTS), _entries(_VERBS), _entries(_PLACES)
    simple = [f"{verb} the {thing}" for verb, thing in product(verbs, objects[::7])]
    simple += [f"{verbs[index % len(verbs)]} the {thing}" for index, thing in enumerate(objects)]
    coloured = [
        f"{verb} the {colour} {thing}" for verb, colour, thing in product(verbs[::9], _entries(_COLOURS), objects[::31])
    ]
    placed = [
        sentence.format(thing, place)
        for index, (thing, place) in enumerate(product(objects, places))
        if index % 11 == 0
        for sentence in (_entries(_SENTENCES)[index % 9],)
    ]
    return [*simple, *coloured, *placed]


def instructions_with(trajectories: Iterable[Trajectory]) -> list[str]:
    """`instructions`, then those of trajectories in alphabetical order."""
    known = Trajectories.of(trajectories).facts()
    return [*instructions(), *sorted({text for each in known for text in (each.task, *each.instructions)})]


QWEN_TOKENS = (
    *("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|object_ref_start|>", "<|object_ref_end|>", "<|box_start|>"),
    *("<|box_end|>", "<|quad_start|>", "<|quad_end|>", "<|vision_start|>", "<|vision_end|>", "<|vision_pad|>"),
    *("<|image_pad|>", "<|video_pad|>", "<tool_call>", "</tool_call>", "<|fim_prefix|>", "<|fim_middle|>"),
    *("<|fim_suffix|>", "<|fim_pad|>", "<|repo_name|>", "<|file_sep|>", "<tool_response>", "</tool_response>"),
    *("<think>", "</think>"),
)
"""Qwen3-VL's added tokens in their order; those up to the video pad are special."""

_SPECIAL = QWEN_TOKENS[:14]
# The prompts are in every input, so each of their words should become one token.
_PROMPT_COPIES = 50
_MODEL_MAX_LENGTH = 32768


def train_tokenizer(tasks: Iterable[str], vocab_size: int = 1500) -> Qwen2Tokenizer:
    """Trains byte-level BPE on instructions and on the prompts they are put into.

    Args:
        tasks: Instructions. Any other text can still be tokenised, with more tokens.
        vocab_size: Entries before the added tokens; 256 of them are bytes.

    Returns:
        A tokenizer with Qwen's added tokens and then Robometer's five, in the order that checkpoints expect.
    """
    prompt = f"user\n{progress_prompt('')}{preference_prompt('', with_progress=True)}{ANNOUNCE_A}{ANNOUNCE_B}{CLOSING}"
    captions = "".join(caption(number) for number in range(1, 17))
    # Text is split and normalised by Qwen's own rules; only the merges are new.
    rules = Qwen2Tokenizer().backend_tokenizer
    backend = Tokenizer(BPE())
    backend.normalizer, backend.pre_tokenizer = rules.normalizer, rules.pre_tokenizer
    trainer = BpeTrainer(
        vocab_size=vocab_size, min_frequency=2, initial_alphabet=sorted(ByteLevel.alphabet()), show_progress=False
    )
    backend.train_from_iterator([*[prompt + captions] * _PROMPT_COPIES, *tasks], trainer)
    learned = json.loads(backend.to_str())["model"]
    tokenizer = Qwen2Tokenizer(
        vocab=learned["vocab"],
        # Pairs, as tokenizer.json has them; the declared type has only the older form, strings.
        merges=cast(Any, [tuple(pair) for pair in learned["merges"]]),
        unk_token=None,  # pyright: ignore[reportArgumentType]
        eos_token=QWEN_TOKENS[0],
        pad_token=QWEN_TOKENS[0],
        model_max_length=_MODEL_MAX_LENGTH,
    )
    tokenizer.add_tokens([AddedToken(token, special=token in _SPECIAL, normalized=False) for token in QWEN_TOKENS])
    tokenizer.eos_token = "<|im_end|>"  # only now: naming it above would have made it the first added token
    tokenizer.add_tokens([AddedToken(token, special=True, normalized=False) for token in EXTRA_TOKENS])
    return tokenizer
