"""Tiny vision-language models: one that was recorded, and ones that have been taught two answers."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer

from robometer_rl.models.baselines.vlm import LocalVLM, Prompt
from tests.golden import BASE
from tests.models.baselines.recordings import HERE

WEIGHTS = HERE / "tiny_qwen3vl"


def recording(name: str) -> Any:
    """A recording of the reference's wrappers."""
    return json.loads((HERE / f"{name}.json").read_text())


def recorded_clips() -> dict[str, np.ndarray]:
    """The clips that recordings are about, by their names there."""
    with np.load(HERE / "clips.npz") as data:
        return {name.removeprefix("clip_"): data[name] for name in data.files}


def tiny_vlm(folder: Path) -> Path:
    """The Qwen3-VL with random weights that recordings were made with, as a checkpoint."""
    folder.mkdir(parents=True)
    for path in (*BASE.iterdir(), *WEIGHTS.iterdir()):
        shutil.copyfile(path, folder / path.name)
    return folder


def add_words(folder: Path, words: Sequence[str]) -> list[int]:
    """Makes each a token of its own, and returns their numbers.

    In the files of the tokenizer, since transformers 5.5 does not read every tokenizer that it has written.
    """
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.add_tokens(list(words))
    tokenizer.save(str(folder / "tokenizer.json"))
    ids = [tokenizer.get_vocab()[word] for word in words]
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    plain = dict.fromkeys(("lstrip", "normalized", "rstrip", "single_word", "special"), False)
    for number, word in zip(ids, words, strict=True):
        settings["added_tokens_decoder"][str(number)] = {"content": word, **plain}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return ids


def teach(folder: Path, prompts: Sequence[Prompt], answers: tuple[str, str]) -> Path:
    """Makes a checkpoint say the first of two answers to the first of two prompts, and the second to the second.

    Each answer becomes a word of its own. What decides between them is on which side the last hidden state lies, so
    that other prompts are given one of them, too.
    """
    vlm = LocalVLM.load(folder)
    with torch.inference_mode():
        first, second = (vlm.network.model(**vlm.inputs([each])).last_hidden_state[0, -1].double() for each in prompts)
    middle, apart = (first + second) / 2, first - second
    towards = apart - (apart @ middle) / (middle @ middle) * middle
    ids = add_words(folder, answers)
    state = load_file(folder / "model.safetensors")
    (words,) = (tensor for key, tensor in state.items() if key.endswith("embed_tokens.weight"))
    head = torch.zeros_like(words)
    head[ids[0]], head[ids[1]] = 100 * towards, -100 * towards
    save_file({**state, "lm_head.weight": head}, folder / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((folder / "config.json").read_text())
    config["tie_word_embeddings"] = config["text_config"]["tie_word_embeddings"] = False
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": ids}))
    return folder
