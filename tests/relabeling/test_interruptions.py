"""Killed runs, full disks and folders that cannot be written to: in every format nothing is lost or half-written."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from robometer_rl.relabeling.commands import journal_path, relabel
from robometer_rl.relabeling.engine import Labeller
from tests.fixed_models import PixelModel
from tests.library import ROOT
from tests.relabeling.killing import PACK_TOKENS, copied
from tests.relabeling.kinds import KINDS, content, make


def kill(tmp_path: Path, kind: str, kills: int, seed: int, episodes: int = 7) -> dict[str, int]:
    dataset = make(kind, tmp_path / "original", episodes)
    words = [kind, dataset, tmp_path / "trials", kills, seed]
    command = [sys.executable, "-m", "tests.relabeling.killing", *map(str, words)]
    found = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert found.returncode == 0, found.stderr
    return json.loads(found.stdout)


def require_survival(found: dict[str, int], kills: int) -> None:
    assert found["killed"] == kills
    harm = {name: found[name] for name in ("half_written", "different", "damaged", "left_over")}
    assert harm == dict.fromkeys(harm, 0)


@pytest.mark.parametrize("kind", KINDS)
def test_runs_killed_at_random_moments_leave_what_an_unbroken_one_leaves(tmp_path, kind):
    require_survival(kill(tmp_path, kind, kills=3, seed=0), 3)


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("kind", KINDS)
def test_fifty_runs_killed_at_random_moments_leave_what_an_unbroken_one_leaves(tmp_path, kind):
    found = kill(tmp_path, kind, kills=50, seed=1, episodes=25)
    require_survival(found, 50)
    if kind == "npz":
        # Else the moments were not those that matter.
        assert found["resumed"] > 0


def killing_at(output: Path, move: Callable[[Path, Path], None]) -> Callable[[Path, Path], None]:
    """Moves files, and kills its process when the output has come to its place."""

    def moved(source: Path, destination: Path) -> None:
        move(source, destination)
        if Path(destination).resolve() == output.resolve():
            os.kill(os.getpid(), signal.SIGKILL)

    return moved


@pytest.mark.parametrize("kind", KINDS)
def test_a_run_killed_when_its_output_is_in_place_leaves_nothing_beside_it(tmp_path, kind):
    dataset = make(kind, tmp_path / "original")
    path, unbroken = (copied(dataset, tmp_path / name) for name in ("killed", "unbroken"))
    label(kind, unbroken)
    child = os.fork()
    if child == 0:
        output = KINDS[kind].output(path)
        os.replace, os.rename = (killing_at(output, move) for move in (os.replace, os.rename))
        label(kind, path)
        os._exit(0)
    assert os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGKILL
    assert content(KINDS[kind].output(path)) == content(KINDS[kind].output(unbroken))
    label(kind, path)
    assert content(KINDS[kind].output(path)) == content(KINDS[kind].output(unbroken))
    assert sorted(each.name for each in path.parent.iterdir()) == sorted(
        each.name for each in unbroken.parent.iterdir()
    )


def label(kind: str, path: Path) -> Labeller:
    labeller = Labeller(PixelModel(), pack_tokens=PACK_TOKENS)
    KINDS[kind].run(path, labeller, verify=True)
    return labeller


def in_a_fork(work: Callable[[], object]) -> str:
    """What a process of its own says went wrong; nothing if nothing did."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            work()
        except OSError as error:
            os.write(writer, str(error).encode() or b"an error without words")
        except BaseException as error:
            os.write(writer, f"not an OSError: {error!r}".encode())
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader, "rb") as pipe:
        said = pipe.read().decode()
    assert os.waitpid(child, 0)[1] == 0
    return said


def on_a_full_disk(kind: str, path: Path, limit: int) -> None:
    """Labels where no file may grow beyond some bytes, which fails as a full disk does."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    label(kind, path)


def largest_written(output: Path) -> int:
    """Size of the largest file of an output; hard links are not written."""
    files = [output] if output.is_file() else output.rglob("*")
    return max(file.stat().st_size for file in files if file.is_file() and file.stat().st_nlink == 1)


@pytest.mark.parametrize("is_almost_enough", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_a_full_disk_leaves_the_original_and_nothing_half_written(tmp_path, kind, is_almost_enough):
    dataset = make(kind, tmp_path / "original")
    before = content(dataset)
    path, unbroken = (copied(dataset, tmp_path / name) for name in ("full", "unbroken"))
    label(kind, unbroken)
    limit = largest_written(KINDS[kind].output(unbroken)) - 1 if is_almost_enough else 400
    said = in_a_fork(lambda: on_a_full_disk(kind, path, limit))
    assert said
    assert not said.startswith("not an OSError")
    journal = journal_path(KINDS[kind].open(path)[1])
    assert {entry.name for entry in path.parent.iterdir()} <= {path.name, journal.name}
    assert content(path) == before
    label(kind, path)
    assert content(KINDS[kind].output(path)) == content(KINDS[kind].output(unbroken))
    assert not journal.exists()


@pytest.mark.parametrize("kind", [name for name, kind in KINDS.items() if kind.mode != "in_place"])
def test_where_nothing_can_be_written_is_known_before_anything_is_scored(tmp_path, kind):
    path = make(kind, tmp_path / "original")
    before = content(path)
    dataset, _ = KINDS[kind].open(path)
    labeller = Labeller(PixelModel())
    with pytest.raises(OSError, match="/proc"):
        relabel(dataset, labeller, dataset.writer(KINDS[kind].mode, Path("/proc/labelled-v1")))
    assert labeller.model.calls == 0
    assert content(path) == before


@pytest.mark.parametrize("kind", KINDS)
def test_a_folder_that_cannot_be_written_to_is_known_before_anything_is_scored(tmp_path, kind):
    path = make(kind, tmp_path / "original")
    before = content(path)
    path.parent.chmod(0o555)
    try:
        if os.access(path.parent, os.W_OK):
            pytest.skip("whoever runs this may write everywhere")
        labeller = Labeller(PixelModel())
        with pytest.raises(OSError, match="original"):
            KINDS[kind].run(path, labeller)
    finally:
        path.parent.chmod(0o755)
    assert labeller.model.calls == 0
    assert [entry.name for entry in path.parent.iterdir()] == [path.name]
    assert content(path) == before
