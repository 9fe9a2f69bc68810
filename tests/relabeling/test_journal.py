from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest

from robometer_rl.data.reading import Unreadable
from robometer_rl.formats.dataset import EpisodeLabels
from robometer_rl.relabeling.journal import Journal, JournalError

RUN = {"model": "a", "every": 1}


def labels(key: str, steps: int) -> EpisodeLabels:
    rng = np.random.default_rng(steps)
    frames = rng.random((2, steps + 1)).astype(np.float32)
    paid, returns, advantages = rng.random((3, steps))
    return EpisodeLabels(
        key, frames[0], frames[1], paid, returns, advantages, rng.random(steps) > 0.5, np.zeros(steps, bool)
    )


PACKS = [[labels("a", 3), Unreadable("b", "dark — ✗")], [labels("c", 1)], [Unreadable("d", "x"), labels("e", 40)]]


def write(path: Path, packs=PACKS) -> bytes:
    with Journal(path, RUN) as journal:
        for pack in packs:
            journal.append(pack)
    return path.read_bytes()


def same(first, second) -> bool:
    if isinstance(first, Unreadable):
        return first == second
    names = ("progress", "success", "rewards", "returns", "advantages", "success_detected", "imputed")
    pairs = [(getattr(first, name), getattr(second, name)) for name in names]
    return first.key == second.key and all(a.dtype == b.dtype and a.tobytes() == b.tobytes() for a, b in pairs)


def test_what_was_appended_is_read_back_to_the_last_bit(tmp_path):
    write(tmp_path / "journal")
    with Journal(tmp_path / "journal", RUN) as journal:
        expected = [entry for pack in PACKS for entry in pack]
        assert len(journal.entries) == len(expected)
        assert all(map(same, journal.entries, expected))


def test_a_journal_cut_anywhere_goes_on_after_its_last_whole_pack_and_ends_the_same(tmp_path):
    path = tmp_path / "journal"
    content = write(path)
    ends = [0, *(index + 1 for index, byte in enumerate(content) if byte == 10)]
    sizes = [len(pack) for pack in PACKS]
    around_ends = {end + step for end in ends for step in (-1, 0, 1)} & set(range(len(content) + 1))
    for size in sorted(around_ends | set(range(0, len(content), 101))):
        path.write_bytes(content[:size])
        whole = max(sum(end <= size for end in ends) - 2, 0)  # lines of packs
        with Journal(path, RUN) as journal:
            assert len(journal.entries) == sum(sizes[:whole])
            for pack in PACKS[whole:]:
                journal.append(pack)
        assert path.read_bytes() == content


@pytest.mark.parametrize("place", [0, 70, 200])
def test_damage_that_no_interruption_makes_is_an_error(tmp_path, place):
    path = tmp_path / "journal"
    content = bytearray(write(path))
    content[place] ^= 1
    path.write_bytes(content)
    with pytest.raises(JournalError, match="damaged in line"):
        Journal(path, RUN)
    assert path.read_bytes() == content


def test_a_line_that_is_missing_is_damage(tmp_path):
    path = tmp_path / "journal"
    lines = write(path).splitlines(keepends=True)
    path.write_bytes(b"".join([*lines[:1], *lines[2:]]))
    with pytest.raises(JournalError, match="damaged in line 2"):
        Journal(path, RUN)


def test_a_last_line_that_is_damaged_counts_as_cut_off(tmp_path, caplog):
    path = tmp_path / "journal"
    content = bytearray(write(path))
    content[-10] ^= 1
    path.write_bytes(content)
    with caplog.at_level(logging.INFO), Journal(path, RUN) as journal:
        assert len(journal.entries) == 3
    assert "cut off" in caplog.text


def test_a_run_with_other_settings_is_refused_by_name(tmp_path):
    path = tmp_path / "journal"
    content = write(path)
    with pytest.raises(JournalError, match='model was "a" and is "b" now'):
        Journal(path, {**RUN, "model": "b"})
    with pytest.raises(JournalError, match="extra was null"):
        Journal(path, {**RUN, "extra": 1})
    assert path.read_bytes() == content


@pytest.mark.parametrize("packs", [[], [[Unreadable("a", "there is no camera 'wrist'")]]])
def test_a_run_that_labelled_nothing_gives_way_to_one_with_other_settings(tmp_path, packs):
    path = tmp_path / "journal"
    write(path, packs)
    with Journal(path, {**RUN, "model": "b"}) as journal:
        assert journal.entries == []
        journal.append(PACKS[0])
    with Journal(path, {**RUN, "model": "b"}) as journal:
        assert all(map(same, journal.entries, PACKS[0]))


def test_a_file_of_another_kind_is_refused(tmp_path):
    path = tmp_path / "journal"
    path.write_text("somebody's notes\nand more\n")
    with pytest.raises(JournalError, match="damaged in line 1"):
        Journal(path, RUN)
    assert path.read_text() == "somebody's notes\nand more\n"


def test_two_runs_do_not_write_to_one_journal(tmp_path):
    path = tmp_path / "journal"
    with Journal(path, RUN), pytest.raises(JournalError, match="in use"):
        Journal(path, RUN)
    with Journal(path, RUN):
        pass


def test_a_full_disk_keeps_what_was_labelled(tmp_path):
    path = tmp_path / "journal"
    content = write(path, PACKS[:1])
    program = (
        "import resource, signal, sys\n"
        "from tests.relabeling.test_journal import PACKS, RUN, Journal, Path\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        f"resource.setrlimit(resource.RLIMIT_FSIZE, ({len(content) + 100},) * 2)\n"
        "with Journal(Path(sys.argv[1]), RUN) as journal:\n"
        "    try:\n"
        "        journal.append(PACKS[1])\n"
        "    except OSError as error:\n"
        "        sys.exit(str(error))\n"
    )
    found = run_program(program, str(path))
    assert "labels up to here are kept" in found
    assert path.read_bytes()[: len(content)] == content
    assert len(path.read_bytes()) == len(content) + 100
    with Journal(path, RUN) as journal:
        assert len(journal.entries) == 2


def run_program(program: str, *arguments: str) -> str:
    """What a program says on its way out."""
    import subprocess
    import sys

    return subprocess.run([sys.executable, "-c", program, *arguments], capture_output=True, text=True).stderr


@pytest.mark.parametrize("content", [b"my notes", b"my notes\n", b"0" * 64 + b" {}", b"\n"])
def test_somebody_elses_file_of_that_name_is_left_alone(tmp_path, content):
    path = tmp_path / "data-robometer.journal"
    path.write_bytes(content)
    with pytest.raises(JournalError):
        Journal(path, {"a": 1})
    assert path.read_bytes() == content


def test_a_link_in_the_place_of_a_journal_is_not_followed(tmp_path):
    (tmp_path / "letter").write_text("dear")
    (tmp_path / "journal").symlink_to("letter")
    with pytest.raises(JournalError, match="is a link, a pipe or a folder; move it away"):
        Journal(tmp_path / "journal", {})
    assert (tmp_path / "letter").read_text() == "dear"
