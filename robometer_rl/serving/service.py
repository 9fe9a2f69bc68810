"""A model that answers requests: what all routes of a server have in common."""

from __future__ import annotations

import asyncio
import logging
import math
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from fastapi import Request, Response
from fastapi.responses import JSONResponse

from robometer_rl.models.reward_model import RewardModel
from robometer_rl.serving.calls import Question, StreamAction, StreamCall
from robometer_rl.serving.gate import Door
from robometer_rl.serving.limits import Limits
from robometer_rl.serving.metrics import Metrics
from robometer_rl.serving.model_thread import ModelThread
from robometer_rl.serving.problems import Problem, problem_of
from robometer_rl.serving.slots import StreamTable

__all__ = ["RewardServer", "Settings", "identity"]

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Settings:
    """How a server serves.

    Attributes:
        limits: What it takes.
        tokens: What clients must show, any of them; empty if anybody may ask.
        stream_bytes: Bytes that the histories of streams may take.
        lease_s: Seconds after which a stream that is not used is forgotten.
        exact: Whether each request goes through the model alone, see `robometer_rl.serving.model_thread`.
        reference_routes: Whether it answers as the reference's server does, too.
        prefix: What the names of its streams begin with.
    """

    limits: Limits = field(default_factory=Limits)
    tokens: tuple[str, ...] = ()
    stream_bytes: int = 4_000_000_000
    lease_s: float = 600.0
    exact: bool = False
    reference_routes: bool = True
    prefix: str = ""


class RewardServer:
    """A model, its thread, and what decides who may ask it.

    Args:
        load: Gives the model; called on the model's thread.
        settings: How to serve.

    Attributes:
        door: Who may come in.
        thread: The thread of the model.
        metrics: What is counted.
        instance: Another text at every start.
    """

    def __init__(self, load: Callable[[], RewardModel], settings: Settings) -> None:
        self.settings = settings
        self.instance = secrets.token_hex(8)
        self.metrics = Metrics()
        self.door = Door(settings.limits, settings.tokens, self.metrics, {"X-Robometer-Instance": self.instance})
        self.thread = ModelThread(
            load,
            lambda model: StreamTable(model, settings.limits, settings.stream_bytes, settings.lease_s, settings.prefix),
            self.metrics,
            settings.exact,
        )
        self.thread.loaded.add_done_callback(lambda _: self._introduce())

    @property
    def model(self) -> RewardModel:
        """The model.

        Raises:
            Problem: It is not there yet.
        """
        if (model := self.thread.model) is None:
            raise Problem(503, "loading", "the model is being loaded; ask again", retry_after=1)
        return model

    def _introduce(self) -> None:
        if (model := self.thread.model) is not None:
            self.door.headers["X-Robometer-Model"] = identity(model)
            self.metrics.note_model(model)

    async def answer_error(self, request: Request, error: Exception) -> Response:
        """Tells a client what went wrong."""
        problem = problem_of(error)
        if problem is None:
            logger.error("%s %s failed", request.method, request.url.path, exc_info=error)
            problem = Problem(500, "internal", f"the server has a bug: {type(error).__name__}: {error}")
        self.metrics.rejected.labels(problem.kind).inc()
        return JSONResponse(problem.body, problem.status, problem.headers)

    async def ask(self, request: Request, call: Question | StreamCall | StreamAction) -> Any:
        """The result of a call, as long as the client waits for it.

        Raises:
            Problem: The client has gone, or its deadline is over.
            Exception: What the model raised.
        """
        _ = self.model
        call.deadline = time.monotonic() + _deadline(request)
        answer = asyncio.wrap_future(self.thread.submit(call))
        gone = asyncio.ensure_future(_gone(request))
        try:
            seconds = call.deadline - time.monotonic()
            await asyncio.wait(
                {answer, gone}, timeout=None if math.isinf(seconds) else seconds, return_when=asyncio.FIRST_COMPLETED
            )
            if answer.done():
                return answer.result()
            call.abandoned = True
            answer.cancel()
            if gone.done():
                raise Problem(499, "client_gone", "the client has closed the connection")
            raise Problem(504, "deadline", "the answer was not ready in time; the request was dropped")
        finally:
            gone.cancel()


def identity(model: RewardModel) -> str:
    """A model as the header ``X-Robometer-Model`` names it: ``id@revision`` and precision, in ASCII."""
    text = f"{model.model_id}@{model.revision or ''} {model.dtype}"
    return text.encode("ascii", "backslashreplace").decode()


async def _gone(request: Request) -> None:
    """Waits until the client has closed the connection; its body was read before."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _deadline(request: Request) -> float:
    text = request.headers.get("x-deadline-ms")
    if text is None:
        return math.inf
    if not text.isascii() or not text.isdecimal() or len(text) > 12:
        raise Problem(400, "malformed", f"X-Deadline-Ms is {text[:40]!r}; expected milliseconds", "X-Deadline-Ms")
    return int(text) / 1000
