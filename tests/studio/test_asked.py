from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from robometer_rl.data.judgements import ClipLabel, Judgement
from robometer_rl.data.store import TrajectoryStore
from robometer_rl.evaluation.agreement import Difference, cohen_kappa
from robometer_rl.formats.commands import parse_data
from robometer_rl.studio.asked import Clips, Pairs, clip_agreement, labels_of, pair_agreement, preferences_of
from robometer_rl.studio.episodes import UNKNOWN, Entry, open_episodes_of
from robometer_rl.studio.notes import Notes, Said

FIXTURES = Path(__file__).parents[1] / "fixtures"

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
        found.add(pair.about)
        asked.answer(pair, "equal")
    assert (len(asked), len(found), asked.answered) == (6, 6, 6)


def test_the_sides_are_shuffled_the_same_way_at_every_start_and_recorded(tmp_path: Path) -> None:
    shown = {annotator: pairs(tmp_path, annotator).next() for annotator in "abcdefgh"}
    assert shown == {annotator: pairs(tmp_path, annotator).next() for annotator in "abcdefgh"}
    sides = [pair.left.key < pair.right.key for pair in shown.values() if pair is not None]
    assert 0 < sum(sides) < len(sides)
    asked = pairs(tmp_path, "a")
    pair = asked.next()
    assert pair is not None
    asked.answer(pair, "left")
    (line,) = preferences_of(Notes(tmp_path), "mine")
    assert (line.left, line.right, line.answer, line.better) == (pair.left.key, pair.right.key, "left", pair.left.key)


def test_pairs_that_the_model_is_least_sure_of_come_first(tmp_path: Path) -> None:
    asked = pairs(tmp_path, push_0=0.1, push_1=0.9, push_2=0.5, push_3=0.52)
    pair = asked.next()
    assert pair is not None
    assert pair.about == {"push-2", "push-3"}


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


def test_agreement_on_pairs_is_counted_between_people_and_with_the_model() -> None:
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
    people, model = pair_agreement(found, said(push_0=0.1, push_1=0.9, push_2=0.2, push_3=0.3))
    assert (people.same, people.pairs, people.items, people.measure) == (1, 2, 2, "Cohen's kappa")
    ann, bob = ([found[place].category for place in places] for places in ((0, 2), (1, 3)))
    assert people.corrected == pytest.approx(cohen_kappa(ann, bob))
    assert (model.same, model.pairs) == (2, 3)
    assert pair_agreement([], {})[0].pairs == 0


def clips(folder: Path, annotator: str = "ann", entries: list[Entry] = ENTRIES, **final: float) -> Clips:
    return Clips("mine", entries, annotator, Notes(folder), said(**final))


def order(asked: Clips) -> list[str]:
    found = []
    while (entry := asked.next()) is not None:
        found.append(entry.key)
        asked.answer(entry, "skip")
    return found


def test_clips_come_shuffled_for_everybody_and_in_the_recorded_order(tmp_path: Path) -> None:
    orders = {annotator: order(clips(tmp_path / annotator, annotator)) for annotator in "abcd"}
    assert all(sorted(each) == sorted(entry.key for entry in ENTRIES) for each in orders.values())
    assert len({tuple(each) for each in orders.values()}) > 1
    assert orders["a"] == order(clips(tmp_path / "again", "a"))
    assert [each.episode for each in labels_of(Notes(tmp_path / "a"), "mine")] == orders["a"]


def test_clips_that_nobody_knows_and_the_model_is_least_sure_of_come_first(tmp_path: Path) -> None:
    entries = [
        replace(each, outcome=UNKNOWN if each.key in ("push-1", "push-2", "push-3") else "failure")
        for each in ENTRIES[:4]
    ]
    others = clips(tmp_path, "bob", entries[3:])
    others.answer(entries[3], "failure")
    assert order(clips(tmp_path, "ann", entries, push_0=0.51, push_1=0.9, push_2=0.4, push_3=0.5)) == [
        "push-2",
        "push-1",
        *("push-3", "push-0"),  # somebody else, or the data, knows them; the model is less sure of the first
    ]


def test_labels_go_on_where_they_were_and_can_be_taken_back(tmp_path: Path) -> None:
    asked = clips(tmp_path)
    entry = asked.next()
    assert entry is not None
    asked.answer(entry, "successful", success_frame=3, partial_success=0.8, note="slow", fps=10.0)
    again = clips(tmp_path)
    assert (again.answered, len(again)) == (1, 5)
    assert again.next() != entry
    taken = again.undo()
    assert taken is not None
    assert (taken.episode, taken.success_frame, taken.partial_success, taken.note) == (entry.key, 3, 0.8, "slow")
    assert (clips(tmp_path).answered, clips(tmp_path).next()) == (0, entry)
    assert clips(tmp_path).undo() is None
    with pytest.raises(ValueError, match="expected one from 0 to 4"):
        asked.answer(entry, "successful", success_frame=5)
    assert len(labels_of(Notes(tmp_path), "mine")) == 2


def test_agreement_on_clips_is_counted_between_people_and_with_the_model() -> None:
    def label(annotator: str, episode: str, answer: str, **fields: Any) -> ClipLabel:
        return ClipLabel("mine", episode, "push", 5, answer, annotator, fps=2.0, **fields)  # pyright: ignore[reportArgumentType]

    labels = [
        label("ann", "push-0", "successful", success_frame=2),
        label("bob", "push-0", "successful", success_frame=4),
        label("ann", "push-1", "failure", partial_success=0.25),
        label("bob", "push-1", "suboptimal", partial_success=0.5),
        label("ann", "push-2", "failure"),
    ]
    model = {
        "push-0": Said(
            "mine", "push-0", "push", "mini", "nested(8)", 1, 0.5, (0.0, 0.2, 0.5, 0.9, 1.0), (0, 0, 0.9, 0.9, 0.9)
        ),
        "push-1": Said("mine", "push-1", "push", "mini", "nested(8)", 2, 0.5, (0.0, 0.2, 0.75), (0.1, 0.9, 0.9)),
    }
    people, with_model = clip_agreement(labels, model)
    assert (people.outcome.same, people.outcome.pairs, people.outcome.items) == (1, 2, 2)
    assert people.frames == Difference(2.0, 1, 1)
    assert people.seconds == Difference(1.0, 1, 1)
    assert people.grades == Difference(0.25, 1, 1)
    assert (with_model.outcome.same, with_model.outcome.pairs) == (2, 4)
    # The rule's patience decides where it fires in push-0; push-1 has no success to be held against.
    assert (with_model.frames.pairs, with_model.grades) == (2, Difference(0.375, 2, 2))
    silent = clip_agreement(labels, {key: replace(each, success=None) for key, each in model.items()})[1]
    assert (silent.outcome.pairs, silent.frames.pairs, silent.grades.pairs) == (0, 0, 2)
    assert math.isnan(silent.frames.mean)


@pytest.mark.parametrize(
    ("name", "package", "path", "camera", "options"),
    [
        ("libero_hdf5", "h5py", "libero_hdf5", "agentview_rgb", ()),
        ("robomimic_hdf5", "h5py", "robomimic_hdf5", "agentview_image", ("--task", "lift the cube")),
        ("lerobot", "pyarrow", "lerobot_v30", "observation.images.top", ("--quality", "suboptimal")),
        ("rbm", "pyarrow", "rbm_dataset/processed_datasets", None, ()),
    ],
)
def test_labels_fit_what_is_imported_of_every_format(
    tmp_path: Path, name: str, package: str, path: str, camera: str | None, options: tuple[str, ...]
) -> None:
    """What the studio calls an episode leads to its trajectory, whatever the import calls that."""
    pytest.importorskip(package)
    place, store = FIXTURES / path, tmp_path / "store"
    tasks = options[1:] if options[:1] == ("--task",) else ()
    episodes = open_episodes_of(place, () if camera is None else (camera,), tasks=tasks)
    list(episodes)
    asked = Clips(episodes.name, episodes.entries, "ann", Notes(tmp_path), {})
    while (entry := asked.next()) is not None:
        asked.answer(entry, "failure", partial_success=0.25, note=entry.key)
    words = ["import", name, str(place), str(store), "--labels", str(tmp_path / "labels.jsonl"), *options]
    parse_data([*words, *(() if camera is None else ("--camera", camera))], "robometer-rl data")()
    found = list(TrajectoryStore.open(store))
    assert {each.metadata["notes"][0] for each in found} == {entry.key for entry in episodes.entries}
    assert all((each.quality_label, each.partial_success) == ("failure", 0.25) for each in found)
