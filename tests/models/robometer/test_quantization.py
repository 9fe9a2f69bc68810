from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

from robometer_rl.models.robometer.checkpoint import load_checkpoint, save_checkpoint
from robometer_rl.models.robometer.config import CheckpointError
from robometer_rl.models.robometer.heads import decode_progress
from tests.golden import BASE, CHECKPOINT, FIXTURES, clips, tiny


def nbytes(tensor: torch.Tensor) -> int:
    """Memory of a tensor, or of the tensors that a quantised one is made of."""
    if type(tensor) in (torch.Tensor, torch.nn.Parameter):
        return tensor.numel() * tensor.element_size()
    names, _ = tensor.__tensor_flatten__()  # pyright: ignore[reportAttributeAccessIssue]
    return sum(nbytes(getattr(tensor, name)) for name in names)


def test_without_torchao_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torchao.quantization", None)
    with pytest.raises(ImportError, match=r"pip install 'robometer-rl\[int8\]'"):
        load_checkpoint(CHECKPOINT, weights="int8")


def test_an_unknown_format_is_refused() -> None:
    with pytest.raises(ValueError, match="weights='int3'; expected 'int8'"):
        load_checkpoint(CHECKPOINT, weights="int3")  # pyright: ignore[reportArgumentType]


def test_quantised_weights_are_not_saved(tmp_path: Path) -> None:
    checkpoint = load_checkpoint(CHECKPOINT)
    checkpoint.weights = "int8"
    with pytest.raises(CheckpointError, match="int8 weights are for inference"):
        save_checkpoint(tmp_path, checkpoint)


@torch.inference_mode()
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_eight_bits_are_close_and_small(dtype: torch.dtype) -> None:
    pytest.importorskip("torchao")
    checkpoint = load_checkpoint(CHECKPOINT, dtype=dtype, weights="int8")
    inputs = tiny().processor.progress_inputs(clips("progress_batch", "prog0", "prog1", "prog2"))
    progress, _ = decode_progress(checkpoint.network(inputs).progress)
    expected, _ = decode_progress(tiny().network(inputs).progress)
    assert (progress - expected).abs().max() < 0.02
    network = checkpoint.network
    matrix = network.model.language_model.layers[0].mlp.up_proj.weight
    # One byte a weight, and a scale for each row.
    assert nbytes(matrix) <= matrix.numel() + 8 * len(matrix)
    assert network.progress_head[0].weight.dtype == network.dtype == dtype
    assert checkpoint.precision == f"{str(dtype).removeprefix('torch.')} (int8 weights)"
    assert tiny().precision == "float32"


@torch.inference_mode()
def test_adapters_keep_their_precision_on_eight_bits() -> None:
    pytest.importorskip("torchao")
    shown = clips("progress_batch", "prog0", "prog1", "prog2")
    exact, quantised = (
        load_checkpoint(FIXTURES / "checkpoint_lora", weights=weights, base_model=BASE) for weights in (None, "int8")
    )
    inputs = exact.processor.progress_inputs(shown)
    difference = (
        decode_progress(quantised.network(inputs).progress)[0] - decode_progress(exact.network(inputs).progress)[0]
    )
    assert difference.abs().max() < 0.02
    lora = {name: p for name, p in quantised.network.named_parameters() if ".lora_" in name}
    assert lora
    assert all(type(parameter) is torch.nn.Parameter for parameter in lora.values())
