"""The pages in a browser: the main path of each, the keyboard, and what goes wrong."""

from __future__ import annotations

import re
import time
import urllib.error
import urllib.request
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from robometer_rl.data.arrow import write_sealed
from robometer_rl.data.frame_files import write_frames
from robometer_rl.data.rows import Row
from robometer_rl.data.store import TrajectoryStore
from robometer_rl.evaluation.evaluate import evaluate_model
from robometer_rl.formats.opening import open_episodes
from robometer_rl.frames import Clip
from robometer_rl.models.loading import load_reward_model
from robometer_rl.prediction import Prediction
from robometer_rl.studio.asking import Models
from robometer_rl.studio.episodes import Library
from robometer_rl.studio.material import Material
from robometer_rl.studio.notes import Notes
from tests.data.episodes import make_episodes_of_two_tasks
from tests.data.runs import trajectory
from tests.fixed_models import BrightnessModel
from tests.library import ROOT
from tests.studio.browsers import HOSTILE, Visit, answering, moving_square, visiting

pytest.importorskip("gradio")
pytest.importorskip("playwright")
pytestmark = pytest.mark.slow


class Brightness(BrightnessModel):
    """Compares, too: what is brighter at its end is better."""

    model_id = "brightness"

    def compare(self, pairs: Sequence[tuple[Clip, Clip]], both_orders: bool = False) -> NDArray[np.float32]:
        ends = [(float(one.read()[-1].mean()), float(other.read()[-1].mean())) for one, other in pairs]
        return np.array([0.9 if one > other else 0.2 for one, other in ends], np.float32)


class OfTiles(BrightnessModel):
    """Takes tiled pictures and refuses others."""

    model_id = "of-tiles"
    tiled = True


class Slow(BrightnessModel):
    """Takes its time."""

    model_id = "slow"

    def predict(self, clips: Sequence[Clip]) -> list[Prediction]:
        time.sleep(0.2)
        return super().predict(clips)


class Failing(BrightnessModel):
    """Breaks in a way that nobody has foreseen."""

    model_id = "failing"

    def predict(self, clips: Sequence[Clip]) -> list[Prediction]:
        raise RuntimeError("a bug of the model")


def studio(models: Models, data: Path, folder: Path, upload_mb: int = 200, hosts: tuple[str, ...] = ("*",)) -> Any:
    from robometer_rl.studio.app import application

    uploads = folder / "uploads"
    uploads.mkdir()
    stores = sorted(data.parent.glob("store*"))
    library, notes = Library([*stores, data]), Notes(folder / "notes")
    return application(models, Material([*stores, data], uploads), library, notes, 10**6 * upload_mb, hosts)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("studio") / "mine"
    folder.mkdir()
    moving_square(folder / "rising.mp4")
    moving_square(folder / "falling.mp4", upward=False)
    moving_square(folder / "long.mp4", num_frames=2000)
    frames = np.random.default_rng(0).integers(0, 256, (6, 64, 64, 3), np.uint8)
    np.savez(folder / "noise.npz", frames=frames, success=np.arange(6) > 3)
    (folder / "broken.mp4").write_bytes(b"this is no video")
    store = TrajectoryStore(folder.parent / "store")
    for episode in make_episodes_of_two_tasks():
        store.append(episode)
    (store.path / "frames" / "pull-stop_halfway-2.zip").write_bytes(b"damaged")
    store.append(trajectory("hostile", task=HOSTILE, quality_label="failure", partial_success=None))
    return folder


@pytest.fixture(scope="module")
def url(data: Path) -> Iterator[str]:
    models = Models(
        {
            "brightness": Brightness,
            "of tiles": OfTiles,
            "failing": Failing,
            "slow": Slow,
            "mini": lambda: load_reward_model("mini"),
        }
    )
    with answering(studio(models, data, data.parent, upload_mb=1)) as address:
        yield address


@pytest.fixture
def visit(url: str) -> Iterator[Visit]:
    with visiting(url) as opened:
        yield opened


def test_an_upload_is_scored_under_several_instructions_and_written(visit: Visit, data: Path, tmp_path: Path) -> None:
    visit.upload("score-upload", data / "rising.mp4")
    visit.fill("score-tasks", f"push the block\n{HOSTILE}")
    visit.click("score-start")
    visit.says("score-line", "20 frames of rising.mp4, scored by brightness, uniform(8)")
    replay = visit.page.locator("#score-shown .replay")
    replay.get_by_text("Play").wait_for()
    assert HOSTILE in replay.inner_text()
    assert visit.page.locator("#score-table tbody tr").count() == 2
    # Keys move the cursor, and what is said of the frame with it.
    slider = replay.get_by_role("slider")
    slider.press("End")
    assert slider.get_attribute("aria-valuenow") == "19"
    slider.press("ArrowLeft")
    assert "frame 18 of 19" in replay.inner_text()
    visit.click("score-pack")
    visit.says("score-line", "The files are ready.")
    with visit.page.expect_download() as download:
        visit.page.locator("#score-files a").first.click()
    download.value.save_as(tmp_path / "files.zip")
    names = zipfile.ZipFile(tmp_path / "files.zip").namelist()
    assert {"1-push-the-block/prediction.npz", "1-push-the-block/overlay.mp4"} <= set(names)
    assert sum(name.endswith("prediction.csv") for name in names) == 2


def test_the_curve_grows_while_a_slow_model_is_asked_and_stays_where_it_is_stopped(visit: Visit) -> None:
    visit.score("mine/rising.mp4", "push", "slow")
    shown = visit.page.locator("#score-shown .replay")
    shown.get_by_text("frames so far").wait_for()
    assert int(shown.get_by_role("slider").get_attribute("aria-valuemax") or 19) < 19
    visit.click("score-stop")
    visit.says("score-line", "Stopped.")
    assert shown.get_by_text("frames so far").count() == 1
    visit.click("score-start")
    visit.says("score-line", "20 frames of rising.mp4, scored by slow")
    shown.locator("video").wait_for()
    assert shown.get_by_text("frames so far").count() == 0


def test_the_webcam_is_recorded_and_scored_as_an_upload(visit: Visit, data: Path) -> None:
    webcam, upload = visit.page.locator("#score-webcam"), visit.page.locator("#score-upload")
    for _ in range(2):  # the second recording takes the place of the first
        webcam.get_by_text("Record with the webcam").click()
        webcam.get_by_text("● Start").click()
        webcam.get_by_text(re.compile(r"Stop \((?![0-2] )")).wait_for()
        webcam.get_by_text("■ Stop").click()
        webcam.get_by_text("s were recorded.").wait_for()
        upload.get_by_text("webcam").first.wait_for()
        assert webcam.locator("video").evaluate("video => video.srcObject") is None
    visit.fill("score-tasks", "push")
    visit.click("score-start")
    visit.says("score-line", "frames of webcam.webm, scored by brightness")
    visit.page.locator("#score-shown .replay").get_by_text("Play").wait_for()
    kept = [path.name for path in (data.parent / "uploads").rglob("webcam*")]
    assert len(kept) == 2
    # Closed before its end, nothing is uploaded.
    webcam.get_by_text("Record with the webcam").click()
    webcam.get_by_text("● Start").click()
    webcam.get_by_text("Close the webcam").click()
    webcam.get_by_text("Record with the webcam").wait_for()
    visit.page.wait_for_timeout(500)
    assert [path.name for path in (data.parent / "uploads").rglob("webcam*")] == kept


def test_a_recording_of_the_data_is_scored_with_the_embedded_model(visit: Visit) -> None:
    visit.choose("score-named", "mine/noise.npz")
    visit.fill("score-tasks", "open the drawer")
    visit.page.get_by_text("How the model is asked").first.click()
    visit.choose("score-model", "mini")
    visit.fill("score-every", "2")
    visit.click("score-start")
    visit.says("score-line", "6 frames of noise.npz, scored by robometer-mini, nested(8)")
    assert visit.page.locator("#score-table tbody tr").count() == 1


@pytest.mark.parametrize(
    ("named", "tasks", "said"),
    [
        ("mine/broken.mp4", "push", "broken.mp4"),
        ("mine/../secret.mp4", "push", "leads out of"),
        ("/etc/passwd", "push", "is in none of the places"),
        ("mine/rising.mp4", "", "no instruction is given"),
        ("mine/absent.mp4", "push", "no video at"),
    ],
)
def test_what_goes_wrong_is_a_sentence_on_the_page(visit: Visit, named: str, tasks: str, said: str) -> None:
    visit.score(named, tasks)
    visit.page.locator("#score-line [role=alert]").wait_for()
    assert said in visit.page.locator("#score-line").inner_text()
    assert "Traceback" not in visit.page.content()


def test_a_bug_of_the_program_is_owned_up_to(visit: Visit) -> None:
    visit.score("mine/rising.mp4", "push", "failing")
    visit.says("score-line", "This is an error of the program itself")
    assert "a bug of the model" not in visit.page.content()


def test_long_work_says_how_far_it_is_and_stops_when_told(visit: Visit) -> None:
    visit.score("mine/long.mp4", "push")
    visit.page.locator("#score-line progress[value]").wait_for()
    visit.click("score-stop")
    visit.says("score-line", "Stopped.")
    visit.page.wait_for_timeout(1500)
    assert "Stopped." in visit.page.locator("#score-line").inner_text()
    assert visit.page.locator("#score-table tbody tr").count() == 0


def test_recordings_of_other_cameras_are_shown_below_it(visit: Visit, data: Path) -> None:
    pytest.importorskip("cv2")
    visit.page.get_by_text("How the model is asked").first.click()
    visit.choose("score-model", "of tiles")
    visit.score("mine/rising.mp4", "push the block")
    visit.says("score-line", "which was trained on several cameras in one picture")
    visit.page.get_by_text("Other cameras").first.click()
    visit.upload("score-others-upload", data / "falling.mp4")
    visit.fill("score-others-named", "mine/rising.mp4")
    visit.click("score-start")
    visit.says("score-line", "20 frames of rising.mp4, scored by of-tiles")
    visit.click("score-pack")
    visit.says("score-line", "The files are ready.")


def test_two_recordings_are_compared_in_both_orders(visit: Visit) -> None:
    visit.tab("Compare")
    for side, name in (("first", "rising"), ("second", "falling")):
        visit.choose(f"compare-{side}-named", f"mine/{name}.mp4")
    visit.fill("compare-task", "push")
    visit.click("compare-start")
    visit.says("compare-line", "Both under the instruction 'push'")
    table = visit.page.locator("#compare-table").inner_text()
    assert "A: rising.mp4 is preferred, in both orders." in table
    assert [value in table for value in ("0.900", "0.800", "0.850")] == [True] * 3
    assert visit.page.locator("#compare-shown video[aria-label]").count() == 2


def test_one_recording_is_compared_under_two_instructions_and_two_models(visit: Visit) -> None:
    visit.tab("Compare")
    visit.page.get_by_label("One recording, two instructions").check()
    visit.choose("compare-first-named", "mine/rising.mp4")
    visit.fill("compare-task", "push")
    visit.fill("compare-other-task", "pull")
    visit.click("compare-start")
    visit.says("compare-line", "rising.mp4 under two instructions")
    assert visit.page.locator("#compare-table tbody tr").count() == 2
    visit.page.get_by_label("One recording, two models").check()
    visit.click("compare-start")
    visit.says("compare-line", "scored by brightness and mini")


def test_an_upload_beyond_the_limit_is_refused(visit: Visit, tmp_path: Path) -> None:
    (tmp_path / "large.mp4").write_bytes(bytes(2 * 10**6))
    field = visit.page.locator("#score-upload input[type=file]")
    field.set_input_files(str(tmp_path / "large.mp4"))
    visit.page.get_by_text("exceed the maximum allowed size").first.wait_for()
    visit.problems.clear()  # the browser notes the refusal itself


def test_files_elsewhere_are_not_served(url: str, data: Path) -> None:
    for path in ("/etc/passwd", str(ROOT / "pyproject.toml"), str(data / "rising.mp4"), "../pyproject.toml"):
        with pytest.raises(urllib.error.HTTPError) as refused:
            urllib.request.urlopen(f"{url}/gradio_api/file={path}")
        assert refused.value.code in (403, 404), path
    with urllib.request.urlopen(url) as page:
        assert "default-src 'self'" in page.headers["content-security-policy"]


def test_only_names_of_this_machine_are_answered(data: Path, tmp_path: Path) -> None:
    with answering(studio(Models({"brightness": Brightness}), data, tmp_path, hosts=("127.0.0.1",))) as address:
        request = urllib.request.Request(address, headers={"Host": "evil.example"})
        with pytest.raises(urllib.error.HTTPError) as refused:
            urllib.request.urlopen(request)
        assert refused.value.code == 400


def test_an_error_of_the_server_is_a_sentence_on_the_page(data: Path, tmp_path: Path) -> None:
    servers = pytest.importorskip("tests.serving.servers")
    with servers.serving(Failing) as server:
        models = Models({server.url: lambda: load_reward_model(server.url, patience=1.0)})
        with answering(studio(models, data, tmp_path)) as address, visiting(address) as visit:
            visit.score("mine/rising.mp4", "push")
            visit.page.locator("#score-line [role=alert]").wait_for()
            assert server.url in visit.page.locator("#score-line").inner_text()


@pytest.mark.parametrize(("width", "dark"), [(390, False), (390, True), (1280, True)])
def test_phones_and_the_dark_have_room_for_everything(url: str, width: int, dark: bool) -> None:
    with visiting(url, width, 800, dark) as visit:
        visit.score("mine/rising.mp4", "push")
        visit.says("score-line", "20 frames")
        assert visit.page.evaluate("document.documentElement.scrollWidth") <= width
        surface = visit.page.locator("#score-shown .replay").evaluate("node => getComputedStyle(node).backgroundColor")
        assert surface == ("rgb(15, 23, 42)" if dark else "rgb(255, 255, 255)")


def browse(visit: Visit, order: str = "as recorded") -> None:
    visit.tab("Browse")
    visit.choose("browse-order", order)
    visit.click("browse-start")
    visit.says("browse-line", "episodes of store")


def first_episode(visit: Visit) -> str:
    return visit.page.locator("#browse-list button").first.inner_text()


def test_episodes_are_listed_filtered_asked_about_and_flagged(visit: Visit, data: Path) -> None:
    browse(visit)
    visit.says("browse-line", "13 of 13 episodes of store.")
    assert HOSTILE in visit.page.locator("#browse-list").inner_text()
    visit.choose("browse-text", "push")
    visit.says("browse-line", "6 of 13 episodes of store.")
    visit.click("browse-ask-all")
    visit.page.locator("#browse-list").get_by_text("never").first.wait_for()
    browse(visit, "paid most although it failed")
    visit.page.wait_for_function("document.querySelector('#browse-list button').innerText.includes('halfway')")
    name = first_episode(visit)
    visit.page.locator("#browse-list button").first.click()
    visit.page.locator("#browse-shown .replay-plot").wait_for()
    visit.page.wait_for_url(f"**episode={name}")
    assert "train RECIPE --exclude notes/flags.jsonl" in visit.page.locator("#browse-exclude").inner_text()
    visit.page.locator("#browse-flag input").check()
    visit.fill("browse-note", "the hand is hidden")
    visit.click("browse-keep")
    visit.page.locator("#browse-list").get_by_text("the hand is hidden").wait_for()
    assert Notes(data.parent / "notes").flags("store")[name].flagged
    left = open_episodes([data.parent / "store"], exclude=data.parent / "notes" / "flags.jsonl")
    assert (left.excluded, name in [each.id for each in left.trajectories]) == (1, False)
    visit.page.get_by_text("More filters").click()
    visit.page.locator("#browse-flagged input").check()
    visit.click("browse-start")
    visit.says("browse-line", "1 of 13 episodes of store.")


def test_a_damaged_episode_among_many_is_passed_over_and_named(visit: Visit) -> None:
    browse(visit)
    visit.choose("browse-text", "pull-stop")
    visit.says("browse-line", "3 of 13 episodes of store.")
    visit.click("browse-ask-all")
    visit.says("browse-line", "1 episodes cannot be read and were passed over: pull-stop_halfway-2")
    assert visit.page.locator("#browse-list").get_by_text("never").count() == 2


def test_an_address_leads_to_an_episode_which_is_shown_before_a_model_was_asked(url: str) -> None:
    with visiting(url, at="?data=store&episode=pull-expert-0") as visit:
        visit.page.locator("#browse-shown video").wait_for()
        visit.says("browse-line", "pull-expert-0: 'pull the rope', successful, 12 frames")
        visit.click("browse-ask")
        visit.page.locator("#browse-shown .replay-plot").wait_for()


def test_episodes_that_cannot_be_read_are_counted(visit: Visit) -> None:
    visit.tab("Browse")
    visit.choose("browse-data", "mine")
    visit.click("browse-start")
    visit.says("browse-line", "0 of 0 episodes of mine; 1 cannot be read.")


def test_a_store_of_thousands_is_browsed_page_by_page(tmp_path: Path) -> None:
    # As `append` and `seal` leave it; all rows share their frames.
    store, one = TrajectoryStore.create(tmp_path / "store"), trajectory("a", num_frames=2)
    frames = write_frames(store.path / "frames" / "a.zip", "a", one.frames)
    write_sealed(
        store.path / "rows.arrow", (Row.of(replace(one, id=f"episode-{number:04}"), frames) for number in range(5000))
    )
    moving_square(tmp_path / "mine.mp4")
    with (
        answering(studio(Models({"brightness": Brightness}), tmp_path / "mine.mp4", tmp_path)) as address,
        visiting(address) as visit,
    ):
        browse(visit)
        visit.says("browse-line", "5000 of 5000 episodes of store, 1 to 25 of them.")
        visit.click("browse-forth")
        visit.says("browse-line", "26 to 50 of them")
        assert first_episode(visit) == "episode-0025"
        visit.choose("browse-text", "episode-4999")
        visit.says("browse-line", "1 of 5000 episodes of store.")


def test_results_stand_side_by_side(visit: Visit, tmp_path: Path) -> None:
    model = Brightness()
    for name in ("one", "two"):
        evaluate_model(model, make_episodes_of_two_tasks()).write(tmp_path / f"{name}.json")
    (tmp_path / "other.json").write_text("[]")
    visit.tab("Evaluate")
    visit.upload("results-upload", tmp_path / "one.json", tmp_path / "two.json")
    visit.click("results-start")
    visit.says("results-line", "2 results side by side.")
    assert visit.page.locator("#results-shown .studio-verdict").count() == 2
    assert "success_above_failure" in visit.page.locator("#results-shown").inner_text()
    visit.page.locator("#results-upload").get_by_label("Clear").click()
    visit.upload("results-upload", tmp_path / "other.json")
    visit.click("results-start")
    visit.says("results-line", "is no result of robometer-rl evaluate")
