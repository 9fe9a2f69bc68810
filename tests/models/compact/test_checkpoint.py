from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from robometer_rl import load_reward_model
from robometer_rl.models.compact.checkpoint import (
    CompactCheckpointError,
    CompactConfig,
    load_compact,
    save_compact,
    write_compact_threshold,
)
from robometer_rl.models.compact.inference import CompactModel
from robometer_rl.models.loading import family_of
from tests.models.compact.tiny import TASK, tiny_checkpoint


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    save_compact(tmp_path / "run" / "checkpoint", tiny_checkpoint())
    return tmp_path / "run" / "checkpoint"


def test_weights_are_read_back_bit_for_bit(saved: Path) -> None:
    given, found = tiny_checkpoint(), load_compact(saved)
    assert found.config == given.config
    for part in ("tower", "network", "familiarity"):
        before, after = getattr(given, part).state_dict(), getattr(found, part).state_dict()
        assert before.keys() == after.keys()
        assert all(torch.equal(before[name], after[name]) for name in before)


def test_its_folder_is_its_name(saved: Path) -> None:
    for name in (str(saved), f"compact:{saved}"):
        assert family_of(name) == "compact"
        model = load_reward_model(name)
        assert isinstance(model, CompactModel)
        assert (model.model_id, model.source, str(model.default_protocol)) == ("run", name, "nested(8)")
    with pytest.raises(ValueError, match="'compact' have no option dtype; they have device"):
        load_reward_model(saved, dtype="bfloat16")
    with pytest.raises(ValueError, match="the device 'quantum', which cannot be used here"):
        load_reward_model(saved, device="quantum")


def test_a_threshold_is_written_beside_the_weights(saved: Path) -> None:
    weights = (saved / "model.safetensors").read_bytes()
    write_compact_threshold(saved, 0.42)
    assert load_reward_model(saved).success_threshold == 0.42
    assert (saved / "model.safetensors").read_bytes() == weights


def test_a_checkpoint_takes_the_place_of_an_earlier_one(saved: Path) -> None:
    save_compact(saved, tiny_checkpoint().configured(tasks=("push",)))
    assert load_compact(saved).config.tasks == ("push",)
    assert sorted(path.name for path in saved.iterdir()) == ["config.json", "model.safetensors"]


def test_a_network_that_diverged_is_not_saved(tmp_path: Path) -> None:
    checkpoint = tiny_checkpoint()
    with torch.no_grad():
        checkpoint.network.mix.weight[0] = float("nan")
    with pytest.raises(CompactCheckpointError, match=r"mix\.weight holds NaN"):
        save_compact(tmp_path / "new", checkpoint)
    assert not (tmp_path / "new" / "config.json").exists()


def test_what_is_missing_or_damaged_is_named(saved: Path) -> None:
    weights = saved / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(CompactCheckpointError, match=r"model\.safetensors does not hold the weights"):
        load_reward_model(saved)
    weights.unlink()
    with pytest.raises(CompactCheckpointError, match=r"model\.safetensors"):
        load_reward_model(saved)
    with pytest.raises(CompactCheckpointError, match=r"config\.json"):
        load_compact(saved.parent)


@pytest.mark.parametrize(
    ("entry", "value", "message"),
    [
        ("version", 2, "version 2; this release reads 1"),
        ("tasks", [], "tasks are the instructions"),
        ("tasks", [3], "tasks are the instructions"),
        ("shape", {"channels": 0}, "positive integer"),
        ("shape", {"colour": 1}, "colour"),
        ("success_threshold", 2.0, "is a probability"),
        ("protocol", "nested(0)", "nested frames need"),
        ("more", 1, "its entries are"),
    ],
)
def test_settings_of_another_kind_are_refused(saved: Path, entry: str, value: object, message: str) -> None:
    file = saved / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {entry: value}))
    with pytest.raises(CompactCheckpointError, match=message):
        load_compact(saved)


def test_settings_say_what_they_are() -> None:
    config = CompactConfig((TASK,), tiled=True, trained={"episodes": 3})
    assert CompactConfig.from_json(config.to_json()) == config
    assert json.loads(config.to_json())["model_type"] == "robometer-compact"


def test_checkpoints_that_are_older_than_other_image_networks_load(saved: Path) -> None:
    described = json.loads((saved / "config.json").read_text())
    del described["dinov2"], described["tiled"]
    (saved / "config.json").write_text(json.dumps(described))
    assert load_compact(saved).config == tiny_checkpoint().config
