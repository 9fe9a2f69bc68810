from __future__ import annotations

import io
import logging
import subprocess
import sys

import pytest
from rich.table import Table

from robometer_rl.report.terminal import log_handler, open_console, prepare_output, show_error

HOSTILE = "push the [red]block[/x] :smile: \x1b[2J \r\udce9"
SHOWN = r"push the [red]block[/x] :smile: \x1b[2J \r\udce9"


def test_texts_are_shown_as_they_are_wherever_they_stand(capsys: pytest.CaptureFixture[str]) -> None:
    console = open_console(width=200)
    table = Table(HOSTILE, title=HOSTILE, caption=HOSTILE)
    table.add_row(HOSTILE)
    console.print(HOSTILE)
    console.print(table)
    shown = capsys.readouterr()
    assert shown.out.count(SHOWN) == 5
    assert "\x1b" not in shown.out


def test_the_log_shows_texts_as_they_are(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    logger = logging.getLogger("tests.terminal")
    logger.setLevel(logging.WARNING)  # whatever commands of other tests have made of the root's level
    logger.propagate = False  # pytest's own report of the log cannot be sent between processes with such letters
    handler = log_handler(show_path=False)
    logger.addHandler(handler)
    try:
        logger.warning("left out: %s", HOSTILE)
    finally:
        logger.removeHandler(handler)
    assert f"left out: {SHOWN}" in capsys.readouterr().err


def test_an_error_is_one_line_however_narrow_the_terminal_is(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "20")
    show_error("word " * 30)
    assert capsys.readouterr().err.count("\n") == 1


def test_streams_take_letters_that_their_encoding_lacks(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", stream)
    monkeypatch.setattr(sys, "stderr", None)
    prepare_output()
    sys.stdout.write("öffne caf\udce9\n")
    sys.stderr.write("nowhere")
    stream.flush()
    assert stream.buffer.getvalue() == rb"\xf6ffne caf\udce9" + b"\n"


def test_where_nobody_reads_a_program_ends_quietly() -> None:
    program = (
        "from robometer_rl.report.terminal import open_console\nfor _ in range(9999): open_console().print('x' * 99)"
    )
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        process.stdout.close()
        assert process.stderr is not None
        assert process.stderr.read() == b""
    assert process.returncode == 141
