"""What stands in front of the routes: token, limits, counting, and the end of service.

A request is looked at before its body is read: what may not be answered costs no memory.
"""

from __future__ import annotations

import asyncio
import base64
import hmac
import json
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from robometer_rl.serving.limits import Limits
from robometer_rl.serving.metrics import Metrics
from robometer_rl.serving.problems import Problem

__all__ = ["Door", "Gate", "WithPages"]

# Always open: whoever watches over processes has no token.
_OPEN: Final = ("/health", "/ready")
# Small bodies of refused requests are read, so that the client gets to read why.
_DISCARDED: Final = 1 << 20


@dataclass
class Door:
    """What decides who may come in.

    Attributes:
        limits: What is taken at most.
        tokens: What clients must show, any of them; empty if anybody may ask.
        metrics: Where requests are counted.
        headers: Sent with every answer.
        draining: Whether nothing new is begun any more.
        requests: Requests with a body that are being answered.
        nbytes: Bytes of their bodies.
        requests_of: How many of the requests showed which of the tokens, by its place.
    """

    limits: Limits
    tokens: tuple[str, ...]
    metrics: Metrics
    headers: dict[str, str] = field(default_factory=dict)
    draining: bool = False
    requests: int = 0
    nbytes: int = 0
    requests_of: Counter[int | None] = field(default_factory=Counter)

    def shown(self, authorization: str) -> int | None:
        """Which token a header has, as ``Bearer`` or as the password of ``Basic``: its place, or None.

        Takes the same time whichever it is.
        """
        scheme, _, value = authorization.partition(" ")
        if scheme.lower() == "basic":
            try:
                value = base64.b64decode(value, validate=True).decode().partition(":")[2]
            except ValueError:  # neither Base64 nor text
                return None
        elif scheme.lower() != "bearer":
            return None
        equal = [hmac.compare_digest(value.encode(), token.encode()) for token in self.tokens]
        return equal.index(True) if any(equal) else None


class Gate:
    """ASGI middleware: lets requests in that may be answered, with their bodies read.

    Args:
        app: What answers them.
        door: What decides.
    """

    def __init__(self, app: Any, door: Door) -> None:
        self._app, self._door = app, door

    async def __call__(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        """See the ASGI specification."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        start, status = time.perf_counter(), 0

        async def answer(message: dict[str, Any]) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                extra = [(name.encode(), value.encode()) for name, value in self._door.headers.items()]
                message = {**message, "headers": [*message["headers"], *extra]}
            await send(message)

        try:
            self._admit(scope)
            body = await self._read(scope, receive)
            await self._app(scope, _replayed(body, receive), answer)
        except Problem as problem:
            await _discard(receive, scope)
            await _refuse(answer, problem)
            self._door.metrics.rejected.labels(problem.kind).inc()
        finally:
            self._count(scope, status, time.perf_counter() - start)

    def _admit(self, scope: dict[str, Any]) -> None:
        """Counts a request that may be answered; raises `Problem` for one that may not."""
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        door, path = self._door, scope["path"]
        place = door.shown(headers.get("authorization", "")) if door.tokens else None
        if door.tokens and path not in _OPEN and place is None:
            raise Problem(401, "unauthorized", "this server asks for its token: Authorization: Bearer TOKEN")
        if scope["method"] not in ("POST", "PUT", "PATCH"):
            return
        if door.draining:
            raise Problem(503, "draining", "this server is being stopped; ask again", retry_after=1)
        size = _content_length(headers)
        limits = door.limits
        if size > limits.body:
            raise Problem(413, "too_large", f"the body has {size} bytes; this server takes {limits.body}")
        if door.requests >= limits.requests or door.nbytes + size > limits.queued_bytes:
            message = f"{door.requests} requests of {door.nbytes} bytes are waiting already; ask again later"
            raise Problem(429, "busy", message, retry_after=1)
        if place is not None and len(door.tokens) > 1 and door.requests_of[place] >= limits.requests_per_token:
            message = f"{door.requests_of[place]} requests of this token are waiting already; ask again later"
            raise Problem(429, "busy", message, retry_after=1)
        door.requests += 1
        door.requests_of[place] += 1
        door.nbytes += size
        self._note()
        scope["state"] = {**scope.get("state", {}), "admitted": (size, place)}

    async def _read(self, scope: Mapping[str, Any], receive: Any) -> bytes:
        """The body; raises `Problem` if it is too large or takes too long."""
        parts, size, limits = [], 0, self._door.limits
        try:
            async with asyncio.timeout(limits.upload_s):
                while True:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        raise Problem(400, "cut_off", "the request ended before its body did")
                    part = message.get("body", b"")
                    size += len(part)
                    if size > limits.body:
                        raise Problem(413, "too_large", f"the body has more than {limits.body} bytes")
                    parts.append(part)
                    if not message.get("more_body", False):
                        return b"".join(parts)
        except TimeoutError as error:
            message = f"the body had not arrived after {limits.upload_s:g} s"
            raise Problem(408, "upload_timeout", message) from error

    def _count(self, scope: Mapping[str, Any], status: int, seconds: float) -> None:
        door = self._door
        if (admitted := scope.get("state", {}).get("admitted")) is not None:
            size, place = admitted
            door.requests -= 1
            door.requests_of[place] -= 1
            door.nbytes -= size
            self._note()
        # What was asked for may be anything; labels are few.
        route = getattr(scope.get("route"), "path", "other")
        door.metrics.requests.labels(route, str(status)).inc()
        door.metrics.request_seconds.labels(route).observe(seconds)

    def _note(self) -> None:
        self._door.metrics.waiting_requests.set(self._door.requests)
        self._door.metrics.waiting_bytes.set(self._door.nbytes)


class WithPages:
    """ASGI application: a service, and below a path pages for people, which the same door lets in.

    Args:
        app: The service, with a gate of its own.
        pages: A Starlette application.
        path: What the addresses of all pages begin with, such as ``/ui``; their icon may be asked for without it.
        door: What decides.
    """

    def __init__(self, app: Any, pages: Any, path: str, door: Door) -> None:
        self._app, self._pages, self._path, self._gate = app, pages, path, Gate(pages, door)
        self._ended = asyncio.Event()

    def end(self) -> None:
        """Ends what pages that are open wait for: news, which come for as long as there is a server."""
        self._ended.set()

    async def __call__(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        """See the ASGI specification."""
        is_page = f"{scope.get('path', '')}/".startswith((f"{self._path}/", "/favicon.ico/"))
        if scope["type"] == "lifespan":
            async with self._pages.router.lifespan_context(self._pages):
                await self._app(scope, receive, send)
        elif scope["type"] == "http" and is_page:
            await self._answer(scope, receive, send)
        else:
            await self._app(scope, receive, send)

    async def _answer(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        begun = complete = False

        async def note(message: dict[str, Any]) -> None:
            nonlocal begun, complete
            begun = True
            complete = message["type"] == "http.response.body" and not message.get("more_body", False)
            await send(message)

        answer = asyncio.ensure_future(self._gate(scope, receive, note))
        ended = asyncio.ensure_future(self._ended.wait())
        try:
            await asyncio.wait({answer, ended}, return_when=asyncio.FIRST_COMPLETED)
            if answer.done():
                answer.result()
        finally:
            is_cut, _ = answer.cancel(), ended.cancel()
        if is_cut:
            await asyncio.wait({answer})
            if begun and not complete:
                await send({"type": "http.response.body", "body": b""})
            elif not begun:
                await _refuse(send, Problem(503, "draining", "this server is being stopped; ask again", retry_after=1))


def _content_length(headers: Mapping[str, str]) -> int:
    length = headers.get("content-length", "0")
    if not length.isascii() or not length.isdecimal() or len(length) > 18:
        raise Problem(400, "malformed", f"Content-Length is {length[:40]!r}; expected a number", "Content-Length")
    return int(length)


def _replayed(body: bytes, receive: Any) -> Any:
    """Gives the body once, then what comes after it: nothing but the end of the connection."""
    given = False

    async def replay() -> dict[str, Any]:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return replay


async def _discard(receive: Any, scope: Mapping[str, Any]) -> None:
    length = dict(scope["headers"]).get(b"content-length", b"0")
    if not length.isdigit() or not 0 < int(length) <= _DISCARDED or "admitted" in scope.get("state", {}):
        return
    try:
        async with asyncio.timeout(1.0):
            while (await receive()).get("more_body", False):
                pass
    except TimeoutError:
        return


async def _refuse(send: Any, problem: Problem) -> None:
    body = json.dumps(problem.body).encode()
    headers = {"Content-Type": "application/json", "Content-Length": str(len(body)), **problem.headers}
    if problem.status in (408, 413, 503):
        headers["Connection"] = "close"
    raw = [(name.encode(), value.encode()) for name, value in headers.items()]
    if problem.status == 401:  # a line each, or browsers see the first alone
        raw += [(b"WWW-Authenticate", each) for each in (b"Bearer", b'Basic realm="robometer"')]
    await send({"type": "http.response.start", "status": problem.status, "headers": raw})
    await send({"type": "http.response.body", "body": body})
