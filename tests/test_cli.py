from __future__ import annotations

import logging
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from robometer_rl import score
from robometer_rl.cli import main
from robometer_rl.collecting.simulators import SKILLS
from robometer_rl.data.store import TrajectoryStore
from tests.data.episodes import make_episodes_of_two_tasks
from tests.data.runs import trajectory
from tests.imports import LIGHT, imports_of
from tests.library import ROOT

FIXTURE = Path(__file__).parent / "fixtures" / "robometer_tiny" / "checkpoint"

RUN = """
from robometer_rl.cli import main
try:
    main({words!r})
except SystemExit as stop:
    assert stop.code == 0
"""


@pytest.fixture(autouse=True)
def logging_as_it_was() -> Iterator[None]:
    root, ours = logging.getLogger(), logging.getLogger("robometer_rl")
    handlers, levels = root.handlers[:], (root.level, ours.level)
    yield
    root.handlers[:] = handlers
    root.setLevel(levels[0])
    ours.setLevel(levels[1])
    logging.captureWarnings(False)


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    frames = np.random.default_rng(0).integers(0, 256, (5, 32, 32, 3), np.uint8)
    np.savez(tmp_path / "clip.npz", frames=frames)
    return tmp_path / "clip.npz"


TRAINING = [
    ["benchmark", "--help"],
    ["train", "--help"],
    ["train", "robometer-mini", "--help"],
    ["evaluate", "--help"],
    ["publish", "--help"],
]


@pytest.mark.parametrize(
    "words", [["--help"], ["collect", "--help"], ["score", "--help"], ["demo", "--help"], *TRAINING]
)
def test_help_imports_nothing_that_takes_its_time(words: list[str]) -> None:
    imported, printed = imports_of(RUN.format(words=words))
    assert imported <= LIGHT
    assert "usage: robometer-rl" in printed


def test_help_lists_the_commands_and_what_they_do(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["--help"])
    assert stop.value.code == 0
    shown = capsys.readouterr().out
    for line in ("demo", "score", "collect", "Score a video", "--debug"):
        assert line in shown


@pytest.mark.parametrize(
    ("command", "given", "used"),
    [("score", None, "PASSIVE"), ("relabel", None, "PASSIVE"), ("score", "ACTIVE", "ACTIVE"), ("train", None, None)],
)
def test_threads_that_wait_sleep(
    command: str, given: str | None, used: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)
    if given is not None:
        monkeypatch.setenv("OMP_WAIT_POLICY", given)
    with pytest.raises(SystemExit):
        main([command, "--help"])
    assert os.environ.get("OMP_WAIT_POLICY") == used


@pytest.mark.parametrize("command", ["demo", "score", "collect", "train", "harden", "evaluate", "benchmark", "publish"])
def test_every_command_exists_and_describes_its_options(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main([command, "--help"])
    assert stop.value.code == 0
    shown = capsys.readouterr().out
    assert f"usage: robometer-rl {command}" in shown


def test_train_lists_its_recipes(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["train", "--help"])
    shown = capsys.readouterr().out
    for name in ("libero", "lora", "rbm-1m", "robometer-mini"):
        assert name in shown


def test_options_after_the_recipe_take_the_place_of_its_own(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["train", "libero", "--help"])
    shown = capsys.readouterr().out
    assert "libero_spatial" in shown, "the recipe's values are the defaults"
    assert main(["train", "libreo", "--data", "x"]) == 2
    assert "did you mean 'libero'" in capsys.readouterr().err


@pytest.mark.parametrize("words", [[], ["scor"], ["--verbose", "score"], ["score"], ["score", "a.mp4", "--tsak", "x"]])
def test_a_wrong_command_line_exits_with_2(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(words)
    assert stop.value.code == 2
    assert "robometer-rl" in capsys.readouterr().err


@pytest.mark.parametrize(
    "words",
    [["score", "a.mp4", "--task", "x", "--\x1b[2Jclear"], ["score", "a.mp4", "--task", "x", "--every", "\x1b[2J\r"]],
)
def test_words_that_are_not_understood_do_not_steer_the_terminal(
    words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stop:
        main(words)
    assert stop.value.code == 2
    said = capsys.readouterr().err
    assert "\x1b[2J" not in said
    assert "\r" not in said
    assert "\\x1b[2J" in said


def test_score_runs_on_a_checkpoint(clip: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["score", str(clip), "--task", "open the drawer", "--model", str(FIXTURE), "--every", "2"]
    assert main([*words, "--protocol", "nested(4)", "--out", str(tmp_path / "results")]) == 0
    shown = capsys.readouterr().out
    assert "5 in the file, 3 scored" in shown
    assert "nested(4), every 2 frames" in shown
    assert (tmp_path / "results" / "overlay.mp4").is_file()


def test_the_store_that_train_and_evaluate_need_is_asked_for(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = str(tmp_path / "nothing")
    assert main(["train", "robometer-mini", "--data", store, "--output", str(tmp_path / "out")]) == 2
    assert main(["evaluate", str(FIXTURE), store]) == 2
    train, evaluate = capsys.readouterr().err.splitlines()
    assert train.startswith("robometer-rl train: ")
    assert evaluate.startswith("robometer-rl evaluate: ")
    for error in (train, evaluate):
        assert error.endswith(f"there is no store of trajectories at {store}")
    assert not Path(store).exists()


HIDDEN = """
import sys
sys.modules["pyarrow"] = None
from robometer_rl.cli import main
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.parametrize("words", [["data", "inspect"], ["data", "verify"], ["evaluate", "mini"]])
def test_a_sealed_store_without_pyarrow_says_what_to_install(words: list[str], tmp_path: Path) -> None:
    store = TrajectoryStore(tmp_path / "store")
    store.append(trajectory())
    store.seal()
    command = [sys.executable, "-c", HIDDEN, *words, str(store.path)]
    ended = subprocess.run(command, capture_output=True, text=True)
    assert ended.returncode == 2
    assert ended.stderr.count("\n") == 1
    assert "pip install 'robometer-rl[data]'" in ended.stderr


def test_collect_is_given_its_options(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    counts = [f"--episodes.{skill.replace('_', '-')}=0" for skill in SKILLS]
    assert main(["collect", "--output", str(tmp_path / "store"), "--tasks", "drawer-open", *counts]) == 0
    assert len(TrajectoryStore.open(tmp_path / "store")) == 0
    assert main(["collect", "--output", str(tmp_path / "store"), "--tasks", "drawer"]) == 2
    assert "drawer-open" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["missing.mp4", "--task", "open the drawer"], "no video at missing.mp4"),
        (["clip.npz", "--task", ""], "expected a non-empty instruction"),
        (["clip.npz", "--task", "open the drawer", "--model", "no model"], "unknown model 'no model'"),
        (["clip.npz", "--task", "open the drawer", "--fps", "3"], "stores no frame rate"),
        (["clip.npz", "--task", "open the drawer", "--protocol", "last"], "unknown frame protocol 'last'"),
    ],
)
def test_an_error_of_the_user_is_one_line(
    words: list[str], message: str, clip: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(clip.parent)
    assert main(["score", *words]) == 2
    shown = capsys.readouterr()
    assert shown.err.startswith("robometer-rl score: ")
    assert message in shown.err
    assert shown.err.count("\n") == 1
    assert shown.out == ""


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (
            ["train", "lora", "--data", "d", "--output", "o", "--seed", "-1"],
            "seed must be from 0 to 4294967295, got -1",
        ),
        (
            ["train", "lora", "--data", "d", "--output", "o", "--frozen.learning-rate", "nan"],
            "learning_rate of StageConfig must be a number in (0, 1e30], got nan",
        ),
        (["demo", "--seed", "-1"], "seed must be at least 0, got -1"),
    ],
)
def test_a_value_that_its_option_does_not_take_is_one_line(
    words: list[str], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(words) == 2
    assert capsys.readouterr().err == f"robometer-rl {words[0]}: {said}\n"
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("by_environment", [False, True])
def test_debug_shows_where_an_error_came_from(
    by_environment: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("ROBOMETER_DEBUG", "1" if by_environment else "0")
    flags = [] if by_environment else ["--debug"]
    assert main([*flags, "score", "missing.mp4", "--task", "open the drawer"]) == 2
    shown = capsys.readouterr().err
    assert "Traceback" in shown
    assert "read_recording" in shown


def test_an_error_of_the_program_is_not_hidden(monkeypatch: pytest.MonkeyPatch, clip: Path) -> None:
    def broken(config: score.ScoreConfig) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(score, "run_score", broken)
    with pytest.raises(ZeroDivisionError):
        main(["score", str(clip), "--task", "open the drawer"])


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_it_with_one_line_that_says_what_is_kept(
    number: signal.Signals, clip: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(config: score.ScoreConfig) -> None:
        os.kill(os.getpid(), number)
        time.sleep(10)

    monkeypatch.setattr(score, "run_score", interrupted)
    before = signal.getsignal(number)
    assert main(["score", str(clip), "--task", "open the drawer"]) == 128 + number
    assert signal.getsignal(number) is before
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err == (
        f"robometer-rl score: ended by {number.name}; files that are there are whole; give the same command again for "
        "all of them\n"
    )


def test_a_signal_while_a_class_is_made_ends_it_likewise(
    clip: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class Slow:
        def __set_name__(self, owner: type, name: str) -> None:
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(60)

    monkeypatch.setattr("robometer_rl.score.run_score", lambda _: type("Made", (), {"slow": Slow()}))
    assert main(["score", str(clip), "--task", "push"]) == 128 + signal.SIGINT
    assert "ended by SIGINT" in capsys.readouterr().err


def test_a_signal_of_which_a_library_makes_its_own_error_ends_it_likewise(
    clip: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def load(_: object) -> None:
        try:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(60)
        except BaseException:  # as compiled code does
            raise ValueError("could not determine the shape") from None

    monkeypatch.setattr("robometer_rl.score.run_score", load)
    assert main(["score", str(clip), "--task", "push"]) == 128 + signal.SIGTERM
    assert "ended by SIGTERM" in capsys.readouterr().err


def test_a_signal_while_an_object_is_finalised_is_not_lost(clip: Path) -> None:
    code = f"""
import os, signal, sys, time
from robometer_rl import cli, score
class Finalised:
    def __del__(self):
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(0)
def run(options):
    Finalised()
    time.sleep(60)
score.run_score = run
sys.exit(cli.main(["score", {str(clip)!r}, "--task", "push"]))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 143
    assert done.stderr.startswith("robometer-rl score: ended by SIGTERM")


def test_ctrl_c_after_the_command_is_no_traceback_of_a_library() -> None:
    code = """
import atexit, os, signal, sys
sys.argv[1:] = ["data"]
atexit.register(os.kill, os.getpid(), signal.SIGINT)
from robometer_rl import cli
cli.main = lambda: 0
sys.exit(cli.program())
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == -signal.SIGINT
    assert done.stderr == ""


def test_a_signal_that_is_ignored_stays_ignored(clip: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(config: score.ScoreConfig) -> None:
        os.kill(os.getpid(), signal.SIGHUP)

    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        monkeypatch.setattr(score, "run_score", interrupted)
        assert main(["score", str(clip), "--task", "open the drawer"]) == 0
    finally:
        signal.signal(signal.SIGHUP, before)


def run_program(words: list[str], **streams: Any) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", "import sys; from robometer_rl.cli import main; sys.exit(main())", *words]
    return subprocess.run(command, text=True, stderr=subprocess.PIPE, **streams)


@pytest.mark.parametrize("words", [["--help"], ["score", "--help"]])
def test_output_that_nobody_reads_ends_it_quietly(words: list[str]) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    ended = run_program(words, stdout=writer)
    os.close(writer)
    assert (ended.returncode, ended.stderr) == (141, "")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="Linux has a disk that is always full")
@pytest.mark.parametrize("words", [["--help"], ["score", "--help"]])
def test_output_that_has_no_place_is_an_error_of_one_line(words: list[str]) -> None:
    with Path("/dev/full").open("w") as full:
        ended = run_program(words, stdout=full)
    assert ended.returncode == 2
    assert "No space left on device" in ended.stderr
    assert ended.stderr.count("\n") == 1


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    store = TrajectoryStore(tmp_path_factory.mktemp("quiet") / "store")
    for episode in make_episodes_of_two_tasks(2):
        store.append(episode)
        store.append(replace(episode, id=f"{episode.id}-unseen", split="test"))
    return store.path


TINY_TRAINING = [
    *("train", "lora", "--start", str(FIXTURE), "--lora.rank", "1", "--frozen.steps", "1", "--frozen.batch-size", "2"),
    *("--validation-fraction", "0", "--output", "run", "--sampling.max-frames", "4", "--data"),
]


@pytest.mark.parametrize(
    "words",
    [
        ["--help"],
        ["train", "lora", "--help"],
        ["data", "inspect", "{store}", "--output", "sheet.png"],
        ["data", "verify", "{store}"],
        ["evaluate", str(FIXTURE), "{store}", "--every", "8", "--output", "evaluated.json"],
        ["relabel", "{folder}", "--model", str(FIXTURE), "--task", "push"],
        [*TINY_TRAINING, "{store}"],
    ],
    ids=lambda words: " ".join(words[:2]) if isinstance(words, list) else None,
)
def test_no_command_prints_what_libraries_say(words: list[str], store: Path, clip: Path) -> None:
    given = [word.format(store=store, folder=clip.parent) for word in words]
    ended = run_program(
        given, cwd=clip.parent, stdout=subprocess.PIPE, env={**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "120"}
    )
    said = ended.stdout + ended.stderr
    assert ended.returncode == 0, said
    for foreign in ("Warning", "Traceback", "torchao", "site-packages", "Exception ignored"):
        assert foreign not in said
    assert not re.search(r"^[WEI]\d{4} ", said, re.MULTILINE), "lines of other loggers"


def test_scoring_prints_nothing_that_is_not_ours(clip: Path, tmp_path: Path) -> None:
    words = ["score", str(clip), "--task", "push the [red] block [/x]", "--model", str(FIXTURE)]
    ended = run_program([*words, "--out", str(tmp_path / "out")], stdout=subprocess.PIPE)
    assert ended.returncode == 0
    assert ended.stderr == ""
    assert "push the [red] block [/x]" in ended.stdout


def test_a_task_that_is_not_text_is_an_error_of_one_line(clip: Path) -> None:
    ended = run_program(["score", str(clip), "--task", "caf\udce9"], stdout=subprocess.PIPE)
    assert ended.returncode == 2
    assert ended.stderr.startswith(r"robometer-rl score: got the task 'caf\udce9', which is not text")


@pytest.mark.parametrize(
    "words",
    [
        ["data", "pull", "me/store", "out"],
        ["data", "push", "store", "me/store"],
        ["data", "download", "mw", "--to", "out", "--stage", "raw"],
    ],
)
def test_a_hub_that_cannot_be_reached_is_an_error_of_one_line(
    words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    TrajectoryStore(tmp_path / "store").append(trajectory())
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")  # where nobody listens
    ended = run_program(words, cwd=tmp_path, stdout=subprocess.PIPE, env={**os.environ, "PYTHONPATH": str(ROOT)})
    assert ended.returncode == 2
    assert ended.stderr.count("\n") == 1
    assert "http://127.0.0.1:9 does not answer" in ended.stderr
    assert not (tmp_path / "out").exists()
