"""The fuzzer finds what it looks for, and nothing in a small share of its attack."""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.library import ROOT
from tools.fuzzing.checks import digest, torn
from tools.fuzzing.mutations import mutate
from tools.fuzzing.watching import watching


def fuzz(folder: Path, *options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "tools" / "fuzz.py"), "--folder", str(folder), *options]
    return subprocess.run(
        command, capture_output=True, text=True, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}
    )


def test_equal_seeds_do_equal_damage(tmp_path):
    for name in ("one", "other"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "a.json").write_text(json.dumps({"task": "open the drawer", "lengths": [3, 4]}))
        (tmp_path / name / "b.bin").write_bytes(bytes(range(200)))
    said = []
    for name in ("one", "other"):
        rng = random.Random(7)
        said.append([mutate(tmp_path / name, rng, []) for _ in range(30)])
    assert said[0] == said[1]
    assert digest(tmp_path / "one") == digest(tmp_path / "other")


def test_what_is_torn_is_found_and_what_is_hidden_is_not_looked_at(tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "sound.json").write_text("{}")
    assert torn(tmp_path / "out") == []
    (tmp_path / "out" / "half.json").write_text('{"a": ')
    (tmp_path / "out" / "page.html").write_text("<html><body>")
    (tmp_path / "out" / ".half.partial").mkdir()
    (tmp_path / "out" / ".half.partial" / "x.json").write_text("{")
    assert [problem.split(":")[0] for problem in torn(tmp_path / "out")] == ["out/half.json", "out/page.html"]


def test_weights_are_the_same_however_their_head_is_ordered_and_damaged_ones_are_looked_at(tmp_path):
    path = tmp_path / "a.safetensors"
    seen = set()
    for head in (b'{"a": 1, "b": 2}', b'{"b": 2, "a": 1}', b"no head at all  ", b"\x98" * 16):
        path.write_bytes(len(head).to_bytes(8, "little") + head + b"tensors")
        seen.add(digest(tmp_path)["a.safetensors"])
    assert len(seen) == 3


@pytest.mark.skipif(sys.platform != "linux", reason="Linux tells which files are opened")
def test_files_that_are_opened_outside_are_seen(tmp_path):
    (tmp_path / "secret").write_text("mine")
    with watching(tmp_path) as watch:
        (tmp_path / "secret").stat()
        assert watch.opened() == []
        (tmp_path / "secret").read_text()
        assert watch.opened() == [str(tmp_path / "secret")]
        assert not watch.was_called()


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("part", ["files", "lines", "probes", "kills"])
def test_a_tenth_of_the_attack_does_no_harm(tmp_path, part):
    found = fuzz(tmp_path / "fuzz", "--quick", "--only", part, "--seed", "1")
    assert found.returncode == 0, found.stdout + found.stderr
    shutil.rmtree(tmp_path / "fuzz")
