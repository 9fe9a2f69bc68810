"""The page of the wrappers keeps what it promises: its programs run, and it lists the info keys there are."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from robometer_rl.rewards import RewardSpec
from robometer_rl.wrappers import RobometerReward
from tests.fixed_models import BrightnessModel
from tests.wrappers.worlds import TASK, BrightnessWorld

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "wrappers.md").read_text()
CHECKPOINT = ROOT / "tests" / "fixtures" / "robometer_tiny" / "checkpoint"


PROGRAM = re.compile(r"(?:<!-- needs: (?P<needs>\w+) -->\n)?```python\n(?P<text>.*?)```", re.DOTALL)
LINES = [2, 0, 0, 0, 1, 1, 1, 2, 1, 1]
"""That each of the programs says."""


def test_the_programs_run(tmp_path: Path) -> None:
    pytest.importorskip("metaworld")
    programs = [(each["needs"] or "numpy", each["text"]) for each in PROGRAM.finditer(PAGE)]
    assert len(programs) == len(LINES)
    variables = {**os.environ, "MUJOCO_GL": "egl"}
    # A checkpoint of random numbers will do to show that they run.
    runs = {
        number: subprocess.Popen(
            [sys.executable, "-c", text.replace('"mini"', repr(str(CHECKPOINT)))],
            cwd=tmp_path,
            env=variables,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for number, (needs, text) in enumerate(programs)
        if find_spec(needs) is not None
    }
    answers = {number: run.communicate() for number, run in runs.items()}
    assert {run.returncode for run in runs.values()} == {0}, [stderr for _, stderr in answers.values()]
    said = {number: len(stdout.splitlines()) for number, (stdout, _) in answers.items()}
    assert said == {number: LINES[number] for number in runs}


def test_the_table_lists_the_info_keys() -> None:
    env = RobometerReward(BrightnessWorld((0, 255)), BrightnessModel(), TASK, RewardSpec(), frames=("obs", "obs"))
    _, info = env.reset()
    last = env.step(0)[4]
    keys = {key for key in (*info, *last) if key.startswith("robometer/")}
    table = PAGE.split("## Info keys")[1].split("\n\n")[1]
    assert set(re.findall(r"`(robometer/\w+)`", table)) == keys
    for name in last["robometer/episode"]:
        assert f"`{name}`" in table
