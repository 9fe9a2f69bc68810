"""Reward servers on a port of their own: in a thread of this process, or as the program that users start."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import uvicorn
from fastapi import FastAPI

from robometer_rl.models.reward_model import RewardModel
from robometer_rl.serving.app import application
from robometer_rl.serving.service import RewardServer, Settings
from tests.library import ROOT

LINE = re.compile(r"serving .* at (http://\S+)")


@dataclass
class Running:
    """A server that answers.

    Attributes:
        url: Where.
        server: Its parts.
        app: Its routes.
    """

    url: str
    server: RewardServer
    app: FastAPI

    @property
    def address(self) -> tuple[str, int]:
        host, port = self.url.removeprefix("http://").split(":")
        return host, int(port)


@contextmanager
def serving(load: Callable[[], RewardModel], settings: Settings | None = None, port: int = 0) -> Iterator[Running]:
    """A server in a thread of this process."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("127.0.0.1", port))
        listener.listen(100)
        server = RewardServer(load, settings or Settings())
        app = application(server)
        program = uvicorn.Server(uvicorn.Config(app, log_level="warning", access_log=False, lifespan="on"))
        thread = threading.Thread(target=lambda: asyncio.run(program.serve([listener])))
        thread.start()
        try:
            server.thread.loaded.result(timeout=600)
            yield Running(f"http://127.0.0.1:{listener.getsockname()[1]}", server, app)
        finally:
            program.should_exit = True
            thread.join()


@dataclass
class Process:
    """``robometer-rl serve`` as a process of its own."""

    url: str
    process: subprocess.Popen[str]

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    def stop(self) -> tuple[int, str]:
        """Sends SIGTERM; returns the exit code and the rest of the output."""
        self.process.send_signal(signal.SIGTERM)
        output, _ = self.process.communicate()
        return self.process.returncode, output


def start(*words: str, environment: Mapping[str, str] | None = None) -> Process:
    """Starts the program and waits until it serves."""
    command = [sys.executable, "-c", "from robometer_rl.cli import main; raise SystemExit(main())", "serve", *words]
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT), **(environment or {})},
    )
    assert process.stdout is not None
    said = ""
    for line in process.stdout:
        said += line
        if (found := LINE.search(line)) is not None:
            return Process(found[1], process)
    raise AssertionError(f"it did not serve: {said}")


def ask_raw(address: tuple[str, int], request: bytes, timeout: float = 600.0) -> tuple[int, dict[str, str], bytes]:
    """Sends bytes to a server and reads one answer: status, headers, body."""
    with socket.create_connection(address, timeout) as connection:
        with suppress(OSError):  # it has answered already, and closed
            connection.sendall(request)
        return read_answer(connection)


def read_answer(connection: socket.socket) -> tuple[int, dict[str, str], bytes]:
    """One answer: status, headers, body; status 0 if the connection was closed without one."""
    received = b""
    while b"\r\n\r\n" not in received:
        part = _received(connection)
        if not part:
            return 0, {}, received
        received += part
    head, _, body = received.partition(b"\r\n\r\n")
    first, *lines = head.decode("latin-1").split("\r\n")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    length = int(headers.get("content-length", "0"))
    while len(body) < length and (part := _received(connection)):
        body += part
    return int(first.split()[1]), headers, body


def _received(connection: socket.socket) -> bytes:
    try:
        return connection.recv(1 << 20)
    except ConnectionResetError:
        return b""


def wait_until(condition: Callable[[], Any]) -> None:
    """Returns once a condition holds; tests that never get there are ended by pytest."""
    while not condition():
        time.sleep(0.01)


FIXTURES = Path(__file__).parents[1] / "fixtures" / "serving"
