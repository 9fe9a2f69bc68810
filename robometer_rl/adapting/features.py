"""What the frozen image network makes of every frame, kept on disk: each frame of a store is looked at once.

Beside the frames as they are, each episode has views in another light and from a camera that hangs a little
differently, about half of them with a few things more in them. One file per episode and view, named by a checksum of
the frames, the network and the view, so that a store that has grown costs what is new, and nothing stale is ever read.
"""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray

from robometer_rl.adapting.arithmetic import fast_arithmetic
from robometer_rl.data.augment import add_distractors, augment_frames
from robometer_rl.files import new_file
from robometer_rl.frames import as_frames
from robometer_rl.models.compact.tower import Features, Maps, Tower

__all__ = ["FOLDER", "FeatureFiles", "from_rows", "to_rows"]

FOLDER: Final = "features"
"""Where features lie within a store."""

_VIEWS: Final = "light and things"  # how they are made
_BATCH: Final = 64  # pictures that are looked at together
_BATCH_OF_PROCESSOR: Final = 4  # the same where the cache of a processor has to hold them


def to_rows(features: Features) -> NDArray[np.float16]:
    """(N, numbers) of N frames, fine features first, the channels of a place side by side."""
    parts = [part.permute(0, 2, 3, 1).flatten(1) for part in features]
    return torch.cat(parts, 1).cpu().to(torch.float16).numpy()


def from_rows(rows: NDArray[np.float16], maps: Maps, device: torch.device) -> Features:
    """The inverse of `to_rows`, for an image network whose features have these sizes."""
    fine_side = 2 * maps.side
    fine, coarse = np.split(rows, [maps.fine * fine_side * fine_side], axis=1)
    return Features(_maps(fine, maps.fine, fine_side, device), _maps(coarse, maps.coarse, maps.side, device))


def _maps(rows: NDArray[np.float16], channels: int, side: int, device: torch.device) -> torch.Tensor:
    values = torch.from_numpy(np.ascontiguousarray(rows)).to(device).float()
    return values.reshape(-1, side, side, channels).permute(0, 3, 1, 2)


@dataclass
class FeatureFiles:
    """The features of episodes in one folder.

    Attributes:
        folder: Where the files are; made when the first is written.
        tower: The image network.
        device: Where it runs.
        seed: Of the views.
    """

    folder: Path
    tower: Tower
    device: torch.device
    seed: int

    def __post_init__(self) -> None:
        digest = hashlib.sha256(self.tower.identity.encode())
        for tensor in self.tower.state_dict().values():
            digest.update(tensor.cpu().numpy().tobytes())
        self._network = digest.digest()

    @classmethod
    def beside(cls, store: Path, otherwise: Path, tower: Tower, device: torch.device, seed: int) -> FeatureFiles:
        """Features of a store: within it, or within the folder ``otherwise`` if it cannot be written to."""
        return cls((store if os.access(store, os.W_OK) else otherwise) / FOLDER, tower, device, seed)

    def get(self, frames: object, view: int) -> NDArray[np.float16]:
        """(T, numbers) features of an episode's frames, mapped into memory; computed if they are not there.

        Args:
            frames: The frames, in any form that `robometer_rl.frames.as_frames` takes.
            view: 0 for the frames as they are, others for other lights and cameras.
        """
        images = as_frames(np.asarray(frames))
        path = self.folder / f"{self._key(images, view)}.npy"
        if not path.is_file():
            self.folder.mkdir(parents=True, exist_ok=True)
            rows = self._compute(images, view)
            with new_file(path) as partial, partial.open("wb") as file:
                np.save(file, rows, allow_pickle=False)
        return np.load(path, mmap_mode="r", allow_pickle=False)

    def _key(self, images: NDArray[np.uint8], view: int) -> str:
        digest = hashlib.sha256(self._network)
        made = f"{self.seed} {_VIEWS}" if view else "0"
        digest.update(f"{images.shape} {view} {made}".encode())
        digest.update(np.ascontiguousarray(images).tobytes())
        return digest.hexdigest()[:32]

    @torch.inference_mode()
    def _compute(self, images: NDArray[np.uint8], view: int) -> NDArray[np.float16]:
        seen = self._view(images, view) if view else images
        size = _BATCH_OF_PROCESSOR if self.device.type == "cpu" else _BATCH
        chunks = (seen[start : start + size] for start in range(0, len(seen), size))
        with fast_arithmetic(self.device):
            return np.concatenate([to_rows(self.tower(torch.from_numpy(chunk).to(self.device))) for chunk in chunks])

    def _view(self, images: NDArray[np.uint8], view: int) -> NDArray[np.uint8]:
        seed = (self.seed, view, int(images.sum() % (1 << 31)))
        # By chance and not by number: where there is time for one view only, half of the episodes have things in it.
        with_things = np.random.default_rng((*seed, 1)).random() < 0.5
        return augment_frames(add_distractors(images, seed) if with_things else images, seed)
