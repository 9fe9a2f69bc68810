from __future__ import annotations

import json
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest

from robometer_rl.prediction import Prediction
from robometer_rl.report.episode import EpisodeScores
from robometer_rl.report.replay import (
    Replay,
    Series,
    Video,
    draw_replay,
    judged_series,
    paid_between,
    render_page,
    series_of,
    shown_frames,
    video_address,
    worst_first,
)

HOSTILE = "<script>alert('x')</script> & \"quotes\" \u202e"


class Elements(HTMLParser):
    """Collects tags with their attributes, and the text; fails on tags that are not closed."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.open: list[str] = []
        self.feed(page)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in ("meta", "link", "img"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


def scores(task: str = "push", count: int = 4) -> EpisodeScores:
    rising = np.linspace(0.0, 0.9, count).astype(np.float32)
    return EpisodeScores(task, np.arange(count) * 2, rising, rising**2, np.arange(count) >= 2, 0.5)


def replay(text: str = "plain") -> Replay:
    series = Series(text, np.arange(4), scores(text), true_success=np.array([False, True, True, False]))
    return Replay(text, [series], [Video(text, "one.mp4", np.arange(4) / 10)], text, {text: True, "Return": text})


def numbers(element: str) -> dict:
    (section,) = Elements(element).all("section")
    return json.loads(section["data-replay"] or "")


def test_the_numbers_say_all_that_is_drawn() -> None:
    said = numbers(draw_replay(replay()))
    (series,) = said["series"]
    assert (said["frames"], series["steps"], series["numbers"]) == (4, [0, 1, 2, 3], [0, 2, 4, 6])
    assert series["progress"] == pytest.approx([0, 0.3, 0.6, 0.9])
    assert (series["fires"], series["threshold"], series["trueSuccess"]) == (2, 0.5, [[1, 2]])
    assert said["videos"] == [{"name": "plain", "address": "one.mp4", "seconds": [0, 0.1, 0.2, 0.3]}]


def test_frames_are_counted_as_on_the_axis_and_their_other_number_stands_beside() -> None:
    one = Series("one", np.arange(4), scores(), counted="step")
    assert (one.called(3), one.fires_at) == ("frame 3 (step 6)", "frame 2 (step 4)")
    assert "success from frame 2 (step 4)" in draw_replay(Replay("one", [one]))
    same = replace(scores(), numbers=np.arange(4))
    assert Series("one", np.arange(4), same).fires_at == "frame 2"
    never = replace(same, success_detected=np.zeros(4, bool))
    assert Series("one", np.arange(4), never).fires_at is None


def test_what_was_paid_since_the_last_scored_frame_is_one_number_per_scored_frame() -> None:
    bins = np.eye(3, dtype=np.float32)
    said = Prediction(np.array([0, 0.5, 1], np.float32), None, bins, "nested(8)", "model", every=2)
    shown = EpisodeScores("push", np.array([0, 2, 4]), said.progress, None, np.zeros(3, bool), 0.5)
    series = series_of("one", said, shown, 5, paid=np.array([1.0, 2.0, 4.0, 8.0]))
    assert series.rewards.tolist() == [0.0, 3.0, 12.0]
    assert series.band.tolist() == [[0, 0], [0.5, 0.5], [1, 1]]
    assert series.shown[2, :3].tolist() == [0, 2, 4]


def test_the_band_is_where_most_of_the_distribution_is() -> None:
    bins = np.full((1, 11), 1 / 11, np.float32)
    said = Prediction(np.array([0.5], np.float32), None, bins, "uniform(8)", "model")
    shown = EpisodeScores("push", np.array([0]), said.progress, None, np.zeros(1, bool), 0.5)
    assert series_of("one", said, shown, 1).band.tolist() == [pytest.approx([0.1, 0.9])]


def test_shown_frames_are_those_of_the_protocol_in_numbers_of_the_recording() -> None:
    shown = shown_frames("uniform(3)", np.array([0, 5, 10, 15, 20]))
    assert shown.tolist() == [[0, 0, 0], [0, 5, 5], [0, 5, 10], [0, 10, 15], [0, 10, 20]]
    fewer = shown_frames("nested(3)", np.arange(4))
    assert fewer.tolist() == [[0, -1, -1], [0, 1, -1], [0, 1, 2], [0, 2, 3]], "nothing is shown twice"


def test_a_recording_is_judged_by_the_usual_rule_and_paid_the_usual_reward() -> None:
    said = np.array([0.2, 0.9, 0.9, 0.9, 0.1], np.float32)
    prediction = Prediction(said, said, np.zeros((5, 0), np.float32), "nested(8)", "model", every=2)
    series = judged_series("model", prediction, 9, 0.5, "push", np.arange(9) * 10)
    assert series.steps.tolist() == [0, 2, 4, 6, 8]
    assert series.scores.numbers.tolist() == [0, 20, 40, 60, 80]
    assert series.scores.success_detected.tolist() == [False, False, True, True, False]
    assert series.rewards == pytest.approx([0, 0.7, 0, 0, -0.8], abs=1e-6)
    assert series.paid == pytest.approx(-0.1, abs=1e-6)


def test_rewards_of_steps_are_gathered_at_the_scored_frames() -> None:
    assert paid_between(np.array([0, 2, 3]), np.array([1.0, 2.0, 4.0])).tolist() == [0, 3, 4]
    assert paid_between(np.array([0, 1, 2]), np.array([1.0, 2.0, 4.0])).tolist() == [0, 1, 2], "the last is not seen"


RISING = np.array([0.0, 0.3, 0.6, 0.9])


@pytest.mark.parametrize(
    ("known", "success", "gap"),
    [
        ({}, RISING, None),
        ({"outcome": True}, RISING, 0.1),
        ({"outcome": False}, RISING, 0.9),
        ({"outcome": False}, RISING[::-1], 0.9),  # taken for a success at some time
        ({"true_success": np.array([False, True, False, False])}, RISING, 0.1),  # seen late is seen
        ({"true_success": np.array([False, False, False, True])}, RISING[::-1], 1.0),
        ({"true_success": np.zeros(4, bool), "outcome": True}, RISING, 0.9),
        ({"true_progress": np.array([0, 0, 0, 0.5])}, RISING, 0.4),
        ({"true_progress": np.array([0, 0, 0, 0.5]), "outcome": False}, RISING, 0.9),
        ({"outcome": False}, None, 0.9),
        ({"true_progress": np.array([0, 0, 0, 0.5]), "outcome": False}, None, 0.4),
    ],
)
def test_disagreement_is_how_far_it_is_from_what_is_known(known: dict, success: np.ndarray | None, gap: float) -> None:
    said = None if success is None else success.astype(np.float32)
    shown = EpisodeScores("push", np.arange(4), RISING.astype(np.float32), said, np.zeros(4, bool), 0.5)
    assert Series("one", np.arange(4), shown, **known).disagreement == (gap and pytest.approx(gap, abs=1e-6))


def test_the_worst_come_first_and_then_what_is_paid_unusually() -> None:
    def of(name: str, paid: float, outcome: bool | None = None) -> Replay:
        return Replay(name, [Series(name, np.arange(4), scores(), np.full(4, paid), outcome=outcome)])

    replays = [of("usual", 0.1), of("good", 0.2, outcome=True), of("cheap", -3.0), of("bad", 0.2, outcome=False)]
    assert [replays[place].name for place in worst_first(replays)] == ["bad", "good", "cheap", "usual"]
    assert worst_first([]) == []


def test_text_cannot_become_markup() -> None:
    page = render_page(HOSTILE, HOSTILE, [replay(HOSTILE)], {HOSTILE: HOSTILE}, HOSTILE)
    shown = Elements(page)
    assert len(shown.all("script")) == 1
    assert "alert('x')" in shown.text
    (section,) = shown.all("section")
    assert json.loads(section["data-replay"] or "")["series"][0]["name"].startswith("<script>")


def test_rows_of_the_table_lead_to_their_replays() -> None:
    shown = Elements(render_page("title", "lead", [replay("first"), replay("second")], {}))
    assert [link["href"] for link in shown.all("a")] == ["#first", "#second"]
    assert [section["data-key"] for section in shown.all("section")] == ["first", "second"]


def test_nothing_is_fetched_from_elsewhere_and_no_video_before_it_is_looked_at() -> None:
    shown = Elements(render_page("title", "lead", [replay()], {}))
    addresses = [value for _, given in shown.tags for name, value in given.items() if name in ("src", "href")]
    assert [address for address in addresses if address not in ("data:,", "#plain")] == []


def test_a_video_can_stand_inside_its_address() -> None:
    frames = np.zeros((3, 20, 30, 3), np.uint8)
    assert video_address(frames).startswith("data:video/mp4;base64,AAAA")


def test_series_and_values_belong_together() -> None:
    with pytest.raises(ValueError, match="steps"):
        Series("one", np.arange(3), scores())
    with pytest.raises(ValueError, match="neither series nor videos"):
        Replay("none", [])
