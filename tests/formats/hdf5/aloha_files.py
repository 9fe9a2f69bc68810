"""Episodes as ALOHA's recorder and ACT's simulation lay them out, for tests."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from PIL import Image

STEPS = 5
TASK = "hand over the cube"
CAMERAS = ("cam_high", "cam_left_wrist")
ACTIONS = np.random.default_rng(0).random((STEPS, 14))


def pictures(camera: str) -> np.ndarray:
    """Smooth, so that JPEG changes little, and of another colour everywhere."""
    frames = np.zeros((STEPS, 32, 48, 3), np.uint8)
    frames[..., 0] = np.linspace(100, 250, 48).astype(np.uint8)
    frames[..., 1] = 60 + 10 * np.arange(STEPS)[:, None, None]
    frames[..., 2] = 20 if camera == "cam_high" else 90
    return frames


def jpegs(frames: np.ndarray) -> list[bytes]:
    """As OpenCV writes RGB that it takes for BGR."""
    files = []
    for frame in frames:
        file = io.BytesIO()
        Image.fromarray(np.ascontiguousarray(frame[..., ::-1])).save(file, "JPEG", quality=95, subsampling=0)
        files.append(file.getvalue())
    return files


def record(path: Path, compress: bool, variable: bool = False, **attributes: Any) -> Path:
    with h5py.File(path, "w") as root:
        root.attrs["sim"] = False
        root.attrs["compress"] = compress
        for name, value in attributes.items():
            root.attrs[name] = value
        images = root.create_group("observations").create_group("images")
        for camera in CAMERAS:
            if not compress:
                images.create_dataset(camera, data=pictures(camera), chunks=(1, 32, 48, 3))
                continue
            files = jpegs(pictures(camera))
            if variable:
                stored = images.create_dataset(camera, (STEPS,), dtype=h5py.vlen_dtype(np.uint8))
                for number, each in enumerate(files):
                    stored[number] = np.frombuffer(each, np.uint8)
                continue
            size = max(map(len, files)) + 7
            rows = np.stack([np.frombuffer(each.ljust(size, b"\0"), np.uint8) for each in files])
            images.create_dataset(camera, data=rows, chunks=(1, size))
        root.create_dataset("observations/qpos", data=np.ones((STEPS, 14)))
        root.create_dataset("observations/qvel", data=np.zeros((STEPS, 14)))
        root.create_dataset("action", data=ACTIONS)
    return path
