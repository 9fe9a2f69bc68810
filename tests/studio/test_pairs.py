from __future__ import annotations

from pathlib import Path

import pytest

from robometer_rl.studio.episodes import Entry
from robometer_rl.studio.notes import Notes, Said
from robometer_rl.studio.pairs import Agreement, Judgement, Pairs, agreement, judgements

ENTRIES = [Entry(f"push-{n}", "push", "failure", "one", 5) for n in range(4)] + [
    Entry("pull-0", "pull", "failure", "one", 5)
]


def said(**final: float) -> dict[str, Said]:
    return {
        name.replace("_", "-"): Said("mine", name, "push", "mini", "nested(8)", 1, 0.5, (0.0, value), None)
        for name, value in final.items()
    }


def pairs(folder: Path, annotator: str = "ann", **final: float) -> Pairs:
    return Pairs("mine", ENTRIES, annotator, Notes(folder), said(**final))


def test_every_two_episodes_of_an_instruction_are_a_pair(tmp_path: Path) -> None:
    asked = pairs(tmp_path)
    found = set()
    while (pair := asked.next()) is not None:
        assert pair.task == "push"
        found.add(pair.episodes)
        asked.answer(pair, "equal")
    assert (len(asked), len(found), asked.answered) == (6, 6, 6)


def test_the_sides_are_shuffled_the_same_way_at_every_start_and_recorded(tmp_path: Path) -> None:
    shown = {annotator: pairs(tmp_path, annotator).next() for annotator in "abcdefgh"}
    assert shown == {annotator: pairs(tmp_path, annotator).next() for annotator in "abcdefgh"}
    sides = [pair.left < pair.right for pair in shown.values() if pair is not None]
    assert 0 < sum(sides) < len(sides)
    asked = pairs(tmp_path, "a")
    pair = asked.next()
    assert pair is not None
    asked.answer(pair, "left")
    (line,) = judgements(Notes(tmp_path), "mine")
    assert (line.left, line.right, line.answer, line.better) == (pair.left, pair.right, "left", pair.left)


def test_pairs_that_the_model_is_least_sure_of_come_first(tmp_path: Path) -> None:
    asked = pairs(tmp_path, push_0=0.1, push_1=0.9, push_2=0.5, push_3=0.52)
    pair = asked.next()
    assert pair is not None
    assert pair.episodes == {"push-2", "push-3"}


def test_work_goes_on_where_it_was_and_can_be_taken_back(tmp_path: Path) -> None:
    asked = pairs(tmp_path)
    first = asked.next()
    assert first is not None
    asked.answer(first, "right")
    again = pairs(tmp_path)
    assert again.answered == 1
    assert again.next() == asked.next() != first
    again.undo()
    assert (again.answered, again.next()) == (0, first)
    assert (pairs(tmp_path).answered, pairs(tmp_path).next()) == (0, first)
    again.undo()
    assert again.answered == 0
    assert pairs(tmp_path, "bob").answered == 0


def test_many_episodes_give_many_pairs_and_not_all(tmp_path: Path) -> None:
    entries = [Entry(f"push-{n:04}", "push", "failure", "one", 5) for n in range(1000)]
    asked = Pairs("mine", entries, "ann", Notes(tmp_path), {})
    assert len(asked) == 2000


def test_agreement_is_counted_between_people_and_with_the_model() -> None:
    def judged(annotator: str, left: str, right: str, answer: str) -> Judgement:
        return Judgement("mine", "push", left, right, answer, annotator)  # pyright: ignore[reportArgumentType]

    found = [
        judged("ann", "push-0", "push-1", "right"),
        judged("bob", "push-1", "push-0", "left"),  # the same episode, on the other side
        judged("ann", "push-2", "push-3", "equal"),
        judged("bob", "push-2", "push-3", "left"),
        judged("ann", "push-0", "push-2", "left"),
        judged("ann", "push-0", "push-2", "undo"),
        judged("bob", "push-0", "push-2", "skip"),
    ]
    people, model = agreement(found, said(push_0=0.1, push_1=0.9, push_2=0.2, push_3=0.3))
    assert (people, model) == (Agreement(1, 2), Agreement(2, 3))
    assert str(model) == "2 of 3"
    assert str(agreement([], {})[0]) == "no pair yet"


def test_an_answer_is_one_of_five() -> None:
    with pytest.raises(ValueError, match="expected one of left"):
        Judgement("mine", "push", "a", "b", "both", "ann")  # pyright: ignore[reportArgumentType]
