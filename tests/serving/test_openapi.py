"""The server keeps what its OpenAPI promises, whatever it is sent: found out by schemathesis, which reads it."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from robometer_rl.models.loading import load_reward_model
from robometer_rl.serving.limits import Limits
from robometer_rl.serving.service import Settings
from tests.golden import CHECKPOINT
from tests.library import ROOT
from tests.serving.servers import serving
from tests.serving.test_gate import NAMED

# Valid by its schema is not valid: a binary body, a task with reserved tokens, a stream that is not there.
# A deadline of 0 ms is answered with 504; which errors of the server may be is held below.
UNDECIDED = "positive_data_acceptance,not_a_server_error"


def attack(folder: Path, phases: str, examples: int) -> int:
    """Lets schemathesis ask; returns how many requests it made."""
    with serving(lambda: load_reward_model(CHECKPOINT), Settings(lease_s=0.5, limits=Limits(upload_s=5.0))) as running:
        program = Path(sys.executable).parent / "schemathesis"
        words = ["run", f"{running.url}/openapi.json", "--checks", "all", "--exclude-checks", UNDECIDED]
        words += [
            "--phases",
            phases,
            "--max-examples",
            str(examples),
            "--seed",
            "0",
            "--no-color",
            "--generation-database",
            "none",
        ]
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "SCHEMATHESIS_HOOKS": "tests.serving.openapi_hooks"}
        done = subprocess.run([program, *words], capture_output=True, text=True, cwd=folder, env=environment)
        assert done.returncode == 0, done.stdout[-20_000:] + done.stderr[-2000:]
        counted = running.server.metrics.text().decode()
    failed = total(counted, r'requests_total\{route="[^"]*",status="5\d\d"\}')
    assert failed == total(counted, rf'rejected_total\{{reason="(?:{"|".join(NAMED)})"\}}'), counted
    return total(counted, r"requests_total\S+")


def total(counted: str, pattern: str) -> int:
    """The sum of counters."""
    return sum(int(float(value)) for value in re.findall(rf"^robometer_{pattern} (\S+)$", counted, re.MULTILINE))


def test_requests_made_from_the_openapi_are_answered_as_it_says(tmp_path: Path) -> None:
    assert attack(tmp_path, "coverage", 1) > 100


@pytest.mark.slow
@pytest.mark.timeout(7200)
def test_thousands_of_requests_made_from_the_openapi_are_answered_as_it_says(tmp_path: Path) -> None:
    assert attack(tmp_path, "examples,coverage,fuzzing,stateful", 300) > 3000
