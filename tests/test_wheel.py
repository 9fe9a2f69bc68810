"""The wheel that users install, used where the clone cannot be seen."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

USE = """
import importlib, pkgutil, sys
import numpy as np
import robometer_rl

assert robometer_rl.__file__.startswith(sys.prefix), robometer_rl.__file__

def fail(name):
    raise ImportError(f"cannot import {name}") from sys.exc_info()[1]

modules = [module.name for module in pkgutil.walk_packages(robometer_rl.__path__, "robometer_rl.", onerror=fail)]
for module in modules:
    importlib.import_module(module)
assert "robometer_rl.wrappers.vector" in modules

from robometer_rl import Clip, load_reward_model

frames = np.random.default_rng(0).integers(0, 256, (3, 96, 96, 3), dtype=np.uint8)
prediction, = load_reward_model("mini").predict([Clip(frames, "open the drawer")])
assert len(prediction) == 3
"""


def run(*command: str | Path, cwd: Path) -> str:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    environment["HF_HUB_OFFLINE"] = "1"
    done = subprocess.run([*map(str, command)], cwd=cwd, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The interpreter of a fresh environment that holds the wheel, and sees the dependencies that are installed here.

    A line in a .pth file adds a folder but does not run the .pth files in it, so the editable installation of the
    clone stays out.
    """
    folder = tmp_path_factory.mktemp("wheel")
    sources = folder / "sources"
    sources.mkdir()
    ignored = shutil.ignore_patterns("__pycache__")
    for name in ("robometer_rl", "wrappers"):
        shutil.copytree(ROOT / name, sources / name, symlinks=True, ignore=ignored)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, sources / name)
    # By way of the source distribution, which has to hold all that the wheel is made of.
    run(sys.executable, "-m", "build", "--no-isolation", "--outdir", folder, sources, cwd=folder)
    (wheel,) = folder.glob("*.whl")

    venv.create(folder / "venv", with_pip=False)
    python = folder / "venv" / "bin" / "python"
    run(sys.executable, "-m", "pip", "--python", python, "install", "--no-deps", "--no-index", wheel, cwd=folder)
    own = Path(run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", cwd=folder).strip())
    (own / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return python


@pytest.mark.slow
def test_every_module_imports_and_mini_predicts_outside_the_clone(python: Path, tmp_path: Path) -> None:
    run(python, "-c", USE, cwd=tmp_path)


@pytest.mark.slow
def test_the_command_line_is_installed(python: Path, tmp_path: Path) -> None:
    assert "score" in run(python.with_name("robometer-rl"), "--help", cwd=tmp_path)


@pytest.mark.slow
def test_the_wheel_carries_types_licence_and_model_card(python: Path, tmp_path: Path) -> None:
    listing = """
from importlib.metadata import files
print("\\n".join(str(path) for path in files("robometer-rl")))
"""
    shipped = run(python, "-c", listing, cwd=tmp_path).split()
    assert {"robometer_rl/py.typed", "robometer_rl/assets/robometer-mini/README.md"} <= set(shipped)
    assert "robometer_rl/recipes/robometer-mini.yaml" in shipped
    assert any(path.endswith("licenses/LICENSE") for path in shipped)
    assert not any(path.startswith(("tests/", "tools/")) for path in shipped)
