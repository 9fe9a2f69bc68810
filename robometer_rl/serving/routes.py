"""The routes under ``/v1``, and those that watch over the server; docs/serving.md describes them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse

import robometer_rl
from robometer_rl.frames import FrameProtocol, parse_protocol
from robometer_rl.prediction import Prediction, StepPrediction
from robometer_rl.serving import openapi, reading
from robometer_rl.serving.calls import Question, StreamAction, StreamCall
from robometer_rl.serving.problems import Problem
from robometer_rl.serving.service import RewardServer, identity
from robometer_rl.serving.slots import StreamTable
from robometer_rl.serving.wire import MEDIA_TYPE, MODEL_FACTS, Message, encode, pack_predictions, pack_step

__all__ = ["Routes"]


class Routes:
    """The routes under ``/v1``, and those that watch over the server."""

    def __init__(self, server: RewardServer) -> None:
        self._server = server

    def add(self, app: FastAPI) -> None:
        """Adds them to an application."""
        app.add_api_route("/health", self.health, methods=["GET"], responses=openapi.answers())
        app.add_api_route("/ready", self.ready, methods=["GET"], responses=openapi.answers())
        app.add_api_route(
            "/metrics", self.metrics, methods=["GET"], response_class=Response, responses=openapi.COUNTERS
        )
        app.add_api_route("/v1/model", self.describe_model, methods=["GET"], responses=openapi.answers())
        asked: Mapping[str, Any] = {
            "/v1/predict": self.predict,
            "/v1/predict_steps": self.predict_steps,
            "/v1/compare": self.compare,
            "/v1/streams/{name}/append": self.append,
            "/v1/streams/{name}/peek": self.peek,
        }
        said = openapi.answers(message=True)
        for path, answer in asked.items():
            app.add_api_route(path, answer, methods=["POST"], openapi_extra=openapi.MESSAGE, responses=said)
        app.add_api_route("/v1/streams", self.open, methods=["POST"], status_code=201, openapi_extra=openapi.STREAM)
        stream, reset = "/v1/streams/{name}", "/v1/streams/{name}/reset"
        app.add_api_route(reset, self.reset, methods=["POST"], openapi_extra=openapi.RESET)
        app.add_api_route(stream, self.describe_stream, methods=["GET"], openapi_extra=openapi.NOTHING)
        app.add_api_route(stream, self.close, methods=["DELETE"], status_code=204, openapi_extra=openapi.NOTHING)

    async def health(self) -> Response:
        """Whether the process is alive; the reference's three keys."""
        is_there = int(self._server.thread.model is not None)
        return JSONResponse({"status": "healthy", "available_gpus": is_there, "total_gpus": 1})

    async def ready(self) -> Response:
        """Whether requests are answered: 503 while the model is loaded and while the server is being stopped."""
        if self._server.door.draining:
            raise Problem(503, "draining", "this server is being stopped")
        return JSONResponse({"status": "ready", "model_id": self._server.model.model_id})

    async def metrics(self) -> Response:
        """Counters for Prometheus."""
        return Response(self._server.metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")

    async def describe_model(self) -> Response:
        """Which model answers, and within which limits."""
        model, settings = self._server.model, self._server.settings
        about = {name: getattr(model, name) for name in ("source", *MODEL_FACTS)}
        limits = {name: getattr(settings.limits, name) for name in reading.LIMIT_FACTS}
        return JSONResponse(
            about
            | {
                "default_protocol": str(model.default_protocol),
                "identity": identity(model),
                "instance": self._server.instance,
                "version": robometer_rl.__version__,
                "limits": limits,
            }
        )

    async def predict(self, request: Request) -> Response:
        """Scores exactly the frames given."""
        message = await self._pictures(request)
        clips = reading.clips(message, self._server.settings.limits)
        return await self._predictions(request, Question(kind="predict", items=clips))

    async def predict_steps(self, request: Request) -> Response:
        """Scores whole episodes densely."""
        message = await self._pictures(request)
        clips = reading.clips(message, self._server.settings.limits)
        every = reading.integer(message.head, "every", 1, default=1)
        options = (("protocol", self._protocol(message)), ("every", every))
        return await self._predictions(request, Question(kind="predict_steps", items=clips, options=options))

    async def compare(self, request: Request) -> Response:
        """Which of two clips is better."""
        message = await self._pictures(request)
        pairs = reading.pairs(message, self._server.settings.limits)
        options = (("both_orders", reading.boolean(message.head, "both_orders")),)
        first = await self._server.ask(request, Question(kind="compare", items=pairs, options=options))
        values = np.array(first, np.float32)
        return _answer(request, {}, [values], {"probabilities": values.tolist()})

    async def open(self, request: Request) -> Response:
        """Begins a stream, with histories that are empty or restored."""
        message = await self._pictures(request)
        tasks = reading.texts(message.head, "tasks")
        protocol = self._protocol(message)
        histories = reading.histories(message, self._server.settings.limits)
        name = await self._act(request, None, lambda table: table.open(tasks, protocol, histories))
        return JSONResponse(await self._act(request, name, lambda table: table.describe(name)), 201)

    async def append(self, request: Request, name: str) -> Response:
        """Adds a frame to each of the chosen histories and scores it."""
        message = await self._message(request)
        return await self._frames(request, name, message, reading.integer(message.head, "seq", 0))

    async def peek(self, request: Request, name: str) -> Response:
        """Scores possible next frames."""
        return await self._frames(request, name, await self._message(request), None)

    async def reset(self, request: Request, name: str) -> Response:
        """Empties histories."""
        head = (await self._message(request)).head
        seq = reading.integer(head, "seq", 0)
        indices = reading.integers(head, "indices") if head.get("indices") is not None else None
        tasks = reading.texts(head, "tasks") if head.get("tasks") is not None else None
        await self._act(request, name, lambda table: table.reset(name, seq, indices, tasks))
        return JSONResponse({"next_seq": seq + 1})

    async def describe_stream(self, request: Request, name: str) -> Response:
        """Lengths of histories, and the number of the next call; renews the lease."""
        return JSONResponse(await self._act(request, name, lambda table: table.describe(name)))

    async def close(self, request: Request, name: str) -> Response:
        """Ends a stream."""
        await self._act(request, name, lambda table: table.close(name))
        return Response(status_code=204)

    async def _act(self, request: Request, name: str | None, action: Callable[[StreamTable], Any]) -> Any:
        return await self._server.ask(request, StreamAction(stream=name, action=action))

    async def _frames(self, request: Request, name: str, message: Message, seq: int | None) -> Response:
        indices, frames = reading.stream_frames(message, self._server.settings.limits)
        call = StreamCall(stream=name, indices=indices, frames=frames, seq=seq)
        said, next_seq = await self._server.ask(request, call)
        head, arrays = pack_step(said)
        return _answer(request, head | {"next_seq": next_seq}, arrays, _values(said) | {"next_seq": next_seq})

    async def _predictions(self, request: Request, question: Question) -> Response:
        predictions = await self._server.ask(request, question)
        heads, arrays = pack_predictions(predictions)
        if _wants_bytes(request):
            return _answer(request, {"predictions": heads}, arrays, {})
        # Long episodes are many numbers to write.
        listed = await asyncio.to_thread(
            lambda: JSONResponse(
                {"predictions": [head | _values(said) for head, said in zip(heads, predictions, strict=True)]}
            )
        )
        return listed

    def _protocol(self, message: Message) -> FrameProtocol:
        text = message.head.get("protocol")
        if text is None:
            return self._server.model.default_protocol
        if not isinstance(text, str):
            raise Problem(422, "value", f"protocol is {text!r}; expected a text such as 'nested(8)'", "protocol")
        return parse_protocol(text)

    async def _pictures(self, request: Request) -> Message:
        """A message whose frames are, or will be, such as the model was trained on."""
        message = await self._message(request)
        tiled = reading.boolean(message.head, "tiled")
        self._server.model.require_views('a request without "tiled": true', tiled=tiled)
        return message

    async def _message(self, request: Request) -> Message:
        kind = request.headers.get("content-type", "")
        return await reading.message(kind, await request.body(), self._server.settings.limits)


def _wants_bytes(request: Request) -> bool:
    return MEDIA_TYPE in request.headers.get("accept", "")


def _answer(request: Request, head: Mapping[str, Any], arrays: Sequence[Any], listed: Mapping[str, Any]) -> Response:
    """What was asked for: a message where the client takes one, JSON for all others."""
    if _wants_bytes(request):
        return Response(encode(head, arrays), media_type=MEDIA_TYPE)
    return JSONResponse(dict(listed))


def _values(said: Prediction | StepPrediction) -> dict[str, Any]:
    """The numbers of a prediction for JSON; float32 as the double that it is, so nothing is lost."""
    uncertainty = said.uncertainty
    return {
        "progress": said.progress.tolist(),
        "uncertainty": None if uncertainty is None else uncertainty.tolist(),
        "success": None if said.success is None else said.success.tolist(),
        "progress_distribution": said.progress_distribution.tolist(),
    }
