"""The Space in examples/space, started as the Hub starts one."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
import tomllib
import urllib.request
from pathlib import Path

import pytest
import yaml

from tests.library import ROOT
from tests.studio.browsers import moving_square, visiting

SPACE = ROOT / "examples" / "space"


def test_its_head_says_what_the_hub_needs_and_the_package_asks_for() -> None:
    _, head, text = (SPACE / "README.md").read_text().split("---\n", 2)
    facts = yaml.safe_load(head)
    assert facts["sdk"] == "gradio"
    assert (SPACE / facts["app_file"]).is_file()
    assert len(facts["short_description"]) <= 60, "the Hub takes no more"
    assert text.strip()
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    least = next(each for each in extras["ui"] if each.startswith("gradio")).removeprefix("gradio>=")
    assert facts["sdk_version"].startswith(f"{least}.")
    assert re.fullmatch(r"robometer-rl\[(\w+)\]\n", (SPACE / "requirements.txt").read_text())[1] in extras  # pyright: ignore


@pytest.mark.slow
def test_it_runs_where_the_environment_says_and_scores_an_upload(tmp_path: Path) -> None:
    pytest.importorskip("gradio")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    variables = {
        "GRADIO_SERVER_NAME": "0.0.0.0",
        "GRADIO_SERVER_PORT": str(port),
        "SYSTEM": "spaces",
        "SPACE_ID": "me/studio",
        "PYTHONPATH": str(ROOT),
    }
    process = subprocess.Popen(
        [sys.executable, str(SPACE / "app.py")],
        cwd=tmp_path,
        env={**os.environ, **variables},
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        assert f"the studio is at http://0.0.0.0:{port}" in process.stdout.readline()
        url = f"http://127.0.0.1:{port}"
        with urllib.request.urlopen(url) as page:
            assert page.headers["content-security-policy"].endswith("frame-ancestors 'self' https://huggingface.co")
        with visiting(url) as visit:
            visit.upload("score-upload", moving_square(tmp_path / "rising.mp4", num_frames=4))
            visit.fill("score-tasks", "open the drawer")
            visit.click("score-start")
            visit.says("score-line", "4 frames of rising.mp4, scored by robometer-mini")
    finally:
        process.terminate()
        process.communicate()
