"""What lower precision costs: memory of the weights, and how far progress and success move from float32.

    python benchmarks/precision.py                       # writes results/precision.json
    python benchmarks/precision.py --models mini

``int8`` needs torchao (extra ``int8``). Values are dense scores of one episode under nested frames.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import tyro
from inference import FIXTURE, SIDES, TASK, WIDE, ModelName, episode
from recording import write_result
from rich.console import Console
from rich.table import Table

from robometer_rl import Clip, NestedFrames, load_reward_model
from robometer_rl.models.locations import locate
from robometer_rl.models.robometer.checkpoint import save_checkpoint
from robometer_rl.models.robometer.inference import Robometer
from robometer_rl.models.robometer.quantization import WeightFormat
from robometer_rl.training.from_scratch import make_checkpoint

FORMATS: tuple[tuple[str, WeightFormat | None], ...] = (
    ("float32", None),
    ("bfloat16", None),
    ("float32", "int8"),
    ("bfloat16", "int8"),
)


@dataclass
class Args:
    """Options.

    Attributes:
        models: ``wide`` is a random model of 8 layers and width 512; ``fixture`` a random one of 3 layers and width 64.
        steps: Length of the episode.
    """

    models: tuple[ModelName, ...] = ("wide", "mini", "fixture")
    steps: int = 60


def directory_of(name: ModelName, temporary: Path) -> Path:
    """The checkpoint to measure."""
    if name == "wide":
        save_checkpoint(temporary, make_checkpoint(WIDE, [TASK], seed=0))
        return temporary
    return FIXTURE if name == "fixture" else locate("mini").directory


def nbytes(tensor: torch.Tensor) -> int:
    """Memory of a tensor, or of the tensors that a quantised one is made of."""
    if type(tensor) in (torch.Tensor, torch.nn.Parameter):
        return tensor.numel() * tensor.element_size()
    names, _ = tensor.__tensor_flatten__()  # pyright: ignore[reportAttributeAccessIssue]
    return sum(nbytes(getattr(tensor, name)) for name in names)


def measure(directory: Path, clip: Clip) -> dict[str, dict[str, float]]:
    """Megabytes, and largest and mean distance from float32, of every format."""
    results: dict[str, dict[str, float]] = {}
    exact = None
    for dtype, weights in FORMATS:
        model = load_reward_model(directory, dtype=dtype, weights=weights)
        assert isinstance(model, Robometer)
        (prediction,) = model.predict_steps([clip], NestedFrames(8))
        exact = exact or prediction
        progress, success = (
            np.abs(getattr(prediction, name) - getattr(exact, name)) for name in ("progress", "success")
        )
        results[model.dtype] = {
            "megabytes": sum(nbytes(parameter) for parameter in model.network.parameters()) / 1e6,
            "progress_max": float(progress.max()),
            "progress_mean": float(progress.mean()),
            "success_max": float(success.max()),
            "success_mean": float(success.mean()),
        }
    return results


def main(args: Args) -> None:
    """Measures, prints and records."""
    results = {}
    for name in args.models:
        with tempfile.TemporaryDirectory() as temporary:
            clip = Clip(episode(SIDES[name], args.steps), TASK)
            results[name] = measure(directory_of(name, Path(temporary)), clip)
    table = Table("model", "precision", "MB", "progress max", "mean", "success max", "mean")
    for name, formats in results.items():
        for precision, numbers in formats.items():
            table.add_row(
                name, precision, f"{numbers['megabytes']:.2f}", *(f"{v:.4f}" for v in [*numbers.values()][1:])
            )
    console = Console()
    console.print(table)
    console.print(f"wrote {write_result('precision', results)}")


if __name__ == "__main__":
    main(tyro.cli(Args))
