"""The conversion of InternVL 2 against its arithmetic written out, and its tokenizer against sentencepiece."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.nn import functional as F
from transformers import AutoTokenizer

from robometer_rl import load_reward_model
from robometer_rl.cli import main
from robometer_rl.frames import Clip, TaskError
from robometer_rl.models.baselines.internvl import CONTEXT, LocalInternVL, convert, weighed
from robometer_rl.models.baselines.vlac import LICENCE, SYSTEM
from robometer_rl.models.baselines.vlm import Question
from robometer_rl.models.robometer.config import CheckpointError
from tests.models.baselines.recordings import HERE
from tests.models.baselines.tiny_vlm import recording

pytest.importorskip("google.protobuf")

RECORDED = HERE / "internvl2"
SIDE, PATCH = 56, 14
WIDTH, HEADS, KEY_HEADS, WIDE, LAYERS = 32, 4, 2, 48, 2
EYES, EYE_HEADS, EYE_WIDE = 24, 3, 40
ADDED = ("<|im_start|>", "<|im_end|>", "<img>", "</img>", CONTEXT)
WORDS = 640
Weights = dict[str, torch.Tensor]


def published(folder: Path) -> Path:
    """A checkpoint in the layout of the published ones, with random weights."""
    folder.mkdir(parents=True)
    shutil.copyfile(RECORDED / "tokenizer.model", folder / "tokenizer.model")
    # Two of the tokens take the places of pieces that were kept free for them, as in the published ones.
    numbers = [3, 4, *range(WORDS, WORDS + len(ADDED) - 2)]
    added = {str(number): {"content": token} for number, token in zip(numbers, ADDED, strict=True)}
    (folder / "tokenizer_config.json").write_text(json.dumps({"added_tokens_decoder": added}))
    config = {
        "model_type": "internvl_chat", "downsample_ratio": 0.5, "ps_version": "v2", "select_layer": -1,
        "llm_config": {
            "architectures": ["InternLM2ForCausalLM"], "vocab_size": WORDS + 3, "hidden_size": WIDTH,
            "intermediate_size": WIDE, "num_hidden_layers": LAYERS, "num_attention_heads": HEADS,
            "num_key_value_heads": KEY_HEADS, "max_position_embeddings": 512, "rms_norm_eps": 1e-5, "bias": False,
            "rope_theta": 1000.0, "rope_scaling": {"type": "dynamic", "factor": 2.0},
        },
        "vision_config": {
            "hidden_size": EYES, "num_hidden_layers": LAYERS, "num_attention_heads": EYE_HEADS,
            "intermediate_size": EYE_WIDE, "image_size": SIDE, "patch_size": PATCH, "qkv_bias": True,
            "qk_normalization": False, "norm_type": "layer_norm", "layer_norm_eps": 1e-6,
        },
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(config))
    save_file(random_weights(), folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def random_weights() -> Weights:
    size = WIDTH // HEADS
    shapes: dict[str, tuple[int, ...]] = {
        "language_model.model.tok_embeddings.weight": (WORDS + 3, WIDTH),
        "language_model.model.norm.weight": (WIDTH,),
        "language_model.output.weight": (WORDS + 3, WIDTH),
        "vision_model.embeddings.class_embedding": (1, 1, EYES),
        "vision_model.embeddings.position_embedding": (1, (SIDE // PATCH) ** 2 + 1, EYES),
        "vision_model.embeddings.patch_embedding.weight": (EYES, 3, PATCH, PATCH),
        "vision_model.embeddings.patch_embedding.bias": (EYES,),
        "mlp1.0.weight": (4 * EYES,), "mlp1.0.bias": (4 * EYES,),
        "mlp1.1.weight": (WIDTH, 4 * EYES), "mlp1.1.bias": (WIDTH,),
        "mlp1.3.weight": (WIDTH, WIDTH), "mlp1.3.bias": (WIDTH,),
    }  # fmt: skip
    for layer in range(LAYERS):
        text, eyes = f"language_model.model.layers.{layer}", f"vision_model.encoder.layers.{layer}"
        shapes |= {
            f"{text}.attention.wqkv.weight": ((HEADS + 2 * KEY_HEADS) * size, WIDTH),
            f"{text}.attention.wo.weight": (WIDTH, WIDTH),
            f"{text}.feed_forward.w1.weight": (WIDE, WIDTH),
            f"{text}.feed_forward.w2.weight": (WIDTH, WIDE),
            f"{text}.feed_forward.w3.weight": (WIDE, WIDTH),
            f"{text}.attention_norm.weight": (WIDTH,),
            f"{text}.ffn_norm.weight": (WIDTH,),
            f"{eyes}.attn.qkv.weight": (3 * EYES, EYES), f"{eyes}.attn.qkv.bias": (3 * EYES,),
            f"{eyes}.attn.proj.weight": (EYES, EYES), f"{eyes}.attn.proj.bias": (EYES,),
            f"{eyes}.mlp.fc1.weight": (EYE_WIDE, EYES), f"{eyes}.mlp.fc1.bias": (EYE_WIDE,),
            f"{eyes}.mlp.fc2.weight": (EYES, EYE_WIDE), f"{eyes}.mlp.fc2.bias": (EYES,),
            f"{eyes}.norm1.weight": (EYES,), f"{eyes}.norm1.bias": (EYES,),
            f"{eyes}.norm2.weight": (EYES,), f"{eyes}.norm2.bias": (EYES,),
            f"{eyes}.ls1": (EYES,), f"{eyes}.ls2": (EYES,),
        }  # fmt: skip
    generator = torch.Generator().manual_seed(0)
    return {name: 0.3 * torch.randn(shape, generator=generator) for name, shape in shapes.items()}


def expected_logits(weights: Weights, ids: torch.Tensor, pixels: torch.Tensor) -> torch.Tensor:
    """InternVL 2 as its authors define it: (n, words) logits of one prompt with its pictures (P, 3, SIDE, SIDE)."""
    states = weights["language_model.model.tok_embeddings.weight"][ids]
    states[ids == WORDS + 2] = torch.cat([seen(weights, picture) for picture in pixels])
    size, group = WIDTH // HEADS, HEADS // KEY_HEADS
    angles = torch.outer(torch.arange(len(ids)), 1000.0 ** -(torch.arange(0, size, 2) / size)).repeat(1, 2)
    for layer in range(LAYERS):
        part = {
            name.removeprefix(f"language_model.model.layers.{layer}.").removesuffix(".weight"): tensor
            for name, tensor in weights.items()
        }
        joint = rms(states, part["attention_norm"]) @ part["attention.wqkv"].T
        joint = joint.view(len(ids), KEY_HEADS, group + 2, size)
        found = torch.zeros(len(ids), HEADS, size)
        for head in range(HEADS):
            of_key = joint[:, head // group]
            query, key = (turned(of_key[:, at], angles) for at in (head % group, group))
            scores = query @ key.T / size**0.5 + torch.full((len(ids),) * 2, -torch.inf).triu(1)
            found[:, head] = scores.softmax(-1) @ of_key[:, group + 1]
        states = states + found.flatten(1) @ part["attention.wo"].T
        inner = rms(states, part["ffn_norm"])
        gate = F.silu(inner @ part["feed_forward.w1"].T) * (inner @ part["feed_forward.w3"].T)
        states = states + gate @ part["feed_forward.w2"].T
    return rms(states, weights["language_model.model.norm.weight"]) @ weights["language_model.output.weight"].T


def rms(states: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    return weight * states / (states.square().mean(-1, keepdim=True) + 1e-5).sqrt()


def turned(states: torch.Tensor, angles: torch.Tensor) -> torch.Tensor:
    first, second = states.chunk(2, -1)
    return states * angles.cos() + torch.cat([-second, first], -1) * angles.sin()


def seen(weights: Weights, picture: torch.Tensor) -> torch.Tensor:
    """(tokens, WIDTH) what the language model is shown of one picture."""
    vision = {name.removeprefix("vision_model."): tensor for name, tensor in weights.items()}
    patches = F.conv2d(
        picture[None], vision["embeddings.patch_embedding.weight"], vision["embeddings.patch_embedding.bias"], PATCH
    )
    states = torch.cat([vision["embeddings.class_embedding"][0], patches[0].flatten(1).T])
    states = states + vision["embeddings.position_embedding"][0]
    for layer in range(LAYERS):
        part = {name.removeprefix(f"encoder.layers.{layer}."): tensor for name, tensor in vision.items()}
        normed = F.layer_norm(states, (EYES,), part["norm1.weight"], part["norm1.bias"], 1e-6)
        joint = normed @ part["attn.qkv.weight"].T + part["attn.qkv.bias"]
        query, key, value = joint.view(len(states), 3, EYE_HEADS, -1).permute(1, 2, 0, 3)
        found = (query @ key.mT / (EYES // EYE_HEADS) ** 0.5).softmax(-1) @ value
        found = found.transpose(0, 1).flatten(1) @ part["attn.proj.weight"].T + part["attn.proj.bias"]
        states = states + part["ls1"] * found
        normed = F.layer_norm(states, (EYES,), part["norm2.weight"], part["norm2.bias"], 1e-6)
        inner = F.gelu(normed @ part["mlp.fc1.weight"].T + part["mlp.fc1.bias"])
        states = states + part["ls2"] * (inner @ part["mlp.fc2.weight"].T + part["mlp.fc2.bias"])
    side = SIDE // PATCH
    # Two by two patches become one token. The columns of a row are paired first, then the rows.
    grid = states[1:].view(side, side // 2, 2 * EYES).transpose(0, 1)
    grid = grid.reshape(side // 2, side // 2, 4 * EYES).transpose(0, 1).reshape(-1, 4 * EYES)
    normed = F.layer_norm(grid, (4 * EYES,), weights["mlp1.0.weight"], weights["mlp1.0.bias"], 1e-5)
    inner = F.gelu(normed @ weights["mlp1.1.weight"].T + weights["mlp1.1.bias"])
    return inner @ weights["mlp1.3.weight"].T + weights["mlp1.3.bias"]


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return published(tmp_path_factory.mktemp("vlac") / "published")


@pytest.fixture(scope="module")
def converted(source: Path) -> Path:
    convert(str(source), source.parent / "converted", "Converted.")
    return source.parent / "converted"


def question(seed: int = 0) -> Question:
    before, after = np.random.default_rng(seed).integers(0, 256, (2, SIDE, SIDE, 3), np.uint8)
    return Question(("Image-1: ", before, "\nImage-2: ", after, "\nopen the drawer <score>"), SYSTEM)


def test_the_network_computes_what_it_did(converted: Path) -> None:
    engine = LocalInternVL.load(str(converted))
    inputs = engine.inputs([question(0)])
    with torch.inference_mode():
        found = engine.network(**inputs).logits[0]
        expected = expected_logits(random_weights(), inputs["input_ids"][0], inputs["pixel_values"])
    assert (inputs["input_ids"] == WORDS + 2).sum() == 2 * (SIDE // PATCH // 2) ** 2
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("case", json.loads((RECORDED / "tokens.json").read_text()), ids=lambda case: case["text"])
def test_texts_are_cut_as_sentencepiece_cuts_them(converted: Path, case: dict) -> None:
    tokenizer = AutoTokenizer.from_pretrained(converted)
    assert tokenizer.encode(case["text"], add_special_tokens=False) == case["ids"]
    assert tokenizer.decode(case["ids"]) == case["text"]


def test_added_tokens_have_the_numbers_that_the_checkpoint_says(converted: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(converted)
    assert tokenizer.convert_tokens_to_ids(list(ADDED)) == [3, 4, WORDS, WORDS + 1, WORDS + 2]
    ids = tokenizer.encode("<s><|im_start|>a<img></img>", add_special_tokens=False)
    assert (ids[:2], ids[-2:]) == ([1, 3], [WORDS, WORDS + 1])


def test_several_questions_are_answered_as_alone(converted: Path) -> None:
    engine = LocalInternVL.load(str(converted))
    asked = [question(0), Question(("much shorter", question(1).parts[1]), None)]
    assert engine.answers(asked, 4) == [engine.answers([each], 4)[0] for each in asked]


BETTER = {"+3.45.0": "+35", "": "7.0"}
"""What is not read as the authors do: a number in two tokens, which they make none, and an answer that was cut, whose
last token they take for its end."""


@pytest.mark.parametrize("case", recording("parsing")["vlac_rich_answer"], ids=lambda case: case["plain"]["out"])
def test_numbers_are_weighed_as_the_authors_weigh_them(case: dict) -> None:
    tokens = [token["top"] for token in case["tokens"] if token["token"] != "<|im_end|>"]
    assert weighed(tokens) == BETTER.get(case["rich"]["out"], case["rich"]["out"])


def taught(converted: Path, folder: Path, words: tuple[str, ...]) -> Path:
    """A checkpoint that says these words one after the other, to a question of one kind."""
    shutil.copytree(converted, folder)
    engine = LocalInternVL.load(str(converted))
    numbers = [engine.tokenizer.get_vocab()[word] for word in (*words, "<|im_end|>")]
    inputs = engine.inputs([question(0)])
    ids = torch.cat([inputs["input_ids"], torch.tensor([numbers[:-1]])], 1)
    with torch.inference_mode():
        states = engine.network.model(input_ids=ids, pixel_values=inputs["pixel_values"]).last_hidden_state[0]
    states = states[-len(numbers) :].double()
    head = torch.zeros(WORDS + 3, WIDTH, dtype=torch.float64)
    head[numbers] = 100 * torch.linalg.pinv(states).T
    state = load_file(folder / "model.safetensors")
    (name,) = (key for key in state if key.endswith("lm_head.weight"))
    save_file({**state, name: head.float()}, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def test_it_scores_a_clip(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    monkeypatch.setattr("robometer_rl.models.baselines.vlac._SIDE", SIDE)  # of the pictures of this small network
    output = tmp_path / "converted"
    assert main(["convert", "vlac", str(source), str(output)]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert LICENCE in said
    assert "--model vlac:" in said
    assert LICENCE in (output / "README.md").read_text()
    model = load_reward_model(f"vlac:{taught(output, tmp_path / 'taught', ('+', '20'))}")
    assert LICENCE in capsys.readouterr().err
    frames = np.random.default_rng(0).integers(0, 256, (3, SIDE, SIDE, 3), np.uint8)
    assert set(model.engine.answers([question(0)], 8)) == {"+20.0"}
    (found,) = model.predict([Clip(frames, "open the drawer")])
    assert found.progress.shape == (3,)
    assert found.progress[0] == 0.0
    with pytest.raises(TaskError, match="IMG_CONTEXT"):
        model.predict([Clip(frames, f"open {CONTEXT}")])


def test_what_is_no_such_checkpoint_is_refused(source: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="robometer-rl convert vlac"):
        load_reward_model(f"vlac:{source}")
    other = tmp_path / "other"
    shutil.copytree(source, other)
    config = json.loads((other / "config.json").read_text())
    config["llm_config"]["architectures"] = ["Qwen2ForCausalLM"]
    (other / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match="Qwen2ForCausalLM"):
        convert(str(other), tmp_path / "never", "")
    shutil.copyfile(source / "config.json", other / "config.json")
    weights = load_file(other / "model.safetensors")
    weights.pop("mlp1.1.bias")
    save_file(weights, other / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match=r"linear_1\.bias"):
        convert(str(other), tmp_path / "never", "")
    assert not (tmp_path / "never").exists()
