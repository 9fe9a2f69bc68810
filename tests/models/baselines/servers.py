"""A real HTTP server on this machine that speaks OpenAI's chat completions, and answers as a test says."""

from __future__ import annotations

import base64
import io
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import numpy as np
from PIL import Image


@dataclass
class Asked:
    """A question as it reached the server."""

    headers: dict[str, str]
    body: dict[str, Any]

    @property
    def text(self) -> str:
        """Its texts, one line each."""
        return "\n".join(part["text"] for part in self.body["messages"][-1]["content"] if part["type"] == "text")

    @property
    def pictures(self) -> list[np.ndarray]:
        """Its pictures, RGB."""
        parts = [part for part in self.body["messages"][-1]["content"] if part["type"] == "image_url"]
        encoded = [part["image_url"]["url"].removeprefix("data:image/jpeg;base64,") for part in parts]
        return [np.asarray(Image.open(io.BytesIO(base64.b64decode(each)))) for each in encoded]


@dataclass
class Told:
    """What the server sends back instead of a text."""

    status: int
    body: str = ""
    headers: dict[str, str] = field(default_factory=dict)


@dataclass
class Server:
    """Where it is, and what it was asked."""

    address: str
    asked: list[Asked] = field(default_factory=list)


@contextmanager
def answering(answer: Callable[[Asked], str | Told]) -> Iterator[Server]:
    """A server that answers every question by a function; each request has a thread of its own."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            asked = Asked({key.lower(): value for key, value in self.headers.items()}, body)
            server.asked.append(asked)
            said = answer(asked) if self.path == "/v1/chat/completions" else Told(404, "no such path")
            if isinstance(said, str):
                said = Told(200, json.dumps({"choices": [{"message": {"role": "assistant", "content": said}}]}))
            content = said.body.encode()
            self.send_response(said.status)
            for key, value in {"Content-Length": str(len(content)), **said.headers}.items():
                self.send_header(key, value)
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, format: str, *args: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as listening:
        server = Server(f"http://127.0.0.1:{listening.server_port}/v1")
        thread = threading.Thread(target=listening.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield server
        finally:
            listening.shutdown()
            thread.join()
