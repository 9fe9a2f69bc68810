"""A small DINOv2 with random weights, saved as transformers saves it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional as F
from transformers import Dinov2Config, Dinov2Model, Dinov2WithRegistersConfig

from robometer_rl import Clip, load_reward_model
from robometer_rl.models.compact.checkpoint import (
    CompactCheckpoint,
    CompactCheckpointError,
    CompactConfig,
    load_compact,
    save_compact,
)
from robometer_rl.models.compact.dinov2 import Dinov2Shape, Dinov2Tower, load_dinov2
from robometer_rl.models.compact.familiarity import pooled
from robometer_rl.models.compact.inference import CompactModel
from tests.models.compact.tiny import SHAPE, TASK, pictures

MEAN, STD = (0.4, 0.5, 0.6), (0.2, 0.3, 0.25)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("dinov2")
    config = Dinov2Config(
        hidden_size=16, num_hidden_layers=3, num_attention_heads=2, patch_size=28, image_size=112, initializer_range=0.3
    )
    Dinov2Model(config).save_pretrained(path)
    (path / "preprocessor_config.json").write_text(json.dumps({"image_mean": MEAN, "image_std": STD}))
    return path


@pytest.fixture
def checkpoint(folder: Path) -> CompactCheckpoint:
    torch.manual_seed(0)
    tower = load_dinov2(str(folder))
    config = CompactConfig((TASK,), shape=SHAPE, resolution=tower.resolution, dinov2=tower.shape)
    return CompactCheckpoint.build(config, tower)


def test_features_are_those_of_transformers(folder: Path) -> None:
    tower = load_dinov2(str(folder))
    images = torch.from_numpy(pictures(2, height=224, width=224))
    pixels = (images.permute(0, 3, 1, 2) / 255 - torch.tensor(MEAN)[:, None, None]) / torch.tensor(STD)[:, None, None]
    network = Dinov2Model.from_pretrained(folder).eval()
    with torch.inference_mode():
        found = tower(images)
        said = network(pixel_values=pixels, output_hidden_states=True)
        second = network.layernorm(said.hidden_states[2])
    assert (tower.resolution, tower.maps) == (224, (16, 16, 4))
    torch.testing.assert_close(found.fine, second[:, 1:].reshape(2, 8, 8, 16).permute(0, 3, 1, 2))
    coarse = F.avg_pool2d(said.last_hidden_state[:, 1:].reshape(2, 8, 8, 16).permute(0, 3, 1, 2), 2)
    torch.testing.assert_close(found.coarse, coarse)
    assert float((found.fine[0] - found.fine[1]).abs().mean()) > 0.01


def test_a_checkpoint_needs_the_folder_no_more(
    checkpoint: CompactCheckpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_compact(tmp_path / "checkpoint", checkpoint)
    monkeypatch.setattr("robometer_rl.models.compact.dinov2.load_dinov2", None)
    found = load_compact(tmp_path / "checkpoint")
    assert found.config == checkpoint.config
    assert found.config.dinov2 == Dinov2Shape(16, 3, 2, patch_size=28, image_size=112, image_mean=MEAN, image_std=STD)
    clip = Clip(pictures(5), TASK)
    before = CompactModel(checkpoint, "", "").predict([clip])[0].progress
    model = load_reward_model(tmp_path / "checkpoint")
    np.testing.assert_allclose(model.predict([clip])[0].progress, before, atol=1e-6)


def test_a_stream_says_what_dense_scores_say(checkpoint: CompactCheckpoint) -> None:
    model, frames = CompactModel(checkpoint, "", ""), pictures(6)
    dense = model.predict_steps([Clip(frames, TASK)])[0]
    stream = model.stream([TASK])
    streamed = [float(stream.append([frame]).progress[0]) for frame in frames]
    np.testing.assert_allclose(streamed, dense.progress, atol=1e-5)


def test_it_knows_which_pictures_it_knows(checkpoint: CompactCheckpoint) -> None:
    means = pooled(checkpoint.tower(torch.from_numpy(pictures(12))))
    checkpoint.familiarity.fit(means[:8], means[8:])
    assert float(checkpoint.familiarity(means).max()) < 1.0


@pytest.mark.parametrize(("patch", "resolution"), [(14, 224), (16, 224), (8, 224), (60, 240), (200, 400)])
def test_pictures_are_about_as_large_as_usual(patch: int, resolution: int) -> None:
    shape = Dinov2Shape(4, 1, 1, patch_size=patch, image_size=400)
    assert shape.usual_resolution == resolution
    assert Dinov2Tower(shape, resolution).maps.side == resolution // (2 * patch)
    with pytest.raises(ValueError, match=f"positive multiple of {2 * patch} pixels"):
        Dinov2Tower(shape, resolution + patch)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"hidden_size": 10**6}, "at most 4096"),
        ({"num_attention_heads": 3}, "heads divide the width"),
        ({"image_std": (0.0, 1.0, 1.0)}, "image_std of a DINOv2 is three numbers"),
    ],
)
def test_odd_shapes_are_refused(changes: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(Dinov2Shape(16, 3, 2), **changes)


def test_what_is_no_dinov2_is_named(folder: Path, checkpoint: CompactCheckpoint, tmp_path: Path) -> None:
    Dinov2WithRegistersConfig().save_pretrained(tmp_path / "registers")
    with pytest.raises(ValueError, match=r"is not a DINOv2 in transformers' format.*model_type 'dinov2'"):
        load_dinov2(str(tmp_path / "registers"))
    cut = tmp_path / "cut"
    cut.mkdir()
    (cut / "config.json").write_bytes((folder / "config.json").read_bytes())
    (cut / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes()[:500])
    with pytest.raises(ValueError, match="is not a DINOv2 in transformers' format"):
        load_dinov2(str(cut))
    save_compact(tmp_path / "checkpoint", checkpoint)
    config = tmp_path / "checkpoint" / "config.json"
    config.write_text(config.read_text().replace('"resolution": 224', '"resolution": 225'))
    with pytest.raises(CompactCheckpointError, match="positive multiple of 56"):
        load_compact(tmp_path / "checkpoint")
