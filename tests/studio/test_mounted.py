"""The studio beside the routes of a reward server: one door, one model, one end."""

from __future__ import annotations

import base64
import signal
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from robometer_rl.models.loading import load_reward_model
from robometer_rl.studio.notes import Notes
from tests.library import ROOT
from tests.serving.servers import Process
from tests.serving.servers import start as start_server
from tests.studio.browsers import moving_square, visiting

pytest.importorskip("gradio")
pytest.importorskip("playwright")
pytest.importorskip("prometheus_client")
pytestmark = pytest.mark.slow

FAMILY = """
from tests.fixed_models import BrightnessModel

class Failing(BrightnessModel):
    def predict(self, clips):
        raise RuntimeError("a bug of the model")

def load(where):
    return Failing() if where == "failing" else BrightnessModel()
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("mounted")
    (made / "bright_family.py").write_text(FAMILY)
    (made / "mine").mkdir()
    moving_square(made / "mine" / "rising.mp4")
    (made / "mine" / "videos.jsonl").write_text('{"video": "rising.mp4", "task": "push"}\n')
    (made / "token").write_text("secret\n")
    return made


def start(folder: Path, model: str, *words: str) -> Process:
    given = ["--ui", "--model", f"bright_family:{model}", "--port", "0", "--data", str(folder / "mine")]
    given += ["--notes", str(folder / "notes")]
    return start_server(*given, *words, environment={"PYTHONPATH": f"{ROOT}:{folder}"})


@pytest.fixture(scope="module")
def guarded(folder: Path) -> Iterator[Process]:
    """A server that asks for a token."""
    process = start(folder, "bright", "--token-file", str(folder / "token"), "--limits.body", "1000000")
    yield process
    assert process.stop()[0] == 0


def ask(url: str, token: str | None = None, **fields: object) -> urllib.request.addinfourl:
    shown = {} if token is None else {"Authorization": "Basic " + base64.b64encode(f":{token}".encode()).decode()}
    return urllib.request.urlopen(urllib.request.Request(url, headers=shown, **fields))  # pyright: ignore


def test_who_has_the_token_sees_the_studio_and_the_served_model_is_asked(guarded: Process, folder: Path) -> None:
    with visiting(guarded.url, at="ui/", token="secret") as visit:
        visit.upload("score-upload", folder / "mine" / "rising.mp4")
        visit.fill("score-tasks", "push")
        visit.click("score-start")
        visit.says("score-line", "20 frames of rising.mp4, scored by brightness, uniform(8)")
        visit.page.locator("#score-shown .replay-plot").wait_for()
        assert {each for each in visit.asked if not each.startswith((f"{guarded.url}/ui", "data:", "blob:"))} == set()
        counted = ask(f"{guarded.url}/metrics", "secret").read().decode()
        assert 'robometer_requests_total{route="/v1/streams/{name}/append",status="200"} 20.0' in counted
        assert 'robometer_batch_rows_count{kind="stream"} 20.0' in counted
        visit.tab("Browse")
        visit.click("browse-start")
        visit.says("browse-line", "1 of 1 episodes of mine.")
        visit.page.locator("#browse-list button").first.click()
        visit.page.locator("#browse-flag input").check()
        visit.click("browse-keep")
        visit.page.locator("#browse-list").get_by_text("⚑").wait_for()
    assert [flag.flagged for flag in Notes(folder / "notes").flags("mine").values()] == [True]


@pytest.mark.parametrize("path", ["/ui", "/ui/", "/ui/config", "/ui/gradio_api/queue/data", "/ui/gradio_api/file=x"])
def test_without_the_token_nothing_of_the_studio_is_shown(guarded: Process, path: str) -> None:
    for token in (None, "another"):
        with pytest.raises(urllib.error.HTTPError) as refused:
            ask(f"{guarded.url}{path}", token)
        assert refused.value.code == 401
        assert "Basic" in refused.value.headers.get_all("WWW-Authenticate")[1]


def test_the_limits_of_the_server_hold(guarded: Process, folder: Path, tmp_path: Path) -> None:
    with pytest.raises(urllib.error.HTTPError) as refused:
        ask(f"{guarded.url}/ui/gradio_api/upload", "secret", data=bytes(1_000_001), method="POST")
    assert refused.value.code == 413
    (tmp_path / "large.mp4").write_bytes(bytes(1_100_000))
    with visiting(guarded.url, at="ui/", token="secret") as visit:
        visit.page.locator("#score-upload input[type=file]").set_input_files(str(tmp_path / "large.mp4"))
        visit.page.get_by_text("exceed the maximum allowed size").first.wait_for()
        visit.problems.clear()  # the browser notes the refusal itself


def test_other_routes_are_as_they_were(guarded: Process) -> None:
    assert load_reward_model(guarded.url.replace("//", "//:secret@")).model_id == "brightness"
    assert ask(f"{guarded.url}/health").status == 200
    with pytest.raises(urllib.error.HTTPError) as refused:
        ask(f"{guarded.url}/uikit", "secret")
    assert refused.value.code == 404


def test_an_error_of_the_server_is_a_sentence_and_ctrl_c_ends_both(folder: Path) -> None:
    process = start(folder, "failing")
    with visiting(process.url, at="ui/") as visit:
        visit.score("mine/rising.mp4", "push")
        visit.page.locator("#score-line [role=alert]").wait_for()
        assert (
            "the server has a bug: RuntimeError: a bug of the model" in visit.page.locator("#score-line").inner_text()
        )
        # A page that is open keeps nothing alive.
        process.process.send_signal(signal.SIGINT)
        output, _ = process.process.communicate(timeout=60)
        visit.problems.clear()  # the page notes that nobody answers any more
    assert (process.process.returncode, "stopped" in output, "graceful" in output) == (0, True, False)
    assert output.count("Traceback") == 1, "of the model alone"


def test_names_of_other_hosts_are_not_answered_without_a_token(folder: Path) -> None:
    process = start(folder, "bright")
    request = urllib.request.Request(f"{process.url}/ui/", headers={"Host": "evil.example"})
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(request)
    assert refused.value.code == 400
    assert process.stop()[0] == 0
