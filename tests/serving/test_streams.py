"""Histories at a server are histories: same numbers whoever else asks, whatever fails, and after a server was lost."""

from __future__ import annotations

import gc
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from robometer_rl.frames import Clip, FrameError, FrameProtocol, NestedFrames, TaskError, UniformFrames
from robometer_rl.models.loading import load_reward_model
from robometer_rl.models.reward_model import RewardModel, RewardStream
from robometer_rl.prediction import StepPrediction
from robometer_rl.serving.calls import StreamAction
from robometer_rl.serving.client import RemoteRewardModel, RemoteStream
from robometer_rl.serving.connection import Refusal
from robometer_rl.serving.limits import Limits
from robometer_rl.serving.service import Settings
from robometer_rl.serving.slots import StreamTable
from robometer_rl.serving.wire import encode
from tests.fixed_models import PixelModel
from tests.golden import CHECKPOINT
from tests.serving.servers import Process, Running, serving, start, wait_until

TASKS = ["push", "open the top drawer of the cabinet", "stack the cup"]
SIZES = [(32, 32), (32, 64), (64, 32)]
PROTOCOLS = [NestedFrames(4), NestedFrames(2), UniformFrames(3)]


def remote_model(running: Running) -> RemoteRewardModel:
    model = load_reward_model(running.url)
    assert isinstance(model, RemoteRewardModel)
    return model


def noise(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (*shape, 3), dtype=np.uint8)


def assert_same(got: StepPrediction, wanted: StepPrediction) -> None:
    np.testing.assert_allclose(got.progress, wanted.progress, atol=1e-6)
    np.testing.assert_allclose(np.asarray(got.success), np.asarray(wanted.success), atol=1e-6)
    np.testing.assert_allclose(got.progress_distribution, wanted.progress_distribution, atol=1e-6)


@st.composite
def stream_steps(draw: st.DrawFn) -> list[tuple[str, list[int], int]]:
    rows = st.lists(st.integers(0, 2), min_size=1, max_size=3, unique=True)
    kinds = st.sampled_from(["append"] * 8 + ["reset", "task", "peek", "lost"])
    return draw(st.lists(st.tuples(kinds, rows, st.integers(0, 2)), min_size=1, max_size=20))


def take_step(stream: RewardStream, number: int, kind: str, rows: list[int], task: int) -> StepPrediction | None:
    if kind == "append":
        return stream.append([noise(number * 3 + row, *SIZES[row]) for row in rows], rows)
    if kind == "peek":
        candidates = [row for row in rows for _ in range(task + 1)]
        return stream.peek([noise(900 + number * 9 + n, *SIZES[row]) for n, row in enumerate(candidates)], candidates)
    stream.reset(rows, [TASKS[task]] * len(rows) if kind == "task" else None)
    return None


@pytest.mark.parametrize("protocol", PROTOCOLS, ids=str)
@settings(max_examples=12)
@given(steps=stream_steps())
def test_a_remote_stream_is_a_local_one(
    running: Running, local: RewardModel, protocol: FrameProtocol, steps: list[tuple[str, list[int], int]]
) -> None:
    remote, expected = remote_model(running).stream(TASKS, protocol), local.stream(TASKS, protocol)
    assert isinstance(remote, RemoteStream)
    for number, (kind, rows, task) in enumerate(steps):
        if kind == "lost":
            remote.close()  # as far as the server knows, it never was
            continue
        wanted = take_step(expected, number, kind, rows, task)
        got = take_step(remote, number, kind, rows, task)
        assert remote.tasks == expected.tasks
        if wanted is not None and got is not None:
            assert_same(got, wanted)
    remote.close()


def ask_at_random(running: Running, local: RewardModel, client: int, steps: int, failures: list[Any]) -> None:
    """One client among several: random appends, peeks, resets and changes of task, held against a local stream."""
    random = np.random.default_rng(client)
    protocol = PROTOCOLS[client % 2]
    remote, expected = remote_model(running).stream(TASKS, protocol), local.stream(TASKS, protocol)
    try:
        for number in range(steps):
            kind = str(random.choice(["append"] * 12 + ["peek", "reset", "task"]))
            rows = sorted(random.choice(3, random.integers(1, 4), replace=False).tolist())
            task, step = int(random.integers(3)), number + 1000 * client
            wanted, got = (take_step(stream, step, kind, rows, task) for stream in (expected, remote))
            if wanted is not None and got is not None:
                assert_same(got, wanted)
    except BaseException as error:
        failures.append(error)
        raise


def check_clients(running: Running, local: RewardModel, clients: int, steps: int) -> None:
    failures: list[Any] = []
    threads = [
        threading.Thread(target=ask_at_random, args=(running, local, client, steps, failures))
        for client in range(clients)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []


def test_clients_do_not_touch_each_others_histories(running: Running, local: RewardModel) -> None:
    check_clients(running, local, clients=4, steps=25)


def test_alone_in_their_passes_they_have_the_very_numbers_of_a_local_stream(local: RewardModel) -> None:
    """Who shares a pass changes a rounding error, unless nobody does."""
    frames = noise(0, 6, 4, 32, 32)
    wanted = []
    for client in range(4):
        stream = local.stream(TASKS[:1])
        wanted.append([stream.append(frames[t, client : client + 1]).progress[0] for t in range(6)])
    clip = Clip(frames[:, 0], TASKS[0])
    with serving(lambda: load_reward_model(CHECKPOINT), Settings(exact=True)) as running, ThreadPoolExecutor(4) as pool:

        def go_on(client: int) -> list[float]:
            stream = remote_model(running).stream(TASKS[:1])
            return [stream.append(frames[t, client : client + 1]).progress[0] for t in range(6)]

        assert list(pool.map(go_on, range(4))) == wanted
        (got,), (expected,) = remote_model(running).predict_steps([clip]), local.predict_steps([clip])
        np.testing.assert_array_equal(got.progress, expected.progress)


@pytest.mark.slow
@pytest.mark.timeout(7200)
def test_eight_clients_for_two_thousand_steps(running: Running, local: RewardModel) -> None:
    check_clients(running, local, clients=8, steps=2000)


# --- Numbers of calls ---


def open_stream(model: RemoteRewardModel, **head: Any) -> str:
    return model.ask("POST", "/v1/streams", encode({"tasks": ["push"], **head}, [])).content["id"]


def append(model: RemoteRewardModel, name: str, seq: int, frame: np.ndarray, indices: tuple[int, ...] = (0,)) -> Any:
    body = encode({"seq": seq, "indices": list(indices)}, [frame[None]])
    return model.ask("POST", f"/v1/streams/{name}/append", body).message


def test_a_call_that_is_repeated_adds_no_frame_twice(running: Running) -> None:
    model = remote_model(running)
    name, frames = open_stream(model), noise(0, 4, 32, 32)
    first = append(model, name, 0, frames[0])
    again = append(model, name, 0, frames[1])
    np.testing.assert_array_equal(first.arrays[0], again.arrays[0])
    assert model.ask("GET", f"/v1/streams/{name}").content["lengths"] == [1]
    with pytest.raises(Refusal, match="got call number 3; expected 1") as gap:
        append(model, name, 3, frames[0])
    assert (gap.value.status, gap.value.kind) == (409, "seq")
    with pytest.raises(FrameError, match="history 0 got a frame"):
        append(model, name, 1, noise(0, 64, 32))
    append(model, name, 1, frames[1])
    assert model.ask("GET", f"/v1/streams/{name}").content["next_seq"] == 2
    for _ in range(2):
        reset = encode({"seq": 2, "indices": [0], "tasks": ["pull"]}, [])
        assert model.ask("POST", f"/v1/streams/{name}/reset", reset).content == {"next_seq": 3}
    with pytest.raises(Refusal, match="was no append"):
        append(model, name, 2, frames[0])
    about = model.ask("GET", f"/v1/streams/{name}").content
    assert (about["lengths"], about["tasks"], about["protocol"]) == ([0], ["pull"], str(model.default_protocol))
    assert model.ask("DELETE", f"/v1/streams/{name}").content is None
    with pytest.raises(Refusal) as gone:
        append(model, name, 3, frames[0])
    assert (gone.value.status, gone.value.kind) == (410, "stream_gone")


# --- Slots ---


def test_slots_are_bounded_and_given_back() -> None:
    with serving(PixelModel, Settings(limits=Limits(histories=3, protocols=2))) as running:
        model = remote_model(running)
        first, second = model.stream(["a", "b"]), model.stream(["c"])
        with pytest.raises(Refusal, match=r"0 of 3 are free.*--limits\.histories") as full:
            model.stream(["d"])
        assert (full.value.status, full.value.kind) == (429, "no_room")
        # A stream that nobody can use any more is given back.
        del first
        gc.collect()
        wait_until(lambda: free(running) == 2)
        third = model.stream(["d", "e"])
        assert len(third.append(noise(0, 2, 8, 8))) == 2
        assert len(second.append(noise(0, 1, 8, 8))) == 1
        other = model.stream(["f"], NestedFrames(2))
        with pytest.raises(Refusal, match="use one of these protocols"):
            model.stream(["f"], NestedFrames(3))
        other.close()
        assert len(model.stream(["f"], NestedFrames(3)).append(noise(0, 1, 8, 8))) == 1


def free(running: Running) -> int:
    text = running.server.metrics.text().decode()
    return 3 - int(float(text.split("\nrobometer_histories ")[1].split()[0]))


def test_a_stream_that_is_not_used_is_forgotten_and_rebuilt() -> None:
    def end_leases(table: StreamTable) -> None:
        for stream in table._streams.values():
            stream.ends = 0.0

    with serving(PixelModel, Settings(limits=Limits(histories=1))) as running:
        model, local = remote_model(running), PixelModel()
        frames, expected = noise(0, 6, 8, 8), local.stream(["a"])
        stream = model.stream(["a"])
        for frame in frames:
            running.server.thread.submit(StreamAction(stream=None, action=end_leases)).result()
            assert_same(stream.append([frame]), expected.append([frame]))


def test_memory_is_refused_before_it_is_taken() -> None:
    with serving(lambda: load_reward_model(CHECKPOINT), Settings(stream_bytes=12_000_000)) as running:
        model = remote_model(running)
        small, large = model.stream(["push"]), model.stream(["push"])
        small.append(noise(0, 1, 32, 32))
        with pytest.raises(Refusal, match="--stream-memory-gb") as refused:
            large.append(noise(0, 1, 512, 512))
        assert refused.value.kind == "no_room"
        assert len(large.append(noise(0, 1, 32, 32))) == len(small.append(noise(0, 1, 32, 32))) == 1


def test_frames_that_uniform_histories_keep_are_bounded() -> None:
    with serving(lambda: PixelModel(UniformFrames(8)), Settings(stream_bytes=5 * 192)) as running:
        stream = remote_model(running).stream(["push"])
        for t in range(5):
            stream.append(noise(t, 1, 8, 8))
        with pytest.raises(Refusal, match="streams have here"):
            stream.append(noise(5, 1, 8, 8))
        stream.reset()
        assert len(stream.append(noise(5, 1, 8, 8))) == 1


def test_a_bad_frame_fails_its_client_only(running: Running, local: RewardModel) -> None:
    """Calls that wait at the same time share a pass; in it, only the guilty one fails."""
    model = remote_model(running)
    streams = [model.stream(["push"]) for _ in range(4)]
    expected = local.stream(["push"])
    frames = noise(0, 12, 32, 32)
    failures: list[str] = []

    def go_on(number: int) -> None:
        for frame in frames:
            try:
                streams[number].append([frame if number else noise(0, 1, 300)])
            except FrameError as error:
                failures.append(f"{number}: {error}")

    threads = [threading.Thread(target=go_on, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(failures) == len(frames)
    assert all(failure.startswith("0: got frames of 1 x 300") for failure in failures)
    for frame in frames:
        expected.append([frame])
    last = noise(1, 32, 32)
    for number in range(1, 4):
        assert_same(streams[number].append([last]), expected.append([last]))
        expected.restore(0, 12, {t: frames[t] for t in local.default_protocol.retained(11).tolist()})


def test_tasks_and_histories_are_checked_before_anything_changes(running: Running) -> None:
    model = remote_model(running)
    with pytest.raises(TaskError):
        model.stream(["push", " "])
    with pytest.raises(TypeError, match="got one task"):
        model.stream("push")
    stream = model.stream(["push", "pull"])
    stream.append(noise(0, 2, 32, 32))
    with pytest.raises(TaskError, match="prog_token"):
        stream.reset([1], ["pull <|prog_token|>"])
    assert stream.tasks == ["push", "pull"]
    for indices in ([2], [0, 0], [-1]):
        with pytest.raises(IndexError):
            stream.append(noise(0, len(indices), 32, 32), indices)
    assert len(stream.append([], [])) == len(stream.peek([], [])) == 0
    wrong = encode({"tasks": ["push"], "restore": [{"length": 3, "frames": [0]}]}, [noise(0, 1, 32, 32)])
    with pytest.raises(ValueError, match="is restored from the frames"):
        model.ask("POST", "/v1/streams", wrong)


# --- A server that is lost ---


def test_histories_survive_a_server_that_is_killed(local: RewardModel) -> None:
    first: Process = start("--model", str(CHECKPOINT), "--port", "0")
    port = first.url.rpartition(":")[2]
    model = load_reward_model(first.url, patience=600.0)
    remote, expected = model.stream(TASKS[:2]), local.stream(TASKS[:2])
    frames = noise(0, 24, 32, 32)
    for t in range(11):
        assert_same(remote.append(frames[t : t + 1], [0]), expected.append(frames[t : t + 1], [0]))
    first.kill()
    again: list[Process] = []
    starting = threading.Thread(target=lambda: again.append(start("--model", str(CHECKPOINT), "--port", port)))
    starting.start()
    for t in range(11, 24):
        indices = [0, 1] if t % 2 else [0]
        shown = [frames[t]] * len(indices)
        assert_same(remote.append(shown, indices), expected.append(shown, indices))
    starting.join()
    code, output = again[0].stop()
    assert (code, "stopped" in output) == (0, True)
