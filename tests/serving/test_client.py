"""A model behind an address is the model: same numbers, same errors, and never a number in place of an error."""

from __future__ import annotations

import pickle
import socket
import subprocess
import sys
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from robometer_rl.errors import explain
from robometer_rl.frames import Clip, FrameError, NestedFrames, TaskError, UniformFrames
from robometer_rl.models.loading import UnknownModelError, load_reward_model
from robometer_rl.models.reward_model import RewardModel, UnsupportedByModelError
from robometer_rl.prediction import NonFiniteOutputError, Prediction
from robometer_rl.serving.client import RemoteRewardModel
from robometer_rl.serving.limits import Limits
from robometer_rl.serving.problems import ServerError
from robometer_rl.serving.service import Settings
from robometer_rl.serving.wire import MODEL_FACTS
from tests.fixed_models import BrightnessModel, BrokenModel, PixelModel
from tests.golden import clips, pairs
from tests.library import ROOT
from tests.serving.servers import Running, serving


def assert_same(got: Sequence[Prediction], wanted: Sequence[Prediction]) -> None:
    for one, other in zip(got, wanted, strict=True):
        for name in ("progress", "success", "progress_distribution"):
            np.testing.assert_allclose(getattr(one, name), getattr(other, name), atol=1e-6)
        for name in ("protocol", "every", "model_id", "revision", "dtype"):
            assert getattr(one, name) == getattr(other, name)


def noise(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (*shape, 3), dtype=np.uint8)


def test_it_has_what_the_local_model_has(running: Running, local: RewardModel) -> None:
    remote = load_reward_model(f"{running.url}/")
    assert isinstance(remote, RemoteRewardModel)
    assert remote.source == running.url
    for name in MODEL_FACTS:
        assert getattr(remote, name) == getattr(local, name)
    assert remote.default_protocol == local.default_protocol


def test_answers_are_those_of_the_local_model(running: Running, local: RewardModel) -> None:
    remote = load_reward_model(running.url)
    asked = [*clips("progress_batch", "prog0", "prog1", "prog2"), Clip(noise(0, 11, 64, 32), "push")]
    assert_same(remote.predict(asked), local.predict(asked))
    for protocol, every in ((None, 1), (NestedFrames(4), 3), (UniformFrames(4), 2)):
        assert_same(remote.predict_steps(asked, protocol, every), local.predict_steps(asked, protocol, every))
    shown = pairs("preference_batch")
    for both_orders in (False, True):
        np.testing.assert_allclose(remote.compare(shown, both_orders), local.compare(shown, both_orders), atol=1e-6)
    assert remote.predict([]) == remote.predict_steps([]) == []
    assert remote.compare([]).shape == (0,)


@pytest.mark.parametrize("encoding", ["jpeg", "png"])
def test_frames_may_travel_as_pictures(running: Running, local: RewardModel, encoding: str) -> None:
    address = f"{running.url}?encoding={encoding}"
    remote = pickle.loads(pickle.dumps(load_reward_model(address)))
    assert remote.source == address
    smooth = np.linspace(0, 255, 6 * 32 * 48 * 3).astype(np.uint8).reshape(6, 32, 48, 3)
    clip, other = Clip(smooth, "push"), Clip(smooth[::-1].copy(), "push")
    near = 1e-6 if encoding == "png" else 0.05
    (said,), (wanted,) = remote.predict_steps([clip]), local.predict_steps([clip])
    np.testing.assert_allclose(said.progress, wanted.progress, atol=near)
    np.testing.assert_allclose(remote.compare([(clip, other)]), local.compare([(clip, other)]), atol=near)
    stream = remote.stream(["push"])
    for t in range(6):
        if t == 3:
            stream.close()  # and is rebuilt from the same pictures
        np.testing.assert_allclose(stream.append(smooth[t : t + 1]).progress, said.progress[t : t + 1], atol=1e-5)


def test_a_pickled_model_asks_the_same_server_and_threads_share_one(running: Running, local: RewardModel) -> None:
    remote = pickle.loads(pickle.dumps(load_reward_model(running.url)))
    asked = [[Clip(noise(seed, 5, 32, 32), "push")] for seed in range(8)]
    with ThreadPoolExecutor(4) as threads:
        for got, clip in zip(threads.map(remote.predict, asked), asked, strict=True):
            assert_same(got, local.predict(clip))


def test_errors_are_those_of_the_local_model(running: Running) -> None:
    remote = load_reward_model(running.url)
    good = Clip(noise(0, 3, 32, 32), "push")
    with pytest.raises(TaskError, match="prog_token"):
        remote.predict([Clip(good.frames, "push <|prog_token|>")])
    with pytest.raises(FrameError, match="aspect ratio"):
        remote.predict([good, Clip(noise(0, 2, 1, 300), "push")])
    with pytest.raises(ValueError, match="every must be a positive integer"):
        remote.predict_steps([good], every=0)
    with pytest.raises(ValueError, match="no option device"):
        load_reward_model(running.url, device="cuda")
    assert len(remote.predict([good])) == 1


def test_a_model_that_says_what_is_no_number_is_an_error_with_its_place() -> None:
    with serving(lambda: BrokenModel("progress", np.nan)) as running:
        remote = load_reward_model(running.url)
        with pytest.raises(NonFiniteOutputError, match="broken gave progress that is not finite for frame 2"):
            remote.predict([Clip(noise(0, 3, 8, 8), "push")])
    clip = Clip(noise(0, 3, 8, 8), "push")
    with serving(BrightnessModel) as running, pytest.raises(UnsupportedByModelError, match="does not compare"):
        load_reward_model(running.url).compare([(clip, clip)])


def test_large_questions_are_asked_in_parts() -> None:
    limits = Limits(body=(1 << 20) + 10_000, clips=3)
    with serving(PixelModel, Settings(limits=limits)) as running:
        remote, local = load_reward_model(running.url), PixelModel()
        asked = [Clip(noise(seed, 1 + seed % 5, 16, 16), "push") for seed in range(20)]
        assert_same(remote.predict(asked), local.predict(asked))
        with pytest.raises(FrameError, match=r"larger --limits\.body"):
            remote.predict([Clip(noise(0, 20, 16, 16), "push")])
        # What is scored every few frames only is sent so.
        assert_same(
            remote.predict_steps([Clip(noise(0, 20, 16, 16), "push")], every=10),
            local.predict_steps([Clip(noise(0, 20, 16, 16), "push")], every=10),
        )


def test_a_token_opens_the_door_and_is_written_nowhere(monkeypatch: pytest.MonkeyPatch) -> None:
    with serving(PixelModel, Settings(tokens=("s3cret/@",))) as running:
        with pytest.raises(ServerError, match="asks for its token"):
            load_reward_model(running.url)
        address = running.url.replace("http://", "http://:s3cret%2F%40@")
        remote = load_reward_model(address)
        assert remote.source == running.url
        assert len(pickle.loads(pickle.dumps(remote)).predict([Clip(noise(0, 2, 8, 8), "push")])) == 1
        with pytest.raises(ServerError) as refused:
            load_reward_model(running.url.replace("http://", "http://:wrong@"))
        assert "wrong" not in str(refused.value)
        monkeypatch.setenv("ROBOMETER_RL_TOKEN", "s3cret/@")
        assert load_reward_model(running.url).model_id == "pixel"


@pytest.mark.parametrize(
    "name",
    [
        "http://",
        "http:///path",
        "https://host:99999",
        "http://host?x=1",
        "http://host?encoding=gif",
        "http://host?encoding=png#x",
        "http://:token@",
        "ftp://host",
    ],
)
def test_what_is_no_address_is_an_unknown_model(name: str) -> None:
    with pytest.raises(UnknownModelError) as raised:
        load_reward_model(name)
    assert "token" not in str(raised.value)


def test_a_server_that_is_not_there_is_an_error_in_one_line() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{free.getsockname()[1]}"
    with pytest.raises(ServerError, match="does not answer") as raised:
        load_reward_model(address, patience=0.2)
    assert explain(raised.value) is not None


def test_a_server_that_starts_late_is_waited_for() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    found: list[RewardModel] = []
    waiting = threading.Thread(
        target=lambda: found.append(load_reward_model(f"http://127.0.0.1:{port}", patience=600.0))
    )
    waiting.start()
    with serving(PixelModel, port=port):
        waiting.join()
        assert found[0].model_id == "pixel"


def test_another_model_at_the_same_address_is_refused() -> None:
    with serving(PixelModel) as running:
        remote, port = load_reward_model(running.url), running.address[1]
    with serving(BrightnessModel, port=port), pytest.raises(ServerError, match="rewards of two models"):
        remote.predict([Clip(noise(0, 2, 8, 8), "push")])


class TiledModel(PixelModel):
    tiled = True


def test_a_model_of_tiled_pictures_is_one_behind_an_address() -> None:
    with serving(TiledModel) as running:
        remote = load_reward_model(running.url)
        with pytest.raises(UnsupportedByModelError, match="single views to the model 'pixel'"):
            remote.require_views("this", tiled=False)
        clip = Clip(noise(0, 3, 8, 8), "push")
        assert_same(remote.predict([clip]), PixelModel().predict([clip]))
        assert_same(remote.predict_steps([clip]), PixelModel().predict_steps([clip]))
        assert len(remote.stream(["push"]).append(clip.read([0]))) == 1
        # Another client has to say it, too.
        remote.tiled = False
        for asked in (
            lambda: remote.predict([clip]),
            lambda: remote.predict_steps([clip]),
            lambda: remote.compare([(clip, clip)]),
            lambda: remote.stream(["push"]),
        ):
            with pytest.raises(UnsupportedByModelError, match='a request without "tiled": true shows single views'):
                asked()


def test_something_else_at_the_address_is_no_reward_server() -> None:
    with serving(PixelModel) as running:
        routes = running.app.router.routes
        routes[:] = [route for route in routes if getattr(route, "path", "") == "/health"]
        with pytest.raises(ServerError, match="Not Found"):
            load_reward_model(running.url)


CLIENT = """
import sys
sys.path[:0] = [{site!r}]
import numpy as np
from robometer_rl import Clip, load_reward_model

model = load_reward_model({url!r})
frames = np.zeros((4, 16, 16, 3), np.uint8)
assert len(model.predict_steps([Clip(frames, "push")])[0]) == 4
stream = model.stream(["push"])
stream.append(frames[:1])
stream.peek(frames)
print(sorted({{name.partition(".")[0] for name in sys.modules}} - set(sys.stdlib_module_names)))
"""


def test_the_client_needs_numpy_only(tmp_path: Path) -> None:
    """In an environment that has nothing else: `pip install --no-deps robometer-rl`."""
    installed = Path(np.__file__).parents[1]
    for package in (ROOT / "robometer_rl", installed / "numpy", installed / "numpy.libs"):
        if package.exists():
            (tmp_path / package.name).symlink_to(package)
    with serving(PixelModel) as running:
        program = CLIENT.format(site=str(tmp_path), url=running.url)
        done = subprocess.run([sys.executable, "-I", "-S", "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "['__main__', 'numpy', 'robometer_rl']"
