"""How long somebody waits in the studio for a curve, and how much memory a large store takes.

    python -m benchmarks.studio
    python -m benchmarks.studio --rounds 1 --seconds 2 --episodes 50 --name smoke

The studio is ``robometer-rl ui`` in a process of its own, and Chromium (``make test-ui`` installs what it takes) looks
at it on the same machine:

    first       from the upload of a video to its curve, of as many frames as have been answered, and to the whole of
                it, as soon as the studio says where it is: the model may still be on its way
    later       the same again, on pages that are opened anew (median of the rounds)
    memory      of the studio that lists a store page by page, and searches it, without having asked a model

Writes results/studio.json: seconds, those of the processor in the studio's process beside them, which say what it costs
where the machine has other things to do, and megabytes.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any, Final

import numpy as np
import tyro
from playwright.sync_api import Page, sync_playwright  # pyright: ignore[reportMissingImports]
from rich.console import Console

from benchmarks.recording import RESULTS, write_result
from robometer_rl.data.arrow import write_sealed
from robometer_rl.data.frame_files import write_frames
from robometer_rl.data.rows import Row
from robometer_rl.data.store import TrajectoryStore
from robometer_rl.data.trajectory import Trajectory
from robometer_rl.provenance import versions
from robometer_rl.video import write_video

TASK: Final = "open the drawer"
_TICKS: Final = os.sysconf("SC_CLK_TCK")
_PATIENCE_MS: Final = 300_000


@dataclass(frozen=True)
class Args:
    """Options.

    Attributes:
        seconds: Length of the video.
        fps: Its frames per second.
        height: Of its frames.
        width: Likewise.
        rounds: How often it is uploaded after the first time.
        episodes: Of the store.
        name: Of the result.
    """

    seconds: int = 10
    fps: int = 30
    height: int = 480
    width: int = 640
    rounds: int = 5
    episodes: int = 5000
    name: str = "studio"


@dataclass(frozen=True)
class Studio:
    """A studio that answers, in a process of its own."""

    url: str
    process: int

    @property
    def processor_s(self) -> float:
        """Seconds that processors have worked for it."""
        spent = Path(f"/proc/{self.process}/stat").read_text().rpartition(")")[2].split()
        return (int(spent[11]) + int(spent[12])) / _TICKS

    @property
    def peak_mb(self) -> float:
        """The most memory that it has had."""
        status = Path(f"/proc/{self.process}/status").read_text()
        return int(re.findall(r"VmHWM:\s+(\d+) kB", status)[0]) / 1000


@contextmanager
def studio(folder: Path, *words: str) -> Iterator[Studio]:
    """Starts one."""
    program = "from robometer_rl.cli import main; raise SystemExit(main())"
    command = [sys.executable, "-c", program, "ui", "--port", "0", "--notes", str(folder / "notes"), *words]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            address = next(found[1] for line in process.stdout if (found := re.search(r" is at (http\S+);", line)))
            yield Studio(address, process.pid)
        finally:
            process.terminate()


@contextmanager
def looking(url: str) -> Iterator[Page]:
    """A page of Chromium that shows a studio."""
    path = next((found for name in ("chromium", "google-chrome") if (found := shutil.which(name))), None)
    with sync_playwright() as program:
        browser = program.chromium.launch(executable_path=path, args=["--no-sandbox"])
        page = browser.new_page()
        page.set_default_timeout(_PATIENCE_MS)
        page.goto(url)
        page.locator("#score-upload input[type=file]").wait_for(state="attached")
        yield page
        browser.close()


def a_video(arguments: Args, folder: Path) -> Path:
    """A scene that moves, of about as much detail as a camera sees."""
    rng = np.random.default_rng(0)
    small = rng.integers(0, 256, (arguments.height // 16, arguments.width // 16, 3), np.uint8)
    scene = small.repeat(16, axis=0).repeat(16, axis=1)
    count = arguments.seconds * arguments.fps
    write_video(folder / "scene.mp4", (np.roll(scene, 2 * n, axis=1) for n in range(count)), arguments.fps)
    return folder / "scene.mp4"


def upload(asked: Studio, video: Path) -> dict[str, float]:
    """Seconds from an upload to its curve."""
    with looking(asked.url) as page:
        spent, start = asked.processor_s, time.perf_counter()
        page.locator("#score-upload input[type=file]").set_input_files(str(video))
        page.locator("#score-upload").get_by_text(video.name[:4]).first.wait_for()
        uploaded = time.perf_counter() - start
        page.locator("#score-tasks textarea").fill(TASK)
        page.locator("#score-start").click()
        page.locator("#score-shown .replay-plot").wait_for()
        curve = time.perf_counter() - start
        page.locator("#score-line").get_by_text(f"frames of {video.name}, scored by").first.wait_for()
        return {
            "upload_s": uploaded,
            "curve_s": curve,
            "whole_s": time.perf_counter() - start,
            "processor_s": asked.processor_s - spent,
        }


def a_store(arguments: Args, folder: Path) -> Path:
    """A sealed store of many episodes, which share their frames."""
    store = TrajectoryStore.create(folder / "store")
    shown = np.zeros((2, 64, 64, 3), np.uint8)
    one = Trajectory(id="a", task=TASK, frames=shown, quality_label="failure", data_source="made-up")
    frames = write_frames(store.path / "frames" / "a.zip", "a", shown)
    rows = (Row.of(replace(one, id=f"episode-{n:05}"), frames) for n in range(arguments.episodes))
    write_sealed(store.path / "rows.arrow", rows)
    return store.path


def browse(arguments: Args, folder: Path) -> dict[str, float]:
    """Lists a store, turns pages, and searches it."""
    with studio(folder, "--data", str(a_store(arguments, folder))) as asked, looking(asked.url) as page:
        before = asked.peak_mb
        page.get_by_role("tab", name="Browse").click()
        start = time.perf_counter()
        page.locator("#browse-start").click()
        line = page.locator("#browse-line")
        line.get_by_text(f"{arguments.episodes} of {arguments.episodes} episodes").first.wait_for()
        listed = time.perf_counter() - start
        page.locator("#browse-forth").click()
        line.get_by_text("26 to 50 of them").first.wait_for()
        last = f"episode-{arguments.episodes - 1:05}"
        page.locator("#browse-text").locator("textarea, input").first.fill(last)
        page.keyboard.press("Enter")
        line.get_by_text(f"1 of {arguments.episodes} episodes").first.wait_for()
        page.locator("#browse-list button").first.click()
        page.locator("#browse-shown video").first.wait_for()
        return {"listed_s": listed, "before_mb": before, "peak_mb": asked.peak_mb}


def measure(arguments: Args) -> dict[str, Any]:
    """All of it."""
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        video = a_video(arguments, folder)
        start = time.perf_counter()
        with studio(folder) as asked:
            ready = time.perf_counter() - start
            first = upload(asked, video)
            rounds = [upload(asked, video) for _ in range(arguments.rounds)]
        later = {name: median(each[name] for each in rounds) for name in first}
        return {"start_s": ready, "first": first, "later": later, "rounds": rounds, "memory": browse(arguments, folder)}


def show(found: dict[str, Any]) -> None:
    """What was found out, in sentences."""
    console = Console()
    for name in ("first", "later"):
        curve_s, whole_s, processor_s = (found[name][each] for each in ("curve_s", "whole_s", "processor_s"))
        console.print(
            f"{name}: {curve_s:.1f} s from the upload to the curve, {whole_s:.1f} s to the whole of it, "
            f"{processor_s:.1f} s of the processor"
        )
    memory = found["memory"]
    console.print(f"browsing: listed in {memory['listed_s']:.1f} s; {memory['peak_mb']:.0f} MB at most")


def main() -> None:
    """Measures, writes and shows it."""
    arguments = tyro.cli(Args)
    found = measure(arguments)
    load = os.getloadavg()[0]
    facts = {"processors": os.cpu_count(), "load": load, "packages": versions(("gradio", "playwright"))}
    options = {name: value for name, value in asdict(arguments).items() if name != "name"}
    write_result(arguments.name, {**facts, "options": options, **found})
    show(found)
    Console().print(f"numbers are in {RESULTS / arguments.name}.json")


if __name__ == "__main__":
    main()
