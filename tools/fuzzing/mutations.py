"""Ways in which files of other people are damaged, odd or hostile."""

from __future__ import annotations

import json
import os
import random
import re
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

TEXT = {".json", ".jsonl", ".yaml", ".yml", ".csv", ".txt", ".jinja", ".journal"}

STRINGS = (
    "",
    " ",
    "\n",
    "../../../etc/passwd",
    "/etc/passwd",
    "a" * 5000,
    "[/x] [red]",
    "<script>alert(1)</script>",
    "\x1b[2J\r",
    "\x00",
    "\ud800",
    ":smile:",
    "é抽屉😀",
    "-y",
    "NaN",
    "1e999",
    "{0}{x}%s%n",
    "null",
)
NUMBERS = (0, -1, 1, 2**31, 2**63, -(2**63), 10**30, 1.5, -0.0, 1e308, float("nan"), float("inf"))
VALUES: tuple[Any, ...] = (
    *STRINGS,
    *NUMBERS,
    None,
    True,
    False,
    [],
    {},
    [[]],
    {"": None},
    [1, "a", None],
    list(range(999)),
)


def mutate(root: Path, rng: random.Random, others: list[Path]) -> str:
    """Damages one file of a data set in place.

    Args:
        root: A file, or a folder of files.
        rng: Chooses the file and what is done to it.
        others: Files of other kinds, to take the place of one.

    Returns:
        What was done to which file.
    """
    files = [root] if root.is_file() else sorted(path for path in root.rglob("*") if path.is_file())
    if not files:
        return "nothing is left"
    file = rng.choice(files)
    ways: list[Callable[[Path, random.Random], str]] = [*BYTES]
    if file.suffix in TEXT:
        ways = [*TEXTS, *TEXTS, *BYTES]
    if rng.random() < 0.08:
        ways = [*PLACES]
    if rng.random() < 0.05 and others:
        other = rng.choice(others)
        shutil.copyfile(other, file)
        return f"{file.name}: what {other.name} holds"
    return f"{file.name}: {rng.choice(ways)(file, rng)}"


def _truncate(file: Path, rng: random.Random) -> str:
    size = rng.choice([0, 1, 7, rng.randrange(file.stat().st_size + 1), max(file.stat().st_size - 1, 0)])
    os.truncate(file, size)
    return f"cut to {size} bytes"


def _flip(file: Path, rng: random.Random) -> str:
    content = bytearray(file.read_bytes())
    count = min(len(content), rng.choice([1, 3, 20, 300]))
    # Headers are at the beginning, directories at the end.
    area = rng.choice(
        [range(min(len(content), 64)), range(len(content)), range(max(0, len(content) - 200), len(content))]
    )
    for _ in range(count):
        if content:
            content[rng.choice(area)] = rng.randrange(256)
    file.write_bytes(content)
    return f"{count} bytes changed in {area}"


def _block(file: Path, rng: random.Random) -> str:
    content = file.read_bytes()
    start = rng.randrange(len(content) + 1)
    length = rng.choice([1, 16, 512, 5000])
    new = rng.choice([b"", b"\0" * length, rng.randbytes(length), content[:length], content[-length:] * 3])
    cut = rng.choice([0, length])
    file.write_bytes(content[:start] + new + content[start + cut :])
    return f"{cut} bytes at {start} replaced by {len(new)}"


def _extreme(file: Path, rng: random.Random) -> str:
    content = bytearray(file.read_bytes())
    form = rng.choice(["<i", ">i", "<q", ">q", "<h", ">h", "<f", "<d"])
    size = struct.calcsize(form)
    if len(content) < size:
        return "nothing: too short"
    place = rng.randrange(min(len(content) - size + 1, rng.choice([64, 1 << 30])))
    limit = 1 << (8 * size - 1)
    value: float = rng.choice([-1, 0, limit - 1, -limit, 1])
    if form[1] in "fd":
        value = rng.choice([float("nan"), float("inf"), -1e30, 0.0])
    content[place : place + size] = struct.pack(form, value)
    file.write_bytes(content)
    return f"{value} as {form} at {place}"


def _replace_token(file: Path, rng: random.Random) -> str:
    text = file.read_bytes().decode("utf-8", "replace")
    tokens = list(re.finditer(r'"[^"\n]*"|-?\d+(\.\d+)?|\btrue\b|\bfalse\b|\bnull\b|(?<=: )\S+', text))
    if not tokens:
        return _truncate(file, rng)
    token = rng.choice(tokens)
    value = rng.choice(VALUES)
    new = json.dumps(value)
    file.write_text(text[: token.start()] + new + text[token.end() :], "utf-8")
    return f"{token[0][:40]} replaced by {new[:40]}"


def _replace_value(file: Path, rng: random.Random) -> str:
    """A value somewhere within a JSON document, or one line of several, is another one or missing."""
    text = file.read_bytes().decode("utf-8", "replace")  # another mutation may have been here before
    lines = text.splitlines() if file.suffix == ".jsonl" else [text]
    number = rng.randrange(len(lines)) if lines else 0
    try:
        document = json.loads(lines[number])
    except (ValueError, IndexError, RecursionError):
        return _replace_token(file, rng)
    places = list(_places(document))
    if not places:
        return _truncate(file, rng)
    container, key, path = rng.choice(places)
    if rng.random() < 0.3:
        del container[key]
        said = f"{path} removed"
    else:
        container[key] = rng.choice(VALUES)
        said = f"{path} set to {str(container[key])[:40]!r}"
    lines[number] = json.dumps(document)
    file.write_text("\n".join(lines) + "\n")
    return said


def _places(value: Any, path: str = "") -> list[tuple[Any, Any, str]]:
    entries = (
        list(value.items()) if isinstance(value, dict) else list(enumerate(value)) if isinstance(value, list) else []
    )
    found = [(value, key, f"{path}/{key}") for key, _ in entries]
    for key, entry in entries[:200]:
        found += _places(entry, f"{path}/{key}")
    return found


def _nest(file: Path, rng: random.Random) -> str:
    depth = rng.choice([50, 3000, 200_000])
    opening, closing = rng.choice([("[", "]"), ('{"a":', "}")])
    inner = "1" if opening != "[" else ""
    file.write_text(opening * depth + inner + closing * depth + "\n")
    return f"{depth} times {opening}"


def _encode(file: Path, rng: random.Random) -> str:
    text = file.read_bytes().decode("utf-8", "replace")
    encoding = rng.choice(["utf-16", "utf-8-sig", "utf-32"])
    file.write_bytes(text.encode(encoding))
    return f"as {encoding}"


def _alias_bomb(file: Path, rng: random.Random) -> str:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 12)]
    file.write_text("\n".join(lines) + "\n" + file.read_bytes().decode("utf-8", "replace"))
    return "aliases of aliases in front"


def _as_folder(file: Path, rng: random.Random) -> str:
    file.unlink()
    file.mkdir()
    return "a folder"


def _as_link(file: Path, rng: random.Random) -> str:
    file.unlink()
    target = rng.choice([file.name, "nowhere", "/dev/null", "/etc/passwd", "."])
    file.symlink_to(target)
    return f"a link to {target}"


def _missing(file: Path, rng: random.Random) -> str:
    file.unlink()
    return "missing"


def _as_pipe(file: Path, rng: random.Random) -> str:
    file.unlink()
    os.mkfifo(file)
    return "a pipe"


BYTES = (_truncate, _flip, _flip, _block, _extreme, _extreme)
TEXTS = (_replace_token, _replace_value, _replace_value, _nest, _encode, _alias_bomb)
PLACES = (_as_folder, _as_link, _as_pipe, _missing)
