"""The rules of the house that a reader relies on: one direction of imports, small rooms, no quiet failures.

docs/architecture.md explains them.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

from tests.library import LIBRARY, ROOT

# From left to right: a room may import from its own and from those before it. Rooms side by side in one line may
# import from each other, as long as their modules form no circle.
FLOW = (
    ("files", "provenance", "frames"),
    ("prediction",),
    ("rewards",),
    ("video", "report"),
    ("models",),
    ("data",),
    ("evaluation", "training"),
    ("wrappers",),
    ("score", "demo", "relabeling"),
    ("cli",),
)
POSITION = {room: position for position, rooms in enumerate(FLOW) for room in rooms}

MAX_FILE_LINES = 600
MAX_FUNCTION_LINES = 60

PROGRAMS = [path for folder in ("tests", "examples", "benchmarks") for path in (ROOT / folder).rglob("*.py")]


def parse(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


def imports(module: str) -> set[str]:
    """The modules of the library that ``module`` imports, inside functions and for type checkers too."""
    names: set[str] = set()
    for node in ast.walk(parse(LIBRARY[module])):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module} line {node.lineno}: write the import in full"
            assert node.module is not None
            # `from package import module` and `from module import name` look alike.
            names |= {f"{node.module}.{alias.name}" for alias in node.names} | {node.module}
    return names & set(LIBRARY) - {module}


def room(module: str) -> str:
    return module.split(".")[1]


# Packages' __init__ modules only re-export what lies below them: they belong to no room.
MODULES = sorted(name for name, path in LIBRARY.items() if path.name != "__init__.py")


@pytest.mark.parametrize("module", MODULES)
def test_imports_point_to_the_left(module: str) -> None:
    assert room(module) in POSITION, f"give {module} a place in FLOW and in docs/architecture.md"
    for imported in imports(module) - {"robometer_rl"}:
        assert POSITION[room(imported)] <= POSITION[room(module)], f"{module} imports {imported}, to its right"


def test_no_modules_import_each_other_in_a_circle() -> None:
    graph = {module: imports(module) & set(MODULES) for module in MODULES}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(f"circle: {' -> '.join(error.args[1])}")


def test_the_picture_in_the_documentation_names_every_room() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text()
    assert [room for room in POSITION if f"`{room}`" not in text and f"`{room}/`" not in text] == []


@pytest.mark.parametrize("module", [name for name in MODULES if not name.startswith("robometer_rl.data.sources.")])
def test_the_picture_names_every_module(module: str) -> None:
    name = module.rpartition(".")[2]
    text = (ROOT / "docs" / "architecture.md").read_text()
    assert f"`{name}`" in text, f"say in docs/architecture.md what the idea of {module} is"


def functions(tree: ast.Module) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    return (node for node in ast.walk(tree) if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)))


@pytest.mark.parametrize("path", [*LIBRARY.values(), *PROGRAMS], ids=lambda path: str(path.relative_to(ROOT)))
def test_files_and_functions_are_small(path: Path) -> None:
    assert len(path.read_text(encoding="utf-8").splitlines()) <= MAX_FILE_LINES
    sizes = {function.name: (function.end_lineno or 0) - function.lineno + 1 for function in functions(parse(path))}
    assert {name: size for name, size in sizes.items() if size > MAX_FUNCTION_LINES} == {}


def catches_everything(handler: ast.ExceptHandler) -> bool:
    caught = handler.type.elts if isinstance(handler.type, ast.Tuple) else [handler.type]
    return any(kind is None or ast.unparse(kind) in ("Exception", "BaseException") for kind in caught)


def calls(tree: ast.Module, *names: str) -> list[str]:
    return [
        f"line {node.lineno}: {node.func.id}"
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in names
    ]


@pytest.mark.parametrize("module", sorted(LIBRARY))
def test_the_library_does_not_print_probe_or_swallow_errors(module: str) -> None:
    tree = parse(LIBRARY[module])
    assert calls(tree, "print", "hasattr", "breakpoint") == []
    handlers = [node for node in ast.walk(tree) if isinstance(node, ast.ExceptHandler)]
    # An error that is passed on after a clean-up is not swallowed.
    swallowed = [node for node in handlers if catches_everything(node) and not isinstance(node.body[-1], ast.Raise)]
    assert [f"line {node.lineno}" for node in swallowed] == []


@pytest.mark.parametrize("module", sorted(LIBRARY))
def test_what_is_public_is_explained(module: str) -> None:
    tree = parse(LIBRARY[module])
    assert ast.get_docstring(tree), "a module begins with what it is for"
    public = [node for node in tree.body if isinstance(node, (ast.ClassDef, ast.FunctionDef))]
    assert [node.name for node in public if not node.name.startswith("_") and not ast.get_docstring(node)] == []
