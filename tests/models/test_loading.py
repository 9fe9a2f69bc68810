from __future__ import annotations

import socket
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest
from huggingface_hub import constants

import robometer_rl
from robometer_rl.frames import UniformFrames
from robometer_rl.models import devices
from robometer_rl.models.loading import UnknownModelError, files_of, load_reward_model
from robometer_rl.models.locations import locate
from robometer_rl.models.robometer.config import CheckpointError
from tests.golden import BASE, CHECKPOINT, FIXTURES, clips, copy_of

SHOWN = ("progress_batch", "prog0", "prog1", "prog2")


def test_a_directory_is_loaded_and_says_where_it_came_from() -> None:
    model = load_reward_model(CHECKPOINT)
    assert model.source == model.model_id == str(CHECKPOINT)
    assert model.revision is None
    assert model.dtype == "float32"
    assert model.default_protocol == UniformFrames(8)
    assert model.success_threshold is None
    again = load_reward_model(model.source)
    for one, other in zip(model.predict(clips(*SHOWN)), again.predict(clips(*SHOWN)), strict=True):
        np.testing.assert_allclose(one.progress, other.progress, rtol=0, atol=1e-5)


def test_precision_is_recorded_and_close() -> None:
    exact, rounded = load_reward_model(CHECKPOINT), load_reward_model(str(CHECKPOINT), dtype="bfloat16")
    for one, other in zip(exact.predict(clips(*SHOWN)), rounded.predict(clips(*SHOWN)), strict=True):
        assert (one.dtype, other.dtype) == ("float32", "bfloat16")
        np.testing.assert_allclose(one.progress, other.progress, atol=0.02)


def test_the_base_model_is_passed_on() -> None:
    model = load_reward_model(FIXTURES / "checkpoint_sharded", base_model=BASE)
    assert len(model.predict(clips(*SHOWN))) == 3


def test_calibration_is_the_checkpoints(tmp_path: Path) -> None:
    stated = {"success_threshold": 0.7, "default_protocol": "nested(8)"}
    model = load_reward_model(copy_of(CHECKPOINT, tmp_path, robometer_rl=stated))
    assert model.success_threshold == 0.7
    assert str(model.default_protocol) == "nested(8)"


@pytest.mark.parametrize("name", ["minni", "", "/no/such/directory", "a/b/c", "robometer/Robometer 4B", "org/name@"])
def test_an_unknown_name_says_what_exists(name: str) -> None:
    with pytest.raises(UnknownModelError, match=r"\['mini'\].*directory.*Hub id"):
        load_reward_model(name)


def test_an_address_where_nobody_answers_is_an_error_of_the_connection() -> None:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        with pytest.raises(ConnectionError, match="does not answer"):
            load_reward_model(f"http://127.0.0.1:{nobody.getsockname()[1]}", patience=0.0)


def test_a_file_is_not_a_checkpoint() -> None:
    with pytest.raises(UnknownModelError, match="is a file; expected the directory"):
        load_reward_model(CHECKPOINT / "model.safetensors")


def test_a_directory_of_something_else_is_refused() -> None:
    with pytest.raises(CheckpointError, match=r"not a Robometer checkpoint: it has no config\.json"):
        load_reward_model(Path(__file__).parent)


def test_an_unknown_precision_is_refused() -> None:
    with pytest.raises(ValueError, match="'half'; expected one of"):
        load_reward_model(CHECKPOINT, dtype="half")


@pytest.mark.parametrize("has_instructions", [True, False])
def test_the_precision_is_chosen_by_the_processor_if_asked(
    has_instructions: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(devices, "multiplies_in_bfloat16", lambda: has_instructions)
    assert load_reward_model(CHECKPOINT, dtype="auto").dtype == ("bfloat16" if has_instructions else "float32")


def test_the_embedded_model_is_in_the_package() -> None:
    assert locate("mini").directory == Path(str(files("robometer_rl") / "assets" / "robometer-mini"))


def test_the_function_is_public() -> None:
    assert robometer_rl.load_reward_model is load_reward_model


COMMIT = "0a1b2c3d" * 5


@pytest.fixture
def cached(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of the Hub as a download leaves it, and no network: the repository robometer/tiny, at main and v1.0."""
    repository = tmp_path / "models--robometer--tiny"
    copy_of(CHECKPOINT, repository / "snapshots" / COMMIT)
    (repository / "refs").mkdir()
    for revision in ("main", "v1.0"):
        (repository / "refs" / revision).write_text(COMMIT)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    return repository


@pytest.mark.parametrize("name", ["robometer/tiny", "robometer/tiny@v1.0", f"robometer/tiny@{COMMIT}"])
@pytest.mark.usefixtures("cached")
def test_a_hub_id_is_found_and_its_commit_recorded(name: str) -> None:
    model = load_reward_model(name)
    assert (model.source, model.model_id, model.revision) == (name, "robometer/tiny", COMMIT)
    assert model.predict(clips(*SHOWN))[0].revision == COMMIT


@pytest.mark.parametrize("name", ["robometer/huge", "robometer/tiny@v2.0", "robometer/a--b"])
@pytest.mark.usefixtures("cached")
def test_what_the_hub_does_not_give_is_named(name: str) -> None:
    with pytest.raises(UnknownModelError, match=f"could not get '{name}' from the Hub"):
        load_reward_model(name)


@pytest.mark.usefixtures("cached")
def test_a_base_model_may_be_on_the_hub() -> None:
    model = load_reward_model(FIXTURES / "checkpoint_sharded", base_model="robometer/tiny@v1.0")
    expected = load_reward_model(CHECKPOINT).predict(clips(*SHOWN))
    np.testing.assert_allclose(model.predict(clips(*SHOWN))[0].progress, expected[0].progress, rtol=0, atol=1e-5)


@pytest.mark.parametrize("device", ["warp-drive", "meta-1", "cuda:77"])
def test_a_device_that_is_not_there_is_named(device: str) -> None:
    with pytest.raises(ValueError, match=f"got the device '{device}', which cannot be used here"):
        load_reward_model(CHECKPOINT, device=device)


def test_the_files_of_a_model_are_known_by_its_name(tmp_path: Path) -> None:
    (tmp_path / "what?colour=red").mkdir()
    weights = tmp_path / "what?colour=red" / "weights"
    weights.write_text("")
    for name in (CHECKPOINT, f"robometer:{CHECKPOINT}", f"topreward:{CHECKPOINT}?rule=reference&prefixes=3"):
        assert files_of(name) == sorted(path for path in CHECKPOINT.rglob("*") if path.is_file())
    assert files_of(f"rewind:{tmp_path}/what?colour=red") == [weights]
    for name in ("mini", "clock", "gvl:gpt-4o@https://api.openai.com/v1?seed=1", "http://127.0.0.1:8000"):
        assert files_of(name) == []
