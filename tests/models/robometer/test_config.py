from __future__ import annotations

from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from robometer_rl.frames import NestedFrames, UniformFrames
from robometer_rl.models.robometer.config import CheckpointError, RobometerConfig
from tests.golden import CHECKPOINT

PUBLISHED = (CHECKPOINT / "config.yaml").read_text()


def with_settings(**sections: dict[str, Any]) -> str:
    settings = yaml.safe_load(PUBLISHED)
    for name, changes in sections.items():
        settings.setdefault(name, {}).update(changes)
    return yaml.safe_dump(settings)


def test_the_published_settings_are_read() -> None:
    assert RobometerConfig.from_yaml(PUBLISHED) == RobometerConfig(base_model="Qwen/Qwen3-VL-tiny-random")


def test_nothing_is_lost_in_a_round_trip() -> None:
    assert yaml.safe_load(RobometerConfig.from_yaml(PUBLISHED).to_yaml()) == yaml.safe_load(PUBLISHED)


configs = st.builds(
    RobometerConfig,
    max_frames=st.integers(1, 64),
    progress_type=st.sampled_from(["discrete", "l1", "l2"]),
    progress_bins=st.integers(2, 100),
    per_frame_token=st.just(False),
    multi_image=st.booleans(),
    frame_pooling=st.sampled_from(["mean", "boundary", "attention"]),
    frame_pooling_temperature=st.floats(0.01, 10),
    average_temporal_patches=st.booleans(),
    predict_pref_progress=st.booleans(),
    base_model=st.sampled_from(["", "Qwen/Qwen3-VL-4B-Instruct"]),
    default_protocol=st.sampled_from([None, NestedFrames(4), UniformFrames(16)]),
    min_pixels=st.integers(1, 1000),
    max_pixels=st.integers(1000, 10**6),
    success_threshold=st.one_of(st.none(), st.floats(0, 1)),
    tiled=st.booleans(),
)


@given(configs)
def test_settings_survive_a_round_trip(config: RobometerConfig) -> None:
    assert RobometerConfig.from_yaml(config.to_yaml()) == config
    # On top of others' settings too.
    merged = RobometerConfig(**{**vars(config), "settings": yaml.safe_load(PUBLISHED)})
    assert RobometerConfig.from_yaml(merged.to_yaml()) == config


def test_a_checkpoint_that_states_no_protocol_has_the_published_one() -> None:
    assert RobometerConfig.from_yaml(with_settings(data={"max_frames": 16})).protocol == UniformFrames(16)
    stated = with_settings(robometer_rl={"default_protocol": "nested(8)"})
    assert RobometerConfig.from_yaml(stated).protocol == NestedFrames(8)


def test_settings_that_an_old_file_has_only_under_data_are_found() -> None:
    settings = yaml.safe_load(PUBLISHED)
    for key in ("use_per_frame_progress_token", "use_multi_image"):
        del settings["model"][key]
    assert RobometerConfig.from_yaml(yaml.safe_dump(settings)).per_frame_token


def test_the_tag_of_published_files_is_read_as_a_mapping() -> None:
    tagged = PUBLISHED.replace("rewind: null", "rewind: !!python/object:robometer.ReWINDTransformerConfig {depth: 4}")
    config = RobometerConfig.from_yaml(tagged)
    assert config.settings["model"]["rewind"] == {"depth": 4}


def test_no_tag_runs_code() -> None:
    tagged = PUBLISHED.replace("rewind: null", "rewind: !!python/object/apply:os.getcwd []")
    with pytest.raises(CheckpointError, match="not valid YAML"):
        RobometerConfig.from_yaml(tagged)


@pytest.mark.parametrize(
    ("sections", "named"),
    [
        ({"model": {"progress_loss_type": "huber"}}, "progress_loss_type is 'huber'"),
        ({"model": {"frame_pooling": "max"}}, "frame_pooling is 'max'"),
        ({"model": {"frame_pooling_attn_temperature": 0}}, "frame_pooling_attn_temperature > 0"),
        ({"model": {"use_multi_image": False}}, "needs use_multi_image"),
        ({"model": {"use_multi_image": "yes"}}, "use_multi_image is 'yes'; expected bool"),
        ({"model": {"progress_discrete_bins": 1}}, "progress_discrete_bins >= 2"),
        ({"data": {"max_frames": 0}}, "max_frames >= 1"),
        ({"data": {"max_frames": "8"}}, "max_frames is '8'; expected int"),
        ({"data": {"max_frames": True}}, "max_frames is True; expected int"),
        ({"robometer_rl": {"default_protocol": "nested(1)"}}, "default_protocol"),
        ({"robometer_rl": {"min_pixels": 10, "max_pixels": 5}}, "min_pixels <= max_pixels"),
        ({"data": {"max_frames": 10**11}}, "max_frames >= 1 and <= 1024"),
        ({"data": {"max_frames": 10**400}}, "max_frames >= 1 and <= 1024"),
        ({"model": {"progress_discrete_bins": 10**11}}, "progress_discrete_bins >= 2 and <= 10000"),
        ({"model": {"frame_pooling_attn_temperature": float("nan")}}, "finite frame_pooling_attn_temperature > 0"),
        ({"model": {"frame_pooling_attn_temperature": float("inf")}}, "finite frame_pooling_attn_temperature > 0"),
        ({"model": {"frame_pooling_attn_temperature": 10**400}}, "frame_pooling_attn_temperature is 1000"),
        ({"model": {"progress_loss_type": ["discrete"] * 1000}}, "progress_loss_type is ['discrete', "),
        ({"model": {"base_model_id": 3}}, "base_model_id is 3; expected str"),
        ({"robometer_rl": {"default_protocol": "nested(99999999999)"}}, "default_protocol: nested frames show at most"),
        ({"robometer_rl": {"min_pixels": 10**12, "max_pixels": 10**12}}, "max_pixels <= 16777216"),
        ({"robometer_rl": {"min_pixels": -1}}, "0 < min_pixels"),
        ({"robometer_rl": {"success_threshold": float("nan")}}, "success_threshold is nan"),
        ({"robometer_rl": {"success_threshold": 1.5}}, "success_threshold is 1.5; expected a probability"),
        ({"robometer_rl": {"success_threshold": True}}, "success_threshold is True; expected float"),
        ({"robometer_rl": {"success_threshold": "high"}}, "success_threshold is 'high'; expected float"),
    ],
)
def test_a_bad_setting_is_named(sections: dict[str, dict[str, Any]], named: str) -> None:
    with pytest.raises(CheckpointError) as raised:
        RobometerConfig.from_yaml(with_settings(**sections))
    assert named in str(raised.value)
    assert len(str(raised.value)) < 500


@pytest.mark.parametrize("text", ["[1, 2]", "", "model: 3", "{}", "data: {max_frames: 8}", "model: [", "\t"])
def test_a_file_of_another_kind_is_refused(text: str) -> None:
    with pytest.raises(CheckpointError, match=r"config\.yaml"):
        RobometerConfig.from_yaml(text)


def test_lerobots_settings() -> None:
    described = {
        "type": "robometer",
        "max_frames": 16,
        "progress_loss_type": "l2",
        "progress_discrete_bins": 20,
        "use_per_frame_progress_token": False,
        "use_multi_image": True,
        "frame_pooling": "attention",
        "frame_pooling_attn_temperature": 0.25,
        "average_temporal_patches": True,
        "base_model_id": "Qwen/Qwen3-VL-4B-Instruct",
        "success_threshold": 0.5,
    }
    expected = RobometerConfig(
        max_frames=16,
        progress_type="l2",
        progress_bins=20,
        per_frame_token=False,
        frame_pooling="attention",
        frame_pooling_temperature=0.25,
        average_temporal_patches=True,
        base_model="Qwen/Qwen3-VL-4B-Instruct",
        success_threshold=None,
    )
    assert RobometerConfig.from_lerobot(described) == expected
    assert RobometerConfig.from_lerobot({"max_frames": None}) == RobometerConfig()
