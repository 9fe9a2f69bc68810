"""The rules of the house that a reader relies on: one direction of imports, small rooms, no quiet failures.

docs/architecture.md explains them.
"""

from __future__ import annotations

import ast
import re
from collections import Counter
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

from tests.library import LIBRARY, ROOT

TABLE = re.search(r"\n\| Rooms \|.*?\n\n", (ROOT / "docs" / "architecture.md").read_text(), re.DOTALL)
assert TABLE is not None, "docs/architecture.md has lost its table of rooms"

# From left to right: a room may import from its own and from those before it. Rooms in one row may import from each
# other, as long as their modules form no circle.
FLOW = [re.findall(r"`(\w+)`", row.split("|")[1]) for row in TABLE.group().strip().splitlines()[2:]]
POSITION = {room: position for position, rooms in enumerate(FLOW) for room in rooms}

# The largest room's share of all lines of the library.
MAX_ROOM_SHARE = 0.22
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


MODULES = sorted(set(LIBRARY) - {"robometer_rl"})


def test_imports_point_to_the_left() -> None:
    unknown = {room(module) for module in MODULES} - set(POSITION)
    assert unknown == set(), "give each room a place in the table of docs/architecture.md"
    arrows = [(module, imported) for module in MODULES for imported in imports(module) - {"robometer_rl"}]
    assert [
        f"{module} imports {imported}, to its right"
        for module, imported in arrows
        if POSITION[room(imported)] > POSITION[room(module)]
    ] == []


def test_no_modules_import_each_other_in_a_circle() -> None:
    # Importing a module runs the `__init__` of its packages first, but only names below those can form a circle.
    modules = {module for module in MODULES if LIBRARY[module].name != "__init__.py"}
    graph = {module: imports(module) & modules for module in modules}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(f"circle: {' -> '.join(error.args[1])}")


def test_the_table_of_rooms_is_the_tree() -> None:
    assert sorted(POSITION) == sorted({room(module) for module in MODULES})


def test_no_room_holds_the_whole_house() -> None:
    lines = Counter[str]()
    for module in MODULES:
        lines[room(module)] += len(LIBRARY[module].read_text(encoding="utf-8").splitlines())
    name, most = lines.most_common(1)[0]
    assert most <= MAX_ROOM_SHARE * lines.total(), f"{name} holds {most} of {lines.total()} lines: split it"


def functions(tree: ast.Module) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    return (node for node in ast.walk(tree) if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)))


def test_files_and_functions_are_small() -> None:
    large = []
    for path in [*LIBRARY.values(), *PROGRAMS]:
        text = path.read_text(encoding="utf-8")
        sizes = {str(path.relative_to(ROOT)): (len(text.splitlines()), MAX_FILE_LINES)}
        for function in functions(ast.parse(text)):
            length = (function.end_lineno or 0) - function.lineno + 1
            sizes[f"{path.relative_to(ROOT)}: {function.name}"] = (length, MAX_FUNCTION_LINES)
        large += [f"{name} has {length} lines" for name, (length, most) in sizes.items() if length > most]
    assert large == []


def catches_everything(handler: ast.ExceptHandler) -> bool:
    caught = handler.type.elts if isinstance(handler.type, ast.Tuple) else [handler.type]
    return any(kind is None or ast.unparse(kind) in ("Exception", "BaseException") for kind in caught)


def calls(tree: ast.Module, *names: str) -> list[str]:
    return [
        f"line {node.lineno}: {node.func.id}"
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in names
    ]


def test_the_library_does_not_print_probe_or_swallow_errors() -> None:
    found = []
    for module, path in LIBRARY.items():
        tree = parse(path)
        found += [f"{module} {call}" for call in calls(tree, "print", "hasattr", "breakpoint")]
        handlers = [node for node in ast.walk(tree) if isinstance(node, ast.ExceptHandler)]
        # An error that is passed on after a clean-up is not swallowed.
        swallowed = [node for node in handlers if catches_everything(node) and not isinstance(node.body[-1], ast.Raise)]
        found += [f"{module} line {node.lineno}: except" for node in swallowed]
    assert found == []


def test_what_is_public_is_explained() -> None:
    bare = []
    for module, path in LIBRARY.items():
        tree = parse(path)
        public = [node for node in tree.body if isinstance(node, (ast.ClassDef, ast.FunctionDef))]
        named = {module: tree} | {f"{module}.{node.name}": node for node in public if not node.name.startswith("_")}
        bare += [name for name, node in named.items() if not ast.get_docstring(node)]
    assert bare == [], "a module, class or function that others use begins with what it is for"


def test_texts_of_others_reach_a_medium_through_its_helper() -> None:
    """`report.terminal` for consoles and the log, `report.markup` for pages and cards."""
    raw = {"rich.print", "rich.console.Console", "rich.logging.RichHandler", "html.escape"}
    found = []
    for module, path in LIBRARY.items():
        nodes = [node for node in ast.walk(parse(path)) if isinstance(node, ast.ImportFrom)]
        names = {f"{node.module}.{alias.name}" for node in nodes for alias in node.names}
        found += [f"{module} {name}" for name in sorted(names & raw)]
    assert sorted(found) == [
        "robometer_rl.report.markup html.escape",
        "robometer_rl.report.terminal rich.console.Console",
        "robometer_rl.report.terminal rich.logging.RichHandler",
    ]
