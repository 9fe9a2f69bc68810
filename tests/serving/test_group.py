"""Several servers are one model, and what one of them cannot answer leaves all histories as they were."""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from robometer_rl.frames import Clip, FrameError, NestedFrames
from robometer_rl.models.loading import load_reward_model
from robometer_rl.models.reward_model import RewardStream
from robometer_rl.prediction import Prediction
from robometer_rl.serving import group
from robometer_rl.serving.group import ServerGroup
from robometer_rl.serving.problems import ServerError
from tests.fixed_models import BrightnessModel, PixelModel
from tests.library import ROOT
from tests.serving.servers import Running, serving, start
from tests.serving.test_streams import TASKS, noise, take_step


@pytest.fixture(scope="module")
def two() -> Iterator[tuple[Running, Running]]:
    with serving(PixelModel) as first, serving(PixelModel) as second:
        yield first, second


def group_of(*servers: Running, patience: float = 60.0) -> ServerGroup:
    model = load_reward_model(",".join(each.url for each in servers), patience=patience)
    assert isinstance(model, ServerGroup)
    return model


def test_clips_are_dealt_out_and_come_back_in_order(two: tuple[Running, Running]) -> None:
    model, local = pickle.loads(pickle.dumps(group_of(*two))), PixelModel()
    assert model.source == f"{two[0].url},{two[1].url}"
    assert model.predict([]) == []
    for count in (1, 2, 5):
        asked = [Clip(noise(seed, 2 + seed, 8, 8), "push") for seed in range(count)]
        for ask in (lambda m, clips: m.predict(clips), lambda m, clips: m.predict_steps(clips, NestedFrames(3), 2)):
            said: list[Prediction] = ask(model, asked)
            for one, other in zip(said, ask(local, asked), strict=True):
                np.testing.assert_array_equal(one.progress, other.progress)


def test_histories_are_dealt_out(two: tuple[Running, Running]) -> None:
    remote, local = group_of(*two).stream(TASKS), PixelModel().stream(TASKS)
    random = np.random.default_rng(0)
    for number in range(40):
        kind = str(random.choice(["append"] * 6 + ["peek", "reset", "task"]))
        rows = random.choice(3, random.integers(1, 4), replace=False).tolist()
        task = int(random.integers(3))
        wanted, got = take_step(local, number, kind, rows, task), take_step(remote, number, kind, rows, task)
        assert remote.tasks == local.tasks
        if wanted is not None and got is not None:
            np.testing.assert_array_equal(got.progress, wanted.progress)
            np.testing.assert_array_equal(np.asarray(got.success), np.asarray(wanted.success))


def test_an_error_at_one_server_leaves_all_histories_as_they_were(two: tuple[Running, Running]) -> None:
    remote, local = group_of(*two).stream(["a", "b"]), PixelModel().stream(["a", "b"])
    for t in range(10):
        frames = noise(t, 2, 8, 8)
        with pytest.raises(FrameError):
            remote.append([frames[0], np.zeros((3, 3))])
        if t:
            with pytest.raises(FrameError, match="after frames of"):
                remote.append([frames[0], noise(t, 9, 9)])
        np.testing.assert_array_equal(remote.append(frames).progress, local.append(frames).progress)


FAMILY = """
from tests.fixed_models import PixelModel

def load(where):
    return PixelModel()
"""


def check_steps(remote: RewardStream, local: RewardStream, steps: range) -> None:
    for t in steps:
        frames = noise(t, 4, 8, 8)
        np.testing.assert_array_equal(remote.append(frames).progress, local.append(frames).progress)
        if t % 4 == 3:
            remote.reset([t % 3])
            local.reset([t % 3])
        np.testing.assert_array_equal(remote.peek(frames, range(4)).progress, local.peek(frames, range(4)).progress)


def test_others_go_on_for_a_server_that_is_killed(two: tuple[Running, Running], tmp_path: Path) -> None:
    (tmp_path / "pixel_family.py").write_text(FAMILY)
    killed = start("--model", "pixel_family:x", "--port", "0", environment={"PYTHONPATH": f"{ROOT}:{tmp_path}"})
    model = load_reward_model(f"{two[0].url},{killed.url},{two[1].url}")
    remote, local = model.stream(list("abcd")), PixelModel().stream(list("abcd"))
    check_steps(remote, local, range(6))
    killed.kill()
    check_steps(remote, local, range(6, 12))
    asked = [Clip(noise(seed, 3, 8, 8), "push") for seed in range(5)]
    for one, other in zip(model.predict(asked), PixelModel().predict(asked), strict=True):
        np.testing.assert_array_equal(one.progress, other.progress)
    assert len(model.stream(list("abcd")).append(noise(0, 4, 8, 8))) == 4


def test_a_server_that_is_back_gets_its_share_back(
    two: tuple[Running, Running], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(group, "_LOOK_AGAIN_S", 0.0)
    local = PixelModel().stream(list("abcd"))
    with serving(PixelModel) as third:
        port = third.address[1]
        remote = group_of(two[0], third).stream(list("abcd"))
        check_steps(remote, local, range(5))
    check_steps(remote, local, range(5, 10))
    with serving(PixelModel, port=port) as third:
        check_steps(remote, local, range(10, 15))
        assert third.server.metrics.passes >= 5


def test_servers_that_are_all_away_are_an_error_and_no_frame_is_lost() -> None:
    local = PixelModel().stream(list("abcd"))
    with serving(PixelModel) as first, serving(PixelModel) as second:
        ports = first.address[1], second.address[1]
        remote = group_of(first, second, patience=0.2).stream(list("abcd"))
        check_steps(remote, local, range(5))
    for _ in range(2):
        with pytest.raises(ServerError, match="does not answer"):
            remote.append(noise(5, 4, 8, 8))
    with serving(PixelModel, port=ports[0]), serving(PixelModel, port=ports[1]):
        check_steps(remote, local, range(5, 12))


def test_servers_of_different_models_do_not_share_work(two: tuple[Running, Running]) -> None:
    with serving(BrightnessModel) as other, pytest.raises(ServerError, match="serve the same model"):
        group_of(two[0], other)
