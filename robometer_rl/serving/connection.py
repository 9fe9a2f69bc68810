"""One server as its clients see it: connections that stay open, and outages that are bridged."""

from __future__ import annotations

import base64
import http.client
import json
import os
import random
import socket
import ssl
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import unquote, urlsplit

from robometer_rl.documents import DocumentError, parse_json
from robometer_rl.models.locations import UnknownModelError
from robometer_rl.serving.pictures import ENCODINGS
from robometer_rl.serving.problems import LOCAL_ERRORS, ServerError
from robometer_rl.serving.wire import MEDIA_TYPE, Message, WireError, decode

__all__ = ["Answer", "Connection", "Outage", "Refusal", "is_outage"]

TOKEN_VARIABLE: Final = "ROBOMETER_RL_TOKEN"

_CONNECTING_S: Final = 10.0  # a machine that is gone does not even refuse
_LONGEST_PAUSE: Final = 5.0  # seconds between attempts
_LARGE: Final = 1 << 18  # bytes, of which a copy takes as long as a second packet
_QUOTED: Final = 300  # letters of an answer that is no JSON


class Outage(ServerError):
    """A server that cannot be reached, or gives no answer in time; another one may."""


class Refusal(ServerError):
    """An answer that says no, where asking again would not help.

    Attributes:
        status: HTTP status.
        kind: The ``type`` of the error, empty if the server gives none.
        body: What else it says.
    """

    def __init__(self, message: str, status: int, kind: str, body: Mapping[str, Any]) -> None:
        super().__init__(message)
        self.status, self.kind, self.body = status, kind, body


class _Silence(Exception):
    """A request was sent, and no answer came in time."""


@dataclass(frozen=True)
class Answer:
    """What a server said.

    Attributes:
        headers: By their names in small letters.
        content: The body, as a message or as JSON.
    """

    headers: Mapping[str, str]
    content: Any

    @property
    def message(self) -> Message:
        """The content of an answer that must be a message."""
        if not isinstance(self.content, Message):
            raise ServerError(f"the server answered with {type(self.content).__name__}; is it a reward server?")
        return self.content


class _Whole(http.client.HTTPConnection):
    """Sends a small request in one piece, where http.client sends head and body: one wakes the server once."""

    _parts: list[bytes] | None = None

    def request_whole(self, method: str, path: str, body: bytes | None, headers: Mapping[str, str]) -> None:
        """Does what `request` does."""
        if body is None or len(body) > _LARGE:
            self.request(method, path, body, headers)
            return
        self._parts = []
        try:
            self.request(method, path, body, headers)
            whole = b"".join(self._parts)
        finally:
            self._parts = None
        self.send(whole)

    def send(self, data: Any) -> None:
        """Sends a part of a request, or keeps it until all are there."""
        if self._parts is None:
            super().send(data)
        else:
            self._parts.append(data)


class _SecureWhole(http.client.HTTPSConnection, _Whole):
    """Likewise, encrypted."""


class Connection:
    """Asks one server, from any thread; may be pickled.

    Args:
        address: ``http://HOST:PORT`` or ``https://...``, also with a token: ``http://:TOKEN@HOST:PORT``. Without one,
            the environment variable ROBOMETER_RL_TOKEN is the token, if it is set. ``?encoding=jpeg`` behind it has
            frames sent as such pictures, ``?encoding=png`` as such.
        timeout: Seconds to wait for an answer.
        patience: Seconds that an outage may last: until then a server that does not answer, or has no room in its
            queue, is asked again.

    Attributes:
        address: The address without its token.
        encoding: What frames are sent as; None if as they are.

    Raises:
        UnknownModelError: Not such an address.
        ValueError: Times that are not positive.
    """

    def __init__(self, address: str, timeout: float, patience: float) -> None:
        parts = urlsplit(address)
        try:
            port = parts.port
        except ValueError as error:
            raise UnknownModelError(f"got the address {without_token(address)!r}: {error}") from error
        name, _, encoding = parts.query.partition("=")
        is_encoding = not parts.query or (name == "encoding" and encoding in ENCODINGS)
        if parts.scheme not in ("http", "https") or not parts.hostname or not is_encoding or parts.fragment:
            expected = f"http://HOST:PORT or https://HOST, also with ?encoding={'|'.join(ENCODINGS)}"
            raise UnknownModelError(f"got the address {without_token(address)!r}; expected {expected}")
        self.encoding = encoding or None
        if not timeout > 0 or not patience >= 0:
            raise ValueError(f"got timeout={timeout}, patience={patience}; expected seconds")
        self.address = without_token(address)
        self._given = (address, timeout, patience)
        self._secure, self._host, self._port = parts.scheme == "https", parts.hostname, port
        self._base = parts.path.rstrip("/")
        self._timeout, self._patience = timeout, patience
        token = unquote(parts.password or parts.username or "") or os.environ.get(TOKEN_VARIABLE)
        # As a password, which servers of the reference behind a proxy know, too.
        self._headers = {} if token is None else {"Authorization": "Basic " + _base64(f"robometer:{token}")}
        self._mine = threading.local()

    def __reduce__(self) -> Any:
        return Connection, self._given

    def alone(self, timeout: float) -> Connection:
        """A connection to the same server that nobody else uses, for a request that is made once."""
        return Connection(self._given[0], timeout, 0.0)

    def ask(
        self, method: str, path: str, body: bytes | None = None, media_type: str = MEDIA_TYPE, repeat: bool = True
    ) -> Answer:
        """Sends a request until it is answered.

        Args:
            method: Such as ``"POST"``.
            path: Such as ``"/v1/predict"``.
            body: What to send.
            media_type: What it is.
            repeat: Whether an outage is bridged.

        Raises:
            Refusal: The server says no.
            ServerError: It is away for longer than the patience, or takes longer than the timeout.
            ValueError: Or another error of `robometer_rl.serving.problems.LOCAL_ERRORS`, as a local model raises it.
        """
        give_up, attempt, fresh = time.monotonic() + self._patience, 0, False
        while True:
            try:
                return self._ask_once(method, path, body, media_type, fresh)
            except _Silence as error:
                raise Outage(f"{self.address} gave no answer to {path} within {self._timeout:g} s") from error
            except (OSError, http.client.HTTPException) as error:
                if isinstance(error, Refusal) and error.status not in (429, 503):
                    raise
                if isinstance(error, Refusal) and "retry-after" not in error.body:
                    raise
                self._close()
                pause = min(_LONGEST_PAUSE, 0.05 * 2**attempt) * (0.5 + random.random() / 2)
                if isinstance(error, Refusal):
                    pause = max(pause, min(float(error.body["retry-after"]), _LONGEST_PAUSE))
                # A connection that was open from before may have been closed meanwhile; that is no outage.
                if fresh and (not repeat or time.monotonic() + pause > give_up):
                    raise self._lost(error) from error
                if fresh:
                    time.sleep(pause)
                    attempt += 1
                fresh = True

    def _ask_once(self, method: str, path: str, body: bytes | None, media_type: str, fresh: bool) -> Answer:
        connection = self._open(fresh)
        headers = {"Accept": f"{MEDIA_TYPE}, application/json", "X-Deadline-Ms": str(int(self._timeout * 1000))}
        if body is not None:
            headers["Content-Type"] = media_type
        try:
            connection.request_whole(method, self._base + path, body, headers | self._headers)
        except (BrokenPipeError, ConnectionResetError):
            # A server that refuses a body says so before it has read all of it.
            if body is None or connection.sock is None:
                raise
        try:
            response = connection.getresponse()
            content = response.read()
        except TimeoutError as error:
            self._close()
            raise _Silence from error
        if response.will_close:
            self._close()
        found = {name.lower(): value for name, value in response.getheaders()}
        if response.status >= 400:
            raise self._refused(response.status, found, content, path)
        return Answer(found, self._content(found.get("content-type", ""), content))

    def _content(self, media_type: str, content: bytes) -> Any:
        try:
            if media_type.startswith(MEDIA_TYPE):
                return decode(content)
            return parse_json(content.decode()) if content else None
        except (WireError, DocumentError, UnicodeDecodeError) as error:
            quoted = content[:_QUOTED].decode(errors="replace")
            raise ServerError(
                f"{self.address} answered with what is no answer of a reward server: {quoted!r}"
            ) from error

    def _refused(self, status: int, headers: Mapping[str, str], content: bytes, path: str) -> Exception:
        try:
            said = json.loads(content).get("error")
        except (ValueError, AttributeError, RecursionError):
            said = None
        if not isinstance(said, dict):
            quoted = content[:_QUOTED].decode(errors="replace")
            message = f"{self.address} answered {path} with {status}, {quoted!r}, and gives no reason"
            return Refusal(message, status, "", _retry(headers))
        kind, message = str(said.get("type")), str(said.get("message"))
        if kind in LOCAL_ERRORS:
            return LOCAL_ERRORS[kind](message)
        return Refusal(f"{self.address}: {message}", status, kind, {**said, **_retry(headers)})

    def _lost(self, error: Exception) -> ServerError:
        if isinstance(error, Refusal):
            return error
        return Outage(
            f"the reward server at {self.address} does not answer ({type(error).__name__}: {error}); it was asked for "
            f"{self._patience:g} s. Start it again, and this program, or give patience= to wait longer"
        )

    def _open(self, fresh: bool) -> _Whole:
        """This thread's connection, made by this process."""
        held = getattr(self._mine, "connection", None)
        if held is not None and not fresh and held[0] == os.getpid():
            return held[1]
        timeout = min(self._timeout, _CONNECTING_S)
        if self._secure:
            context = ssl.create_default_context()
            connection: _Whole = _SecureWhole(self._host, self._port, timeout=timeout, context=context)
        else:
            connection = _Whole(self._host, self._port, timeout=timeout)
        connection.connect()
        connection.sock.settimeout(self._timeout)
        connection.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._mine.connection = (os.getpid(), connection)
        return connection

    def _close(self) -> None:
        held = getattr(self._mine, "connection", None)
        self._mine.connection = None
        # Another process goes on with the socket that a fork has copied.
        if held is not None and held[0] == os.getpid():
            held[1].close()


def is_outage(error: BaseException | None) -> bool:
    """Whether another server may have the answer that one did not give: it is away, or has no time."""
    return isinstance(error, Outage) or (isinstance(error, Refusal) and "retry-after" in error.body)


def _retry(headers: Mapping[str, str]) -> dict[str, str]:
    seconds = headers.get("retry-after", "")
    return {"retry-after": seconds} if seconds.isdecimal() else {}


def _base64(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


def without_token(address: str) -> str:
    """An address as outputs may show it."""
    head, slashes, rest = address.partition("://")
    place, slash, path = rest.partition("/")
    return f"{head}{slashes}{place.rpartition('@')[2]}{slash}{path}".rstrip("/")
