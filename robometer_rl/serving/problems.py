"""What goes wrong between a client and a server, as HTTP says it and as Python says it.

An answer that is an error has the body ``{"error": {"type", "message", "field"}}``. Where the model on the server said
no, ``type`` names the exception that a local model would have raised, and the client raises that one.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

from robometer_rl.frames import FrameError, TaskError
from robometer_rl.models.reward_model import UnsupportedByModelError
from robometer_rl.prediction import NonFiniteOutputError

__all__ = ["LOCAL_ERRORS", "Problem", "ServerError", "problem_of"]

LOCAL_ERRORS: Final[Mapping[str, type[Exception]]] = {
    "frame": FrameError,
    "task": TaskError,
    "unsupported_by_model": UnsupportedByModelError,
    "non_finite_output": NonFiniteOutputError,
    "value": ValueError,
}
"""Types of errors that are errors of the model or of its caller, from the most to the least specific."""


class ServerError(ConnectionError):
    """A reward server that cannot be reached, or that cannot answer; never replaced by a reward."""


class Problem(Exception):
    """A request that is answered with an error.

    Args:
        status: HTTP status.
        kind: The ``type`` of the error, in words with underscores.
        message: What was given, what was expected, what to do.
        field: The part of the request that is at fault, if one is.
        retry_after: Seconds after which the same request may succeed.
    """

    def __init__(
        self, status: int, kind: str, message: str, field: str | None = None, retry_after: int | None = None
    ) -> None:
        super().__init__(message)
        self.status, self.kind, self.field, self.retry_after = status, kind, field, retry_after

    @property
    def body(self) -> dict[str, Any]:
        """The body of the answer; ``detail`` is where programs written for FastAPI look."""
        message = str(self)
        return {"error": {"type": self.kind, "message": message, "field": self.field}, "detail": message}

    @property
    def headers(self) -> dict[str, str]:
        """Headers of the answer."""
        return {} if self.retry_after is None else {"Retry-After": str(self.retry_after)}


def problem_of(error: BaseException) -> Problem | None:
    """How an error of the model is told to a client; None for a bug of this program."""
    if isinstance(error, Problem):
        return error
    if isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and re.search("out of memory", str(error))):
        return Problem(503, "out_of_memory", f"the server is short of memory ({error}); send fewer or smaller frames")
    for kind, local in LOCAL_ERRORS.items():
        if isinstance(error, local):
            return Problem(500 if kind == "non_finite_output" else 422, kind, str(error))
    if isinstance(error, (IndexError, TypeError)):
        return Problem(422, "value", str(error))
    return None
