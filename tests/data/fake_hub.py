"""A Hub on this machine: what the Hub's own library asks for when it lists and downloads files of data sets."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from urllib.parse import unquote, urlsplit

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@dataclass
class FakeHub:
    """Data sets by id, each with files by name; the Hub is at ``url``.

    ``failures`` says how many requests for the content of a file are answered with a status before it is given,
    ``cut`` how many bytes of a file arrive before the connection breaks, once. ``asked`` lists requests for content.
    """

    datasets: dict[str, dict[str, bytes]]
    url: str = ""
    failures: dict[str, tuple[int, int]] = field(default_factory=dict)
    cut: dict[str, int] = field(default_factory=dict)
    asked: list[tuple[str, str | None]] = field(default_factory=list)


@contextmanager
def serve(hub: FakeHub) -> Iterator[FakeHub]:
    """Answers until the block ends."""
    handler = type("Handler", (_Handler,), {"hub": hub})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = Thread(target=server.serve_forever)
    thread.start()
    hub.url = f"http://127.0.0.1:{server.server_address[1]}"
    try:
        yield hub
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


class _Handler(BaseHTTPRequestHandler):
    hub: FakeHub
    protocol_version = "HTTP/1.1"

    def do_HEAD(self) -> None:
        self._file(head=True)

    def do_GET(self) -> None:
        parts = unquote(urlsplit(self.path).path).strip("/").split("/")
        if parts[:2] != ["api", "datasets"]:
            self._file(head=False)
            return
        files = self.hub.datasets.get("/".join(parts[2:4]))
        if files is None:
            self._send(404, b"{}", {"X-Error-Code": "RepoNotFound"})
        elif parts[4:5] == ["tree"]:
            folder = "/".join(parts[6:])
            entries = [
                {"type": "file", "path": name, "size": len(content), "oid": _etag(content)}
                for name, content in sorted(files.items())
                if not folder or name.startswith(f"{folder}/")
            ]
            if folder and not entries:
                self._send(404, b"{}", {"X-Error-Code": "EntryNotFound"})
            else:
                self._send(200, json.dumps(entries).encode())
        else:
            about = {
                "id": "/".join(parts[2:4]),
                "sha": COMMIT,
                "siblings": [{"rfilename": name} for name in sorted(files)],
            }
            self._send(200, json.dumps(about).encode())

    def _file(self, head: bool) -> None:
        # /datasets/OWNER/NAME/resolve/COMMIT/FILE
        parts = unquote(urlsplit(self.path).path).strip("/").split("/")
        name = "/".join(parts[5:])
        content = self.hub.datasets["/".join(parts[1:3])].get(name)
        if content is None:
            self._send(404, b"{}", {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": COMMIT}, body=not head)
            return
        headers = {"ETag": f'"{_etag(content)}"', "X-Repo-Commit": COMMIT, "Accept-Ranges": "bytes"}
        if head:
            self._send(200, content, headers, body=False)
            return
        wanted = self.headers.get("Range")
        self.hub.asked.append((name, wanted))
        left, status = self.hub.failures.get(name, (0, 0))
        if left:
            self.hub.failures[name] = (left - 1, status)
            self._send(status, b"{}")
            return
        start, _, last = ("0-" if wanted is None else wanted.removeprefix("bytes=")).partition("-")
        part = content[int(start) : int(last) + 1] if last else content[int(start) :]
        is_part = len(part) < len(content)
        if is_part:
            headers["Content-Range"] = f"bytes {start}-{int(start) + len(part) - 1}/{len(content)}"
        self._send(206 if is_part else 200, part, headers, most=self.hub.cut.pop(name, None))

    def _send(
        self,
        status: int,
        content: bytes,
        headers: dict[str, str] | None = None,
        body: bool = True,
        most: int | None = None,
    ) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(content)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        if body:
            self.wfile.write(content if most is None else content[:most])
        if most is not None:
            self.close_connection = True

    def log_message(self, format: str, *args: object) -> None:
        """Says nothing."""


def _etag(content: bytes) -> str:
    return hashlib.sha1(content, usedforsecurity=False).hexdigest()
