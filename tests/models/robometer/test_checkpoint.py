"""Layouts of checkpoint directories: what loads, what is written, and what is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file, save_model
from torch import nn

from robometer_rl.models.robometer.checkpoint import Checkpoint, build_network, load_checkpoint, save_checkpoint
from robometer_rl.models.robometer.config import CheckpointError
from tests.golden import BASE, CHECKPOINT, FIXTURES, clips, copy_of, tiny

SHARDED = FIXTURES / "checkpoint_sharded"
LORA = FIXTURES / "checkpoint_lora"


@torch.inference_mode()
def outputs(checkpoint: Checkpoint) -> torch.Tensor:
    """Progress and success logits of three clips, and what the network makes of pairs."""
    shown = clips("progress_batch", "prog0", "prog1", "prog2")
    single = checkpoint.network(checkpoint.processor.progress_inputs(shown))
    pair = checkpoint.network(
        checkpoint.processor.preference_inputs([(shown[0], type(shown[0])(shown[1].frames, shown[0].task))])
    )
    return torch.cat([single.progress.flatten(), single.success, pair.preference])


def edit_weights(directory: Path, change: Callable[[dict[str, torch.Tensor]], None]) -> Path:
    copy_of(CHECKPOINT, directory)
    state = load_file(directory / "model.safetensors")
    change(state)
    save_file(state, directory / "model.safetensors")
    return directory


def edit_json(directory: Path, name: str, change: Callable[[dict], None]) -> Path:
    settings = json.loads((directory / name).read_text())
    change(settings)
    (directory / name).write_text(json.dumps(settings))
    return directory


def test_loading_leaves_nothing_without_values() -> None:
    network = tiny().network
    assert not network.training
    everything = [*network.named_parameters(), *network.named_buffers()]
    assert [name for name, tensor in everything if tensor.is_meta] == []


@pytest.mark.parametrize("dtype", [None, torch.bfloat16])
@pytest.mark.parametrize("directory", [CHECKPOINT, SHARDED, LORA], ids=lambda path: path.name)
def test_saving_and_loading_gives_bit_equal_outputs(directory: Path, dtype: torch.dtype | None, tmp_path: Path) -> None:
    checkpoint = load_checkpoint(directory, dtype=dtype, base_model=BASE)
    expected = outputs(checkpoint)
    save_checkpoint(tmp_path / "saved", checkpoint)
    again = load_checkpoint(tmp_path / "saved")
    assert torch.equal(outputs(again), expected)
    assert again.config == checkpoint.config
    # And once more, over itself: the weights in memory may be a view of the file.
    save_checkpoint(tmp_path / "saved", again)
    assert torch.equal(outputs(load_checkpoint(tmp_path / "saved")), expected)
    assert torch.equal(outputs(again), expected)


def test_what_is_saved_is_what_the_reference_reads(tmp_path: Path) -> None:
    save_checkpoint(tmp_path, tiny())
    assert yaml.safe_load((tmp_path / "config.yaml").read_text()) == yaml.safe_load(
        (CHECKPOINT / "config.yaml").read_text()
    )
    assert (tmp_path / "config.json").read_text() == (CHECKPOINT / "config.json").read_text()
    original, saved = (load_file(directory / "model.safetensors") for directory in (CHECKPOINT, tmp_path))
    assert set(original) == set(saved)
    assert all(torch.equal(original[key], saved[key]) for key in original)


def test_a_second_prefix_of_the_backbone_loads(tmp_path: Path) -> None:
    def unsloth(state: dict[str, torch.Tensor]) -> None:
        for key in [key for key in state if key.startswith("model.")]:
            state[f"model.{key}"] = state.pop(key)
        state["model.lm_head.weight"] = torch.zeros(635, 64)

    edit_weights(tmp_path, unsloth)
    assert torch.equal(outputs(load_checkpoint(tmp_path)), outputs(tiny()))


class ConversionOfLeRobot(nn.Module):
    """The module tree that LeRobot saves: the backbone with its tied language-model head, and the heads."""

    def __init__(self) -> None:
        super().__init__()
        source = load_checkpoint(CHECKPOINT).network
        self.model = nn.Module()
        self.model.model = source.model
        self.model.lm_head = nn.Linear(64, 635, bias=False)
        self.model.lm_head.weight = source.model.language_model.embed_tokens.weight
        self.progress_head, self.preference_head = source.progress_head, source.preference_head
        self.success_head, self.frame_pool_attn = source.success_head, source.frame_pool_attn


def lerobot(directory: Path, **changes: object) -> Path:
    """The fixture as LeRobot converts it: no tokenizer, one config.json, shared tensors stored once."""
    directory.mkdir(parents=True, exist_ok=True)
    save_model(ConversionOfLeRobot(), str(directory / "model.safetensors"))
    described = {
        "type": "robometer",
        "pretrained_path": None,
        "max_frames": 8,
        "reward_output": "progress",
        "success_threshold": 0.5,
        "base_model_id": str(BASE),
        "torch_dtype": "bfloat16",
        "use_multi_image": True,
        "use_per_frame_progress_token": True,
        "average_temporal_patches": True,
        "frame_pooling": "mean",
        "frame_pooling_attn_temperature": 1.0,
        "progress_loss_type": "discrete",
        "progress_discrete_bins": 10,
        "vlm_config": json.loads((CHECKPOINT / "config.json").read_text()),
        "input_features": {},
    }
    (directory / "config.json").write_text(json.dumps({**described, **changes}))
    return directory


def test_a_conversion_by_lerobot_loads(tmp_path: Path) -> None:
    directory = lerobot(tmp_path / "converted")
    assert "model.model.language_model.embed_tokens.weight" not in load_file(directory / "model.safetensors")
    checkpoint = load_checkpoint(directory)
    assert torch.equal(outputs(checkpoint), outputs(tiny()))
    assert checkpoint.config.average_temporal_patches
    assert checkpoint.config.success_threshold is None
    save_checkpoint(tmp_path / "saved", checkpoint)
    assert torch.equal(outputs(load_checkpoint(tmp_path / "saved")), outputs(tiny()))


def test_another_policy_of_lerobot_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"it has no config\.yaml"):
        load_checkpoint(lerobot(tmp_path, type="sarm"))


def test_the_settings_of_a_run_may_be_one_directory_up(tmp_path: Path) -> None:
    directory = copy_of(CHECKPOINT, tmp_path / "ckpt-latest-step=40")
    (directory / "config.yaml").rename(tmp_path / "config.yaml")
    assert torch.equal(outputs(load_checkpoint(directory)), outputs(tiny()))


@pytest.mark.parametrize("given", ["stated", "argument"])
def test_a_missing_tokenizer_is_the_base_models_with_the_extra_tokens(given: str, tmp_path: Path) -> None:
    stated = str(BASE) if given == "stated" else "nowhere at all"
    directory = copy_of(SHARDED, tmp_path, model={"base_model_id": stated})
    checkpoint = load_checkpoint(directory, base_model=None if given == "stated" else BASE)
    assert checkpoint.processor.tokenizer.get_vocab() == tiny().processor.tokenizer.get_vocab()
    assert torch.equal(outputs(checkpoint), outputs(tiny()))


@pytest.mark.parametrize("base", ["nowhere at all", ""])
def test_a_missing_tokenizer_without_a_base_model_says_what_to_do(base: str, tmp_path: Path) -> None:
    directory = copy_of(SHARDED, tmp_path, model={"base_model_id": base})
    with pytest.raises(CheckpointError, match=r"no tokenizer_config\.json or no preprocessor_config\.json.*base_model"):
        load_checkpoint(directory)


def test_the_wrong_base_model_is_noticed(tmp_path: Path) -> None:
    base = copy_of(BASE, tmp_path / "base")
    edit_json(base, "tokenizer.json", lambda settings: settings["added_tokens"].pop())
    edit_json(base, "tokenizer_config.json", lambda settings: settings["added_tokens_decoder"].popitem())
    with pytest.raises(CheckpointError, match="vocabulary of 635, the tokenizer has 634 entries"):
        load_checkpoint(SHARDED, base_model=base)


@pytest.mark.parametrize("name", ["config.yaml", "config.json", "model.safetensors", "preprocessor_config.json"])
def test_a_missing_file_is_named(name: str, tmp_path: Path) -> None:
    directory = copy_of(CHECKPOINT, tmp_path / "a", model={"base_model_id": "nowhere at all"})
    (directory / name).unlink()
    with pytest.raises(CheckpointError, match=name.replace(".", r"\.")):
        load_checkpoint(directory)


def pop(state: dict[str, torch.Tensor]) -> None:
    del state["success_head.4.bias"]


def add(state: dict[str, torch.Tensor]) -> None:
    state["similarity_head.4.bias"] = torch.zeros(1)


def reshape(state: dict[str, torch.Tensor]) -> None:
    state["progress_head.4.weight"] = torch.zeros(9, 32)


def widen(state: dict[str, torch.Tensor]) -> None:
    state["model.language_model.embed_tokens.weight"] = torch.zeros(704, 64)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (pop, r"missing success_head\.4\.bias"),
        (add, r"unexpected similarity_head\.4\.bias"),
        (reshape, r"progress_head\.4\.weight has shape \(9, 32\), expected \(10, 32\)"),
        (widen, r"embed_tokens\.weight has shape \(704, 64\), expected \(635, 64\)"),
    ],
)
def test_every_tensor_is_accounted_for(
    change: Callable[[dict[str, torch.Tensor]], None], named: str, tmp_path: Path
) -> None:
    with pytest.raises(CheckpointError, match=named):
        load_checkpoint(edit_weights(tmp_path, change))


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("{", "not valid JSON"),
        ("[]", "expected an object"),
        ('{"model_type": "llama"}', "model_type is 'llama'; expected 'qwen3_vl'"),
        ('{"model_type": "qwen2_5_vl", "vision_config": {}}', "model_type is 'qwen2_5_vl'"),
    ],
)
def test_a_backbone_of_another_kind_is_refused(text: str, named: str, tmp_path: Path) -> None:
    copy_of(CHECKPOINT, tmp_path)
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(CheckpointError, match=named):
        load_checkpoint(tmp_path)


def test_a_head_of_the_wrong_kind_is_noticed(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"progress_head\.4\.weight has shape \(10, 32\), expected \(1, 32\)"):
        load_checkpoint(copy_of(CHECKPOINT, tmp_path, model={"progress_loss_type": "l2"}))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_weights_come_in_the_precision_asked_for(dtype: torch.dtype) -> None:
    network = load_checkpoint(CHECKPOINT, dtype=dtype).network
    assert {parameter.dtype for parameter in network.parameters()} == {dtype}
    assert network.dtype == dtype
    # Rope angles need their precision, whatever the model's is.
    assert {buffer.dtype for buffer in network.buffers()} == {torch.float32}


def test_a_network_is_built_without_memory_for_its_weights() -> None:
    network = build_network(tiny().backbone_json, tiny().processor)
    assert all(parameter.is_meta for parameter in network.parameters())


def test_an_unknown_attention_is_refused() -> None:
    with pytest.raises(ValueError, match="attn_implementation"):
        load_checkpoint(CHECKPOINT, attn_implementation="telepathy")
