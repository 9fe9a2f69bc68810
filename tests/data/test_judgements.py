from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from robometer_rl.data.judgements import (
    ClipLabel,
    Compared,
    Judgement,
    Outcome,
    compared,
    labelled,
    latest,
    outcomes_by_name,
    settled,
)
from robometer_rl.data.trajectory import TrajectoryError
from robometer_rl.documents import DocumentError
from tests.data.runs import trajectory

ANSWERS = st.lists(
    st.tuples(st.sampled_from("abc"), st.sampled_from(["ann", "bob"]), st.sampled_from(["failure", "skip", "undo"])),
    max_size=30,
)


def label(episode: str = "a", answer: str = "successful", annotator: str = "ann", **fields: Any) -> ClipLabel:
    given = {"data": "mine", "task": "push", "frames": 5} | fields
    return ClipLabel(episode=episode, answer=answer, annotator=annotator, **given)  # pyright: ignore[reportArgumentType]


def preference(left: str, right: str, answer: str, annotator: str = "ann", **fields: Any) -> Judgement:
    given = {"data": "mine", "task": "push"} | fields
    return Judgement(left=left, right=right, answer=answer, annotator=annotator, **given)  # pyright: ignore[reportArgumentType]


@given(st.sets(st.text(min_size=1), min_size=2, max_size=2))
def test_the_category_of_an_answer_does_not_depend_on_the_sides(names: set[str]) -> None:
    one, other = names
    said = [preference(one, other, "left"), preference(other, one, "right")]
    assert len({each.category for each in said}) == 1
    assert {said[0].category, preference(one, other, "right").category} == {"first", "second"}
    assert preference(one, other, "equal").category == "equal"


def test_which_episode_counts_as_the_first_has_nothing_to_do_with_its_name() -> None:
    """Else a skill whose name comes first in the alphabet would be a category of its own."""
    found = [preference("expert", f"hover-{number}", "left").category for number in range(400)]
    assert 150 < found.count("first") < 250


def write(path: Path, *lines: ClipLabel | Judgement) -> Path:
    path.write_text("".join(json.dumps(asdict(line)) + "\n" for line in lines))
    return path


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"answer": "success"}, "expected one of successful, suboptimal, failure, skip, undo"),
        ({"success_frame": 5}, "expected one from 0 to 4"),
        ({"success_frame": 2, "answer": "failure"}, "the answer is failure"),
        ({"partial_success": 1.5}, r"partial_success of ClipLabel must be a number in \[0, 1\]"),
        ({"frames": 0}, "frames of ClipLabel"),
        ({"fps": 0.0}, "fps of ClipLabel"),
    ],
)
def test_a_label_that_cannot_be_is_refused(fields: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        label(**fields)


def test_a_line_that_is_none_is_named(tmp_path: Path) -> None:
    path = write(tmp_path / "labels.jsonl", label())
    path.write_text(path.read_text() + '{"data": "mine", "episode": 3}\n')
    with pytest.raises(DocumentError, match=r"labels\.jsonl, line 2"):
        outcomes_by_name(path, "mine")


@given(ANSWERS)
def test_the_last_word_of_everybody_counts(said: list[tuple[str, str, str]]) -> None:
    lines = [label(episode, answer, annotator, note=str(n)) for n, (episode, annotator, answer) in enumerate(said)]
    last = {(episode, annotator): n for n, (episode, annotator, _) in enumerate(said)}
    expected = {about: lines[n] for about, n in last.items() if lines[n].is_given}
    found = {(episode, who): each for episode, by in latest(lines).items() for who, each in by.items()}
    assert found == expected
    assert all(latest(lines).values())


@given(st.lists(st.sampled_from("abc"), min_size=1, max_size=12))
def test_the_majority_decides_and_a_tie_does_not(answers: list[str]) -> None:
    counts = sorted(((answers.count(each), each) for each in set(answers)), reverse=True)
    assert settled(answers) == (None if len(counts) > 1 and counts[0][0] == counts[1][0] else counts[0][1])


def test_what_several_said_of_a_clip_is_brought_together(tmp_path: Path) -> None:
    path = write(
        tmp_path / "labels.jsonl",
        label("a", success_frame=1, source="a.mp4"),
        label("a", annotator="bob", success_frame=4, partial_success=1.0, note="late", source="a.mp4"),
        label("a", annotator="eve", answer="failure", source="a.mp4"),
        label("b"),
        label("b", answer="failure", annotator="bob"),
        label("c", answer="suboptimal", partial_success=0.25),
        label("c", answer="suboptimal", annotator="bob", partial_success=0.75),
        label("d", answer="skip"),
        label("e", data="yours"),
    )
    found, disputed = outcomes_by_name(path, "mine")
    of_a = Outcome("successful", 5, 1, 1.0, ("ann", "bob", "eve"), ("late",))
    assert found == {
        "a": of_a,
        ("a.mp4", "push"): of_a,
        "c": Outcome("suboptimal", 5, None, 0.5, ("ann", "bob"), ()),
    }
    assert disputed == ["b"]
    with pytest.raises(ValueError, match="is about mine, yours, and not about other"):
        outcomes_by_name(path, "other")


def outcome(quality: str, success_frame: int | None = None, grade: float | None = None, frames: int = 5) -> Outcome:
    return Outcome(quality, frames, success_frame, grade, ("ann",), ("hm",))  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize(
    ("said", "success", "grade"),
    [
        (outcome("successful", 1), [False, True, True, True, True], None),
        (outcome("successful"), [False, False, False, True, True], None),  # as recorded: it does not contradict
        (outcome("failure", grade=0.3), [False] * 5, 0.3),
        (outcome("suboptimal"), [False, False, False, True, True], 0.1),  # the grade of the source stays with its label
    ],
)
def test_people_have_the_last_word_of_a_trajectory(said: Outcome, success: list[bool], grade: float | None) -> None:
    recorded = trajectory()
    made = labelled(recorded, said)
    assert (made.quality_label, made.partial_success) == (said.quality, grade)
    assert made.success is not None
    assert made.success.tolist() == success
    assert made.metadata == {**recorded.metadata, "labelled_by": ["ann"], "notes": ["hm"]}
    assert (made.id, made.progress is recorded.progress) == (recorded.id, True)


def test_notes_of_no_success_do_not_stay_with_a_success() -> None:
    assert labelled(trajectory(success=np.zeros(5, bool)), outcome("successful")).success is None


def test_a_recording_of_another_length_is_not_what_was_labelled() -> None:
    with pytest.raises(TrajectoryError, match="labelled with 9 frames and has 5"):
        labelled(trajectory(), outcome("failure", frames=9))


def test_pairs_are_found_by_name_or_by_source_and_the_majority_decides(tmp_path: Path) -> None:
    one, other, third = (trajectory(name, task="push", source=f"{name}.mp4") for name in "abc")
    path = write(
        tmp_path / "preferences.jsonl",
        preference("a", "b", "right"),
        preference("b", "a", "left", "bob"),  # the same, on the other side
        preference("a", "b", "left", "eve"),
        preference("c.mp4", "x", "left", left_source="c.mp4", right_source="b.mp4"),  # under other names
        preference("a", "c", "equal"),
        preference("a", "y", "left"),
        preference("b", "c", "left", data="yours"),
        preference("c", "b", "right"),
        preference("c", "b", "left", "bob"),
    )
    found = compared(path, [one, other, third], ["mine"] * 3)
    assert found == Compared(((1, 0), (2, 1)), equal=1, disputed=1, absent=1)
    assert str(found) == (
        "2 pairs that people compared (left out: 1 equal, 1 without a majority, 1 about other episodes)"
    )
    assert compared(path, [one, other, third], ["mine", "yours", "yours"]).pairs == ((1, 2),)
    with pytest.raises(ValueError, match="no pair of these episodes to learn from"):
        compared(path, [one], ["mine"])


def test_episodes_of_several_cameras_are_held_against_each_other_camera_by_camera(tmp_path: Path) -> None:
    runs = [
        trajectory(f"{name}-{camera}", task="push", source=f"{name}.hdf5", metadata={"camera": camera})
        for name in "ab"
        for camera in ("top", "wrist")
    ]
    said = preference("a.hdf5", "b.hdf5", "left", left_source="a.hdf5", right_source="b.hdf5")
    assert compared(write(tmp_path / "p.jsonl", said), runs, ["mine"] * 4).pairs == ((0, 2), (1, 3))
