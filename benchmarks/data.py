"""What published data costs: opening many rows, frames per second of a worker, the disk of an import in place.

    python -m benchmarks.data --rows 1000 100000 1000000

Every place is opened in a process of its own, so that memory is that of these rows alone. The rows are real; all of
them share one file of frames, since what is measured is the opening and not the disk. Seconds are those of the clock
and those of the processor, which say the same where nothing else runs.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
import tyro
from numpy.typing import NDArray

from benchmarks.recording import write_result
from robometer_rl.data.arrow import write_sealed
from robometer_rl.data.pack import PackConfig, pack
from robometer_rl.data.rows import Row
from robometer_rl.data.store import TrajectoryStore
from robometer_rl.data.trajectory import QualityLabel, Trajectory
from robometer_rl.formats.importing import InPlaceOptions, import_trajectories
from robometer_rl.formats.opening import open_episodes
from robometer_rl.formats.rbm.export import RbmExportConfig, export_rbm
from robometer_rl.formats.rbm.reader import RbmConfig, read_rbm
from robometer_rl.training.collate import PixelSource
from robometer_rl.training.episodes import make_episodes
from robometer_rl.training.pipeline import split_episodes
from robometer_rl.training.samples import ClipSample
from robometer_rl.training.sampling import Sampler, SamplingConfig

__all__ = ["DataConfig", "main", "measure", "write_cache"]

FRAMES: Final = 32
CLIP: Final = 8  # frames of a sample
KEY: Final = "someone_drawers_rfm_drawers"


@dataclass(frozen=True)
class DataConfig:
    """What to measure.

    Attributes:
        rows: Numbers of rows to open.
        episodes: Of the import in place.
        clips: Clips that are read for frames per second.
        height: Of frames.
        width: Of frames.
        folder: Where a temporary directory is made; the system's own if None. A million rows take 3 GB.
        name: Of the file in ``benchmarks/results``; none is written if it is empty.
    """

    rows: tuple[int, ...] = (1_000, 100_000, 1_000_000)
    episodes: int = 1_000
    clips: int = 200
    height: int = 240
    width: int = 320
    folder: Path | None = None
    name: str = "data"


def pictures(seed: int, height: int, width: int) -> NDArray[np.uint8]:
    """Frames (`FRAMES`, height, width, 3) that a camera might have seen: smooth, moving, with some noise."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (height // 16 + 2, width // 16 + 2, 3)).astype(np.float32)
    rows, columns = (
        np.linspace(0, size - 1.001, pixels) for size, pixels in zip(coarse.shape, (height, width), strict=False)
    )
    picture = coarse[rows.astype(int)][:, columns.astype(int)]
    noise = rng.normal(0, 3, (FRAMES, height, width, 3))
    return np.clip([np.roll(picture, step, 1) for step in range(FRAMES)] + noise, 0, 255).astype(np.uint8)


def write_cache(folder: Path, num_rows: int, files: int, height: int, width: int) -> None:
    """Writes a preprocessed cache with so many rows that share so many files of frames."""
    (folder / "processed_dataset").mkdir(parents=True)
    (folder / "frames").mkdir()
    for number in range(files):
        frames = pictures(number, height, width)
        np.savez_compressed(folder / "frames" / f"trajectory_{number}.npz", frames=frames)
    schema = pa.schema(
        {
            **dict.fromkeys(("id", "task", "data_source", "frames", "quality_label"), pa.string()),
            "is_robot": pa.bool_(),
            "partial_success": pa.float64(),
            "frames_shape": pa.list_(pa.int64()),
        }
    )
    path = folder / "processed_dataset" / "data-00000-of-00001.arrow"
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_stream(sink, schema) as writer:
        for start in range(0, num_rows, 1000):
            numbers = range(start, min(start + 1000, num_rows))
            writer.write_batch(
                pa.RecordBatch.from_pylist(
                    [
                        {
                            "id": f"row-{number:08d}",
                            "task": _task(number),
                            "data_source": "drawers",
                            "frames": f"./processed_datasets/{KEY}/frames/trajectory_{number % files}.npz",
                            "quality_label": ("successful", "failure")[number % 2],
                            "is_robot": True,
                            "frames_shape": [FRAMES, height, width, 3],
                        }
                        for number in numbers
                    ],
                    schema,
                )
            )


def _task(number: int) -> str:
    """Twenty attempts at each."""
    return f"open drawer {number // 20}"


def write_packed(cache: Path, path: Path, num_rows: int) -> None:
    """Writes a packed store with so many rows, as an import and `pack` would; one frame file stands for all of them."""
    first = next(read_rbm(RbmConfig(cache)))
    assert isinstance(first, Trajectory)
    loose = TrajectoryStore.create(path.with_name("loose"))
    loose.append(first)
    packed = pack(PackConfig(loose.path, path))
    row = packed.row(first.id)
    outcomes: tuple[QualityLabel, QualityLabel] = ("successful", "failure")
    runs = (
        replace(first, id=f"row-{number:08d}", task=_task(number), quality_label=outcomes[number % 2])
        for number in range(num_rows)
    )
    write_sealed(path / "rows.arrow", (Row.of(run, row.frames) for run in runs), packed=True)


def opened(place: str) -> dict[str, float]:
    """What a training does before its first step: it opens its data, plans what to draw, and reads a batch of 16."""
    watch = _Watch()
    found = open_episodes([place], lambda each: each.split == "train").trajectories
    numbers = {"rows": len(found), **watch.lap("open")}
    kept, _ = split_episodes(found, 0.001, seed=0)
    sampler = Sampler(make_episodes(kept), SamplingConfig(max_frames=CLIP))
    numbers |= watch.lap("plan")
    source = PixelSource(kept, augment=False, seed=0)
    for number in range(16):
        sample = sampler.sample(0, number)
        for side in (sample,) if isinstance(sample, ClipSample) else (sample.first, sample.second):
            source.frames(side)
    numbers |= watch.lap("batch")
    # What `resource` says is at least that of the process which started this one.
    peak = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM:"))
    return {**numbers, "memory_mb": int(peak.split()[1]) / 1e3}


class _Watch:
    """Seconds of the clock and of the processor."""

    def __init__(self) -> None:
        self._last = time.perf_counter(), time.process_time()

    def lap(self, name: str) -> dict[str, float]:
        """Seconds since the last lap."""
        now = time.perf_counter(), time.process_time()
        wall, cpu = (one - other for one, other in zip(now, self._last, strict=True))
        self._last = now
        return {f"{name}_s": wall, f"{name}_cpu_s": cpu}


def frames_per_second(trajectories: Sequence[Trajectory], clips: int) -> dict[str, float]:
    """Frames per second of one worker that reads clips of random episodes, of the clock and of the processor."""
    rng = np.random.default_rng(0)
    watch = _Watch()
    for number in rng.integers(len(trajectories), size=clips).tolist():
        trajectories[number].frames[np.sort(rng.integers(FRAMES, size=CLIP))]  # type: ignore[index]
    spent = watch.lap("read")
    return {"wall": clips * CLIP / spent["read_s"], "cpu": clips * CLIP / spent["read_cpu_s"]}


def measure(config: DataConfig) -> dict[str, Any]:
    """Measures everything in a temporary directory."""
    with tempfile.TemporaryDirectory(dir=config.folder) as name:
        folder = Path(name)
        numbers = {"frames_per_s": _read(folder, config), "import": _imported(folder, config), "opening": []}
        for count in config.rows:
            for each in _openings(folder / str(count), count, config):
                numbers["opening"].append(each)
                if config.name:  # the largest take long, and the machine may be wanted meanwhile
                    write_result(config.name, numbers)
        return numbers


def _openings(folder: Path, count: int, config: DataConfig) -> Iterator[dict[str, Any]]:
    """A packed store, and published data in place for the first time and again, with so many rows."""
    cache, packed = folder / KEY, folder / "packed"
    write_cache(cache, count, 1, config.height, config.width)
    index = folder / "cache"
    write_packed(cache, packed, count)
    for kind, place in (("packed", str(packed)), ("rbm, first time", f"rbm:{cache}"), ("rbm", f"rbm:{cache}")):
        found = _in_a_process(place, index)
        files = [packed / "rows.arrow"] if kind == "packed" else index.rglob("*.arrow")
        yield {"place": kind, **found, "index_bytes_per_row": sum(file.stat().st_size for file in files) / count}
    shutil.rmtree(folder)


def _in_a_process(place: str, cache: Path) -> dict[str, Any]:
    code = "import sys, json; from benchmarks.data import opened; print(json.dumps(opened(sys.argv[1])))"
    environment = os.environ | {"ROBOMETER_CACHE": str(cache)}
    command = [sys.executable, "-c", code, place]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    return json.loads(done.stdout.splitlines()[-1])


def _imported(folder: Path, config: DataConfig) -> dict[str, float]:
    """What an import in place adds to the disk, of what its source has."""
    cache, store = folder / "source" / KEY, folder / "imported"
    write_cache(cache, config.episodes, config.episodes, 64, 64)
    watch = _Watch()
    import_trajectories(read_rbm(RbmConfig(cache)), InPlaceOptions(store))
    spent = watch.lap("import")
    source = {path.stat().st_ino: path.stat().st_size for path in cache.rglob("*") if path.is_file()}
    added = [path.stat() for path in store.rglob("*") if path.is_file()]
    extra = sum(status.st_size for status in added if status.st_ino not in source)
    return {"episodes": config.episodes, **spent, "added_fraction": extra / sum(source.values())}


def _read(folder: Path, config: DataConfig) -> dict[str, Any]:
    """Frames per second, and bytes of an episode, of arrays, PNG images and videos, in files and in shards."""
    cache = folder / "read" / KEY
    write_cache(cache, 16, 16, config.height, config.width)
    packed = [each for each in read_rbm(RbmConfig(cache)) if isinstance(each, Trajectory)]
    import_trajectories(read_rbm(RbmConfig(cache)), InPlaceOptions(folder / "packed"))
    export_rbm(RbmExportConfig(folder / "packed", folder / "videos" / "drawers_rfm"))
    videos = [each for each in read_rbm(RbmConfig(folder / "videos")) if isinstance(each, Trajectory)]
    images = TrajectoryStore(folder / "images")
    for each in videos:
        images.append(each)
    kept = TrajectoryStore(folder / "kept")
    for each in videos:
        kept.append(each, keep_video=True)
    stores = {"npz": TrajectoryStore.open(folder / "packed"), "png": images, "video": kept}
    kinds: dict[str, Sequence[Trajectory]] = {"npz in place": packed, "video in place": videos}
    numbers: dict[str, Any] = {}
    for name, store in stores.items():
        kinds[name] = list(store)
        shards = pack(PackConfig(store.path, folder / f"shards_{name}"))
        kinds[f"shards of {name}"] = list(shards)
        numbers[f"shards of {name}"] = {"bytes_per_episode": sum(shards.shards.values()) / len(shards)}
    for name, trajectories in kinds.items():
        for each in trajectories:
            each.frames[0:1]  # what is done once for a file is not what a worker does all day
        numbers.setdefault(name, {}).update(frames_per_second(trajectories, config.clips))
    return numbers


def main(config: DataConfig) -> None:
    """Measures, prints and writes the numbers."""
    numbers = measure(config)
    print(json.dumps(numbers, indent=1))
    if config.name:
        write_result(config.name, numbers)


if __name__ == "__main__":
    main(tyro.cli(DataConfig))
