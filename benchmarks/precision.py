"""What lower precision costs and saves: memory of the weights, time, and how far values move from float32.

    python benchmarks/precision.py                       # writes results/precision.json
    python benchmarks/precision.py --models mini         # the results of other models are kept

``int8`` needs torchao (extra ``int8``). Values are dense scores of one episode under nested frames. Of robometer-mini
the newest frames of 1 and 16 environments are timed, one `stream.append` on one thread, in float32 and bfloat16, with
transformers' layers and with those written out in `robometer_rl.models.robometer.written_out`. The four take turns at
each frame, and what is counted is the time of the processor, so that other programs on the machine matter less.
"""

from __future__ import annotations

import json
import tempfile
import time
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import dataclass
from pathlib import Path
from unittest.mock import patch

import numpy as np
import torch
import tyro
from inference import FIXTURE, SIDES, TASK, WIDE, ModelName, episode
from recording import RESULTS, write_result
from rich.console import Console
from rich.table import Table

from robometer_rl import Clip, NestedFrames, load_reward_model
from robometer_rl.models.locations import locate
from robometer_rl.models.robometer import decoder, vision
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
        environments: Sizes of the streams that are timed.
        appends: Frames that each of them is given.
    """

    models: tuple[ModelName, ...] = ("wide", "mini", "fixture")
    steps: int = 60
    environments: tuple[int, ...] = (1, 16)
    appends: int = 100


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


def layers(written: bool) -> AbstractContextManager[object]:
    """Uses transformers' own layers within the block, or those that are written out."""
    if written:
        return nullcontext()
    own = ExitStack()
    for module in (decoder, vision):
        own.enter_context(patch.object(module, "can_write_out", lambda *_: False))
    return own


def time_appends(directory: Path, environments: int, args: Args) -> dict[str, dict[str, float]]:
    """Milliseconds of the processor per append, and how many times as fast as transformers' layers in float32."""
    frames = episode(SIDES["mini"], args.appends)
    streams, spent = {}, {}
    for dtype in ("float32", "bfloat16"):
        model = load_reward_model(directory, dtype=dtype)
        assert isinstance(model, Robometer)
        model.threads = 1
        for written in (False, True):
            way = f"{dtype}, {'written out' if written else 'transformers'}"
            streams[way] = written, model.stream([TASK] * environments, NestedFrames(8))
            spent[way] = []
    for frame in frames:
        for way, (written, stream) in streams.items():
            with layers(written):
                started = time.thread_time()
                stream.append([frame] * environments)
                spent[way].append((time.thread_time() - started) * 1e3)
    first = np.array(spent["float32, transformers"])
    return {
        way: {
            "p10_ms": float(np.percentile(times, 10)),
            "p50_ms": float(np.median(times)),
            "times_as_fast": float(np.median(first / np.array(times))),
        }
        for way, times in spent.items()
    }


def main(args: Args) -> None:
    """Measures, prints and records."""
    path = RESULTS / "precision.json"
    kept = json.loads(path.read_text()) if path.exists() else {}
    timed = kept.get("appends", {})
    results = {name: kept[name] for name in SIDES if name in kept}
    # Where the numbers of models that are not measured now come from.
    earlier = kept.get("earlier", kept.get("origin")) if set(results) - set(args.models) else None
    for name in args.models:
        with tempfile.TemporaryDirectory() as temporary:
            clip = Clip(episode(SIDES[name], args.steps), TASK)
            directory = directory_of(name, Path(temporary))
            results[name] = measure(directory, clip)
            if name == "mini":
                timed = {str(count): time_appends(directory, count, args) for count in args.environments}
    table = Table("model", "precision", "MB", "progress max", "mean", "success max", "mean")
    for name, formats in results.items():
        for precision, numbers in formats.items():
            table.add_row(
                name, precision, f"{numbers['megabytes']:.2f}", *(f"{v:.4f}" for v in [*numbers.values()][1:])
            )
    console = Console()
    console.print(table)
    table = Table("environments", "one append", "ms, p10", "p50", "x as fast")
    for count, ways in timed.items():
        for way, numbers in ways.items():
            table.add_row(count, way, *(f"{value:.2f}" for value in numbers.values()))
    console.print(table)
    console.print(f"wrote {write_result('precision', {**results, 'appends': timed, 'earlier': earlier})}")


if __name__ == "__main__":
    main(tyro.cli(Args))
