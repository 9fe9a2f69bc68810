"""Robometers on other backbones: ids and values are those of transformers' own chat, processor and forward.

There are no recordings of these, so tiny checkpoints with random weights are made here, under the names that the
reference's trainer gives them, and held against transformers' classes.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from numpy.typing import NDArray
from tokenizers import AddedToken
from transformers import (
    AutoTokenizer,
    Idefics3ForConditionalGeneration,
    PreTrainedTokenizerBase,
    Qwen2_5_VLForConditionalGeneration,
    Qwen3VLForConditionalGeneration,
    SmolVLMForConditionalGeneration,
)

from robometer_rl import Clip, NestedFrames, RewardSpec, UniformFrames, load_reward_model
from robometer_rl.models.robometer.backbone import Idefics3, Qwen2_5VL, Qwen3VL, SmolVLM, read_backbone
from robometer_rl.models.robometer.checkpoint import load_checkpoint, save_checkpoint
from robometer_rl.models.robometer.config import CheckpointError
from robometer_rl.models.robometer.heads import make_head
from robometer_rl.models.robometer.inference import Robometer
from robometer_rl.models.robometer.patches import SquarePatcher
from robometer_rl.models.robometer.prompts import EXTRA_TOKENS, preference_prompt, progress_prompt
from robometer_rl.models.robometer.weights import write_file
from robometer_rl.training.trainable import require_trainable
from robometer_rl.wrappers import RobometerReward
from tests.golden import BASE, CHECKPOINT, LOGITS, assert_same_weights
from tests.wrappers.worlds import BrightnessWorld

# Earlier releases of transformers cut frames with torchvision only.
of_qwen = pytest.importorskip("transformers.models.qwen2_vl.image_processing_pil_qwen2_vl")
of_smolvlm = pytest.importorskip("transformers.models.smolvlm.image_processing_pil_smolvlm")

TASK = "open the drawer"
SMOLVLM_TOKENS = ("<fake_token_around_image>", "<global-img>", "<image>", "<end_of_utterance>")

TEXT = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 4096,
    "rms_norm_eps": 1e-6,
    "tie_word_embeddings": False,
}
MROPE = {"rope_theta": 10000.0, "rope_scaling": {"rope_type": "default", "mrope_section": [4, 2, 2]}}


def qwen3_json(vocabulary: dict[str, int], *, layers: int, heads: int, deepstack: list[int]) -> dict[str, Any]:
    """The fixture's Qwen3-VL in other proportions."""
    settings = json.loads((CHECKPOINT / "config.json").read_text())
    settings["text_config"] |= {
        "hidden_size": 16 * heads,
        "num_attention_heads": heads,
        "num_hidden_layers": layers,
        "vocab_size": len(vocabulary),
    }
    settings["vision_config"] |= {
        "depth": max(deepstack) + 2,
        "deepstack_visual_indexes": deepstack,
        "out_hidden_size": 16 * heads,
    }
    return settings


def qwen2_5_json(vocabulary: dict[str, int]) -> dict[str, Any]:
    vision = {
        "depth": 3,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_heads": 4,
        "patch_size": 14,
        "spatial_merge_size": 2,
        "temporal_patch_size": 2,
        "window_size": 56,  # two by two tokens: a frame has several windows
        "fullatt_block_indexes": [1],
        "out_hidden_size": 64,
    }
    return {
        "architectures": ["RBM"],
        "model_type": "qwen2_5_vl",
        "text_config": {"model_type": "qwen2_5_vl_text", **TEXT, **MROPE, "vocab_size": len(vocabulary)},
        "vision_config": {"model_type": "qwen2_5_vl", **vision},
        "image_token_id": vocabulary["<|image_pad|>"],
        "video_token_id": vocabulary["<|video_pad|>"],
        "vision_start_token_id": vocabulary["<|vision_start|>"],
        "vision_end_token_id": vocabulary["<|vision_end|>"],
    }


def smolvlm_json(vocabulary: dict[str, int], kind: str = "smolvlm") -> dict[str, Any]:
    vision = {
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "image_size": 64,
        "patch_size": 16,
        "num_channels": 3,
    }
    return {
        "architectures": ["RBM"],
        "model_type": kind,
        "text_config": {"model_type": "llama", **TEXT, "vocab_size": len(vocabulary), "pad_token_id": 0},
        "vision_config": {"model_type": f"{kind}_vision", **vision},
        "scale_factor": 2,
        "image_token_id": vocabulary["<image>"],
        "pad_token_id": 0,
    }


def preprocessor_json(patch: int) -> str:
    return json.dumps(
        {"patch_size": patch, "merge_size": 2, "image_mean": [0.48, 0.46, 0.41], "image_std": [0.27, 0.26, 0.28]}
    )


def tokenizer_with(*more: str) -> PreTrainedTokenizerBase:
    """The fixture's base tokenizer, with tokens of another base and then the five of a Robometer."""
    tokenizer = AutoTokenizer.from_pretrained(BASE)
    tokenizer.add_tokens([AddedToken(token, special=True, normalized=False) for token in (*more, *EXTRA_TOKENS)])
    return tokenizer


VARIANTS: dict[str, tuple[Any, Any, tuple[str, ...], Callable[[dict[str, int]], dict[str, Any]], int]] = {
    "qwen3-vl-larger": (
        Qwen3VL,
        Qwen3VLForConditionalGeneration,
        (),
        lambda words: qwen3_json(words, layers=5, heads=6, deepstack=[1, 2, 4]),
        16,
    ),
    "qwen3-vl-smaller": (
        Qwen3VL,
        Qwen3VLForConditionalGeneration,
        (),
        lambda words: qwen3_json(words, layers=2, heads=2, deepstack=[0]),
        16,
    ),
    "qwen2.5-vl": (Qwen2_5VL, Qwen2_5_VLForConditionalGeneration, (), qwen2_5_json, 14),
    "smolvlm": (SmolVLM, SmolVLMForConditionalGeneration, SMOLVLM_TOKENS, smolvlm_json, 16),
    "idefics3": (
        Idefics3,
        Idefics3ForConditionalGeneration,
        SMOLVLM_TOKENS,
        lambda words: smolvlm_json(words, "idefics3"),
        16,
    ),
}


def make(directory: Path, variant: str, **model: Any) -> Path:
    """A checkpoint with random weights; those of SmolVLM under the names of a model with a head, as the reference's."""
    _, whole, more, shape, patch = VARIANTS[variant]
    directory.mkdir(parents=True)
    tokenizer = tokenizer_with(*more)
    tokenizer.save_pretrained(directory)
    settings = shape(tokenizer.get_vocab())
    (directory / "config.json").write_text(json.dumps(settings))
    (directory / "preprocessor_config.json").write_text(preprocessor_json(patch))
    config = yaml.safe_load((CHECKPOINT / "config.yaml").read_text())
    config["model"].update(model)
    (directory / "config.yaml").write_text(yaml.safe_dump(config))
    torch.manual_seed(0)
    parent = whole(read_backbone(json.dumps(settings)).config).eval()
    for parameter in parent.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    has_head = variant in ("smolvlm", "idefics3")
    state = {f"model.{key}": value for key, value in (parent if has_head else parent.model).state_dict().items()}
    hidden = parent.model.config.get_text_config().hidden_size
    heads = {"progress_head": make_head(hidden, 10), "preference_head": make_head(hidden, 1)}
    heads |= {"success_head": make_head(hidden, 1), "frame_pool_attn": torch.nn.Linear(hidden, 1, bias=False)}
    state |= {f"{name}.{key}": value for name, head in heads.items() for key, value in head.state_dict().items()}
    write_file(directory / "model.safetensors", state)
    return directory


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("variants")


@pytest.fixture(scope="module", params=VARIANTS)
def directory(request: pytest.FixtureRequest, folder: Path) -> Path:
    return make(folder / request.param, request.param)


def frames(count: int, patch: int, seed: int = 0) -> NDArray[np.uint8]:
    """Of a size that no backbone has to change; several windows high and wide for one that has windows."""
    height, width = {14: (84, 112), 16: (64, 64)}[patch]
    return np.random.default_rng(seed).integers(0, 256, (count, height, width, 3), dtype=np.uint8)


def rendered(variant: str, parts: list[str | None]) -> str:
    """The user's turn as the template of the base model renders it, written down independently; None is a picture.

    Qwen2.5-VL's begins with its default system turn, and SmolVLM's has no captions.
    """
    if variant in ("smolvlm", "idefics3"):
        picture = "<fake_token_around_image><global-img>" + 4 * "<image>" + "<fake_token_around_image>"
        turn = "".join(picture if part is None else part for part in parts)
        return f"<|im_start|>User: {turn}<end_of_utterance>\n"
    tokens = 12 if variant == "qwen2.5-vl" else 4
    system = "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n" if variant == "qwen2.5-vl" else ""
    turn, number = "", 0
    for part in parts:
        number += part is None
        picture = f"Picture {number}: <|vision_start|>" + tokens * "<|image_pad|>" + "<|vision_end|>"
        turn += picture if part is None else part
    return f"{system}<|im_start|>user\n{turn}<|im_end|>\n"


def whole_of(directory: Path, variant: str) -> Any:
    """transformers' own model with the checkpoint's weights."""
    checkpoint = load_checkpoint(directory)
    parent = VARIANTS[variant][1](checkpoint.network.backbone.config).eval()
    parent.model.load_state_dict(checkpoint.network.model.state_dict())
    return parent.model


def hidden_of(directory: Path, variant: str, ids: torch.Tensor, pictures: NDArray[np.uint8]) -> torch.Tensor:
    """(S, hidden) outputs of transformers' own forward for one prompt, frames cut by its own processor."""
    model = whole_of(directory, variant)
    cut = json.loads((directory / "preprocessor_config.json").read_text())
    channels: dict[str, Any] = {"image_mean": cut["image_mean"], "image_std": cut["image_std"]}
    if variant in ("smolvlm", "idefics3"):
        sizes: dict[str, Any] = {"size": {"longest_edge": 64}, "max_image_size": {"longest_edge": 64}}
        processor = of_smolvlm.SmolVLMImageProcessorPil(**channels, **sizes, return_row_col_info=True)
        made = processor([list(pictures)], return_tensors="pt")
        assert (made["rows"], made["cols"]) == ([[0] * len(pictures)], [[0] * len(pictures)])
        inputs = {"pixel_values": made["pixel_values"], "pixel_attention_mask": made["pixel_attention_mask"].bool()}
    else:
        processor = of_qwen.Qwen2VLImageProcessorPil(**channels, patch_size=cut["patch_size"], do_resize=False)
        made = processor(list(pictures), return_tensors="pt")
        is_image = (ids == model.config.image_token_id).int()[None]
        inputs = {**made, "mm_token_type_ids": is_image}
    with torch.inference_mode():
        return model(input_ids=ids[None], attention_mask=torch.ones_like(ids)[None], **inputs).last_hidden_state[0]


def patch_of(variant: str) -> int:
    return VARIANTS[variant][4]


def test_the_backbone_is_recognised(directory: Path) -> None:
    assert type(load_checkpoint(directory).network.backbone) is VARIANTS[directory.name][0]


@torch.inference_mode()
def test_a_clip_is_read_as_transformers_reads_its_chat(directory: Path) -> None:
    variant = directory.name
    checkpoint = load_checkpoint(directory)
    shown = frames(3, patch_of(variant))
    inputs = checkpoint.processor.progress_inputs([Clip(shown, TASK)])
    text = rendered(variant, [progress_prompt(TASK), *[None, "<|prog_token|>"] * 3])
    ids = torch.tensor(AutoTokenizer.from_pretrained(directory).encode(text, add_special_tokens=False))
    torch.testing.assert_close(inputs.input_ids[0], ids)
    hidden = hidden_of(directory, variant, ids, shown)
    read = hidden[ids == checkpoint.network.special.progress]
    output = checkpoint.network(inputs)
    torch.testing.assert_close(output.frames, read, rtol=0, atol=LOGITS)
    torch.testing.assert_close(output.progress, checkpoint.network.progress_head(read), rtol=0, atol=LOGITS)


@torch.inference_mode()
def test_a_pair_is_read_as_transformers_reads_its_chat(directory: Path) -> None:
    variant = directory.name
    checkpoint = load_checkpoint(directory)
    a, b = frames(2, patch_of(variant), 1), frames(2, patch_of(variant), 2)
    inputs = checkpoint.processor.preference_inputs([(Clip(a, TASK), Clip(b, TASK))])
    asked = preference_prompt(TASK, checkpoint.config.predict_pref_progress)
    side: list[str | None] = [None, "<|prog_token|>"] * 2
    closing = "Now predict the preference between the two trajectories."
    parts = [asked, "This is Trajectory A. ", *side, "<|split_token|>", "This is Trajectory B. ", *side, closing]
    text = rendered(variant, [*parts, "<|pref_token|>"])
    ids = torch.tensor(AutoTokenizer.from_pretrained(directory).encode(text, add_special_tokens=False))
    torch.testing.assert_close(inputs.input_ids[0], ids)
    hidden = hidden_of(directory, variant, ids, np.concatenate([a, b]))
    output = checkpoint.network(inputs)
    expected = checkpoint.network.preference_head(hidden[ids == checkpoint.network.special.preference]).squeeze(-1)
    assert output.preference is not None
    torch.testing.assert_close(output.preference, expected, rtol=0, atol=LOGITS)
    assert output.sides == [(2, 2)]


@torch.inference_mode()
@pytest.mark.parametrize("pooling", ["mean", "boundary", "attention"])
@pytest.mark.parametrize("variant", ["qwen2.5-vl", "smolvlm"])
def test_frames_without_a_token_are_pooled(variant: str, pooling: str, tmp_path: Path) -> None:
    """All that stands between the first and the last token of a frame is; of SmolVLM also a token for its whole."""
    directory = make(tmp_path / variant, variant, use_per_frame_progress_token=False, frame_pooling=pooling)
    checkpoint = load_checkpoint(directory)
    shown = frames(2, patch_of(variant))
    inputs = checkpoint.processor.progress_inputs([Clip(shown, TASK)])
    ids = inputs.input_ids[0]
    hidden = hidden_of(directory, variant, ids, shown)
    words = AutoTokenizer.from_pretrained(directory).convert_ids_to_tokens(ids.tolist())
    first, last = ("<fake_token_around_image>",) * 2 if variant == "smolvlm" else ("<|vision_start|>", "<|vision_end|>")
    marks = [place for place, word in enumerate(words) if word in (first, last)]
    spans = [hidden[begin + 1 : end] for begin, end in zip(marks[::2], marks[1::2], strict=True)]
    attention = checkpoint.network.frame_pool_attn
    pooled = {
        "mean": lambda span: span.mean(0),
        "boundary": lambda span: span[-1],
        "attention": lambda span: (attention(span).softmax(0) * span).sum(0),
    }[pooling]
    expected = torch.stack([pooled(span) for span in spans])
    torch.testing.assert_close(checkpoint.network(inputs).frames, expected, rtol=0, atol=LOGITS)


@pytest.mark.parametrize("protocol", [NestedFrames(4), UniformFrames(4)], ids=str)
def test_dense_scores_and_streams_are_those_of_single_passes(directory: Path, protocol: Any) -> None:
    model = load_reward_model(directory)
    assert isinstance(model, Robometer)
    shown = frames(9, patch_of(directory.name), 3)
    (dense,) = model.predict_steps([Clip(shown, TASK)], protocol)
    stream = model.stream([TASK], protocol)
    for step in range(len(shown)):
        (alone,) = model.predict([Clip(shown[protocol.slots(step)], TASK)])
        newest = stream.append(shown[step][None])
        assert dense.progress[step] == pytest.approx(float(alone.progress[-1]), abs=1e-5)
        assert newest.progress[0] == pytest.approx(float(alone.progress[-1]), abs=1e-5)
        np.testing.assert_allclose(np.asarray(newest.success), np.asarray(alone.success)[-1:], atol=1e-5)
    assert stream.memory_for(0, *shown.shape[1:3]) > 0


def test_frames_of_other_sizes_are_shown(directory: Path) -> None:
    model = load_reward_model(directory)
    clips = [Clip(np.random.default_rng(side).integers(0, 256, (2, side, 75, 3), np.uint8), TASK) for side in (50, 130)]
    together = model.predict(clips)
    for clip, said in zip(clips, together, strict=True):
        np.testing.assert_allclose(said.progress, model.predict([clip])[0].progress, atol=1e-5)


@pytest.mark.parametrize("size", [(50, 75), (130, 75), (33, 100), (64, 64)])
def test_squares_are_those_of_transformers(size: tuple[int, int]) -> None:
    """To the rounding of bicubic filters: its processor has Pillow's here, the reference torchvision's."""
    gradient = np.indices(size).sum(0) % 200
    picture = np.stack([gradient, gradient[::-1], 200 - gradient], axis=2).astype(np.uint8)
    channels: dict[str, Any] = {"image_mean": [0.5, 0.4, 0.3], "image_std": [0.5, 0.6, 0.7]}
    sizes: dict[str, Any] = {"size": {"longest_edge": 64}, "max_image_size": {"longest_edge": 64}}
    expected = of_smolvlm.SmolVLMImageProcessorPil(**channels, **sizes, resample=3)([picture], return_tensors="pt")
    found = SquarePatcher.from_json(json.dumps(channels), 64, 16, 2)(picture[None])
    assert found.grid == (4, 4)
    difference = (found.pixels - expected["pixel_values"][0]).abs()
    assert difference.mean() < 0.002
    assert difference.max() < 4 / 255 / 0.5


def test_training_starts_from_qwen3_vl(directory: Path, tmp_path: Path) -> None:
    network = load_checkpoint(directory).network
    if isinstance(network.backbone, Qwen3VL):
        require_trainable(network)
        return
    said = f"training takes checkpoints on Qwen3-VL, and this one is on {type(network.backbone).__name__}"
    with pytest.raises(ValueError, match=said):
        require_trainable(network)


def test_it_pays_an_environment_with_confidence(directory: Path) -> None:
    env = RobometerReward(BrightnessWorld((0, 51, 255)), str(directory), TASK, RewardSpec(confidence=0.0))
    env.reset()
    _, _, _, _, info = env.step(0)
    assert 0.0 <= info["robometer/uncertainty"] <= 0.5


def test_a_checkpoint_is_saved_and_loaded(directory: Path, tmp_path: Path) -> None:
    checkpoint = load_checkpoint(directory)
    save_checkpoint(tmp_path / "again", checkpoint)
    again = load_checkpoint(tmp_path / "again")
    assert_same_weights(again, checkpoint)
    assert type(again.network.backbone) is type(checkpoint.network.backbone)


def test_the_files_of_qwen2_5_may_be_flat(folder: Path, tmp_path: Path) -> None:
    """Its own ``config.json`` has the decoder's settings beside the sections, as transformers wrote it before 4.52."""
    made = make(tmp_path / "nested", "qwen2.5-vl")
    flat = tmp_path / "flat"
    shutil.copytree(made, flat)
    settings = json.loads((flat / "config.json").read_text())
    text = settings.pop("text_config")
    del text["model_type"]
    (flat / "config.json").write_text(json.dumps({**text, **settings}))
    clip = Clip(frames(2, 14), TASK)
    one, other = (load_reward_model(path).predict([clip])[0] for path in (made, flat))
    np.testing.assert_array_equal(one.progress, other.progress)


@pytest.mark.parametrize("variant", ["qwen2.5-vl", "smolvlm"])
def test_video_mode_is_refused(variant: str, tmp_path: Path) -> None:
    directory = make(tmp_path / variant, variant, use_per_frame_progress_token=False, use_multi_image=False)
    with pytest.raises(CheckpointError, match="use_multi_image off, and video mode is read of Qwen3-VL only, not of"):
        load_checkpoint(directory)


@pytest.mark.parametrize(
    ("variant", "section", "values", "named"),
    [
        ("qwen2.5-vl", "vision_config", {"fullatt_block_indexes": [3]}, "fullatt_block_indexes is [3]; expected"),
        ("qwen2.5-vl", "vision_config", {"out_hidden_size": 32}, "out_hidden_size is 32; expected"),
        ("qwen2.5-vl", "text_config", {"use_sliding_window": True}, "use_sliding_window is on"),
        ("qwen2.5-vl", "text_config", {"rope_scaling": {"rope_type": "default", "mrope_section": [9, 9, 9]}}, "to 27"),
        ("smolvlm", "vision_config", {"image_size": 72}, "expected a side of whole patches"),
        ("smolvlm", "vision_config", {"num_attention_heads": 5}, "5 heads cannot share a hidden_size of 32"),
        ("smolvlm", "text_config", {"hidden_size": 10**9}, "text_config.hidden_size is 1000000000"),
        ("smolvlm", "text_config", {"model_type": "qwen3"}, "model_type is 'qwen3'; expected 'llama'"),
    ],
)
def test_a_shape_that_cannot_be_is_named(variant: str, section: str, values: dict[str, Any], named: str) -> None:
    settings = VARIANTS[variant][3](tokenizer_with(*VARIANTS[variant][2]).get_vocab())
    settings[section].update(values)
    with pytest.raises(CheckpointError) as raised:
        read_backbone(json.dumps(settings))
    assert named in str(raised.value)


def test_a_tokenizer_of_another_backbone_is_refused(tmp_path: Path) -> None:
    directory = make(tmp_path / "smolvlm", "smolvlm")
    tokenizer_with().save_pretrained(directory)
    with pytest.raises(CheckpointError, match=r"lacks \['<end_of_utterance>', '<fake_token_around_image>'"):
        load_checkpoint(directory)
