"""Vision-language models behind HTTP: any server that speaks OpenAI's chat completions."""

from __future__ import annotations

import base64
import io
import json
import logging
import os
import re
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPException
from typing import Any, Final
from urllib.error import HTTPError
from urllib.request import HTTPRedirectHandler, Request, build_opener

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from robometer_rl.documents import DocumentError, brief, parse_json
from robometer_rl.frames import check_task
from robometer_rl.models.baselines.vlm import Question, Video
from robometer_rl.models.locations import UnknownModelError

__all__ = ["KEY_VARIABLE", "Endpoint", "EndpointError", "is_endpoint"]

logger = logging.getLogger(__name__)

KEY_VARIABLE: Final = "OPENAI_API_KEY"
"""Where the key of an endpoint is taken from."""

_NAME: Final = re.compile(r"(?P<model>[^@]+)@(?P<address>https?://\S+)")
_ATTEMPTS: Final = 6
_LONGEST_PAUSE: Final = 60.0  # seconds
_QUALITY: Final = 95  # of JPEG


class EndpointError(OSError):
    """An endpoint that does not answer, or refuses; the message says which, and what it said."""


class _NoRedirects(HTTPRedirectHandler):
    """A key goes to the host that was named, and to no other."""

    def redirect_request(self, *_: Any) -> None:
        """Makes a redirect an error."""


def is_endpoint(where: str) -> bool:
    """Whether a name stands for a model behind an endpoint, as in ``gpt-4o@https://api.openai.com/v1``."""
    return _NAME.fullmatch(where) is not None


class Endpoint:
    """Asks a model at an endpoint, several questions at a time, each with temperature 0 and one seed.

    Args:
        where: ``MODEL@ADDRESS``: its name there, and the address that ``/chat/completions`` follows on.
        timeout_s: Seconds to wait for an answer.
        pause_s: Seconds before a question is asked again that met an outage (429, 5xx, no answer); doubled each time.
        parallel: Questions under way at once.

    Raises:
        UnknownModelError: Not such a name.
    """

    revision: str | None = None
    dtype: str = "unknown"
    device: str = "endpoint"

    def __init__(self, where: str, timeout_s: float = 120.0, pause_s: float = 1.0, parallel: int = 4) -> None:
        match = _NAME.fullmatch(where)
        if match is None:
            raise UnknownModelError(f"got the endpoint {brief(where)}; expected MODEL@https://HOST/v1")
        self.model, self.address = match["model"], match["address"].rstrip("/")
        self.model_id = where
        self.timeout_s, self.pause_s, self.parallel = timeout_s, pause_s, parallel
        self._opener = build_opener(_NoRedirects)

    def check_task(self, task: str) -> str:
        """Returns ``task``; raises `TaskError` if it is empty."""
        return check_task(task)

    def answers(self, questions: Sequence[Question], max_new_tokens: int) -> list[str]:
        """One text per question.

        Raises:
            EndpointError: It is away for longer than it is waited for, or refuses.
        """
        with ThreadPoolExecutor(self.parallel) as pool:
            return list(pool.map(lambda question: self._answer(question, max_new_tokens), questions))

    def _answer(self, question: Question, max_new_tokens: int) -> str:
        system = [] if question.system is None else [{"role": "system", "content": question.system}]
        asked = {
            "model": self.model,
            "messages": [*system, {"role": "user", "content": [_part(part) for part in question.parts]}],
            "max_tokens": max_new_tokens,
            "temperature": 0,
            "seed": 0,
        }
        return self._text(self._insist(json.dumps(asked).encode()))

    def _insist(self, body: bytes) -> bytes:
        """What is answered, asked again as long as an outage may last."""
        said = ""
        for attempt in range(_ATTEMPTS):
            try:
                return self._post(body)
            except HTTPError as error:
                said, wanted = f"{error.code}, {_reason(error)}", error.headers.get("Retry-After", "")
                if error.code != 429 and error.code < 500:
                    raise EndpointError(f"{self.address} refuses to ask {self.model}: {said}") from error
            except (OSError, HTTPException) as error:
                said, wanted = f"{type(error).__name__}: {error}", ""
            if attempt + 1 < _ATTEMPTS:
                pause = float(wanted) if wanted.isdecimal() else self.pause_s * 2**attempt
                logger.info("%s does not answer (%s); asking again", self.address, said)
                time.sleep(min(pause, _LONGEST_PAUSE))
        raise EndpointError(f"{self.address} was asked {_ATTEMPTS} times and does not answer: {said}; try again later")

    def _post(self, body: bytes) -> bytes:
        headers = {"Content-Type": "application/json"}
        if key := os.environ.get(KEY_VARIABLE):
            headers["Authorization"] = f"Bearer {key}"
        request = Request(f"{self.address}/chat/completions", body, headers)
        with self._opener.open(request, timeout=self.timeout_s) as answer:
            return answer.read()

    def _text(self, content: bytes) -> str:
        """The text of an answer; empty where the model refuses to say anything."""
        try:
            said = parse_json(content.decode())["choices"][0]["message"]["content"]
        except (DocumentError, UnicodeDecodeError, LookupError, TypeError) as error:
            raise EndpointError(
                f"{self.address} answered with what is no chat completion: {brief(content.decode(errors='replace'))}"
            ) from error
        return said if isinstance(said, str) else ""


def _part(part: str | NDArray[np.uint8] | Video) -> dict[str, Any]:
    if isinstance(part, str):
        return {"type": "text", "text": part}
    if isinstance(part, Video):
        raise UnknownModelError("endpoints are shown pictures, no videos; give a checkpoint directory or a Hub id")
    file = io.BytesIO()
    Image.fromarray(part).save(file, "JPEG", quality=_QUALITY)
    address = f"data:image/jpeg;base64,{base64.b64encode(file.getvalue()).decode()}"
    return {"type": "image_url", "image_url": {"url": address}}


def _reason(error: HTTPError) -> str:
    """What an error says of itself."""
    try:
        content = error.read().decode(errors="replace")
    except (OSError, HTTPException):
        content = ""
    return brief(content) if content else str(error.reason)
