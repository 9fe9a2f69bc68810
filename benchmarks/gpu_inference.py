"""Latency of dense rewards at the published 4B shape on a GPU, beside the limits of the machine.

    python benchmarks/gpu_inference.py                                  # one CUDA device, bfloat16, random weights
    python benchmarks/gpu_inference.py --shape small --device cpu --dtype float32 --steps 20

Weights are random: time depends on shapes alone. Reported for every number of environments: milliseconds per call and
per environment, frames per second, and the shares of two limits that are measured in the same run, the rate of large
matrix products and the rate at which the weights can be read once per call.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
import tyro
from inference import TASK, WIDE, episode
from recording import write_result
from rich.console import Console
from rich.table import Table

from robometer_rl import NestedFrames
from robometer_rl.models.robometer.backbone import Qwen3VL
from robometer_rl.models.robometer.checkpoint import Checkpoint
from robometer_rl.models.robometer.inference import Robometer
from robometer_rl.models.robometer.network import RobometerNetwork
from robometer_rl.training.from_scratch import make_checkpoint

# Qwen/Qwen3-VL-4B-Instruct, with the vocabulary that the published Robometer has.
PUBLISHED = {
    "model_type": "qwen3_vl",
    "text_config": {
        "model_type": "qwen3_vl_text",
        "hidden_size": 2560,
        "intermediate_size": 9728,
        "num_hidden_layers": 36,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "head_dim": 128,
        "vocab_size": 151674,
        "max_position_embeddings": 262144,
        "rope_theta": 5000000.0,
        "rope_scaling": {"rope_type": "default", "mrope_section": [24, 20, 20], "mrope_interleaved": True},
    },
    "vision_config": {
        "model_type": "qwen3_vl",
        "depth": 24,
        "hidden_size": 1024,
        "intermediate_size": 4096,
        "num_heads": 16,
        "patch_size": 16,
        "spatial_merge_size": 2,
        "temporal_patch_size": 2,
        "out_hidden_size": 2560,
        "num_position_embeddings": 2304,
        "deepstack_visual_indexes": [5, 11, 17],
    },
}


@dataclass
class Args:
    """Options.

    Attributes:
        shape: ``published`` is the 4B shape; ``small`` a network of 8 layers and width 512.
        device: Where to run.
        dtype: Precision of the weights.
        side: Frames are squares of this many pixels.
        steps: Appends that are timed.
        environments: Sizes of a stream.
    """

    shape: Literal["published", "small"] = "published"
    device: str = "cuda"
    dtype: Literal["bfloat16", "float16", "float32"] = "bfloat16"
    side: int = 256
    steps: int = 60
    environments: tuple[int, ...] = (1, 16)


def build(args: Args) -> Robometer:
    """A random model of the asked shape behind robometer-mini's tokenizer, whose prompts have realistic lengths."""
    checkpoint = make_checkpoint(WIDE, [TASK], seed=0)
    processor = checkpoint.processor
    network = checkpoint.network
    if args.shape == "published":
        with torch.device("meta"):
            network = RobometerNetwork(Qwen3VL.of(PUBLISHED), processor.config, network.special)
        network = network.to(getattr(torch, args.dtype)).to_empty(device=args.device)
        for parameter in network.parameters():
            torch.nn.init.normal_(parameter, std=0.02)
    network = network.to(device=args.device, dtype=getattr(torch, args.dtype)).eval()
    # Rotary frequencies are computed, not loaded, and stay in float32.
    decoder, tower = network.model.language_model, network.model.visual
    decoder.rotary_emb = type(decoder.rotary_emb)(decoder.config).to(args.device)
    tower.rotary_pos_emb = type(tower.rotary_pos_emb)(tower.config).to(args.device)
    return Robometer(Checkpoint(network, processor, checkpoint.backbone_json), source="random", model_id=args.shape)


def synchronized(device: str) -> None:
    """Waits for the device."""
    if device.startswith("cuda"):
        torch.cuda.synchronize()


def best_seconds(work: Callable[[], object], device: str, repeats: int = 5) -> float:
    """Shortest of a few runs after a warm-up."""
    work()
    times = []
    for _ in range(repeats):
        synchronized(device)
        start = time.perf_counter()
        work()
        synchronized(device)
        times.append(time.perf_counter() - start)
    return min(times)


def limits(args: Args) -> dict[str, float]:
    """Matrix-product rate in FLOP/s and memory-read rate in bytes/s of the device, at the benchmark's precision."""
    dtype, device = getattr(torch, args.dtype), args.device
    width = 8192 if device.startswith("cuda") else 1024
    a = torch.randn(width, width, device=device, dtype=dtype)
    product = best_seconds(lambda: a @ a, device)
    block = torch.empty(
        (1 << 30 if device.startswith("cuda") else 1 << 26) // a.element_size(), device=device, dtype=dtype
    )
    read = best_seconds(block.sum, device)
    return {"matrix_flops": 2 * width**3 / product, "read_bytes": block.numel() * block.element_size() / read}


def operations(model: Robometer, tokens: int, patches: int) -> float:
    """Multiply-add operations of one frame, counted as two each: weights times tokens, attention left out."""
    tower = sum(parameter.numel() for parameter in model.network.model.visual.blocks.parameters())
    decoder = sum(parameter.numel() for parameter in model.network.model.language_model.layers.parameters())
    return 2.0 * (tower * patches + decoder * tokens)


def time_stream(model: Robometer, environments: int, args: Args, measured: dict[str, float]) -> dict[str, float]:
    """Latency of `stream.append` beside the limits."""
    frames = episode(args.side, args.steps)
    stream = model.stream([TASK] * environments, NestedFrames(8))
    for _ in range(2):
        stream.reset()
        latency = []
        for frame in frames:
            synchronized(args.device)
            start = time.perf_counter()
            stream.append([frame] * environments)
            latency.append(time.perf_counter() - start)
    grid = model.processor.patcher.grid(args.side, args.side)
    tokens = len(model.processor.tokens.frame(2, grid))
    median = float(np.median(latency))
    work = environments * operations(model, tokens, grid[0] * grid[1])
    weights = sum(parameter.nbytes for parameter in model.network.parameters())
    return {
        "append_p50_ms": median * 1e3,
        "append_p99_ms": float(np.percentile(latency, 99)) * 1e3,
        "ms_per_environment": median * 1e3 / environments,
        "frames_per_second": environments / median,
        "share_of_matrix_rate": work / measured["matrix_flops"] / median,
        "share_of_weight_read": weights / measured["read_bytes"] / median,
    }


def main(args: Args) -> None:
    """Runs the benchmark."""
    if args.device.startswith("cuda") and not torch.cuda.is_available():
        raise SystemExit("no CUDA device here; try --shape small --device cpu --dtype float32")
    model = build(args)
    measured = limits(args)
    streams = {n: time_stream(model, n, args, measured) for n in args.environments}
    memory = torch.cuda.max_memory_allocated() / 2**20 if args.device.startswith("cuda") else None
    table = Table("environments", *next(iter(streams.values())), title=f"{args.shape}, {args.device}, {args.dtype}")
    for environments, cell in streams.items():
        table.add_row(str(environments), *(f"{value:.3g}" for value in cell.values()))
    Console(width=140).print(table)
    name = "gpu_inference" if args.device.startswith("cuda") else f"gpu_inference_{args.shape}_cpu"
    parameters = sum(parameter.numel() for parameter in model.network.parameters())
    numbers = {"arguments": vars(args), "parameters": parameters, "limits": measured, "streams": streams}
    print(f"wrote {write_result(name, {**numbers, 'peak_memory_mb': memory})}")


if __name__ == "__main__":
    main(tyro.cli(Args))
