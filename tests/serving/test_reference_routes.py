"""What the reference's clients send is answered as its server does, and where that fails, with what was meant.

The requests in tests/fixtures/serving are bytes that those clients wrote, the answers those of the reference's server.
"""

from __future__ import annotations

import io
import json
import pickle
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import numpy as np
import pytest

from robometer_rl.frames import Clip, UniformFrames
from robometer_rl.models.loading import load_reward_model
from robometer_rl.models.reward_model import UnsupportedByModelError
from robometer_rl.rewards import RewardSpec
from robometer_rl.serving.problems import ServerError
from robometer_rl.serving.reference_client import ReferenceServerModel
from robometer_rl.tiles import TileLayout, tile_views
from tests.fixed_models import BrightnessModel
from tests.golden import CHECKPOINT, clips, pairs
from tests.serving.servers import FIXTURES, Running, ask_raw, serving

ANSWERS = json.loads((FIXTURES / "reference_responses.json").read_text())
ANSWERED = [
    "npy_progress",
    "npy_progress_long",
    "npy_two_progress",
    "npy_minimal",
    "npy_async_helper",
    "npy_frame_steps",
    "npy_preference",
]


def replay(running: Running, name: str) -> tuple[int, Any]:
    status, _, body = ask_raw(running.address, (FIXTURES / f"{name}.http").read_bytes())
    return status, json.loads(body)


def assert_same(got: Any, wanted: Any) -> None:
    if isinstance(wanted, dict):
        assert list(got) == list(wanted)
        for name in wanted:
            assert_same(got[name], wanted[name])
    elif wanted is None:
        assert got is None
    else:
        for one, other in zip(got, wanted, strict=True):
            np.testing.assert_allclose(one, other, atol=1e-4)


@pytest.mark.parametrize("name", ANSWERED)
def test_recorded_requests_have_the_recorded_answers(running: Running, name: str) -> None:
    status, body = replay(running, name)
    assert status == ANSWERS[name]["status"] == 200
    assert_same(body, ANSWERS[name]["body"])


def test_one_frame_has_one_value(running: Running) -> None:
    """The reference gives the values of the four copies by which the frame is shown."""
    status, body = replay(running, "npy_frame_steps_one_frame")
    recorded = ANSWERS["npy_frame_steps_one_frame"]["body"]["outputs_progress"]["progress_pred"][0]
    assert status == 200
    np.testing.assert_allclose(body["outputs_progress"]["progress_pred"], [recorded[-1:]], atol=1e-4)


def test_requests_that_the_reference_fails_at_are_answered(running: Running) -> None:
    status, body = replay(running, "npy_two_progress_ragged")
    lengths = [len(values) for values in body["outputs_progress"]["progress_pred"]]
    assert status == 200
    assert len(set(lengths)) == 2
    status, body = replay(running, "npy_preference_and_progress")
    (first,) = load_reward_model(CHECKPOINT).compare(pairs("preference_batch")[1:])
    assert status == 200
    assert_same(
        body["outputs_preference"], {"predictions": [0], "prediction_probs": [first], "preference_labels": [1.0]}
    )
    assert len(body["outputs_progress"]["progress_pred"]) == 1
    assert len(body["outputs_success"]["success_probs"]) == 1


def test_pixels_may_be_written_in_json(running: Running) -> None:
    status, body = replay(running, "json_progress")
    assert status == 200
    assert_same(body, ANSWERS["npy_progress"]["body"])


def test_embeddings_are_refused_with_a_reason(running: Running) -> None:
    status, body = replay(running, "npy_embeddings")
    assert status == 422
    assert body["error"]["type"] == "unsupported_by_model"
    assert "needs frames" in body["error"]["message"]


@pytest.mark.parametrize("path", ["/health", "/gpu_status", "/model_info"])
def test_descriptions_have_the_keys_of_the_reference(running: Running, path: str) -> None:
    status, _, body = ask_raw(running.address, f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
    recorded, got = ANSWERS[f"GET {path}"]["body"], json.loads(body)
    assert status == 200
    assert set(recorded) <= set(got)
    if path == "/model_info":
        assert set(recorded["experiment_config"]) <= set(got["experiment_config"])
        assert set(recorded["model_architecture"]) <= set(got["model_architecture"])
        read_by_clients = [
            ("data", "max_frames"),
            ("loss", "progress_loss_type"),
            ("loss", "progress_discrete_bins"),
            ("model", "base_model_id"),
        ]
        for section, name in read_by_clients:
            assert got["experiment_config"][section][name] == recorded["experiment_config"][section][name]


# --- Bad input, and what the reference answers in silence ---


def npy(array: np.ndarray, **options: Any) -> bytes:
    file = io.BytesIO()
    np.lib.format.write_array(file, array, **options)
    return file.getvalue()


GOOD = np.zeros((2, 32, 32, 3), np.uint8)
SAMPLE = {"sample_type": "progress", "trajectory": {"task": "push", "frames": {"__numpy_file__": "f"}}}


def form(texts: dict[str, Any], files: dict[str, bytes]) -> bytes:
    parts = b""
    for name, text in texts.items():
        written = text if isinstance(text, str) else json.dumps(text)
        parts += f'--b\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{written}\r\n'.encode()
    for name, data in files.items():
        head = f'Content-Disposition: form-data; name="{name}"; filename="{name}.npy"'
        parts += f"--b\r\n{head}\r\nContent-Type: application/octet-stream\r\n\r\n".encode() + data + b"\r\n"
    body = parts + b"--b--\r\n"
    head = f"POST /evaluate_batch_npy HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n"
    return f"{head}Content-Type: multipart/form-data; boundary=b\r\n\r\n".encode() + body


def with_trajectory(**changes: Any) -> dict[str, Any]:
    return {**SAMPLE, "trajectory": {**SAMPLE["trajectory"], **changes}}


def lying_header(shape: str, dtype: str = "|u1") -> bytes:
    head = f"{{'descr': '{dtype}', 'fortran_order': False, 'shape': {shape}, }}"
    head = head.ljust(117) + "\n"
    return b"\x93NUMPY\x01\x00" + len(head).to_bytes(2, "little") + head.encode()


@pytest.mark.parametrize(
    ("texts", "files", "status", "kind"),
    [
        ({}, {"f": npy(GOOD)}, 422, "value"),
        ({"sample_0": "{"}, {"f": npy(GOOD)}, 400, "malformed"),
        ({"sample_0": "[" * 100_000}, {"f": npy(GOOD)}, 400, "malformed"),
        ({"sample_0": [SAMPLE]}, {"f": npy(GOOD)}, 422, "value"),
        ({"sample_0": {**SAMPLE, "sample_type": "similarity"}}, {"f": npy(GOOD)}, 422, "value"),
        ({"sample_0": {**SAMPLE, "trajectory": None}}, {"f": npy(GOOD)}, 422, "value"),
        ({"sample_0": SAMPLE}, {}, 422, "missing_part"),
        ({"sample_0": SAMPLE, "use_frame_steps": "perhaps"}, {"f": npy(GOOD)}, 422, "value"),
        ({"sample_0": SAMPLE}, {"f": b"PK\x03\x04"}, 422, "frame"),
        ({"sample_0": SAMPLE}, {"f": npy(GOOD)[:-1]}, 422, "frame"),
        ({"sample_0": SAMPLE}, {"f": npy(np.array([None] * 3), allow_pickle=True)}, 422, "frame"),
        ({"sample_0": SAMPLE}, {"f": lying_header("(100, 1000, 1000, 3)")}, 422, "frame"),
        ({"sample_0": SAMPLE}, {"f": lying_header("(1 << 40, 1000, 1000, 3)")}, 422, "frame"),
        ({"sample_0": SAMPLE}, {"f": lying_header("(100000, 3000, 3000, 3)")}, 413, "too_large"),
        ({"sample_0": SAMPLE}, {"f": lying_header("(-1, 32, 32, 3)")}, 422, "frame"),
        ({"sample_0": SAMPLE}, {"f": lying_header("(2, 32, 32, 3), ((")}, 422, "frame"),
        ({"sample_0": SAMPLE}, {"f": lying_header("(" * 5000)}, 422, "frame"),
        ({"sample_0": SAMPLE}, {"f": npy(GOOD[..., 0])}, 422, "frame"),
        ({"sample_0": SAMPLE}, {"f": npy(GOOD[:0])}, 422, "frame"),
        ({"sample_0": SAMPLE}, {"f": npy(GOOD.astype(np.float32) + 200)}, 422, "frame"),
        ({"sample_0": SAMPLE}, {"f": npy(GOOD.astype(np.complex64))}, 422, "frame"),
        ({"sample_0": with_trajectory(task=None)}, {"f": npy(GOOD)}, 422, "task"),
        ({"sample_0": with_trajectory(task=" ")}, {"f": npy(GOOD)}, 422, "task"),
        ({"sample_0": with_trajectory(task="push <|prog_token|>")}, {"f": npy(GOOD)}, 422, "task"),
        ({"sample_0": with_trajectory(frames_shape=[3, 32, 32, 3])}, {"f": npy(GOOD)}, 422, "frame"),
        ({"sample_0": with_trajectory(frames=["/etc/passwd"])}, {"f": npy(GOOD)}, 422, "frame"),
        ({"sample_0": with_trajectory(frames="/etc/passwd")}, {"f": npy(GOOD)}, 422, "frame"),
        ({f"sample_{n}": SAMPLE for n in range(300)}, {"f": npy(GOOD)}, 413, "too_large"),
        ({f"x{n}": "1" for n in range(1100)}, {}, 400, "malformed"),
        ({}, {f"x{n}": b"1" for n in range(1100)}, 400, "malformed"),
        ({"sample_0": '"' + "a" * (1 << 21)}, {}, 400, "malformed"),
    ],
)
def test_wrong_requests_say_what_is_wrong(
    running: Running, texts: dict[str, Any], files: dict[str, bytes], status: int, kind: str
) -> None:
    got, _, body = ask_raw(running.address, form(texts, files))
    assert (got, json.loads(body)["error"]["type"]) == (status, kind)


def test_channels_may_come_first_and_one_part_may_serve_two_samples(running: Running) -> None:
    frames = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3), dtype=np.uint8)
    texts = {"sample_0": SAMPLE, "sample_1": SAMPLE}
    _, _, last = ask_raw(running.address, form(texts, {"f": npy(frames)}))
    _, _, first = ask_raw(running.address, form(texts, {"f": npy(frames.transpose(0, 3, 1, 2))}))
    assert json.loads(first) == json.loads(last)
    assert len(json.loads(first)["outputs_progress"]["progress_pred"]) == 2


# --- Our client at a server of the reference ---


@pytest.fixture(scope="module")
def without_ours() -> Iterator[Running]:
    """A server that has the routes of the reference only."""
    with serving(lambda: load_reward_model(CHECKPOINT)) as found:
        routes = found.app.router.routes
        routes[:] = [route for route in routes if not getattr(route, "path", "").startswith("/v1")]
        yield found


def test_our_client_asks_a_server_that_has_the_routes_of_the_reference_only(without_ours: Running) -> None:
    local, remote = load_reward_model(CHECKPOINT), load_reward_model(without_ours.url)
    assert isinstance(remote, ReferenceServerModel)
    assert remote.default_protocol == UniformFrames(8)
    asked = [*clips("progress_batch", "prog0", "prog1", "prog2"), Clip(GOOD, "push")]
    for one, other in zip(remote.predict(asked), local.predict(asked), strict=True):
        np.testing.assert_allclose(one.progress, other.progress, atol=1e-6)
        np.testing.assert_allclose(np.asarray(one.success), np.asarray(other.success), atol=1e-6)
        assert one.progress_distribution.shape == (len(one), 0)
    with pytest.raises(UnsupportedByModelError, match="needs a distribution over progress"):
        remote.require_for(RewardSpec(confidence=0.5), live=True)
    shown = pairs("preference_batch")
    for both_orders in (False, True):
        np.testing.assert_allclose(remote.compare(shown, both_orders), local.compare(shown, both_orders), atol=1e-6)
    frames = asked[0].read()
    (dense,) = local.predict_steps([Clip(frames, "push")], UniformFrames(8))
    stream = pickle.loads(pickle.dumps(remote)).stream(["push"])
    streamed = [stream.append(frame[None]).progress[0] for frame in frames]
    np.testing.assert_allclose(streamed, dense.progress, atol=1e-5)


class Recorded(BaseHTTPRequestHandler):
    """The reference's server when it fails: every problem is 500 and the text "Internal Server Error"."""

    def do_GET(self) -> None:
        recorded = ANSWERS.get(f"GET {self.path}")
        self.answer(404 if recorded is None else 200, json.dumps(recorded and recorded["body"]))

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.answer(500, "Internal Server Error")

    def answer(self, status: int, text: str) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text.encode())

    def log_message(self, *args: Any) -> None:
        """Silent."""


def test_a_failure_without_a_reason_is_an_error_that_says_so() -> None:
    with ThreadingHTTPServer(("127.0.0.1", 0), Recorded) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        remote = load_reward_model(f"http://127.0.0.1:{server.server_port}")
        assert (remote.model_id, remote.default_protocol) == ("fixture", UniformFrames(8))
        with pytest.raises(ServerError, match="answered /evaluate_batch_npy with 500, 'Internal Server Error', and"):
            remote.predict([Clip(GOOD, "push")])
        server.shutdown()
        thread.join()


# --- Several cameras in one picture ---

VIEWS = {name: np.full((3, 24, 32, 3), level, np.uint8) for name, level in (("wrist", 20), ("top", 200), ("side", 90))}
PARTS = {name: npy(array) for name, array in VIEWS.items()}


def views_of_a_sample(**changes: Any) -> dict[str, Any]:
    views = {name: {"__numpy_file__": name} for name in VIEWS}
    return {"sample_type": "progress", "trajectory": {"task": "push", "views": views, **changes}}


class TiledModel(BrightnessModel):
    tiled = True


def test_views_are_tiled_before_they_are_scored() -> None:
    pytest.importorskip("cv2")
    with serving(TiledModel) as running:
        for changes, layout in (
            ({"primary_view": "top"}, TileLayout()),
            ({"primary_view": "top", "target_width": 60, "target_height": 50}, TileLayout(60, 50)),
            ({"primary_view": "top", "primary_height_fraction": 0.5}, TileLayout(primary_fraction=0.5)),
        ):
            status, _, body = ask_raw(running.address, form({"sample_0": views_of_a_sample(**changes)}, PARTS))
            shown = tile_views(VIEWS, "top", layout=layout)[:]
            assert status == 200, body
            got = json.loads(body)["outputs_progress"]["progress_pred"][0]
            np.testing.assert_allclose(got, shown.mean(axis=(1, 2, 3)) / 255, atol=1e-5)
        chosen = views_of_a_sample(primary_view="top", secondary_views=["side"])
        _, _, body = ask_raw(running.address, form({"sample_0": chosen}, PARTS))
        shown = tile_views(VIEWS, "top", ["side"])[:]
        np.testing.assert_allclose(
            json.loads(body)["outputs_progress"]["progress_pred"][0], shown.mean(axis=(1, 2, 3)) / 255, atol=1e-5
        )


@pytest.mark.parametrize(
    ("changes", "status", "kind"),
    [
        ({"views": {"top": {"__numpy_file__": "top"}}}, 422, "frame"),
        ({"views": ["top", "side"]}, 422, "frame"),
        ({"primary_view": "ceiling"}, 422, "frame"),
        ({"primary_view": 3}, 422, "frame"),
        ({"secondary_views": "side"}, 422, "frame"),
        ({"secondary_views": []}, 422, "frame"),
        ({"target_width": 0}, 422, "value"),
        ({"target_width": 2.5}, 422, "value"),
        ({"target_width": 1 << 30}, 413, "too_large"),
        ({"primary_height_fraction": 1.5}, 422, "value"),
        ({"primary_height_fraction": "half"}, 422, "value"),
    ],
)
def test_views_that_cannot_be_tiled_are_refused(
    running: Running, changes: dict[str, Any], status: int, kind: str
) -> None:
    pytest.importorskip("cv2")
    got, _, body = ask_raw(running.address, form({"sample_0": views_of_a_sample(**changes)}, PARTS))
    assert (got, json.loads(body)["error"]["type"]) == (status, kind), body


def test_single_views_are_refused_by_a_model_of_tiled_pictures() -> None:
    with serving(TiledModel) as running:
        status, _, body = ask_raw(running.address, form({"sample_0": SAMPLE}, {"f": npy(GOOD)}))
        assert (status, json.loads(body)["error"]["type"]) == (422, "unsupported_by_model")
        status, _, _ = ask_raw(running.address, form({"sample_0": with_trajectory(tiled=True)}, {"f": npy(GOOD)}))
        assert status == 200
