from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import pytest

from robometer_rl.data.flags import Flag
from robometer_rl.documents import DocumentError
from robometer_rl.studio.asked import preferences_of
from robometer_rl.studio.notes import Notes, Said

SAID = Said("mine", "a", "push", "mini", "nested(8)", 1, 0.5, (0.1, 0.4, 0.8, 0.9), (0.0, 0.6, 0.7, 0.2))
ANSWER = {"data": "mine", "task": "push", "left": "a", "right": "b", "answer": "left", "annotator": "ann"}


def test_what_is_noted_is_there_when_the_studio_is_opened_again(tmp_path: Path) -> None:
    notes = Notes(tmp_path / "notes")
    assert not notes.folder.exists(), "nothing is made before there is something to keep"
    notes.flag(Flag("mine", "a", flagged=True, note="the camera slips"))
    notes.flag(Flag("mine", "b", flagged=True))
    notes.flag(Flag("mine", "b", flagged=False))
    notes.keep(SAID)
    for opened in (notes, Notes(tmp_path / "notes")):
        flags = opened.flags("mine")
        assert (flags["a"].note, flags["a"].flagged, flags["b"].flagged) == ("the camera slips", True, False)
        assert opened.flags("other") == {}
        assert opened.said("mini", "mine") == {"a": SAID}
        assert opened.said("another", "mine") == {}


def test_what_an_answer_pays_is_the_change_of_progress() -> None:
    assert SAID.paid == pytest.approx(0.8)
    assert SAID.fires, "two frames in a row are above the threshold"
    assert not Said(**{**vars(SAID), "threshold": 0.65}).fires
    assert Said(**{**vars(SAID), "success": None}).fires is None
    prediction = SAID.prediction()
    assert prediction.progress.tolist() == pytest.approx(SAID.progress)
    assert prediction.protocol == "nested(8)"


def test_a_line_whose_writer_was_killed_is_passed_over_and_a_damaged_one_is_named(tmp_path: Path) -> None:
    Notes(tmp_path).flag(Flag("mine", "a", flagged=True))
    path = tmp_path / "flags.jsonl"
    whole = path.read_text()
    path.write_text(whole + whole[:20])
    notes = Notes(tmp_path)
    assert list(notes.flags("mine")) == ["a"]
    notes.flag(Flag("mine", "b", flagged=True))
    assert list(Notes(tmp_path).flags("mine")) == ["a", "b"]
    path.write_text("[1]\n")
    with pytest.raises(DocumentError, match=r"flags\.jsonl, line 1"):
        Notes(tmp_path)


@pytest.mark.parametrize(
    ("name", "line", "said"),
    [
        ("flags", {"data": "mine", "episode": 3, "flagged": True}, "episode of Flag must be text, got 3"),
        ("predictions", {"data": "mine"}, "missing"),
        ("predictions", {**asdict(SAID), "progress": []}, "progress of Said must be one or more numbers, got"),
        ("predictions", {**asdict(SAID), "success": ["yes"]}, "success of Said must be one or more numbers"),
        ("predictions", {**asdict(SAID), "every": 0}, "every of Said"),
        ("preferences", {"pair": ["a", "b"]}, "unknown Judgement fields"),
        ("preferences", {**ANSWER, "answer": "perhaps"}, "expected one of left"),
        ("preferences", {**ANSWER, "left": None}, "left of Judgement must be text, got None"),
    ],
)
def test_a_foreign_line_is_named_in_every_file(tmp_path: Path, name: str, line: object, said: str) -> None:
    path = tmp_path / f"{name}.jsonl"
    path.write_text(f"\n{json.dumps(line)}\n")
    with pytest.raises(DocumentError) as raised:
        preferences_of(Notes(tmp_path), "mine")
    assert str(raised.value).startswith(f"{path}, line 2: ")
    assert said in str(raised.value)
