"""Who may come in, how much is taken, and how it ends: checked before memory is, and nobody waits for somebody slow."""

from __future__ import annotations

import base64
import json
import random
import signal
import socket
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from robometer_rl.frames import Clip
from robometer_rl.models.loading import load_reward_model
from robometer_rl.models.reward_model import RewardModel
from robometer_rl.prediction import Prediction
from robometer_rl.serving.calls import Question
from robometer_rl.serving.limits import Limits
from robometer_rl.serving.problems import ServerError
from robometer_rl.serving.service import Settings
from robometer_rl.serving.wire import MEDIA_TYPE, encode
from tests.fixed_models import PixelModel
from tests.golden import CHECKPOINT
from tests.library import ROOT
from tests.serving.servers import FIXTURES, Running, ask_raw, read_answer, serving, start, wait_until

FRAMES = np.random.default_rng(0).integers(0, 256, (3, 8, 8, 3), dtype=np.uint8)
QUESTION = encode({"tasks": ["push"]}, [FRAMES])
PICTURES = encode({"tasks": ["push"]}, [FRAMES], "png")


def request(
    path: str, body: bytes = b"", method: str = "POST", media_type: str = MEDIA_TYPE, **headers: object
) -> bytes:
    given = {"Host": "x", "Content-Type": media_type, "Content-Length": len(body)}
    given |= {name.replace("_", "-"): value for name, value in headers.items()}
    lines = [f"{name}: {value}" for name, value in given.items() if value is not None]
    return "\r\n".join([f"{method} {path} HTTP/1.1", *lines, "", ""]).encode() + body


def problem(running: Running, sent: bytes) -> tuple[int, str]:
    status, headers, body = ask_raw(running.address, sent)
    error = json.loads(body)["error"]
    assert set(error) == {"type", "message", "field"}
    assert headers["x-robometer-instance"] == running.server.instance
    return status, error["type"]


class Stopped(PixelModel):
    """Begins to predict when it is told to."""

    def __init__(self) -> None:
        super().__init__()
        self.begun, self.go = threading.Event(), threading.Event()

    def predict(self, clips: Sequence[Clip]) -> list[Prediction]:
        self.begun.set()
        self.go.wait()
        return super().predict(clips)


@pytest.fixture(scope="module")
def running() -> Iterator[Running]:
    with serving(PixelModel) as found:
        yield found


TOO_LARGE = (413, "too_large")


@pytest.mark.parametrize(
    ("sent", "expected"),
    [
        (request("/v1/nothing", QUESTION), (404, "not_found")),
        (request("/v1/model"), (405, "method_not_allowed")),
        (request("/v1/predict", method="GET"), (405, "method_not_allowed")),
        (request("/v1/predict", QUESTION, media_type="image/png"), (415, "unsupported_media")),
        (request("/v1/predict", b"", media_type="application/json"), (400, "malformed")),
        (request("/v1/predict", b"[]", media_type="application/json"), (400, "malformed")),
        (request("/v1/predict", b"[" * 200_000, media_type="application/json"), (400, "malformed")),
        (request("/v1/predict", b"\xff", media_type="application/json"), (400, "malformed")),
        (request("/v1/predict", QUESTION[:-1]), (400, "malformed")),
        (request("/v1/predict", encode({}, [FRAMES])), (422, "value")),
        (request("/v1/predict", encode({"tasks": "push"}, [FRAMES])), (422, "value")),
        (request("/v1/predict", encode({"tasks": [3]}, [FRAMES])), (422, "task")),
        (request("/v1/predict", encode({"tasks": ["x" * 3000]}, [FRAMES])), (422, "task")),
        (request("/v1/predict", encode({"tasks": []}, [])), (422, "value")),
        (request("/v1/predict", encode({"tasks": ["a", "b"]}, [FRAMES])), (422, "value")),
        (request("/v1/predict", encode({"tasks": ["push"] * 300}, [FRAMES] * 300)), (413, "too_large")),
        (request("/v1/predict", encode({"tasks": ["push"]}, [FRAMES.astype(np.float32)])), (415, "unsupported_media")),
        (request("/v1/predict", encode({"tasks": ["push"]}, [FRAMES[0]])), (422, "frame")),
        (request("/v1/predict", encode({"tasks": ["push"]}, [FRAMES[..., :2]])), (422, "frame")),
        (request("/v1/predict", encode({"tasks": ["push"]}, [FRAMES[:0]])), (422, "frame")),
        (
            request("/v1/predict", encode({"tasks": ["push"]}, [np.zeros((1, 1, 4096, 3), np.uint8)])),
            (413, "too_large"),
        ),
        (
            request("/v1/predict", encode({"tasks": ["push"]}, [np.zeros((10_001, 1, 1, 3), np.uint8)])),
            (413, "too_large"),
        ),
        (request("/v1/predict", encode({"tasks": ["push"]}, [np.zeros((2, 1, 3000, 3), np.uint8)], "png")), TOO_LARGE),
        (request("/v1/predict", PICTURES.replace(b"IHDR", b"ihdr")), (422, "frame")),
        (request("/v1/predict_steps", encode({"tasks": ["push"], "every": 0}, [FRAMES])), (422, "value")),
        (request("/v1/predict_steps", encode({"tasks": ["push"], "every": True}, [FRAMES])), (422, "value")),
        (request("/v1/predict_steps", encode({"tasks": ["push"], "protocol": 8}, [FRAMES])), (422, "value")),
        (request("/v1/predict_steps", encode({"tasks": ["push"], "protocol": "nested(0)"}, [FRAMES])), (422, "value")),
        (request("/v1/compare", QUESTION), (422, "value")),
        (
            request("/v1/compare", encode({"tasks": ["push"], "both_orders": 1}, [FRAMES] * 2)),
            (422, "value"),
        ),
        (request("/v1/compare", encode({"tasks": ["push"]}, [FRAMES] * 2)), (422, "unsupported_by_model")),
        (request("/v1/streams", encode({"tasks": ["a"], "restore": [3]}, [])), (422, "value")),
        (request("/v1/streams", encode({"tasks": ["a"], "restore": []}, [])), (422, "value")),
        (
            request("/v1/streams", encode({"tasks": ["a"], "restore": [{"length": 1, "frames": [0]}]}, [])),
            (422, "value"),
        ),
        (
            request("/v1/streams", encode({"tasks": ["a"], "restore": [{"length": 2, "frames": [0]}]}, [FRAMES[:1]])),
            (422, "value"),
        ),
        (request("/v1/streams/no/append", encode({"seq": 0, "indices": [0]}, [FRAMES[:1]])), (410, "stream_gone")),
        (request("/v1/streams/no/append", encode({"seq": -1, "indices": [0]}, [FRAMES[:1]])), (422, "value")),
        (request("/v1/streams/no/append", encode({"seq": 0, "indices": [0, 1]}, [FRAMES[:1]])), (422, "value")),
        (request("/v1/streams/no/append", encode({"seq": 0, "indices": [-1]}, [FRAMES[:1]])), (422, "value")),
        (request("/v1/streams/no", method="DELETE"), (410, "stream_gone")),
        (request("/v1/predict", QUESTION, X_Deadline_Ms="soon"), (400, "malformed")),
    ],
)
def test_wrong_requests_say_what_is_wrong(running: Running, sent: bytes, expected: tuple[int, str]) -> None:
    assert problem(running, sent) == expected


def test_a_body_that_is_too_large_is_refused_before_it_is_sent() -> None:
    with serving(PixelModel, Settings(limits=Limits(body=10_000))) as running:
        head = request("/v1/predict", Content_Length=1 << 40)
        assert problem(running, head) == (413, "too_large")
        chunked = request("/v1/predict", Content_Length=None, Transfer_Encoding="chunked")
        chunks = b"1000\r\n" + bytes(0x1000) + b"\r\n"
        assert problem(running, chunked + 3 * chunks) == (413, "too_large")
        pictures = encode({"tasks": ["push"]}, [np.zeros((20, 16, 16, 3), np.uint8)], "png")
        assert len(pictures) < 10_000
        assert problem(running, request("/v1/predict", pictures)) == (413, "too_large")
        assert ask_raw(running.address, request("/v1/predict", QUESTION))[0] == 200


def test_a_client_that_is_slow_or_silent_blocks_nobody() -> None:
    limits = Limits(upload_s=2.0, requests=3)
    with serving(PixelModel, Settings(limits=limits)) as running:
        remote = load_reward_model(running.url)
        silent = [socket.create_connection(running.address) for _ in range(20)]
        slow = [socket.create_connection(running.address) for _ in range(2)]
        for connection in slow:
            connection.sendall(request("/v1/predict", QUESTION)[:-10])
        assert len(remote.predict([Clip(FRAMES, "push")])) == 1
        for connection in slow:
            status, _, body = read_answer(connection)
            assert (status, json.loads(body)["error"]["type"]) == (408, "upload_timeout")
        for connection in [*silent, *slow]:
            connection.close()
        wait_until(lambda: running.server.door.requests == 0)  # counted after the answer is sent


def test_a_full_queue_is_said_at_once_and_the_client_waits_for_a_place() -> None:
    model = Stopped()
    with serving(lambda: model, Settings(limits=Limits(requests=2))) as running:
        remote = load_reward_model(running.url, patience=600.0)
        with ThreadPoolExecutor(3) as threads:
            asked = [threads.submit(remote.predict, [Clip(FRAMES, "push")]) for _ in range(2)]
            wait_until(lambda: running.server.door.requests == 2)
            status, headers, body = ask_raw(running.address, request("/v1/predict", QUESTION))
            assert (status, headers["retry-after"]) == (429, "1")
            assert json.loads(body)["error"]["type"] == "busy"
            asked.append(threads.submit(remote.predict, [Clip(FRAMES, "push")]))
            model.go.set()
            assert [len(each.result()) for each in asked] == [1, 1, 1]
        wait_until(lambda: (running.server.door.requests, running.server.door.nbytes) == (0, 0))


def test_a_token_has_a_share_of_the_queue_and_leaves_the_rest_to_others() -> None:
    model = Stopped()
    settings = Settings(tokens=("one", "other"), limits=Limits(requests_per_token=2))
    with serving(lambda: model, settings) as running:

        def ask(token: str) -> tuple[int, bytes]:
            status, _, body = ask_raw(
                running.address, request("/v1/predict", QUESTION, Authorization=f"Bearer {token}")
            )
            return status, body

        with ThreadPoolExecutor(3) as threads:
            asked = [threads.submit(ask, "one") for _ in range(2)]
            wait_until(lambda: running.server.door.requests == 2)
            status, body = ask("one")
            assert (status, json.loads(body)["error"]["type"]) == (429, "busy")
            asked.append(threads.submit(ask, "other"))
            wait_until(lambda: running.server.door.requests == 3)
            model.go.set()
            assert [future.result()[0] for future in asked] == [200] * 3
        wait_until(lambda: set(running.server.door.requests_of.values()) == {0})


def test_work_that_nobody_waits_for_is_not_done() -> None:
    model = Stopped()
    with serving(lambda: model) as running:
        first = threading.Thread(target=ask_raw, args=(running.address, request("/v1/predict", QUESTION)))
        first.start()
        model.begun.wait()
        late = request("/v1/predict", encode({"tasks": ["late"]}, [FRAMES]), X_Deadline_Ms=1)
        assert problem(running, late) == (504, "deadline")
        with socket.create_connection(running.address) as gone:
            gone.sendall(request("/v1/predict", encode({"tasks": ["gone"]}, [FRAMES])))
            wait_until(lambda: running.server.door.requests == 2)
        wait_until(lambda: running.server.door.requests == 1)
        model.go.set()
        first.join()
        assert ask_raw(running.address, request("/v1/predict", QUESTION))[0] == 200
        assert model.calls == 2


def test_what_waits_is_asked_together_and_a_long_question_does_not_keep_others_waiting() -> None:
    model = Stopped()
    with serving(lambda: model) as running:
        thread = running.server.thread
        thread.submit(Question(kind="predict", items=[Clip(FRAMES, "first")]))
        model.begun.wait()
        long = thread.submit(Question(kind="predict", items=[Clip(FRAMES, str(n)) for n in range(200)]))
        short = [thread.submit(Question(kind="predict", items=[Clip(FRAMES, f"s{n}")])) for n in range(5)]
        done = []
        long.add_done_callback(lambda _: done.append("long"))
        for number, future in enumerate(short):
            future.add_done_callback(lambda _, number=number: done.append(f"short {number}"))
        model.go.set()
        assert len(long.result()) == 200
        assert [len(future.result()) for future in short] == [1] * 5
        assert done == [*(f"short {number}" for number in range(5)), "long"]
        expected = PixelModel().predict([Clip(FRAMES, "199")])[0].progress
        np.testing.assert_array_equal(long.result()[199].progress, expected)
        # One alone, then turns of 42 clips of three frames each; the short questions are part of one of them.
        assert model.calls == 1 + 5


def test_a_token_is_asked_for_everywhere_but_at_the_pulse() -> None:
    with serving(PixelModel, Settings(tokens=("secret",))) as running:
        for path in ("/v1/model", "/metrics", "/docs", "/openapi.json", "/gpu_status", "/model_info", "/no"):
            assert problem(running, request(path, method="GET")) == (401, "unauthorized")
        assert problem(running, request("/v1/predict", QUESTION)) == (401, "unauthorized")
        for path in ("/health", "/ready"):
            assert ask_raw(running.address, request(path, method="GET"))[0] == 200
        basic = base64.b64encode(b"anybody:secret").decode()
        for shown in ("Bearer secret", "bearer secret", f"Basic {basic}"):
            assert ask_raw(running.address, request("/v1/predict", QUESTION, Authorization=shown))[0] == 200
        wrong = base64.b64encode(b"secret:").decode()
        for shown in ("Bearer", "Bearer secrets", "secret", f"Basic {wrong}", "Basic secret", "Basic \xe9", "Digest x"):
            assert problem(running, request("/v1/model", method="GET", Authorization=shown)) == (401, "unauthorized")


def test_answers_are_json_for_those_who_take_no_messages(running: Running) -> None:
    expected = PixelModel().predict([Clip(FRAMES, "push")])[0]
    status, headers, body = ask_raw(running.address, request("/v1/predict", QUESTION, Accept="application/json"))
    (said,) = json.loads(body)["predictions"]
    assert (status, headers["content-type"]) == (200, "application/json")
    assert headers["x-robometer-model"] == "pixel@ float32"
    np.testing.assert_array_equal(np.array(said["progress"], np.float32), expected.progress)
    np.testing.assert_array_equal(np.array(said["progress_distribution"], np.float32), expected.progress_distribution)
    np.testing.assert_array_equal(np.array(said["uncertainty"], np.float32), expected.uncertainty)
    assert (said["protocol"], said["model_id"]) == ("given", "pixel")


def test_what_happens_is_counted() -> None:
    with serving(PixelModel) as running:
        check_counts(running)


def check_counts(running: Running) -> None:
    remote = load_reward_model(running.url)
    remote.predict([Clip(FRAMES, "push")] * 2)
    stream = remote.stream(["a", "b"])
    stream.append(FRAMES[:2])
    problem(running, request("/v1/nothing", QUESTION))
    _, _, body = ask_raw(running.address, request("/metrics", method="GET"))
    values = dict(line.rsplit(" ", 1) for line in body.decode().splitlines() if not line.startswith("#"))
    for name, value in {
        'robometer_requests_total{route="/v1/predict",status="200"}': 1,
        'robometer_requests_total{route="other",status="404"}': 1,
        'robometer_rejected_total{reason="not_found"}': 1,
        "robometer_frames_total": 8,
        "robometer_streams": 1,
        "robometer_histories": 2,
        'robometer_batch_rows_sum{kind="predict"}': 2,
        'robometer_batch_rows_sum{kind="stream"}': 2,
        'robometer_model_info{dtype="float32",id="pixel",revision=""}': 1,
    }.items():
        assert float(values[name]) == value, name


# --- Loading and the end ---


def test_requests_are_answered_while_the_model_is_loaded_and_a_model_that_cannot_be_ends_it() -> None:
    go, model = threading.Event(), PixelModel()

    def load() -> RewardModel:
        go.wait()
        return model

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]

    def look() -> None:
        wait_until(lambda: _answers(port))
        assert ask_raw(("127.0.0.1", port), request("/health", method="GET"))[0] == 200
        for sent in (request("/ready", method="GET"), request("/v1/predict", QUESTION)):
            status, headers, body = ask_raw(("127.0.0.1", port), sent)
            assert (status, headers["retry-after"], json.loads(body)["error"]["type"]) == (503, "1", "loading")
        go.set()

    looking = threading.Thread(target=look)
    looking.start()
    with serving(load, port=port) as running:
        looking.join()
        assert ask_raw(running.address, request("/v1/predict", QUESTION))[0] == 200


def _answers(port: int) -> bool:
    with socket.socket() as connection:
        return connection.connect_ex(("127.0.0.1", port)) == 0


WAITING_FAMILY = """
import time
from pathlib import Path
from tests.fixed_models import PixelModel

class Waiting(PixelModel):
    def predict(self, clips):
        while not self.file.exists():
            time.sleep(0.01)
        return super().predict(clips)

def load(where):
    model = Waiting()
    model.file = Path(where)
    return model
"""


def test_sigterm_finishes_what_has_begun_and_begins_nothing(tmp_path: Path) -> None:
    (tmp_path / "waiting_family.py").write_text(WAITING_FAMILY)
    environment = {"PYTHONPATH": f"{ROOT}:{tmp_path}"}
    process = start("--model", f"waiting_family:{tmp_path / 'go'}", "--port", "0", environment=environment)
    remote, clip = load_reward_model(process.url, patience=0.0), Clip(FRAMES, "push")
    address = ("127.0.0.1", int(process.url.rpartition(":")[2]))
    with ThreadPoolExecutor(1) as threads:
        answer = threads.submit(remote.predict, [clip])
        waiting = b"robometer_queue_requests 1.0"
        wait_until(lambda: waiting in ask_raw(address, request("/metrics", method="GET"))[2])
        process.process.send_signal(signal.SIGTERM)
        wait_until(lambda: ask_raw(address, request("/ready", method="GET"))[0] == 503)
        status, _, body = ask_raw(address, request("/v1/predict", QUESTION))
        assert (status, json.loads(body)["error"]["type"]) == (503, "draining")
        (tmp_path / "go").touch()
        np.testing.assert_array_equal(answer.result()[0].progress, PixelModel().predict([clip])[0].progress)
    output, _ = process.process.communicate()
    assert (process.process.returncode, "stopped" in output) == (0, True)
    with pytest.raises(ServerError, match="does not answer"):
        remote.predict([clip])


# --- Anything ---


def mutated(chance: random.Random, body: bytes) -> bytes:
    """A body with some of its bytes changed, removed, repeated or replaced."""
    for _ in range(chance.randint(1, 4)):
        place, length = chance.randrange(len(body) + 1), chance.choice([1, 1, 4, 64, 4096])
        kind = chance.choice(["change", "remove", "repeat", "insert", "cut", "number"])
        part = body[place : place + length]
        new = {
            "change": bytes(chance.randrange(256) for _ in part),
            "remove": b"",
            "repeat": part * chance.randint(2, 20),
            "insert": chance.choice(
                [b"\x00", b"\xff" * 8, b"{", b'"', b"[" * 5000, b"--", b"\r\n\r\n", b"1e999", b"-1"]
            )
            + part,
            "cut": None,
            "number": chance.choice([b"0", b"-1", b"99999999999", b"1.5", b"null", b"NaN"]),
        }[kind]
        body = body[:place] if new is None else body[:place] + new + body[place + len(part) :]
    return body


def recorded() -> list[tuple[bytes, bytes]]:
    """Heads without their lengths, and bodies, of requests that are answered."""
    found = []
    for path in sorted(FIXTURES.glob("*.http")):
        head, _, body = path.read_bytes().partition(b"\r\n\r\n")
        lines = [line for line in head.split(b"\r\n") if not line.lower().startswith((b"content-length", b"transfer"))]
        found.append((b"\r\n".join(lines), body))
    restored = [{"length": 2, "frames": [0, 1]}]
    ours = {
        "/v1/predict": QUESTION,
        "/v1/predict?": PICTURES,
        "/v1/predict_steps": encode({"tasks": ["push"], "protocol": "nested(4)", "every": 2}, [FRAMES]),
        "/v1/compare": encode({"tasks": ["push"], "both_orders": True}, [FRAMES, FRAMES]),
        "/v1/streams": encode({"tasks": ["push"], "restore": restored, "protocol": "nested(4)"}, [FRAMES[:2]]),
        "/v1/streams/0/append": encode({"seq": 0, "indices": [0]}, [FRAMES[:1]]),
        "/v1/streams/0/reset": encode({"seq": 0, "indices": [0], "tasks": ["push"]}, []),
    }
    head = "POST {} HTTP/1.1\r\nHost: x\r\nContent-Type: " + MEDIA_TYPE
    return found + [(head.format(path).encode(), body) for path, body in ours.items()] * 2


NAMED = {"non_finite_output", "out_of_memory", "deadline", "loading", "draining"}


def send_anything(running: Running, count: int) -> None:
    chance, requests = random.Random(0), recorded()
    for number in range(count):
        head, body = requests[number % len(requests)]
        if number % 10 == 0:  # a damaged head: whatever it says, the connection ends
            with socket.create_connection(running.address) as connection:
                connection.sendall(mutated(chance, head + b"\r\n\r\n"))
            continue
        body = mutated(chance, body)
        length = f"\r\nContent-Length: {len(body)}\r\n\r\n".encode()
        status, _, answer = ask_raw(running.address, head + length + body)
        said: Any = json.loads(answer) if answer else {}
        assert status < 500 or said["error"]["type"] in NAMED, (number, status, answer[:500])
        if status >= 400:
            assert set(said["error"]) == {"type", "message", "field"}, (number, status, answer[:500])


def resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


def check_anything(count: int) -> None:
    # Leases are short so that streams that were opened by accident do not take all slots.
    settings = Settings(lease_s=0.5, limits=Limits(upload_s=5.0))
    with serving(lambda: load_reward_model(CHECKPOINT), settings) as running:
        send_anything(running, 100)
        before = resident()
        send_anything(running, count)
        assert resident() - before < 200e6
        assert len(load_reward_model(running.url).predict([Clip(FRAMES, "push")])) == 1
        wait_until(lambda: running.server.door.requests == 0)
        assert running.server.door.nbytes == 0


def test_damaged_requests_harm_nobody() -> None:
    check_anything(300)


@pytest.mark.slow
@pytest.mark.timeout(7200)
def test_ten_thousand_damaged_requests_harm_nobody() -> None:
    check_anything(10_000)
