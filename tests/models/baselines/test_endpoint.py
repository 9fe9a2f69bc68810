"""The client of chat completions against a server on this machine."""

from __future__ import annotations

import numpy as np
import pytest

from robometer_rl.frames import TaskError
from robometer_rl.models.baselines.endpoint import KEY_VARIABLE, Endpoint, EndpointError, is_endpoint
from robometer_rl.models.baselines.vlm import LocalVLM, Question, Video
from robometer_rl.models.locations import UnknownModelError
from tests.models.baselines.servers import Asked, Told, answering

RED = np.full((16, 24, 3), (250, 10, 10), np.uint8)


def endpoint(address: str) -> Endpoint:
    return Endpoint(f"some/vlm@{address}", timeout_s=20.0, pause_s=0.001)


def test_names_of_endpoints() -> None:
    assert is_endpoint("Qwen/Qwen3-VL-8B@http://127.0.0.1:8000/v1")
    assert not is_endpoint("Qwen/Qwen3-VL-8B@main")
    with pytest.raises(UnknownModelError, match="expected MODEL@https://HOST/v1"):
        Endpoint("gpt-4o")
    with pytest.raises(UnknownModelError, match="needs the weights here"):
        LocalVLM.load("gpt-4o@https://api.openai.com/v1")
    with pytest.raises(TaskError):
        Endpoint("a@http://b").check_task("")


def test_texts_and_pictures_arrive_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(KEY_VARIABLE, "secret")
    with answering(lambda asked: f"{asked.text} is red") as server:
        questions = [Question((f"picture {number}", RED)) for number in range(9)]
        assert endpoint(server.address).answers(questions, 5) == [f"picture {n} is red" for n in range(9)]
        asked = server.asked[0]
    assert asked.headers["authorization"] == "Bearer secret"
    assert {key: asked.body[key] for key in ("model", "max_tokens", "temperature", "seed")} == {
        "model": "some/vlm",
        "max_tokens": 5,
        "temperature": 0,
        "seed": 0,
    }
    (picture,) = asked.pictures
    assert picture.shape == RED.shape
    assert np.abs(picture.astype(int) - RED).max() < 12  # JPEG; red is red


def test_without_a_key_none_is_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(KEY_VARIABLE, raising=False)
    with answering(lambda _: "yes") as server:
        assert endpoint(server.address).answers([Question(("well?",))], 5) == ["yes"]
        assert "authorization" not in server.asked[0].headers


@pytest.mark.parametrize("outage", [Told(429, headers={"Retry-After": "0"}), Told(503, "busy"), Told(500)])
def test_an_outage_is_waited_for(outage: Told) -> None:
    left = [outage, outage]
    with answering(lambda _: left.pop() if left else "yes") as server:
        assert endpoint(server.address).answers([Question(("well?",))], 5) == ["yes"]
        assert len(server.asked) == 3


def test_what_will_not_change_is_an_error_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(KEY_VARIABLE, "secret")
    elsewhere = Told(307, headers={"Location": "http://127.0.0.1:9/"})
    for told, expected in ((Told(401, "bad key"), "401, 'bad key'"), (elsewhere, "refuses to ask some/vlm: 307")):
        with answering(lambda _, told=told: told) as server:
            with pytest.raises(EndpointError, match=expected) as caught:
                endpoint(server.address).answers([Question(("well?",))], 5)
            assert len(server.asked) == 1
            assert "secret" not in str(caught.value)


def test_an_outage_that_does_not_end_is_an_error() -> None:
    with answering(lambda _: Told(500, "still broken")) as server, pytest.raises(EndpointError, match="asked 6 times"):
        endpoint(server.address).answers([Question(("well?",))], 5)
    with pytest.raises(EndpointError, match=r"does not answer: .*refused"):
        endpoint(server.address).answers([Question(("well?",))], 5)


def test_answers_that_are_none() -> None:
    def answer(asked: Asked) -> Told:
        return Told(200, {"refused": '{"choices": [{"message": {"content": null}}]}'}.get(asked.text, "<html>"))

    with answering(answer) as server:
        assert endpoint(server.address).answers([Question(("refused",))], 5) == [""]
        with pytest.raises(EndpointError, match="no chat completion: '<html>'"):
            endpoint(server.address).answers([Question(("well?",))], 5)


def test_videos_are_not_sent() -> None:
    with pytest.raises(UnknownModelError, match="shown pictures, no videos"):
        endpoint("http://127.0.0.1:9").answers([Question((Video(RED[None], (0.0,)),))], 5)
