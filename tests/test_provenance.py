import json
import platform
import subprocess
import sys
from importlib.metadata import version

import pytest
import torch

from robometer_rl.provenance import command_line, processor, provenance, versions


def test_provenance_is_json_and_names_what_decides_the_numbers():
    facts = json.loads(json.dumps(provenance()))
    assert set(facts) == {"date", "command", "python", "packages", "processor", "threads", "gpu"}
    assert facts["python"] == platform.python_version()
    assert facts["packages"]["torch"] == version("torch")
    assert facts["threads"] == torch.get_num_threads()
    assert facts["processor"] == processor() != ""


def test_versions_of_what_is_asked_for():
    assert versions(["numpy"]) == {"numpy": version("numpy")}


@pytest.mark.parametrize(
    ("words", "shown"),
    [
        (["/opt/env/bin/robometer-rl", "train", "my recipe.yaml"], "robometer-rl train 'my recipe.yaml'"),
        (["benchmarks/inference.py", "--models", "mini"], "python benchmarks/inference.py --models mini"),
        (["/elsewhere/run.py"], "python run.py"),
    ],
)
def test_commands_do_not_show_the_directories_of_the_machine(words, shown, monkeypatch):
    monkeypatch.setattr(sys, "argv", words)
    assert command_line() == shown


def test_a_module_is_shown_as_it_is_run(tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "program.py").write_text(
        "from robometer_rl.provenance import command_line\nprint(command_line())"
    )
    command = [sys.executable, "-m", "folder.program", "--size", "2"]
    shown = subprocess.run(command, cwd=tmp_path, check=True, capture_output=True, text=True).stdout
    assert shown.strip() == "python -m folder.program --size 2"


def test_a_program_below_the_working_directory_is_shown_from_there(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", [str(tmp_path / "benchmarks" / "run.py")])
    assert command_line() == "python benchmarks/run.py"
