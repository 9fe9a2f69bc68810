from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch

from robometer_rl.adapting import features
from robometer_rl.adapting.features import FeatureFiles, from_rows, to_rows
from robometer_rl.data.augment import add_distractors
from robometer_rl.data.store import TrajectoryStore
from tests.adapting.recordings import recording, store_of, tower

CPU = torch.device("cpu")


def files(folder: Path, seed: int = 0) -> FeatureFiles:
    return FeatureFiles(folder, tower(), CPU, seed)


def test_rows_hold_maps_as_they_are() -> None:
    features = tower()(torch.from_numpy(recording("expert", 1).frames[:]))
    found = from_rows(to_rows(features), tower().maps, CPU)
    for one, other in zip(found, features, strict=True):
        torch.testing.assert_close(one, other, atol=1e-2, rtol=1e-2)


def test_a_frame_is_looked_at_once(tmp_path: Path) -> None:
    frames = recording("expert", 1).frames
    first = files(tmp_path).get(frames, 0)
    (path,) = tmp_path.iterdir()
    stamp = path.stat().st_mtime_ns
    np.testing.assert_array_equal(files(tmp_path).get(frames, 0), first)
    assert path.stat().st_mtime_ns == stamp


def test_other_frames_networks_views_and_seeds_have_files_of_their_own(tmp_path: Path) -> None:
    frames = recording("expert", 1).frames[:]
    changed = frames.copy()
    changed[-1, 0, 0] += 1
    other = files(tmp_path)
    with torch.no_grad():
        next(other.tower.parameters()).add_(0.1)
    for made, shown, view in [
        (files(tmp_path), frames, 0),
        (files(tmp_path), changed, 0),
        (files(tmp_path), frames, 1),
        (files(tmp_path), frames, 2),
        (files(tmp_path, seed=1), frames, 1),
        (FeatureFiles(tmp_path, other.tower, CPU, 0), frames, 0),
    ]:
        made.get(shown, view)
    assert len(list(tmp_path.iterdir())) == 6
    files(tmp_path, seed=1).get(frames, 0)  # frames as they are do not depend on it
    assert len(list(tmp_path.iterdir())) == 6


def test_a_view_shows_the_same_in_another_light(tmp_path: Path) -> None:
    frames = recording("expert", 1).frames
    plain, view = files(tmp_path).get(frames, 0), files(tmp_path).get(frames, 1)
    assert plain.shape == view.shape
    assert float(np.abs(plain.astype(np.float32) - view).mean()) > 1e-3


def test_about_half_of_the_views_have_more_things_in_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seeds = []

    def noted(frames: np.ndarray, seed: tuple[int, ...]) -> np.ndarray:
        seeds.append(seed)
        return add_distractors(frames, seed)

    monkeypatch.setattr(features, "add_distractors", noted)
    for number in range(10):
        for view in range(3):
            files(tmp_path).get(recording("expert", number).frames, view)
    assert 5 < len(seeds) < 15
    assert {view for _, view, _ in seeds} == {1, 2}


def test_they_lie_in_the_store_unless_it_is_read_only(tmp_path: Path, monkeypatch) -> None:
    store = store_of(tmp_path / "store", [recording("expert", 1)])
    assert FeatureFiles.beside(store, tmp_path / "run", tower(), CPU, 0).folder == store / "features"
    files(store / "features").get(TrajectoryStore.open(store)[0].frames, 0)
    assert len(TrajectoryStore.open(store)) == 1
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    assert FeatureFiles.beside(store, tmp_path / "run", tower(), CPU, 0).folder == tmp_path / "run" / "features"
