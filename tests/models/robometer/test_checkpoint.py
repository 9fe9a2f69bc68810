"""Layouts of checkpoint directories: what loads, what is written, and what is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file, save_model
from torch import nn

from robometer_rl.models.robometer.checkpoint import Checkpoint, build_network, load_checkpoint, save_checkpoint
from robometer_rl.models.robometer.config import CheckpointError
from tests.golden import BASE, CHECKPOINT, FIXTURES, assert_same_outputs, assert_same_weights, clips, copy_of, tiny

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
def test_saving_and_loading_gives_equal_weights_and_outputs(
    directory: Path, dtype: torch.dtype | None, tmp_path: Path
) -> None:
    checkpoint = load_checkpoint(directory, dtype=dtype, base_model=BASE)
    expected = outputs(checkpoint)
    save_checkpoint(tmp_path / "saved", checkpoint)
    again = load_checkpoint(tmp_path / "saved")
    assert_same_weights(again, checkpoint)
    assert_same_outputs(outputs(again), expected)
    assert again.config == checkpoint.config
    # And once more, over itself: the weights in memory may be a view of the file.
    save_checkpoint(tmp_path / "saved", again)
    assert_same_weights(load_checkpoint(tmp_path / "saved"), checkpoint)
    assert_same_weights(again, checkpoint)


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
    assert_same_outputs(outputs(load_checkpoint(tmp_path)), outputs(tiny()))


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
    assert_same_outputs(outputs(checkpoint), outputs(tiny()))
    assert checkpoint.config.average_temporal_patches
    assert checkpoint.config.success_threshold is None
    save_checkpoint(tmp_path / "saved", checkpoint)
    assert_same_outputs(outputs(load_checkpoint(tmp_path / "saved")), outputs(tiny()))


def test_another_policy_of_lerobot_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"it has no config\.yaml"):
        load_checkpoint(lerobot(tmp_path, type="sarm"))


def test_the_settings_of_a_run_may_be_one_directory_up(tmp_path: Path) -> None:
    directory = copy_of(CHECKPOINT, tmp_path / "ckpt-latest-step=40")
    (directory / "config.yaml").rename(tmp_path / "config.yaml")
    assert_same_outputs(outputs(load_checkpoint(directory)), outputs(tiny()))


@pytest.mark.parametrize("given", ["stated", "argument"])
def test_a_missing_tokenizer_is_the_base_models_with_the_extra_tokens(given: str, tmp_path: Path) -> None:
    stated = str(BASE) if given == "stated" else "nowhere at all"
    directory = copy_of(SHARDED, tmp_path, model={"base_model_id": stated})
    checkpoint = load_checkpoint(directory, base_model=None if given == "stated" else BASE)
    assert checkpoint.processor.tokenizer.get_vocab() == tiny().processor.tokenizer.get_vocab()
    assert_same_outputs(outputs(checkpoint), outputs(tiny()))


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
        ('{"model_type": "llama"}', "model_type is 'llama'; expected one of 'qwen3_vl', 'qwen2_5_vl'"),
        ('{"model_type": "qwen2_5_vl", "vision_config": {}}', "out_hidden_size is 3584; expected the decoder's"),
    ],
)
def test_a_backbone_of_another_kind_is_refused(text: str, named: str, tmp_path: Path) -> None:
    copy_of(CHECKPOINT, tmp_path)
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(CheckpointError, match=named):
        load_checkpoint(tmp_path)


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("preprocessor_config.json", {"image_mean": -1}),
        ("preprocessor_config.json", {"image_mean": [0.5, 0.5]}),
        ("preprocessor_config.json", {"image_std": [0.5, 0.5, 0.0]}),
        ("preprocessor_config.json", {"image_std": [0.5, 0.5, True]}),
        ("preprocessor_config.json", {"patch_size": "x"}),
        ("preprocessor_config.json", {"patch_size": 14}),
        ("preprocessor_config.json", {"patch_size": 10**9}),
        ("preprocessor_config.json", {"merge_size": 1}),
        ("tokenizer.json", {"model": None}),
        ("tokenizer_config.json", {"added_tokens_decoder": {"5": None}}),
        ("tokenizer_config.json", {"tokenizer_class": ["Qwen2Tokenizer"]}),
        ("config.json", {"text_config": None}),
        ("config.json", {"vision_config": [1]}),
        ("config.json", {"dtype": "float33"}),
        ("config.json", {"text_config.rope_scaling": {"rope_type": "spiral", "mrope_section": [4, 2, 2]}}),
        ("config.json", {"text_config.hidden_act": "tanhh"}),
        ("config.json", {"text_config.hidden_size": 128}),
        ("config.json", {"text_config.vocab_size": 634}),
        ("config.json", {"vision_config.dtype": {}}),
    ],
)
def test_a_wrong_value_is_an_error_that_names_the_file(name: str, change: dict[str, Any], tmp_path: Path) -> None:
    copy_of(CHECKPOINT, tmp_path)

    def update(settings: dict[str, Any]) -> None:
        for key, value in change.items():
            section, _, inner = key.rpartition(".")
            (settings[section] if section else settings)[inner] = value

    edit_json(tmp_path, name, update)
    with pytest.raises(CheckpointError) as raised:
        load_checkpoint(tmp_path)
    assert name in str(raised.value)
    assert len(str(raised.value)) < 5000


@pytest.mark.parametrize("content", [b"", b"\xff\xfe", b"[1]", b"3", b'{"a": NaN}', b"[" * 100_000, b"\0" * 100])
@pytest.mark.parametrize("name", ["config.yaml", "config.json", "preprocessor_config.json", "tokenizer_config.json"])
def test_a_file_of_another_kind_is_named(name: str, content: bytes, tmp_path: Path) -> None:
    copy_of(CHECKPOINT, tmp_path)
    (tmp_path / name).write_bytes(content)
    with pytest.raises(CheckpointError, match=name.replace(".", r"\.")):
        load_checkpoint(tmp_path)


def test_lerobots_settings_are_named_too(tmp_path: Path) -> None:
    for change in ({"max_frames": "eight"}, {"vlm_config": [1]}, {"vlm_config": {"model_type": "llama"}}):
        directory = lerobot(tmp_path / "converted", **change)
        with pytest.raises(CheckpointError, match=r"converted/config\.json|converted: config\.json"):
            load_checkpoint(directory)


def is_head(key: str) -> bool:
    return not key.startswith("model.")


@pytest.mark.parametrize("is_float", [is_head, lambda key: is_head(key) or "norm" in key], ids=["heads", "norms too"])
def test_weights_of_two_precisions_are_taken_in_that_of_most(
    is_float: Callable[[str], bool], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def mix(state: dict[str, torch.Tensor]) -> None:
        for key, tensor in state.items():
            state[key] = tensor.float() if is_float(key) else tensor.bfloat16()

    edit_weights(tmp_path, mix)
    with caplog.at_level("INFO"):
        mixed = load_checkpoint(tmp_path)
    assert {parameter.dtype for parameter in mixed.network.parameters()} == {torch.bfloat16}
    assert "has weights in float32, too; all are taken in bfloat16" in caplog.text
    assert (outputs(mixed) - outputs(load_checkpoint(CHECKPOINT, dtype=torch.bfloat16))).abs().max() < 1e-6
    assert {parameter.dtype for parameter in load_checkpoint(tmp_path, dtype=torch.float32).network.parameters()} == {
        torch.float32
    }


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
def test_weights_that_are_no_numbers_are_named_and_neither_loaded_nor_saved(bad: float, tmp_path: Path) -> None:
    def poison(state: dict[str, torch.Tensor]) -> None:
        state["model.language_model.layers.1.mlp.up_proj.weight"][3, 5] = bad

    with pytest.raises(
        CheckpointError, match=r"NaN or infinite in float32: model\.language_model\.layers\.1\.mlp\.up_proj"
    ):
        load_checkpoint(edit_weights(tmp_path / "poisoned", poison))
    checkpoint = load_checkpoint(CHECKPOINT)
    with torch.no_grad():
        checkpoint.network.get_parameter("success_head.4.bias").fill_(bad)
    with pytest.raises(CheckpointError, match=r"the network are NaN or infinite in float32: success_head\.4\.bias"):
        save_checkpoint(tmp_path / "saved", checkpoint)
    assert not (tmp_path / "saved").exists()


def test_weights_that_overflow_in_the_precision_asked_for_are_named(tmp_path: Path) -> None:
    def large(state: dict[str, torch.Tensor]) -> None:
        state["progress_head.4.bias"][0] = 1e6

    edit_weights(tmp_path, large)
    load_checkpoint(tmp_path)
    with pytest.raises(CheckpointError, match=r"NaN or infinite in float16: progress_head\.4\.bias"):
        load_checkpoint(tmp_path, dtype=torch.float16)


def test_nothing_is_saved_that_could_not_be_loaded(tmp_path: Path) -> None:
    def settings_of(checkpoint: Checkpoint) -> None:
        checkpoint.processor.config = checkpoint.config.updated(progress_bins=20)

    def shape_of(checkpoint: Checkpoint) -> None:
        checkpoint.backbone_json = checkpoint.backbone_json.replace('"num_hidden_layers": 3', '"num_hidden_layers": 2')

    def words_of(checkpoint: Checkpoint) -> None:
        checkpoint.processor.tokenizer.add_tokens(["drawer"])

    def layers_of(checkpoint: Checkpoint) -> None:
        checkpoint.network.similarity_head = nn.Linear(64, 1)

    for change in (settings_of, shape_of, words_of, layers_of):
        checkpoint = load_checkpoint(CHECKPOINT)
        save_checkpoint(tmp_path / change.__name__, checkpoint)
        before = {path: path.read_bytes() for path in (tmp_path / change.__name__).iterdir()}
        change(checkpoint)
        with pytest.raises(CheckpointError, match="not saved, because it could not be loaded again"):
            save_checkpoint(tmp_path / change.__name__, checkpoint)
        assert before == {path: path.read_bytes() for path in (tmp_path / change.__name__).iterdir()}


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
    network = build_network(tiny().processor)
    assert all(parameter.is_meta for parameter in network.parameters())


def test_an_unknown_attention_is_refused() -> None:
    with pytest.raises(ValueError, match="attn_implementation"):
        load_checkpoint(CHECKPOINT, attn_implementation="telepathy")
