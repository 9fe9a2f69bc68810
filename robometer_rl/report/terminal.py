"""The terminal: everything that a command shows goes through the console and the log handler made here.

Strings are shown as they are. Rich would read ``[red]`` in a task as a colour, ``[/x]`` as an error and ``:smile:`` as
a picture, and a terminal would obey the control characters in a file name.
"""

from __future__ import annotations

import io
import logging
import os
import sys
from contextlib import suppress
from typing import Any, Final

from rich.console import Console, ConsoleRenderable
from rich.logging import RichHandler
from rich.text import Text

from robometer_rl.report.markup import printable

__all__ = ["NO_READER", "close_output", "log_handler", "open_console", "prepare_output", "show_error"]

NO_READER: Final = 141
"""Exit code of a program that prints what nobody reads any more, as in ``| head``; what a shell says of SIGPIPE."""


class _PlainConsole(Console):
    """Shows strings, also those in tables and titles, without markup and control characters."""

    def render_str(self, text: str, **options: Any) -> Text:
        return super().render_str(printable(text), **options)

    def on_broken_pipe(self) -> None:
        self.quiet = True
        close_output()
        raise SystemExit(NO_READER)


class _PlainHandler(RichHandler):
    """The same for messages of the log."""

    def render_message(self, record: logging.LogRecord, message: str) -> ConsoleRenderable:
        return super().render_message(record, printable(message))


def open_console(*, stderr: bool = False, width: int | None = None) -> Console:
    """A console for results, or with ``stderr`` for progress and errors."""
    return _PlainConsole(stderr=stderr, width=width, markup=False, emoji=False)


def log_handler(*, show_path: bool) -> logging.Handler:
    """A handler that shows messages of the log on standard error.

    Args:
        show_path: Show the line of the program that they come from, too.
    """
    return _PlainHandler(console=open_console(stderr=True), show_time=False, show_path=show_path)


def show_error(text: str) -> None:
    """One line on standard error, however wide the terminal is."""
    # Where nobody reads standard error there is nobody to be told.
    with suppress(OSError, ValueError):
        open_console(stderr=True).print(text, soft_wrap=True, highlight=False)


def prepare_output() -> None:
    """Makes standard output and error take any text: where they are closed, and whatever their encoding is."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:  # `>&-`: the next file that is opened would take its place, and be printed into
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115 - for as long as the program
        elif isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def close_output() -> None:
    """Lets what is still to be printed vanish, where it has nowhere to go."""
    null = os.open(os.devnull, os.O_WRONLY)
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):  # streams of tests have no descriptor
            os.dup2(null, stream.fileno())
    os.close(null)
