"""The package as its users meet it: what it exports, what importing it costs, what it ships."""

from __future__ import annotations

import ast
import importlib
import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections import Counter
from importlib.metadata import packages_distributions, version
from pathlib import Path

import pytest
import yaml
from setuptools import find_packages

import robometer_rl
from tests.imports import LIGHT, imports_of
from tests.library import LIBRARY, ROOT


def project() -> dict:
    with (ROOT / "pyproject.toml").open("rb") as file:
        return tomllib.load(file)


@pytest.mark.parametrize("module", ["robometer_rl", "robometer_rl.wrappers.rendering", "robometer_rl.envs.libero"])
def test_worker_processes_import_neither_torch_nor_transformers(module: str) -> None:
    imported, _ = imports_of(f"import {module}")
    assert imported <= LIGHT


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
    assert re.findall(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)[0] == declared
    assert yaml.safe_load((ROOT / "CITATION.cff").read_text())["version"] == declared


def test_every_folder_with_modules_is_a_package_that_setuptools_finds() -> None:
    """A folder without ``__init__``, or one that the search passes over, would be missing from the wheel."""
    packages = {name for name, path in LIBRARY.items() if path.name == "__init__.py"}
    assert packages == {name if name in packages else name.rpartition(".")[0] for name in LIBRARY}
    assert set(find_packages(str(ROOT), **project()["tool"]["setuptools"]["packages"]["find"])) == packages


WHERE = """
import robometer_rl, robometer_rl.wrappers, robometer_rl.wrappers.rendering as rendering
for module in (robometer_rl, robometer_rl.wrappers, rendering):
    print(module.__file__)
"""


def where_from(*path: Path) -> list[Path]:
    """The files that the package and its wrappers are imported from with ``path`` as PYTHONPATH."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, path))}
    command = [sys.executable, "-c", WHERE]
    output = subprocess.run(command, env=environment, cwd="/", check=True, capture_output=True, text=True).stdout
    return [Path(line) for line in output.splitlines()]


def test_wrappers_come_from_the_checkout_that_the_package_comes_from(tmp_path: Path) -> None:
    """Whatever else is installed: a second clone that took the wrappers of the first would test the wrong ones."""
    clones = [tmp_path / "first", tmp_path / "second"]
    for clone in clones:
        for folder in ("robometer_rl", "wrappers"):
            ignored = shutil.ignore_patterns("__pycache__", "assets")
            shutil.copytree(ROOT / folder, clone / folder, symlinks=True, ignore=ignored)
    for path in ([clones[0]], [clones[1]], clones, clones[::-1]):
        assert [file.is_relative_to(path[0]) for file in where_from(*path)] == [True] * 3
    assert [file.is_relative_to(ROOT) for file in where_from(ROOT)] == [True] * 3


def test_type_checkers_find_the_annotations() -> None:
    assert (ROOT / "robometer_rl" / "py.typed").is_file()
    assert (ROOT / "robometer_rl" / "wrappers").resolve() == ROOT / "wrappers"


def requirements(*extras: str) -> set[str]:
    """Names of the packages that an installation with ``extras`` asks for."""
    table = project()["project"]
    lines = [*table["dependencies"], *(line for extra in extras for line in table["optional-dependencies"][extra])]
    return {re.split(r"[^\w-]", line)[0].lower() for line in lines}


def test_every_requirement_is_pinned_by_the_constraints() -> None:
    """What is not pinned is resolved on the day of installation, and one day it resolves to what does not work."""
    # `pip freeze` leaves out the packaging tools.
    assert requirements(*project()["project"]["optional-dependencies"]) - pinned("constraints.txt") == {"setuptools"}


def test_what_is_tested_beside_lerobot_is_pinned_by_its_constraints() -> None:
    (extras,) = re.findall(r"setup\.sh \.venv-lerobot (\S+)", (ROOT / "Makefile").read_text())
    assert requirements(*extras.split(",")) | {"lerobot"} <= pinned("constraints-lerobot.txt")


def pinned(constraints: str) -> set[str]:
    lines = (ROOT / constraints).read_text().split()
    return {line.split("==")[0].lower().replace("_", "-") for line in lines}


@pytest.mark.parametrize("constraints", ["constraints.txt", "constraints-lerobot.txt"])
def test_the_constraints_are_one_release_of_each_package_from_anywhere(constraints: str) -> None:
    """Several environments may be frozen into one file, in which neither a second release nor a place may be left."""
    lines = (ROOT / constraints).read_text().splitlines()
    assert [line for line in lines if not re.fullmatch(r"[A-Za-z0-9][\w.-]*==[0-9][0-9A-Za-z.]*", line)] == []
    names = Counter(re.sub(r"[-_.]+", "-", line.split("==")[0]).lower() for line in lines)
    assert [name for name, count in names.items() if count > 1] == []


def test_the_library_requires_what_it_imports_and_nothing_else() -> None:
    packages_of = packages_distributions()
    imported: set[str] = set()
    for path in LIBRARY.values():
        for node in ast.walk(ast.parse(path.read_text())):
            modules = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom):
                modules = [node.module or ""]
            imported |= {module.partition(".")[0] for module in modules}
    third_party = imported - set(sys.stdlib_module_names) - {"robometer_rl"}
    # A package that is not installed here belongs to an extra that is named like its module.
    names = {name for module in third_party for name in packages_of.get(module, [module])}
    names = {name.lower().replace("_", "-") for name in names}
    assert names <= requirements(*project()["project"]["optional-dependencies"])
    assert requirements() <= names
