"""Several servers are one model, and what one of them cannot answer leaves all histories as they were."""

from __future__ import annotations

import pickle
from collections.abc import Iterator

import numpy as np
import pytest

from robometer_rl.frames import Clip, FrameError, NestedFrames
from robometer_rl.models.loading import load_reward_model
from robometer_rl.prediction import Prediction
from robometer_rl.serving.group import ServerGroup
from robometer_rl.serving.problems import ServerError
from tests.fixed_models import BrightnessModel, PixelModel
from tests.serving.servers import Running, serving
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


def test_a_server_that_is_away_is_an_error_and_no_frame_is_lost(two: tuple[Running, Running]) -> None:
    local = PixelModel().stream(["a", "b"])
    with serving(PixelModel) as third:
        port = third.address[1]
        remote = group_of(two[0], third, patience=0.2).stream(["a", "b"])
        for t in range(5):
            frames = noise(t, 2, 8, 8)
            np.testing.assert_array_equal(remote.append(frames).progress, local.append(frames).progress)
    with pytest.raises(ServerError, match="does not answer"):
        remote.append(noise(5, 2, 8, 8))
    with serving(PixelModel, port=port):
        for t in range(5, 12):
            frames = noise(t, 2, 8, 8)
            np.testing.assert_array_equal(remote.append(frames).progress, local.append(frames).progress)


def test_servers_of_different_models_do_not_share_work(two: tuple[Running, Running]) -> None:
    with serving(BrightnessModel) as other, pytest.raises(ServerError, match="serve the same model"):
        group_of(two[0], other)
