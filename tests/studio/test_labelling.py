"""The Label page in a browser: keys, undo, going on after a restart, several people, and what becomes of labels."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from robometer_rl.cli import main
from robometer_rl.data.judgements import ClipLabel
from robometer_rl.data.store import TrajectoryStore
from robometer_rl.studio.asked import labels_of, preferences_of
from robometer_rl.studio.asking import Models
from robometer_rl.studio.episodes import Library
from robometer_rl.studio.material import Material
from robometer_rl.studio.notes import Notes
from robometer_rl.training.config import StageConfig, TrainConfig, VisionPretraining
from robometer_rl.training.pipeline import train
from robometer_rl.training.sampling import SamplingConfig
from tests.fixed_models import BrightnessModel
from tests.studio.browsers import Visit, answering, moving_square, visiting
from tests.training.tiny import SHAPE

pytest.importorskip("gradio")
pytest.importorskip("playwright")
pytestmark = pytest.mark.slow

FRAMES = 20


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Recordings of which only the instruction is known."""
    folder = tmp_path_factory.mktemp("labelling") / "mine"
    folder.mkdir()
    lines = []
    for task in ("push the block", "pull the rope"):
        for number in range(3):
            name = f"{task.split()[0]}-{number}.mp4"
            moving_square(folder / name, FRAMES, upward=number > 0)
            lines.append(json.dumps({"video": name, "task": task}) + "\n")
    (folder / "videos.jsonl").write_text("".join(lines))
    return folder


@contextmanager
def labelling(videos: Path, notes: Path, width: int = 1280) -> Iterator[Visit]:
    """A studio that has just been started, with its Label page open."""
    from robometer_rl.studio.app import application

    uploads = notes / "uploads"
    uploads.mkdir(parents=True, exist_ok=True)
    models = Models({"brightness": BrightnessModel})
    app = application(models, Material([videos], uploads), Library([videos]), Notes(notes))
    with answering(app) as url, visiting(url, width) as visit:
        visit.tab("Label")
        yield visit


def begin(visit: Visit, annotator: str, clips: bool = True) -> None:
    if clips:
        visit.page.get_by_label("How one episode ended").check()
    visit.fill("label-annotator", annotator)
    visit.click("label-start")
    visit.says("label-line", "clips." if clips else "pairs.")
    visit.page.locator("#label-keep" if clips else "#label-left").wait_for()


def at(visit: Visit, frame: int) -> None:
    """Waits until the cursor is at a frame."""
    visit.page.locator(f"#label-shown [role=slider][aria-valuenow='{frame}']").wait_for()


def label(visit: Visit, *keys: str, done: int) -> None:
    """Says something of the clip that is shown, and waits for the next one."""
    for key in (*keys, "Enter"):
        visit.page.keyboard.press(key)
    visit.says("label-line", f"{done} of 6 clips.")
    if done < 6:
        unsaid(visit)


def unsaid(visit: Visit) -> None:
    """Waits for a clip of which nothing has been said."""
    at(visit, 0)
    visit.page.wait_for_function("!document.querySelector('#label-outcome input:checked')")


def value(visit: Visit, name: str) -> str:
    return visit.page.locator(f"#{name}").locator("textarea, input").first.input_value()


def last(notes: Path) -> ClipLabel:
    return labels_of(Notes(notes), "mine")[-1]


def test_a_clip_is_labelled_by_key_alone(videos: Path, tmp_path: Path) -> None:
    with labelling(videos, tmp_path) as visit:
        press = visit.page.keyboard.press
        begin(visit, "ann")
        visit.says("label-line", "0 of 6 clips.")
        at(visit, 0)
        for key, frame in (("ArrowRight", 1), ("Shift+ArrowRight", 11), ("ArrowLeft", 10), ("End", 19), ("Home", 0)):
            press(key)
            at(visit, frame)
        press("Enter")  # nothing is said yet
        visit.says("label-line", "how did it end?")
        press("Shift+ArrowRight")
        press("f")
        press("9")
        visit.page.locator("#label-shown").get_by_text("success from frame 10").wait_for()
        assert (value(visit, "label-success-frame"), value(visit, "label-grade")) == ("10", "0.9")
        assert visit.page.get_by_label("Y  Success").is_checked()
        press("Enter")
        visit.says("label-line", "1 of 6 clips.")
        found = last(tmp_path)
        assert (found.answer, found.success_frame, found.partial_success) == ("successful", 10, 0.9)
        assert (found.frames, found.fps, found.source, found.annotator) == (FRAMES, 10.0, found.episode, "ann")
        # The next clip begins with nothing said; a failure has no first frame of success.
        unsaid(visit)
        assert (value(visit, "label-success-frame"), value(visit, "label-grade")) == ("", "")
        press("f")
        visit.page.locator("#label-shown").get_by_text("success from frame 0").wait_for()
        press("n")
        visit.page.locator("#label-shown").get_by_text("success from frame").wait_for(state="detached")
        label(visit, done=2)
        assert (last(tmp_path).answer, last(tmp_path).success_frame) == ("failure", None)
        label(visit, "4", done=3)  # how far it got, which says that it is neither
        assert (last(tmp_path).answer, last(tmp_path).partial_success) == ("suboptimal", 0.4)
        press("s")
        visit.says("label-line", "4 of 6 clips.")
        press("u")
        visit.says("label-line", "3 of 6 clips.")
        press("u")
        visit.says("label-line", "2 of 6 clips.")
        # What was taken back is there to be mended.
        assert value(visit, "label-grade") == "0.4"
        assert visit.page.get_by_label("P  Partly").is_checked()
        answers = [each.answer for each in labels_of(Notes(tmp_path), "mine")]
        assert answers == ["successful", "failure", "suboptimal", "skip", "undo", "undo"]


def test_letters_that_are_written_are_no_answers(videos: Path, tmp_path: Path) -> None:
    with labelling(videos, tmp_path) as visit:
        begin(visit, "ann")
        note = visit.page.locator("#label-note").locator("textarea, input").first
        note.press_sequentially("yes, u push 5 s")
        assert visit.page.locator("#label-outcome input:checked").count() == 0
        assert value(visit, "label-grade") == ""
        visit.page.get_by_label("Y  Success").check()
        visit.fill("label-success-frame", "99")
        visit.click("label-keep")
        visit.says("label-line", "the first frame of success is 99; expected one from 0 to 19")
        visit.fill("label-success-frame", "7")
        visit.click("label-keep")
        visit.says("label-line", "1 of 6 clips.")
        assert (last(tmp_path).note, last(tmp_path).success_frame) == ("yes, u push 5 s", 7)


def test_work_goes_on_after_a_restart_and_people_are_told_apart(videos: Path, tmp_path: Path) -> None:
    with labelling(videos, tmp_path) as visit:
        begin(visit, "ann")
        unsaid(visit)
        for number in range(1, 7):
            label(visit, "y" if number < 6 else "n", done=number)
        visit.says("label-line", "All done: 6 of 6 clips.")
        visit.page.keyboard.press("Enter")
        visit.says("label-line", "all clips are labelled")
    # Two lines of one person are one answer; a line whose writer was killed is none.
    with (tmp_path / "labels.jsonl").open("a") as file:
        file.write('{"data": "mine", "epi')
    with labelling(videos, tmp_path) as visit:
        begin(visit, "ann")
        visit.says("label-line", "All done: 6 of 6 clips.")
        begin(visit, "bob")
        visit.says("label-line", "0 of 6 clips.")
        unsaid(visit)
        for number in range(1, 4):
            label(visit, "y" if number < 3 else "n", done=number)
        agreement = visit.page.locator("#label-agreement")
        agreement.get_by_text("Cohen's kappa").first.wait_for()
        both = {each.episode: {} for each in labels_of(Notes(tmp_path), "mine")}
        for each in labels_of(Notes(tmp_path), "mine"):
            both[each.episode][each.annotator] = each.answer
        same = sum(len(set(by.values())) == 1 for by in both.values() if len(by) == 2)
        assert f"{same} of 3 ({same / 3:.0%})" in agreement.inner_text()


def test_pairs_are_labelled_by_key_and_taken_back(videos: Path, tmp_path: Path) -> None:
    with labelling(videos, tmp_path) as visit:
        visit.click("label-start")
        visit.says("label-line", "no name is given")
        begin(visit, "ann", clips=False)
        visit.says("label-line", "0 of 6 pairs.")
        assert visit.page.locator("#label-shown video").count() == 2
        for number, key in enumerate(("ArrowLeft", "ArrowRight", "=", "s"), 1):
            visit.page.locator("#label-shown").click(position={"x": 2, "y": 2})
            visit.page.keyboard.press(key)
            visit.says("label-line", f"{number} of 6 pairs.")
        visit.page.keyboard.press("u")
        visit.says("label-line", "3 of 6 pairs.")
        found = preferences_of(Notes(tmp_path), "mine")
        assert [each.answer for each in found] == ["left", "right", "equal", "skip", "undo"]
        assert all(each.left_source == each.left and each.right_source == each.right for each in found)
        # Letters that are written are no answers.
        visit.fill("label-annotator", "")
        visit.page.locator("#label-annotator").locator("textarea, input").first.press_sequentially("sus")
        visit.says("label-line", "3 of 6 pairs.")
        visit.page.get_by_label("How one episode ended").check()
        visit.says("label-line", "Press Begin.")
        assert visit.page.locator("#label-shown video").count() == 0


def test_what_people_say_is_imported_trained_on_and_evaluated(videos: Path, tmp_path: Path) -> None:
    """From the browser to a store, a checkpoint and how often that agrees with people."""
    notes, store, run = tmp_path / "notes", tmp_path / "stores" / "mine", tmp_path / "run"
    with labelling(videos, notes) as visit:
        begin(visit, "ann")
        for number in range(1, 7):
            unsaid(visit)
            shown = visit.page.locator("#label-shown .replay").get_attribute("data-key")
            assert shown is not None
            if shown.endswith("-0.mp4"):  # it gets darker
                label(visit, "n", done=number)
            else:
                label(visit, "End", "ArrowLeft", "f", done=number)
        visit.page.get_by_label("Which of two episodes is better").check()
        begin(visit, "ann", clips=False)
        for number in range(1, 7):
            visit.page.keyboard.press("ArrowLeft" if number != 6 else "=")
            visit.says("label-line", f"{number} of 6 pairs.")
    main(["data", "import", "videos", str(videos), str(store), "--labels", str(notes / "labels.jsonl")])
    episodes = {each.source: each for each in TrajectoryStore.open(store)}
    assert {name: each.quality_label for name, each in episodes.items()} == {
        f"{task}-{number}.mp4": "successful" if number else "failure"
        for task in ("push", "pull")
        for number in range(3)
    }
    assert {each.success_index for each in episodes.values()} == {None, FRAMES - 2}
    train(
        TrainConfig(
            data=(store,),
            output=run,
            shape=SHAPE,
            pretraining=VisionPretraining(steps=0),
            frozen=StageConfig(steps=2, batch_size=4),
            sampling=SamplingConfig(max_frames=4, pair_fraction=0.5),
            preferences=notes / "preferences.jsonl",
            validation_fraction=0.0,
            bf16=False,
        )
    )
    assert json.loads((run / "report.json").read_text())["human_pairs"] == 5
    output = tmp_path / "evaluation"
    words = ["--preferences", str(notes / "preferences.jsonl"), "--output", str(output), "--no-controls"]
    main(["evaluate", "preference", str(run / "checkpoint"), str(store), *words])
    found = json.loads((output / "evaluation.json").read_text())
    (judged,) = found["evaluations"]
    assert (found["preferences"], judged["manifest"]["questions"]) == ("preferences.jsonl", 5)
    assert 0.0 <= judged["rows"][0]["corrected"]["preference_accuracy_mean"]["value"] <= 1.0
