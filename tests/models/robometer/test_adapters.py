"""LoRA checkpoints: adapter, heads and a reference to the base; or everything in one file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from peft import IA3Config, LoraConfig, PeftModel, inject_adapter_in_model
from safetensors.torch import load_file, save_file

from robometer_rl.models.robometer.adapters import adapter_of
from robometer_rl.models.robometer.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from robometer_rl.models.robometer.config import CheckpointError
from tests.golden import CHECKPOINT, FIXTURES, assert_same_outputs, assert_same_weights, clips, copy_of

LANGUAGE: dict[str, Any] = {"target_modules": ["q_proj", "down_proj"]}
TOKENS: dict[str, Any] = {**LANGUAGE, "trainable_token_indices": {"embed_tokens": [630, 634]}}
TOWER: dict[str, Any] = {"target_modules": ["qkv", "linear_fc1"], "lora_alpha": 3}
ALL: dict[str, Any] = {"target_modules": "all-linear", "use_rslora": True}
DORA: dict[str, Any] = {"target_modules": ["embed_tokens", "q_proj"], "use_dora": True}


@torch.inference_mode()
def outputs(checkpoint: Checkpoint) -> torch.Tensor:
    output = checkpoint.network(
        checkpoint.processor.progress_inputs(clips("progress_batch", "prog0", "prog1", "prog2"))
    )
    return torch.cat([output.progress, output.success[:, None]], dim=1)


def fine_tuned(
    base: Path | str | None, part: str = "language_model", dtype: torch.dtype | None = None, **lora: Any
) -> Checkpoint:
    """A checkpoint whose adapter and heads are other than their base's."""
    checkpoint = load_checkpoint(CHECKPOINT, dtype=dtype)
    path = None if base is None else str(base)
    config = LoraConfig(r=4, base_model_name_or_path=path, **(lora or LANGUAGE))
    inject_adapter_in_model(config, checkpoint.network.get_submodule(f"model.{part}"))
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in checkpoint.network.named_parameters():
            if ".lora_" in name or "trainable_tokens" in name or "head" in name:
                parameter.add_(0.2 * torch.randn(parameter.shape, generator=generator))
    checkpoint.network.eval()
    return checkpoint


@pytest.mark.parametrize(
    ("part", "lora", "stated", "dtype"),
    [
        ("language_model", LANGUAGE, True, torch.bfloat16),
        ("language_model", TOKENS, True, None),
        ("language_model", TOKENS, False, torch.bfloat16),
        ("language_model", ALL, True, None),
        ("language_model", ALL, False, None),
        ("language_model", DORA, True, None),
        ("language_model", DORA, False, None),
        ("language_model", {**LANGUAGE, "lora_bias": True}, False, None),
        ("language_model", {**LANGUAGE, "rank_pattern": {"q_proj": 2}, "alpha_pattern": {"q_proj": 3}}, False, None),
        ("language_model", {**LANGUAGE, "init_lora_weights": "pissa"}, False, None),
        ("visual", TOWER, True, None),
        ("visual", TOWER, False, None),
    ],
)
def test_saving_and_loading_gives_equal_weights_and_outputs(
    part: str, lora: dict[str, Any], stated: bool, dtype: torch.dtype | None, tmp_path: Path
) -> None:
    checkpoint = fine_tuned(CHECKPOINT if stated else None, part, dtype, **lora)
    expected = outputs(checkpoint)
    assert not torch.allclose(expected, outputs(load_checkpoint(CHECKPOINT, dtype=dtype)), atol=0.1)
    save_checkpoint(tmp_path, checkpoint)
    again = load_checkpoint(tmp_path, dtype=dtype)
    assert_same_weights(again, checkpoint)
    assert_same_outputs(outputs(again), expected)
    everything = [*again.network.named_parameters(), *again.network.named_buffers()]
    assert [name for name, tensor in everything if tensor.is_meta] == []
    assert not again.network.training
    # And once more, over itself.
    save_checkpoint(tmp_path, again)
    assert_same_weights(load_checkpoint(tmp_path, dtype=dtype), checkpoint)


def test_an_adapter_is_small_and_has_its_standard_names(tmp_path: Path) -> None:
    save_checkpoint(tmp_path, fine_tuned(CHECKPOINT, **TOKENS))
    names = {path.name for path in tmp_path.iterdir()}
    assert {"adapter_model.safetensors", "adapter_config.json", "custom_heads.safetensors", "config.yaml"} <= names
    assert not {"model.safetensors", "config.json"} & names
    adapter = load_file(tmp_path / "adapter_model.safetensors")
    query = "base_model.model.language_model.layers.0.self_attn.q_proj"
    assert adapter[f"{query}.lora_A.weight"].shape == (4, 64)
    assert adapter["base_model.model.language_model.embed_tokens.token_adapter.trainable_tokens_delta"].shape == (2, 64)
    heads = load_file(tmp_path / "custom_heads.safetensors")
    assert {key.split(".")[0] for key in heads} == {
        "progress_head",
        "preference_head",
        "success_head",
        "frame_pool_attn",
    }
    described = json.loads((tmp_path / "adapter_config.json").read_text())
    assert described["base_model_name_or_path"] == str(CHECKPOINT)
    assert described["target_modules"] == ["down_proj", "q_proj"]


def test_peft_reads_our_adapters(tmp_path: Path) -> None:
    checkpoint = fine_tuned(CHECKPOINT)
    save_checkpoint(tmp_path, checkpoint)
    plain = load_checkpoint(CHECKPOINT)
    PeftModel.from_pretrained(plain.network.model, str(tmp_path))  # in place
    plain.network.load_state_dict(load_file(tmp_path / "custom_heads.safetensors"), strict=False)
    assert_same_outputs(outputs(plain), outputs(checkpoint))


def test_adapters_go_on_training_after_loading(tmp_path: Path) -> None:
    save_checkpoint(tmp_path, fine_tuned(CHECKPOINT))
    network = load_checkpoint(tmp_path).network
    trained = {name for name, parameter in network.model.language_model.named_parameters() if parameter.requires_grad}
    assert trained
    assert all(".lora_" in name for name in trained)


def test_the_section_peft_describes_an_adapter_without_a_base(tmp_path: Path) -> None:
    save_checkpoint(tmp_path, fine_tuned(None, "visual", **TOWER))
    section = yaml.safe_load((tmp_path / "config.yaml").read_text())["peft"]
    assert section["target_modules"] == ["linear_fc1", "qkv"]
    assert (section["r"], section["lora_alpha"], section["peft_vision_encoder"]) == (4, 3, True)


def test_the_references_adapter_stays_an_adapter() -> None:
    checkpoint = load_checkpoint(FIXTURES / "checkpoint_lora", base_model=FIXTURES / "base_processor")
    adapter = adapter_of(checkpoint.network)
    assert adapter is not None
    assert (adapter.part, adapter.lora.r, adapter.lora.lora_alpha) == ("language_model", 4, 8)
    assert json.loads(checkpoint.backbone_json)["model_type"] == "qwen3_vl"


@pytest.mark.parametrize("moved", ["as stated", "argument"])
def test_the_base_may_have_moved(moved: str, tmp_path: Path) -> None:
    base = copy_of(CHECKPOINT, tmp_path / "base")
    checkpoint = fine_tuned(base)
    save_checkpoint(tmp_path / "adapter", checkpoint)
    if moved == "as stated":
        again = load_checkpoint(tmp_path / "adapter")
    else:
        base.rename(tmp_path / "elsewhere")
        with pytest.raises(CheckpointError, match=r"the base .* is not to be had"):
            load_checkpoint(tmp_path / "adapter")
        again = load_checkpoint(tmp_path / "adapter", base_model=tmp_path / "elsewhere")
    assert_same_outputs(outputs(again), outputs(checkpoint))


def test_another_base_of_the_same_shape_is_noticed(tmp_path: Path) -> None:
    base = copy_of(CHECKPOINT, tmp_path / "base")
    save_checkpoint(tmp_path / "adapter", fine_tuned(base))
    state = load_file(base / "model.safetensors")
    save_file({key: tensor * 1.001 for key, tensor in state.items()}, base / "model.safetensors")
    with pytest.raises(CheckpointError, match="trained on other weights than those of its base"):
        load_checkpoint(tmp_path / "adapter")


def test_an_adapter_on_an_adapter_is_refused(tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "adapter", fine_tuned(CHECKPOINT))
    with pytest.raises(CheckpointError, match="is itself an adapted checkpoint"):
        load_checkpoint(tmp_path / "adapter", base_model=tmp_path / "adapter")


def test_a_base_that_is_no_robometer_is_refused(tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "adapter", fine_tuned(CHECKPOINT))
    with pytest.raises(CheckpointError, match=r"base_processor is not a Robometer checkpoint: it has no config\.yaml"):
        load_checkpoint(tmp_path / "adapter", base_model=FIXTURES / "base_processor")


def test_other_trained_weights_are_not_lost_silently(tmp_path: Path) -> None:
    checkpoint = fine_tuned(CHECKPOINT)
    with torch.no_grad():
        checkpoint.network.model.visual.pos_embed.weight[3, 5] += 0.5
    with pytest.raises(CheckpointError, match=r"1 weights besides the adapter's differ.*visual\.pos_embed\.weight"):
        save_checkpoint(tmp_path, checkpoint)
    assert list(tmp_path.iterdir()) == []


def test_a_base_that_is_missing_is_noticed_when_saving(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="the base 'nowhere at all'"):
        save_checkpoint(tmp_path, fine_tuned("nowhere at all"))


def test_an_adapter_that_does_not_say_its_base_asks_for_it(tmp_path: Path) -> None:
    save_checkpoint(tmp_path, checkpoint := fine_tuned(CHECKPOINT))
    described = json.loads((tmp_path / "adapter_config.json").read_text())
    (tmp_path / "adapter_config.json").write_text(json.dumps({**described, "base_model_name_or_path": None}))
    with pytest.raises(CheckpointError, match="does not say what its base is"):
        load_checkpoint(tmp_path)
    assert_same_outputs(outputs(load_checkpoint(tmp_path, base_model=CHECKPOINT)), outputs(checkpoint))


@pytest.mark.parametrize("name", ["adapter_model.safetensors", "custom_heads.safetensors", "config.yaml"])
def test_a_missing_file_is_named(name: str, tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "adapter", fine_tuned(CHECKPOINT))
    (tmp_path / "adapter" / name).unlink()
    with pytest.raises(CheckpointError, match=name.replace(".", r"\.")):
        load_checkpoint(tmp_path / "adapter")


QUERY = "base_model.model.language_model.layers.1.self_attn.q_proj"


@pytest.mark.parametrize(
    ("file", "changes", "named"),
    [
        ("adapter_model", {f"{QUERY}.lora_A.weight": None}, r"missing layers\.1\.self_attn\.q_proj\.lora_A\.weight"),
        ("adapter_model", {f"{QUERY}.lora_C.weight": torch.zeros(2)}, r"unexpected layers\.1\..*lora_C\.weight"),
        ("adapter_model", {f"{QUERY}.lora_A.weight": torch.zeros(3, 64)}, r"has shape \(3, 64\), expected \(4, 64\)"),
        ("adapter_model", {"base_model.model.visual.x": torch.zeros(2)}, "adapts .*language_model.*visual"),
        ("custom_heads", {"success_head.4.bias": None}, r"missing success_head\.4\.bias"),
    ],
)
def test_every_tensor_is_accounted_for(
    file: str, changes: dict[str, torch.Tensor | None], named: str, tmp_path: Path
) -> None:
    save_checkpoint(tmp_path, fine_tuned(CHECKPOINT))
    path = tmp_path / f"{file}.safetensors"
    state = {**load_file(path), **changes}
    save_file({key: tensor for key, tensor in state.items() if tensor is not None}, path)
    with pytest.raises(CheckpointError, match=named):
        load_checkpoint(tmp_path)


@pytest.mark.parametrize(
    ("described", "named"),
    [
        ("{", "not a PEFT configuration"),
        ('{"r": 4}', "not a PEFT configuration"),
        ("ia3", "adapter of type .*IA3; expected LORA"),
    ],
)
def test_a_configuration_of_another_kind_is_refused(described: str, named: str, tmp_path: Path) -> None:
    save_checkpoint(tmp_path, fine_tuned(CHECKPOINT))
    if described == "ia3":
        IA3Config(target_modules=["q_proj"], feedforward_modules=[]).save_pretrained(str(tmp_path))
    else:
        (tmp_path / "adapter_config.json").write_text(described)
    with pytest.raises(CheckpointError, match=named):
        load_checkpoint(tmp_path)


def test_a_lora_of_modules_that_do_not_exist_is_refused(tmp_path: Path) -> None:
    save_checkpoint(tmp_path, fine_tuned(CHECKPOINT))
    described = json.loads((tmp_path / "adapter_config.json").read_text())
    (tmp_path / "adapter_config.json").write_text(json.dumps({**described, "target_modules": ["w1"]}))
    with pytest.raises(CheckpointError, match="does not fit the network"):
        load_checkpoint(tmp_path)


def test_adapters_in_other_places_are_refused(tmp_path: Path) -> None:
    whole = load_checkpoint(CHECKPOINT)
    inject_adapter_in_model(LoraConfig(**LANGUAGE), whole.network.model)
    with pytest.raises(CheckpointError, match="a checkpoint holds one adapter"):
        save_checkpoint(tmp_path, whole)
    both = fine_tuned(CHECKPOINT)
    inject_adapter_in_model(LoraConfig(**TOWER), both.network.model.visual)
    with pytest.raises(CheckpointError, match="a checkpoint holds one adapter"):
        save_checkpoint(tmp_path, both)


@pytest.mark.parametrize("first", ["full", "adapter"])
def test_a_directory_holds_one_kind_of_checkpoint(first: str, tmp_path: Path) -> None:
    kinds = [load_checkpoint(CHECKPOINT), fine_tuned(CHECKPOINT)]
    one, other = kinds if first == "full" else kinds[::-1]
    save_checkpoint(tmp_path, one)
    with pytest.raises(CheckpointError, match="holds a checkpoint of another kind"):
        save_checkpoint(tmp_path, other)
    assert_same_outputs(outputs(load_checkpoint(tmp_path)), outputs(one))


def test_a_lora_that_could_not_be_loaded_again_is_not_saved(tmp_path: Path) -> None:
    checkpoint = fine_tuned(None, **LANGUAGE, modules_to_save=["norm"])
    with pytest.raises(CheckpointError, match="not saved, because it could not be loaded again"):
        save_checkpoint(tmp_path / "saved", checkpoint)
    assert not any((tmp_path / "saved").glob("*"))


@pytest.mark.parametrize(
    "change",
    [
        {"r": 0},
        {"r": "4"},
        {"r": 8},
        {"rank_pattern": {"q_proj": 10**9}},
        {"lora_alpha": float("nan")},
        {"lora_alpha": None},
        {"lora_dropout": 2.0},
        {"target_modules": 3},
        {"target_modules": [3]},
        {"peft_type": "SWIM"},
        {"peft_type": None},
        {"base_model_name_or_path": 3},
        {"base_model_name_or_path": "x" * 5000},
        {"revision": ["main"]},
        {"task_type": {}},
    ],
)
def test_a_wrong_value_is_an_error_that_names_the_file(change: dict[str, Any], tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "saved", fine_tuned(CHECKPOINT))
    file = tmp_path / "saved" / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | change))
    with pytest.raises(CheckpointError) as raised:
        load_checkpoint(tmp_path / "saved")
    assert "adapter_config.json" in str(raised.value)
    assert len(str(raised.value)) < 5000


@pytest.mark.parametrize("change", [{"r": "4"}, {"lora_alpha": float("inf")}, {"target_modules": 3}, {"speed": 9}, [1]])
def test_a_wrong_section_peft_is_named(change: Any, tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "saved", fine_tuned(None))
    file = tmp_path / "saved" / "config.yaml"
    settings = yaml.safe_load(file.read_text())
    settings["peft"] = settings["peft"] | change if isinstance(change, dict) else change
    file.write_text(yaml.safe_dump(settings))
    with pytest.raises(CheckpointError, match=r"config\.yaml"):
        load_checkpoint(tmp_path / "saved")


def test_an_adapter_is_not_its_own_base(tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "saved", fine_tuned(CHECKPOINT))
    file = tmp_path / "saved" / "adapter_config.json"
    described = json.loads(file.read_text())
    file.write_text(json.dumps(described | {"base_model_name_or_path": str(tmp_path / "saved")}))
    with pytest.raises(CheckpointError, match="is itself an adapted checkpoint"):
        load_checkpoint(tmp_path / "saved")
