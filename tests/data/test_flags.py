from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest

from robometer_rl.data.flags import FLAGS, Exclusion, data_name
from robometer_rl.documents import DocumentError


def flags(folder: Path, *lines: object) -> Path:
    path = folder / FLAGS
    path.write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    return path


def flag(data: str, episode: str, flagged: bool = True) -> dict[str, object]:
    return {"data": data, "episode": episode, "flagged": flagged, "note": ""}


def left_out(path: Path, *names: str) -> str:
    exclusion = Exclusion(path, names)
    return "".join(episode for episode in "abcd" if not exclusion.lets_in(episode, is_wanted=True))


def test_of_two_flags_of_an_episode_the_later_one_counts(tmp_path: Path) -> None:
    path = flags(
        tmp_path,
        flag("store", "a"),
        flag("store", "b"),
        flag("store", "a", flagged=False),
        {"data": "other", "episode": "c", "flagged": True},
    )
    assert left_out(path, "store") == "b"
    assert left_out(path, "store", "other") == "bc"


def test_those_are_counted_that_were_wanted(tmp_path: Path) -> None:
    exclusion = Exclusion(flags(tmp_path, flag("store", "a"), flag("store", "b")), ["store"])
    said = [exclusion.lets_in(episode, is_wanted) for episode in "abc" for is_wanted in (False, episode != "b")]
    assert (said, exclusion.count) == ([False, False, False, False, False, True], 1)
    nothing = Exclusion(None, ["store"])
    nothing.end([])
    assert nothing.lets_in("a", is_wanted=True)


def test_flags_of_other_data_are_an_error_and_no_flags_at_all_are_not(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(ValueError, match="flags episodes of store, and none of recordings: give the data by the name"):
        left_out(flags(tmp_path, flag("store", "a")), "recordings")
    assert left_out(flags(tmp_path, flag("store", "a", flagged=False)), "recordings") == ""
    assert "flags no episode: nothing is left out" in caplog.text


def test_what_is_flagged_and_not_there_is_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    exclusion = Exclusion(flags(tmp_path, *(flag("store", name) for name in "abxz")), ["store"])
    with pytest.raises(ValueError, match=r"4 of the 4 episodes .* the first 'a': is this the data that was browsed"):
        exclusion.end("cd")
    exclusion.lets_in("a", is_wanted=False)
    exclusion.end("bc")
    assert "2 of the 4 episodes that" in caplog.text
    caplog.clear()
    exclusion.end("bxz")
    assert not [each for each in caplog.records if each.levelno >= logging.WARNING]


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ({"data": "store", "episode": "a"}, "flagged"),
        ({**flag("store", "a"), "why": ""}, "unknown Flag fields ['why']"),
        ({**flag("store", "a"), "flagged": "no"}, "flagged of Flag must be true or false, got 'no'"),
        ({**flag("store", "a"), "episode": ["a"]}, "episode of Flag must be text, got ['a']"),
        (["store", "a"], "expected a JSON object with Flag fields"),
    ],
)
def test_a_line_that_is_no_flag_is_named(tmp_path: Path, line: object, said: str) -> None:
    path = flags(tmp_path, flag("store", "b"), line)
    with pytest.raises(DocumentError) as raised:
        left_out(path, "store")
    assert str(raised.value).startswith(f"{path}, line 2: ")
    assert said in str(raised.value)


def test_data_is_called_by_the_last_part_of_its_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert data_name(Path("stores/mine/")) == "mine"
    assert data_name(Path(".")) == tmp_path.name
