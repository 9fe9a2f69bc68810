"""What published data costs: opening many rows, frames per second of a worker, the disk of an import in place.

    python -m benchmarks.data --rows 1000 100000 1000000

Every number of rows is opened in a process of its own, so that memory is that of these rows alone. The rows are real;
all of them share one file of frames, since what is measured is the opening and not the disk.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
import tyro
from numpy.typing import NDArray

from benchmarks.recording import write_result
from robometer_rl.data.arrow import write_sealed
from robometer_rl.data.frame_files import file_sha256
from robometer_rl.data.rows import FrameFile, Row
from robometer_rl.data.store import TrajectoryStore
from robometer_rl.data.trajectory import Trajectory
from robometer_rl.formats.importing import InPlaceOptions, import_trajectories
from robometer_rl.formats.opening import open_episodes
from robometer_rl.formats.rbm.export import RbmExportConfig, export_rbm
from robometer_rl.formats.rbm.reader import RbmConfig, read_rbm

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
        name: Of the file in ``benchmarks/results``; none is written if it is empty.
    """

    rows: tuple[int, ...] = (1_000, 100_000)
    episodes: int = 1_000
    clips: int = 200
    height: int = 240
    width: int = 320
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
                            "task": f"open drawer {number % 1000}",
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


def write_store(cache: Path, path: Path) -> None:
    """Writes a sealed store with the rows of a cache, as an import in place would, with one file for all of them."""
    store = TrajectoryStore.create(path)
    first = next(read_rbm(RbmConfig(cache)))
    assert isinstance(first, Trajectory)
    store.append(first)
    file = next((path / "frames").glob("*.npz"))
    frames = FrameFile(f"frames/{file.name}", first.clip().frames.shape, file_sha256(file))  # type: ignore[arg-type]
    (path / "rows" / f"{first.id}.json").unlink()
    found = (each for each in read_rbm(RbmConfig(cache)) if isinstance(each, Trajectory))
    write_sealed(path / "rows.arrow", (Row.of(each, frames) for each in found))


def opened(kind: str, path: Path) -> dict[str, float]:
    """Seconds until a place is open, and until a random batch of 16 clips has been read, and memory in MB."""
    start = time.perf_counter()
    if kind == "store":
        store = TrajectoryStore.open(path)
        count = len(store)
    else:
        found = open_episodes([f"rbm:{path}"]).trajectories
        count = len(found)
    open_s = time.perf_counter() - start
    rng = np.random.default_rng(0)
    for number in rng.integers(count, size=16).tolist():
        trajectory = store[number] if kind == "store" else found[number]
        trajectory.frames[np.arange(CLIP)]  # type: ignore[index]
    batch_s = time.perf_counter() - start - open_s
    # What `resource` says is at least that of the process which started this one.
    peak = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM:"))
    return {"rows": count, "open_s": open_s, "batch_s": batch_s, "memory_mb": int(peak.split()[1]) / 1e3}


def frames_per_second(trajectories: Sequence[Trajectory], clips: int) -> float:
    """Frames per second of one worker that reads clips of random episodes."""
    rng = np.random.default_rng(0)
    start = time.perf_counter()
    for number in rng.integers(len(trajectories), size=clips).tolist():
        trajectories[number].frames[np.sort(rng.integers(FRAMES, size=CLIP))]  # type: ignore[index]
    return clips * CLIP / (time.perf_counter() - start)


def measure(config: DataConfig) -> dict[str, Any]:
    """Measures everything in a temporary directory."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        rows = [_rows_in_a_process(folder, kind, count, config) for count in config.rows for kind in ("rbm", "store")]
        return {"opening": rows, "import": _imported(folder, config), "frames_per_s": _read(folder, config)}


def _rows_in_a_process(folder: Path, kind: str, count: int, config: DataConfig) -> dict[str, Any]:
    cache, store = folder / str(count) / KEY, folder / str(count) / "store"
    if not cache.exists():
        write_cache(cache, count, 1, config.height, config.width)
        write_store(cache, store)
    path = cache if kind == "rbm" else store
    code = "import sys, json; from pathlib import Path; from benchmarks.data import opened; " + (
        "print(json.dumps(opened(sys.argv[1], Path(sys.argv[2]))))"
    )
    done = subprocess.run([sys.executable, "-c", code, kind, str(path)], capture_output=True, text=True, check=True)
    return {"place": kind, **json.loads(done.stdout.splitlines()[-1])}


def _imported(folder: Path, config: DataConfig) -> dict[str, float]:
    """What an import in place adds to the disk, of what its source has."""
    cache, store = folder / "source" / KEY, folder / "imported"
    write_cache(cache, config.episodes, config.episodes, 64, 64)
    start = time.perf_counter()
    import_trajectories(read_rbm(RbmConfig(cache)), InPlaceOptions(store))
    seconds = time.perf_counter() - start
    source = {path.stat().st_ino: path.stat().st_size for path in cache.rglob("*") if path.is_file()}
    added = [path.stat() for path in store.rglob("*") if path.is_file()]
    extra = sum(status.st_size for status in added if status.st_ino not in source)
    return {"episodes": config.episodes, "seconds": seconds, "added_fraction": extra / sum(source.values())}


def _read(folder: Path, config: DataConfig) -> dict[str, float]:
    """Frames per second of packed arrays, PNG images and videos of the same episodes."""
    cache = folder / "read" / KEY
    write_cache(cache, 16, 16, config.height, config.width)
    packed = [each for each in read_rbm(RbmConfig(cache)) if isinstance(each, Trajectory)]
    import_trajectories(read_rbm(RbmConfig(cache)), InPlaceOptions(folder / "packed"))
    export_rbm(RbmExportConfig(folder / "packed", folder / "videos" / "drawers_rfm"))
    videos = [each for each in read_rbm(RbmConfig(folder / "videos")) if isinstance(each, Trajectory)]
    images = TrajectoryStore(folder / "images")
    for each in videos:
        images.append(each)
    kinds = {"npz": packed, "png": list(images), "video": videos}
    for trajectories in kinds.values():
        for each in trajectories:
            each.frames[0:1]  # what is done once for a file is not what a worker does all day
    return {name: frames_per_second(trajectories, config.clips) for name, trajectories in kinds.items()}


def main(config: DataConfig) -> None:
    """Measures, prints and writes the numbers."""
    numbers = measure(config)
    print(json.dumps(numbers, indent=1))
    if config.name:
        write_result(config.name, numbers)


if __name__ == "__main__":
    main(tyro.cli(DataConfig))
