from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file, save_model
from torch import nn

from robometer_rl.models.robometer.config import CheckpointError
from robometer_rl.models.robometer.weights import (
    check_coverage,
    common_precision,
    normalise_keys,
    read_file,
    read_weights,
    require_finite,
)
from tests.golden import CHECKPOINT, FIXTURES, copy_of, report

SHARDS = FIXTURES / "checkpoint_sharded"
FIRST, SECOND = "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"
INDEX = "model.safetensors.index.json"


def test_one_file_and_shards_hold_the_same() -> None:
    whole, parts = read_weights(CHECKPOINT), read_weights(SHARDS)
    assert {key: list(tensor.shape) for key, tensor in whole.items()} == report("state_dict_keys")
    assert set(whole) == set(parts)
    assert all(torch.equal(whole[key], parts[key]) for key in whole)


def test_a_directory_without_weights_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"expected model\.safetensors or model\.safetensors\.index\.json"):
        read_weights(tmp_path)


def test_a_missing_shard_is_named(tmp_path: Path) -> None:
    (copy_of(SHARDS, tmp_path) / SECOND).unlink()
    with pytest.raises(CheckpointError, match=f"{SECOND}, which is missing"):
        read_weights(tmp_path)


def test_a_tensor_that_the_index_promises_is_missed(tmp_path: Path) -> None:
    index = json.loads((copy_of(SHARDS, tmp_path) / INDEX).read_text())
    index["weight_map"]["success_head.7.weight"] = FIRST
    (tmp_path / INDEX).write_text(json.dumps(index))
    with pytest.raises(CheckpointError, match=r"no shard has: success_head\.7\.weight"):
        read_weights(tmp_path)


def test_a_tensor_in_two_shards_is_refused(tmp_path: Path) -> None:
    copy_of(SHARDS, tmp_path)
    first, second = read_file(tmp_path / FIRST), read_file(tmp_path / SECOND)
    key = sorted(first)[0]
    save_file({**second, key: first[key]}, tmp_path / SECOND)
    with pytest.raises(CheckpointError, match=f"another shard holds too: {key}"):
        read_weights(tmp_path)


@pytest.mark.parametrize("text", ["{", "{}", "[]", "3"])
def test_a_damaged_index_is_named(tmp_path: Path, text: str) -> None:
    (tmp_path / INDEX).write_text(text)
    with pytest.raises(CheckpointError, match="is not a weight index"):
        read_weights(tmp_path)


@pytest.mark.parametrize("length", [0, 4, 5000])
def test_a_damaged_file_is_named(tmp_path: Path, length: int) -> None:
    whole = (CHECKPOINT / "model.safetensors").read_bytes()
    (tmp_path / "model.safetensors").write_bytes(whole[:length])
    with pytest.raises(CheckpointError, match=r"model\.safetensors is not a readable safetensors file"):
        read_weights(tmp_path)


def test_both_names_of_a_shared_tensor_are_found(tmp_path: Path) -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed_tokens = nn.Embedding(4, 3)
            self.a_head = nn.Linear(3, 4, bias=False)
            self.a_head.weight = self.embed_tokens.weight

    tied = Tied()
    save_model(tied, str(tmp_path / "model.safetensors"))
    state = read_weights(tmp_path)
    assert set(state) == {"a_head.weight", "embed_tokens.weight"}
    assert torch.equal(state["embed_tokens.weight"], tied.embed_tokens.weight)


def test_keys_of_all_layouts_come_out_the_same() -> None:
    tensor = torch.zeros(1)
    expected = {"model.language_model.layers.0.mlp.up_proj.weight", "success_head.0.bias"}
    for prefix in ("model.language_model", "model.model.language_model", "model.language_model.base_model.model"):
        keys = {f"{prefix}.layers.0.mlp.up_proj.weight", "success_head.0.bias"}
        assert set(normalise_keys(dict.fromkeys(keys, tensor))) == expected


def test_only_what_has_no_place_is_ignored_and_logged(caplog: pytest.LogCaptureFixture) -> None:
    keys = ("lm_head.weight", "model.lm_head.weight", "model.language_model.rotary_emb.inv_freq", "lm_head.bias", "x")
    with caplog.at_level(logging.INFO):
        kept = normalise_keys(dict.fromkeys(keys, torch.zeros(1)))
    assert set(kept) == {"lm_head.bias", "x"}
    assert [key for key in keys if key in caplog.text] == list(keys[:3])


def test_two_tensors_for_one_place_are_refused() -> None:
    keys = ("model.visual.pos_embed.weight", "model.model.visual.pos_embed.weight")
    with pytest.raises(CheckpointError, match=r"two tensors are named model\.visual\.pos_embed\.weight"):
        normalise_keys(dict.fromkeys(keys, torch.zeros(1)))


def test_every_misfit_is_named() -> None:
    expected = {"a": torch.zeros(2), "b": torch.zeros(3), "c": torch.zeros(1)}
    with pytest.raises(CheckpointError) as raised:
        check_coverage(expected, {"a": torch.zeros(2), "b": torch.zeros(4), "d": torch.zeros(1)}, "somewhere")
    message = str(raised.value)
    assert message.startswith("the weights in somewhere do not fit the network")
    for part in ("missing c", "unexpected d", "b has shape (4,), expected (3,)"):
        assert part in message
    check_coverage(expected, expected, "somewhere")


def test_a_long_list_of_misfits_is_cut() -> None:
    with pytest.raises(CheckpointError, match=r"missing k0, .*, k7 and 2 more"):
        check_coverage({f"k{number}": torch.zeros(1) for number in range(10)}, {}, "somewhere")


@pytest.mark.parametrize(
    "index",
    [
        [],
        {"weight_map": None},
        {"weight_map": {"a": 1}},
        {"weight_map": {"a": ["b"]}},
        {"weight_map": {"a": "x" * 5000}},
    ],
)
def test_an_index_of_another_kind_is_named(index: object, tmp_path: Path) -> None:
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(CheckpointError, match=r"model\.safetensors\.index\.json") as raised:
        read_weights(tmp_path)
    assert len(str(raised.value)) < 12_000


@pytest.mark.parametrize("dtype", [torch.int8, torch.uint8, torch.int64, torch.bool, torch.float8_e4m3fn])
def test_weights_that_a_network_cannot_compute_in_are_named(dtype: torch.dtype, tmp_path: Path) -> None:
    save_file({"a": torch.zeros(2), "b": torch.zeros(2).to(dtype)}, tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match=rf"model\.safetensors holds b in {dtype}; expected float16"):
        read_weights(tmp_path)


def test_the_common_precision_is_that_of_most_numbers() -> None:
    state = {"a": torch.zeros(9), "b": torch.zeros(5, dtype=torch.bfloat16), "c": torch.zeros(5, dtype=torch.bfloat16)}
    assert common_precision(state, "somewhere") == torch.bfloat16
    with pytest.raises(CheckpointError, match="somewhere are empty"):
        common_precision({}, "somewhere")


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
def test_what_is_no_number_is_found_in_any_precision(dtype: torch.dtype, bad: float) -> None:
    sound = {"a": torch.randn(30, 30).to(dtype), "b": torch.zeros(0), "c": torch.zeros(3, device="meta")}
    require_finite(sound, "somewhere")
    poisoned = sound["a"].clone()
    poisoned[29, 3] = bad
    with pytest.raises(CheckpointError, match=r"weights in somewhere are NaN or infinite in .*: d$"):
        require_finite({**sound, "d": poisoned}, "somewhere")
