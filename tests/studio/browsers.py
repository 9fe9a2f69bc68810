"""A studio on a port of its own, and a browser that looks at it."""

from __future__ import annotations

import asyncio
import shutil
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from robometer_rl.video import write_video

HOSTILE = "open ${1+1} {{value}} <img src=x onerror=alert(1)>"
"""An instruction that no page may take for anything but text."""

TIMEOUT_MS = 120_000  # of a machine that has other things to do, too

CHROMIUM = next(
    (path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), ""
)


@contextmanager
def answering(app: Any) -> Iterator[str]:
    """The address at which an ASGI application answers, in a thread of this process."""
    uvicorn = pytest.importorskip("uvicorn")
    with socket.create_server(("127.0.0.1", 0)) as listener:
        options = uvicorn.Config(app, log_level="warning", access_log=False, timeout_graceful_shutdown=1)
        program = uvicorn.Server(options)
        thread = threading.Thread(target=lambda: asyncio.run(program.serve([listener])))
        thread.start()
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            program.should_exit = True
            thread.join()


@dataclass
class Visit:
    """A page of the studio in a browser.

    Attributes:
        page: What Playwright says of it.
        url: Of the studio.
        asked: Addresses that the browser has asked for.
        problems: Errors of its console.
    """

    page: Any
    url: str
    asked: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    def tab(self, name: str) -> None:
        """Turns to a page of the studio."""
        self.page.get_by_role("tab", name=name).click()

    def upload(self, name: str, *paths: Path) -> None:
        """Gives files to the field called ``name``."""
        self.page.locator(f"#{name} input[type=file]").set_input_files([str(path) for path in paths])
        self.page.locator(f"#{name}").get_by_text(paths[0].name[:4]).first.wait_for()

    def fill(self, name: str, text: str) -> None:
        self.page.locator(f"#{name}").locator("textarea, input").first.fill(text)

    def choose(self, name: str, text: str) -> None:
        """Writes into the field called ``name`` what is to be chosen or looked for, and confirms it."""
        self.fill(name, text)
        self.page.keyboard.press("Enter")

    def score(self, named: str, task: str, model: str | None = None) -> None:
        """Has a recording of the data scored: by ``model``, or the one that is asked where nothing is said."""
        self.choose("score-named", named)
        self.fill("score-tasks", task)
        if model is not None:
            self.page.get_by_text("How the model is asked").first.click()
            self.choose("score-model", model)
        self.click("score-start")

    def click(self, name: str) -> None:
        self.page.locator(f"#{name}").click()

    def says(self, name: str, text: str) -> None:
        """Waits until the line called ``name`` says something."""
        self.page.locator(f"#{name}").get_by_text(text).first.wait_for()


@contextmanager
def visiting(
    url: str,
    width: int = 1280,
    height: int = 900,
    dark: bool = False,
    at: str = "",
    ready: str = "role=tab",
    token: str | None = None,
) -> Iterator[Visit]:
    """Opens a studio, or another page on which there is ``ready``, in Chromium.

    Where the browser is asked for a password, that is ``token``.

    Fails where the page asks anything of another host, or its scripts fail.
    """
    playwright = pytest.importorskip("playwright.sync_api")
    if not CHROMIUM:
        pytest.skip("there is no Chromium to look with")
    with playwright.sync_playwright() as program:
        # A webcam that shows a moving picture, and leave to use it.
        webcam = ["--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream"]
        browser = program.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", *webcam])
        scheme = "dark" if dark else "light"
        page = browser.new_page(
            viewport={"width": width, "height": height},
            color_scheme=scheme,
            http_credentials=None if token is None else {"username": "anybody", "password": token},
        )
        page.set_default_timeout(TIMEOUT_MS)
        visit = Visit(page, url)
        page.on("request", lambda request: visit.asked.append(request.url))
        page.on("pageerror", lambda error: visit.problems.append(str(error)))
        page.on("console", lambda message: visit.problems.append(message.text) if message.type == "error" else None)
        page.goto(f"{url}/{at}")
        page.locator(ready).first.wait_for()
        try:
            yield visit
        finally:
            browser.close()
    elsewhere = [each for each in visit.asked if not each.startswith((url, "data:", "blob:"))]
    assert elsewhere == [], elsewhere
    assert visit.problems == [], visit.problems


def moving_square(path: Path, num_frames: int = 20, upward: bool = True) -> Path:
    """A video that gets brighter (or darker), so that `BrightnessModel` sees progress, with a square that moves."""
    levels = np.linspace(20, 235, num_frames).astype(np.uint8)
    frames = np.empty((num_frames, 96, 128, 3), np.uint8)
    for number, level in enumerate(levels if upward else levels[::-1]):
        frames[number] = level
        left = number * 4 % 100
        frames[number, 40:60, left : left + 20] = (30, 90, 220)
    write_video(path, frames, fps=10)
    return path
