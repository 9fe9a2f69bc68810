"""A small tokenizer for a network from scratch, and the instructions that it learns its words from."""

from __future__ import annotations

import json
from collections.abc import Iterable
from itertools import product
from typing import Any, cast

from tokenizers import Tokenizer
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel
from tokenizers.trainers import BpeTrainer
from transformers import AddedToken, Qwen2Tokenizer

from robometer_rl.models.robometer.prompts import (
    ANNOUNCE_A,
    ANNOUNCE_B,
    CLOSING,
    EXTRA_TOKENS,
    caption,
    preference_prompt,
    progress_prompt,
)

__all__ = ["QWEN_TOKENS", "instructions", "train_tokenizer"]

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
