"""The page of the wrappers keeps what it promises: its programs run, and it lists the info keys there are."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from robometer_rl.rewards import RewardSpec
from robometer_rl.wrappers import RobometerReward
from tests.fixed_models import BrightnessModel
from tests.wrappers.worlds import TASK, BrightnessWorld

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "wrappers.md").read_text()
CHECKPOINT = ROOT / "tests" / "fixtures" / "robometer_tiny" / "checkpoint"


def test_the_programs_run(tmp_path: Path) -> None:
    pytest.importorskip("metaworld")
    programs = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    assert len(programs) == 7
    variables = {**os.environ, "MUJOCO_GL": "egl"}
    # A checkpoint of random numbers will do to show that they run.
    runs = [
        subprocess.Popen(
            [sys.executable, "-c", program.replace('"mini"', repr(str(CHECKPOINT)))],
            cwd=tmp_path,
            env=variables,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for program in programs
    ]
    answers = [run.communicate() for run in runs]
    assert [run.returncode for run in runs] == [0] * 7, [stderr for _, stderr in answers]
    assert [len(stdout.splitlines()) for stdout, _ in answers] == [2, 0, 0, 0, 1, 1, 1]


def test_the_table_lists_the_info_keys() -> None:
    env = RobometerReward(BrightnessWorld((0, 255)), BrightnessModel(), TASK, RewardSpec(), frames=("obs", "obs"))
    _, info = env.reset()
    last = env.step(0)[4]
    keys = {key for key in (*info, *last) if key.startswith("robometer/")}
    table = PAGE.split("## Info keys")[1].split("\n\n")[1]
    assert set(re.findall(r"`(robometer/\w+)`", table)) == keys
    for name in last["robometer/episode"]:
        assert f"`{name}`" in table
