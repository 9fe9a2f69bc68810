"""The package as its users meet it: what it exports, what importing it costs, what it ships."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
import tomllib
from importlib.metadata import version
from pathlib import Path

import pytest

import robometer_rl

ROOT = Path(__file__).parents[1]
HEAVY = ("torch", "transformers", "peft", "datasets", "mujoco", "metaworld", "libero", "stable_baselines3")

# Prints the CPU seconds of importing the module named on the command line, and which heavy packages came with it.
# CPU time does not depend on what else the machine is doing.
MEASURE = f"""
import sys, time, importlib
start = time.process_time()
importlib.import_module(sys.argv[1])
seconds = time.process_time() - start
import json
print(json.dumps([seconds, sorted(set(sys.modules) & set({HEAVY!r}))]))
"""


def project() -> dict:
    with (ROOT / "pyproject.toml").open("rb") as file:
        return tomllib.load(file)


@pytest.mark.parametrize("module", ["robometer_rl", "robometer_rl.wrappers.rendering", "robometer_rl.wrappers.libero"])
def test_worker_processes_import_neither_torch_nor_transformers(module: str) -> None:
    output = subprocess.run([sys.executable, "-c", MEASURE, module], check=True, capture_output=True, text=True).stdout
    seconds, heavy = json.loads(output)
    assert heavy == []
    assert seconds < 1.5


def test_every_public_name_is_importable_and_listed() -> None:
    assert sorted(robometer_rl.__all__) == robometer_rl.__all__
    for name in robometer_rl.__all__:
        assert getattr(robometer_rl, name).__name__ == name
        assert name in dir(robometer_rl)


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'RewardModle'"):
        _ = robometer_rl.RewardModle  # pyright: ignore[reportAttributeAccessIssue]


def test_the_three_wrappers_have_the_names_of_the_contract() -> None:
    for module, name in [
        ("robometer_rl.wrappers", "RobometerReward"),
        ("robometer_rl.wrappers.vector", "RobometerReward"),
        ("robometer_rl.wrappers.sb3", "VecRobometerReward"),
        ("robometer_rl.wrappers.rendering", "RenderToInfo"),
    ]:
        assert getattr(importlib.import_module(module), name).__name__ == name


def test_the_version_is_the_same_everywhere() -> None:
    declared = project()["project"]["version"]
    assert robometer_rl.__version__ == declared == version("robometer-rl")
    assert f"## {declared}" in (ROOT / "CHANGELOG.md").read_text()


def test_every_folder_with_modules_is_a_listed_package() -> None:
    """setuptools cannot find packages where a folder is mapped, so a forgotten one would be missing from the wheel."""
    folders = {path.parent.relative_to(ROOT) for path in (ROOT / "robometer_rl").rglob("*.py")}
    packages = {".".join(folder.parts) for folder in folders} | {"robometer_rl.wrappers"}
    assert set(project()["tool"]["setuptools"]["packages"]) == packages


def test_type_checkers_find_the_annotations_and_the_mapped_folder() -> None:
    assert (ROOT / "robometer_rl" / "py.typed").is_file()
    assert (ROOT / "tools" / "types" / "robometer_rl" / "wrappers").resolve() == ROOT / "wrappers"


def test_every_extra_is_pinned_by_the_constraints() -> None:
    """Anything unpinned is resolved on the day of installation, and one day it resolves to what does not work."""
    pinned = {line.split("==")[0].lower().replace("_", "-") for line in (ROOT / "constraints.txt").read_text().split()}
    table = project()["project"]
    required = [*table["dependencies"], *(name for extra in table["optional-dependencies"].values() for name in extra)]
    names = {requirement.split("=")[0].split(">")[0].lower() for requirement in required}
    # pip freeze leaves out the packaging tools.
    assert names - pinned == {"setuptools"}
