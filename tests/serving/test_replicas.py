"""Replicas that Ray runs: streams stay where their histories are, and outlive the replica."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from robometer_rl.frames import Clip
from robometer_rl.models.loading import load_reward_model
from robometer_rl.serving.client import RemoteRewardModel
from tests.fixed_models import PixelModel
from tests.library import ROOT
from tests.serving.servers import Process, ask_raw, start, wait_until
from tests.serving.test_streams import noise

pytest.importorskip("ray.serve")
# Ray takes most of a minute to start and to end.
pytestmark = pytest.mark.slow

FAMILY = """
import os
from pathlib import Path
from tests.fixed_models import PixelModel

def load(where):
    (Path(where) / str(os.getpid())).touch()
    return PixelModel()
"""


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Process, Path]]:
    """A server of two replicas, and the folder where they leave their process numbers."""
    folder, notes = tmp_path_factory.mktemp("family"), tmp_path_factory.mktemp("notes")
    (folder / "noting_family.py").write_text(FAMILY)
    environment = {"PYTHONPATH": f"{ROOT}:{folder}"}
    words = ["--model", f"noting_family:{notes}", "--replicas", "2", "--port", "0"]
    process = start(*words, environment=environment)
    yield process, notes
    code, output = process.stop()
    assert (code, "stopped" in output) == (0, True)


def remote(two: tuple[Process, Path]) -> RemoteRewardModel:
    model = load_reward_model(two[0].url, patience=600.0)
    assert isinstance(model, RemoteRewardModel)
    return model


def test_streams_are_spread_and_stay_where_they_are(two: tuple[Process, Path]) -> None:
    model = remote(two)
    asked = [Clip(noise(seed, 3, 8, 8), "push") for seed in range(3)]
    for one, other in zip(model.predict(asked), PixelModel().predict(asked), strict=True):
        np.testing.assert_array_equal(one.progress, other.progress)
    streams = [model.stream(["push"]) for _ in range(4)]
    assert {stream._name.partition("-")[0] for stream in streams} == {"0", "1"}
    failures: list[BaseException] = []

    def go_on(number: int) -> None:
        expected = PixelModel().stream(["push"])
        try:
            for t in range(20):
                frame = noise(100 * number + t, 1, 8, 8)
                np.testing.assert_array_equal(streams[number].append(frame).progress, expected.append(frame).progress)
        except BaseException as error:
            failures.append(error)
            raise

    threads = [threading.Thread(target=go_on, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    address = ("127.0.0.1", int(two[0].url.rpartition(":")[2]))
    _, _, body = ask_raw(address, b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n")
    text = body.decode()
    for replica in ("0", "1"):
        assert f'robometer_histories{{replica="{replica}"}} 2.0' in text
    assert 'robometer_requests_total{replica="front"' in text


def test_a_replica_that_dies_is_started_again_and_its_streams_are_rebuilt(two: tuple[Process, Path]) -> None:
    model, notes = remote(two), two[1]
    streams, expected = [model.stream(["push"]) for _ in range(2)], PixelModel().stream(["push"] * 2)
    before = {path.name for path in notes.iterdir()}
    for t in range(30):
        if t == 11:
            for name in before:
                os.kill(int(name), signal.SIGKILL)
        frames = noise(t, 2, 8, 8)
        got = [stream.append(frames[n : n + 1]).progress[0] for n, stream in enumerate(streams)]
        np.testing.assert_array_equal(got, expected.append(frames).progress)
    wait_until(lambda: len(list(notes.iterdir())) == 4)
