from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from robometer_rl.documents import DocumentError, brief, parse_json, read_text
from robometer_rl.yaml_documents import BoundedLoader, parse_yaml

# Nine levels, each ten times the one below: a billion values in 400 bytes.
LEVELS = [
    f"{above}: &{above} [{','.join([f'*{below}'] * 10)}]" for below, above in zip("abcdefghi", "bcdefghij", strict=True)
]
LAUGHS = "\n".join(["a: &a [x,x,x,x,x,x,x,x,x,x]", *LEVELS])
MERGED = "\n".join(
    [
        "a: &a {k: 1}",
        *(f"{b}: &{b} {{<<: [{','.join([f'*{a}'] * 10)}]}}" for a, b in zip("abcdefghi", "bcdefghij", strict=True)),
    ]
)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (LAUGHS, "aliases stand for more than 100000 values"),
        (MERGED, "aliases stand for more than 100000 values"),
        ("a: &a [*a]", "a value contains itself"),
        ("a: &a {b: {c: *a}}", "a value contains itself"),
        ("[" * 50_000, "not valid YAML"),
        ("- " * 50_000 + "x", "not valid YAML"),
        ("x" * 300_001, "300001 characters"),
        ("a: [", "not valid YAML"),
        ("a: *b", "not valid YAML"),
        ("a: 2001-13-45", "not valid YAML"),
        ("a: !!int ''", "not valid YAML"),
        ("a: !!float x", "not valid YAML"),
        ("a: !!binary x", "not valid YAML"),
        ("a: !!timestamp x", "not valid YAML"),
        (f"a: {'9' * 5000}", "not valid YAML"),
        ("? [1]\n: 2", "not valid YAML"),
        ("a: !!python/object/apply:os.getcwd []", "not valid YAML"),
        ("a: \0", "not valid YAML"),
        ("--- 1\n--- 2", "not valid YAML"),
    ],
)
def test_yaml_is_read_within_limits_and_wrong_in_one_way(text: str, said: str) -> None:
    with pytest.raises(DocumentError, match=said) as raised:
        parse_yaml(text)
    assert len(str(raised.value)) < 1000


def test_aliases_are_written_out() -> None:
    assert parse_yaml("a: &a [1, 2]\nb: *a\nc: {<<: &d {x: 1}, y: *a}\n") == {
        "a": [1, 2],
        "b": [1, 2],
        "c": {"x": 1, "y": [1, 2]},
    }
    assert parse_yaml("") is None


def test_a_loader_of_ones_own_knows_more_tags() -> None:
    class Loader(BoundedLoader):
        pass

    Loader.add_constructor("!twice", lambda loader, node: 2 * loader.construct_scalar(node))  # pyright: ignore
    assert parse_yaml("a: !twice ab", Loader) == {"a": "abab"}
    with pytest.raises(DocumentError, match="values"):
        parse_yaml(LAUGHS, Loader)
    with pytest.raises(DocumentError, match="twice"):
        parse_yaml("a: !twice ab")
    assert "!twice" not in yaml.SafeLoader.yaml_constructors


@pytest.mark.parametrize(
    "text", ["", "{", '{"a": NaN}', "[Infinity]", "-Infinity", "[" * 100_000, "9" * 5000, "\ufeff{}"]
)
def test_json_is_wrong_in_one_way(text: str) -> None:
    with pytest.raises(DocumentError, match="not valid JSON") as raised:
        parse_json(text)
    assert len(str(raised.value)) < 1000


def test_json() -> None:
    assert parse_json('{"a": [1, 2.5, null, "é"]}') == {"a": [1, 2.5, None, "é"]}


def test_text_is_utf_8(tmp_path: Path) -> None:
    path = tmp_path / "settings.json"
    path.write_bytes(b"\xef\xbb\xbf" + '{"é": 1}'.encode())
    assert parse_json(read_text(path)) == {"é": 1}
    path.write_bytes(b"{\xff}")
    with pytest.raises(DocumentError, match="UTF-8"):
        read_text(path)
    with path.open("wb") as file:
        file.truncate((1 << 28) + 1)
    with pytest.raises(DocumentError, match="bytes; expected at most"):
        read_text(path)


def test_values_are_shown_in_short() -> None:
    assert brief("open") == "'open'"
    for value in (
        "x" * 10**6,
        list(range(10**6)),
        dict.fromkeys(range(1000), "x" * 1000),
        [[[[[["x"]]]]]] * 50,
    ):
        assert len(brief(value)) < 800


def test_numbers_that_json_does_not_have_are_taken_where_libraries_write_them():
    assert parse_json('{"std": Infinity}', nan=True) == {"std": float("inf")}
    with pytest.raises(DocumentError, match="not finite"):
        parse_json('{"std": Infinity}')
    with pytest.raises(DocumentError, match="not valid JSON"):
        parse_json("[" * 100_000, nan=True)
