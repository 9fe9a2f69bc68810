from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from functools import partial

import numpy as np
import pytest

from robometer_rl.cli import main
from robometer_rl.formats.dataset import DatasetOptions
from robometer_rl.formats.table import open_dataset
from robometer_rl.models.loading import load_reward_model
from robometer_rl.relabeling.engine import Labeller, label_dataset, one_process, run_facts
from robometer_rl.relabeling.journal import Journal
from robometer_rl.relabeling.ray_engine import RayEngine, WorkerError
from robometer_rl.relabeling.returns import Horizon
from tests.fixed_models import PixelModel
from tests.relabeling.episodes import Recorded, record, write_npz
from tests.relabeling.killing import content
from tests.relabeling.ray_runs import PACK_TOKENS, NotingModel, first_pixels, notes, run, without_weights

ray = pytest.importorskip("ray")

EPISODES = {f"{number:02d}": record(length, number) for number, length in enumerate((3, 1, 8, 2, 5, 9, 4, 7, 3, 6))}
LABELLER = Labeller(PixelModel(), pack_tokens=PACK_TOKENS, horizon=Horizon(0.9, 3))


@pytest.fixture(scope="module", autouse=True)
def two_processors():
    """A local Ray with room for two workers."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_AUTH_MODE", "disabled")  # else it writes to the home directory
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("RAY_worker_niceness", "0")  # else a busy machine starves its workers
        ray.init(num_cpus=2, include_dashboard=False, object_store_memory=100 << 20, logging_level="ERROR")
        yield
        ray.shutdown()


@pytest.fixture
def folder(tmp_path):
    write_npz(tmp_path / "data", EPISODES)
    (tmp_path / "data" / "035.npz").write_bytes(b"no such file")
    (tmp_path / "notes").mkdir()
    return tmp_path / "data"


def opened(folder):
    return open_dataset(DatasetOptions(folder))[1]


def journalled(folder, path, engine) -> bytes:
    """What is in the journal of a run."""
    dataset = opened(folder)
    with Journal(path, run_facts(dataset, LABELLER)) as journal:
        label_dataset(dataset, LABELLER, journal, engine=engine)
    return path.read_bytes()


def deadly(folder, tmp_path, key: str, deaths: int) -> RayEngine:
    """Workers that die when they are asked about an episode."""
    pixels = first_pixels(EPISODES[key].cameras["front"])
    return RayEngine(partial(NotingModel, tmp_path / "notes", pixels, deaths), workers=2)


def pixels_of(episode: Recorded) -> str:
    return first_pixels(episode.cameras["front"]).hex()


def test_workers_write_the_journal_of_one_process_and_load_a_model_each_once(folder, tmp_path):
    expected = journalled(folder, tmp_path / "one", one_process)
    engine = RayEngine(partial(NotingModel, tmp_path / "notes"))
    assert journalled(folder, tmp_path / "two", engine) == expected
    loads = notes(tmp_path / "notes", "loads")
    # One may have been fast enough for all.
    assert 1 <= len(loads) == len(set(loads)) <= 2
    assert os.getpid() not in map(int, loads)
    assert sorted(notes(tmp_path / "notes", "asked")) == sorted(map(pixels_of, EPISODES.values()))


def test_the_episodes_of_a_dead_worker_are_labelled_once_more(folder, tmp_path):
    expected = journalled(folder, tmp_path / "one", one_process)
    assert journalled(folder, tmp_path / "two", deadly(folder, tmp_path, "04", deaths=1)) == expected
    asked = notes(tmp_path / "notes", "asked")
    assert len(notes(tmp_path / "notes", "deaths")) == 1
    assert asked.count(pixels_of(EPISODES["04"])) == 2
    assert set(asked) == set(map(pixels_of, EPISODES.values()))
    assert max(asked.count(pixels) for pixels in asked) == 2


@pytest.mark.slow
def test_episodes_that_kill_every_worker_end_the_run_which_can_go_on(folder, tmp_path):
    expected = journalled(folder, tmp_path / "one", one_process)
    with pytest.raises(WorkerError, match="workers died 2 times"):
        journalled(folder, tmp_path / "two", deadly(folder, tmp_path, "04", deaths=9))
    assert 2 <= len(notes(tmp_path / "notes", "deaths")) <= 3
    assert expected.startswith((tmp_path / "two").read_bytes())
    assert journalled(folder, tmp_path / "two", one_process) == expected


def test_an_interruption_lets_go_of_the_workers(folder, tmp_path):
    class Interrupted(Journal):
        def append(self, pack):
            super().append(pack)
            raise KeyboardInterrupt

    dataset = opened(folder)
    endless = bytes.fromhex(pixels_of(EPISODES["09"]))
    engine = RayEngine(partial(NotingModel, tmp_path / "notes", endless=endless), workers=2)
    facts = run_facts(dataset, LABELLER)
    with Interrupted(tmp_path / "journal", facts) as journal, pytest.raises(KeyboardInterrupt):
        label_dataset(dataset, LABELLER, journal, engine=engine)
    while ray.available_resources().get("CPU", 0) < 2:
        time.sleep(0.1)
    with Journal(tmp_path / "journal", facts) as journal:
        assert 0 < len(journal.entries) < len(dataset)


def test_a_driver_that_was_killed_goes_on_in_another_process(folder, tmp_path):
    run(folder, tmp_path / "expected", one_process)
    output, journal = tmp_path / "output", tmp_path / "output.journal"
    environment = {**os.environ, "RAY_ADDRESS": ray.get_runtime_context().gcs_address}
    command = [sys.executable, "-m", "tests.relabeling.ray_runs", folder, output, tmp_path / "notes"]
    command.append(pixels_of(EPISODES["06"]))
    driver = subprocess.Popen([*map(str, command)], env=environment)
    while not journal.exists() or journal.read_bytes().count(b"\n") < 3:
        assert driver.poll() is None
        time.sleep(0.02)
    driver.send_signal(signal.SIGKILL)
    driver.wait()
    done = journal.read_bytes().count(b"\n") - 1
    assert not output.exists()
    before = len(notes(tmp_path / "notes", "asked"))
    run(folder, output, RayEngine(partial(NotingModel, tmp_path / "notes"), workers=2))
    assert content(output) == content(tmp_path / "expected")
    assert len(notes(tmp_path / "notes", "asked")) - before <= len(EPISODES) - done + 1
    assert not journal.exists()


def test_a_machine_with_another_model_is_an_error(folder, tmp_path):
    engine = RayEngine(partial(NotingModel, tmp_path / "notes", name="another"), workers=1)
    with pytest.raises(WorkerError, match="found another model_id than the driver"):
        label_dataset(opened(folder), LABELLER, engine=engine)


def test_an_error_of_a_worker_is_that_of_the_driver(folder):
    with pytest.raises(FileNotFoundError, match="no weights on this machine"):
        label_dataset(opened(folder), LABELLER, engine=RayEngine(without_weights, workers=1))


def test_without_room_for_a_worker_nothing_begins(folder):
    with pytest.raises(WorkerError, match="needs a processor and 1 GPUs: Ray has 2 processors and 0 GPUs"):
        label_dataset(opened(folder), LABELLER, engine=RayEngine(PixelModel, gpus_per_worker=1))


@pytest.mark.slow
def test_the_command_labels_on_ray_what_it_labels_here(tmp_path, monkeypatch):
    write_npz(tmp_path / "data", {str(steps): record(steps, steps, size=64) for steps in (3, 6, 11)})
    # A name without a place is one in the driver's directory, for workers too.
    monkeypatch.chdir(tmp_path)
    words = ["relabel", "data", "--model", "mini", "--pack-tokens", "60", "--output"]
    assert main([*words, "here"]) == 0
    assert main([*words, "there", "--engine", "ray", "--workers", "1", "--verify"]) == 0
    for name in ("3.npz", "6.npz", "11.npz"):
        here, there = np.load(f"here/{name}"), np.load(f"there/{name}")
        assert here.files == there.files
        for array in ("rewards", "robometer/progress", "robometer/success"):
            np.testing.assert_allclose(there[array], here[array], rtol=0, atol=1e-5)
    assert not list(tmp_path.glob("*.journal"))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--workers", "2"], "workers and gpus_per_worker are for the engine ray"),
        (["--engine", "ray", "--workers", "0"], "workers must be positive, got 0"),
        (["--engine", "ray", "--gpus-per-worker", "-1"], "gpus_per_worker must not be negative"),
        (["--engine", "ray", "--gpus-per-worker", "nan"], "gpus_per_worker must not be negative"),
    ],
)
def test_wrong_numbers_are_said_at_once(folder, capsys, words, message):
    assert main(["relabel", str(folder), *words]) == 2
    assert message in capsys.readouterr().err


def test_an_engine_that_does_not_exist_is_said_with_those_that_do(folder, capsys):
    with pytest.raises(SystemExit):
        main(["relabel", str(folder), "--engine", "spark"])
    assert "'local','ray'" in "".join(capsys.readouterr().err.split())


def test_without_ray_the_message_says_what_to_install(folder, capsys, monkeypatch):
    for name in ("ray", "ray.data"):
        monkeypatch.setitem(sys.modules, name, None)
    assert main(["relabel", str(folder), "--engine", "ray"]) == 2
    assert 'pip install "robometer-rl[ray]"' in capsys.readouterr().err


def test_the_model_of_a_driver_needs_no_weights():
    assert load_reward_model("mini", device="meta").dtype == load_reward_model("mini").dtype
