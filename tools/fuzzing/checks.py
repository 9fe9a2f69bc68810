"""Whether files are whole: whatever a command has written can be read to its end, whenever it was ended."""

from __future__ import annotations

import csv
import hashlib
import json
import zipfile
from collections.abc import Set
from contextlib import suppress
from pathlib import Path

import h5py
import imageio_ffmpeg
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import yaml
from PIL import Image
from safetensors import SafetensorError, safe_open

ERRORS = (ValueError, OSError, EOFError, KeyError, RuntimeError, SyntaxError, zipfile.BadZipFile, SafetensorError)


def torn(written: Path, copied: Set[str] = frozenset()) -> list[str]:
    """What is not whole of the file or folder ``written``.

    Hidden files are not looked at, since nobody takes them for results, nor those whose hashes are in ``copied``.
    """
    files = [written] if written.is_file() else [path for path in sorted(written.rglob("*")) if path.is_file()]
    problems: list[str] = []
    for path in files:
        if any(part.startswith(".") for part in path.relative_to(written.parent).parts):
            continue
        try:
            if _hash(path) not in copied:
                check(path)
        except (*ERRORS, pa.ArrowException, yaml.YAMLError) as error:
            problems.append(f"{path.relative_to(written.parent)}: {type(error).__name__}: {str(error)[:200]}")
    return problems


def check(path: Path) -> None:
    """Reads a file to its end; raises if it is torn."""
    suffix = path.suffix.lower()
    if suffix == ".json":
        json.loads(path.read_text("utf-8"))
    elif suffix == ".jsonl":
        [json.loads(line) for line in path.read_text("utf-8").splitlines()]
    elif suffix in (".yaml", ".yml"):
        yaml.safe_load(path.read_text("utf-8"))
    elif suffix in (".png", ".jpg"):
        with Image.open(path) as image:
            image.load()
    elif suffix == ".mp4":
        reader = imageio_ffmpeg.read_frames(str(path))
        next(reader)
        _require(sum(1 for _ in reader) > 0, "no frames")
    elif suffix == ".npy":
        np.load(path, mmap_mode="r")
    elif suffix in (".npz", ".zip"):
        with zipfile.ZipFile(path) as archive:
            _require(archive.testzip() is None, "a member is damaged")
    elif suffix == ".csv":
        rows = list(csv.reader(path.open(newline="", encoding="utf-8")))
        _require(len({len(row) for row in rows}) == 1, "rows of different lengths")
    elif suffix == ".parquet":
        pq.read_table(path)
    elif suffix == ".arrow":
        with pa.memory_map(str(path)) as source:
            is_file = path.read_bytes()[:6] == b"ARROW1"
            (pa.ipc.open_file if is_file else pa.ipc.open_stream)(source).read_all()
    elif suffix in (".hdf5", ".h5"):
        with h5py.File(path) as file:
            file.visititems(lambda _, item: item[()] if isinstance(item, h5py.Dataset) else None)
    elif suffix == ".safetensors":
        with safe_open(path, "np") as tensors:
            list(tensors.keys())
    elif suffix == ".html":
        _require(path.read_text("utf-8").rstrip().endswith("</html>"), "the page ends in the middle")


def _hash(path: Path) -> str:
    content = path.read_bytes()
    if path.suffix == ".safetensors" and len(content) > 8:
        # Its writer puts what it is told beside the tensors in any order.
        end = 8 + int.from_bytes(content[:8], "little")
        with suppress(ValueError, RecursionError):  # a damaged one is what it is
            content = json.dumps(json.loads(content[8:end]), sort_keys=True).encode() + content[end:]
    return hashlib.sha256(content).hexdigest()


def _require(condition: bool, problem: str) -> None:
    if not condition:
        raise ValueError(problem)


def digest(path: Path) -> dict[str, str]:
    """What is at ``path``: kinds of entries, targets of links and hashes of files, by their path below it."""
    entries = [path, *sorted(path.rglob("*"))] if path.is_dir() and not path.is_symlink() else [path]
    found: dict[str, str] = {}
    for entry in entries:
        name = entry.relative_to(path).as_posix()
        if entry.is_symlink():
            found[name] = f"link to {entry.readlink()}"
        elif entry.is_dir():
            found[name] = "folder"
        elif entry.is_file():
            found[name] = _hash(entry)
        else:
            found[name] = "other"
    return found
