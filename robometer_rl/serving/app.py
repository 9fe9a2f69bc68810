"""The ASGI application of a reward server."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse

import robometer_rl
from robometer_rl.serving.gate import Gate
from robometer_rl.serving.openapi import ERRORS
from robometer_rl.serving.problems import Problem
from robometer_rl.serving.reference_routes import ReferenceRoutes
from robometer_rl.serving.routes import Routes
from robometer_rl.serving.service import RewardServer

__all__ = ["application"]


def application(server: RewardServer) -> FastAPI:
    """The application that answers for a server; when it ends, so does the thread of the model."""

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        await asyncio.to_thread(server.thread.close)

    app = FastAPI(
        title="Robometer reward server", version=robometer_rl.__version__, lifespan=lifespan, responses=ERRORS
    )
    app.add_middleware(Gate, door=server.door)
    for status, kind in ((400, "malformed"), (404, "not_found"), (405, "method_not_allowed"), (413, "too_large")):
        app.add_exception_handler(status, _handler_of(server, kind))
    app.add_exception_handler(Exception, server.answer_error)
    for error in (Problem, ValueError, ArithmeticError, RuntimeError, MemoryError, LookupError, TypeError):
        app.add_exception_handler(error, server.answer_error)
    Routes(server).add(app)
    if server.settings.reference_routes:
        ReferenceRoutes(server).add(app)
    return app


def _allowed(request: Request) -> str:
    """Methods of all routes of a path; the framework names those of the first one."""
    found = [route for route in request.app.router.routes if route.matches(request.scope)[0].value]
    return ", ".join(sorted({method for route in found for method in getattr(route, "methods", None) or ()}))


def _handler_of(server: RewardServer, kind: str) -> Callable[[Request, Exception], Awaitable[Response]]:
    """Answers an error that the framework raised, in the form of all others."""

    async def answer(request: Request, error: Any) -> Response:
        problem = Problem(error.status_code, kind, f"{request.method} {request.url.path}: {error.detail}")
        server.metrics.rejected.labels(kind).inc()
        allow = {"Allow": _allowed(request)} if error.status_code == 405 else {}
        return JSONResponse(problem.body, problem.status, {**(error.headers or {}), **allow})

    return answer
