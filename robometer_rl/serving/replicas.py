"""Replicas of a server on the GPUs of one or many machines, run by Ray Serve (extra ``ray``).

Each replica is a server as it is without Ray, with a model of its own; Ray starts it where there is a GPU, and again
when it dies. In front of them stands this process, with the door and the address that clients know. It sends a call of
a stream to the replica that has its histories, whose number the name of the stream begins with, and everything else to
the one that has least to do. What a replica forgets when it dies its clients rebuild.

A stream belongs to a replica, so each is a deployment of its own: Ray Serve would send calls of one stream to several
replicas of a deployment.
"""

from __future__ import annotations

import asyncio
import logging
import os
import re
import threading
from collections.abc import Callable, Iterable, MutableMapping
from concurrent.futures import Future
from dataclasses import replace
from typing import Any, Final

from prometheus_client.core import Metric
from prometheus_client.exposition import generate_latest
from prometheus_client.parser import text_string_to_metric_families

from robometer_rl.models.reward_model import RewardModel
from robometer_rl.serving.app import application
from robometer_rl.serving.calls import Attempt
from robometer_rl.serving.gate import Door, Gate
from robometer_rl.serving.metrics import Metrics
from robometer_rl.serving.problems import Problem
from robometer_rl.serving.service import RewardServer, Settings

__all__ = ["Replica", "Replicas"]

logger = logging.getLogger(__name__)

Reply = tuple[int, list[tuple[bytes, bytes]], bytes]
"""Status, headers and body of an answer."""

_STREAM: Final = re.compile(r"/v1/streams/(\d{1,6})-[0-9a-f]+(/\w+)?")


class Replica:
    """A server in a process of Ray; there when its model is.

    Args:
        load: Gives the model.
        settings: How to serve.
    """

    def __init__(self, load: Callable[[], RewardModel], settings: Settings) -> None:
        self._server = RewardServer(load, settings)
        self._app = application(self._server)
        self._server.thread.loaded.result()

    def check_health(self) -> None:
        """Raises what has ended the thread of the model, so that Ray starts the replica again."""
        if self._server.thread.ended.done():
            self._server.thread.ended.result()

    async def answer(self, scope: dict[str, Any], body: bytes) -> Reply:
        """What the server answers to a request."""
        begun, parts = {"status": 500, "headers": []}, []
        messages = iter([{"type": "http.request", "body": body, "more_body": False}])

        async def receive() -> dict[str, Any]:
            if (message := next(messages, None)) is not None:
                return message
            return await asyncio.get_running_loop().create_future()  # the end of the connection is not known here

        async def send(message: MutableMapping[str, Any]) -> None:
            if message["type"] == "http.response.start":
                begun.update(message)
            else:
                parts.append(message.get("body", b""))

        await self._app(scope, receive, send)
        return begun["status"], list(begun["headers"]), b"".join(parts)


class Replicas:
    """The process in front: an ASGI application that has others answer.

    Args:
        load: Gives the model; must be one that can be pickled.
        settings: How to serve.
        count: Number of replicas.
        gpus: GPUs of each.
        grace_s: Seconds that a replica has to finish when it is stopped.

    Attributes:
        app: The application.
        door: Who may come in.
        loaded: Done when all replicas are there, or with the reason why they are not.
        ended: Done when they were stopped.
    """

    def __init__(
        self, load: Callable[[], RewardModel], settings: Settings, count: int, gpus: float, grace_s: float
    ) -> None:
        self.door = Door(settings.limits, settings.tokens, Metrics())
        self.app = Gate(self, self.door)
        self.loaded: Future[None] = Future()
        self.ended: Future[None] = Future()
        self._busy = [0] * count
        self._turn = 0
        self._asked: list[Any] = []
        self._stop = threading.Event()
        arguments = (load, settings, gpus, grace_s)
        self._thread = threading.Thread(target=self._run, args=arguments, name="robometer-replicas", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stops the replicas."""
        self._stop.set()
        self._thread.join()

    def _run(self, *arguments: Any) -> None:
        # All of it on one thread: what Ray starts ends with the thread that started it.
        with Attempt() as attempt:
            self._start(*arguments)
        if attempt.error is not None:
            self.loaded.set_exception(attempt.error)
            self.ended.set_exception(attempt.error)
            return
        self.loaded.set_result(None)
        self._stop.wait()
        import ray
        from ray import serve

        for number in range(len(self._asked)):
            serve.delete(_name(number))
        # Disconnects; a Ray that was started here ends, and one that others use goes on.
        ray.shutdown()
        self.ended.set_result(None)

    def _start(self, load: Callable[[], RewardModel], settings: Settings, gpus: float, grace_s: float) -> None:
        import ray
        from ray import serve

        logging.getLogger("ray.serve").setLevel(logging.ERROR)
        if not ray.is_initialized():
            os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
            ray.init(include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
        # Clients come to this process.
        serve.start(proxy_location="Disabled")
        deployment = serve.deployment(
            Replica,
            name="replica",
            ray_actor_options={"num_gpus": gpus, "num_cpus": 1},
            max_ongoing_requests=settings.limits.requests,
            graceful_shutdown_timeout_s=grace_s,
        )
        targets = [
            serve.RunTarget(
                deployment.bind(load, replace(settings, tokens=(), prefix=f"{number}-")), _name(number), None
            )
            for number in range(len(self._busy))
        ]
        self._asked += [handle.answer for handle in serve.run_many(targets)]

    async def __call__(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        """Has a request answered; see the ASGI specification."""
        if scope["type"] == "lifespan":
            await _live(receive, send)
            return
        body = (await receive())["body"]
        if scope["path"] == "/ready" and self.door.draining:
            raise Problem(503, "draining", "this server is being stopped")
        if not self.loaded.done():
            raise Problem(503, "loading", "the replicas are being started; ask again", retry_after=1)
        if scope["path"] == "/metrics":
            status, headers, body = await self._metrics(scope)
        else:
            status, headers, body = await self._have_answered(self._replica_for(scope["path"]), scope, body)
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    def _replica_for(self, path: str) -> int:
        found = _STREAM.fullmatch(path)
        if found is not None and int(found[1]) < len(self._busy):
            return int(found[1])
        self._turn += 1
        numbers = range(len(self._busy))
        return min(numbers, key=lambda number: (self._busy[number], (number - self._turn) % len(self._busy)))

    async def _have_answered(self, number: int, scope: dict[str, Any], body: bytes) -> Reply:
        from ray.exceptions import RayError

        asked = {name: scope[name] for name in ("type", "method", "path", "headers", "query_string", "http_version")}
        asked |= {"raw_path": scope.get("raw_path", b""), "scheme": scope.get("scheme", "http")}
        self._busy[number] += 1
        try:
            return await self._asked[number].remote(asked, body)
        except RayError as error:
            logger.warning("replica %d did not answer: %s", number, str(error).strip().splitlines()[-1])
            message = f"replica {number} is gone and is started again; ask again"
            raise Problem(503, "replica_gone", message, retry_after=1) from error
        finally:
            self._busy[number] -= 1

    async def _metrics(self, scope: dict[str, Any]) -> Reply:
        """What all replicas count, each under its number, and what this process counts."""
        numbers = range(len(self._asked))
        replies = await asyncio.gather(*(self._have_answered(number, scope, b"") for number in numbers))
        texts = {str(number): body.decode() for number, (_, _, body) in zip(numbers, replies, strict=True)}
        merged = generate_latest(_Merged({**texts, "front": self.door.metrics.text().decode()}))
        headers = {"content-type": "text/plain; version=0.0.4; charset=utf-8", "content-length": str(len(merged))}
        return 200, [(name.encode(), value.encode()) for name, value in headers.items()], merged


class _Merged:
    """Counters of several servers, told apart by the label ``replica``."""

    def __init__(self, texts: dict[str, str]) -> None:
        self._texts = texts

    def collect(self) -> Iterable[Metric]:
        """See `prometheus_client.registry.Collector`."""
        found: dict[str, Metric] = {}
        for replica, text in self._texts.items():
            for family in text_string_to_metric_families(text):
                merged = found.setdefault(family.name, Metric(family.name, family.documentation, family.type))
                for sample in family.samples:
                    merged.add_sample(sample.name, {**sample.labels, "replica": replica}, sample.value)
        return found.values()


def _name(number: int) -> str:
    return f"robometer-reward-{number}"


async def _live(receive: Any, send: Any) -> None:
    """Begins and ends with the server."""
    while True:
        kind = (await receive())["type"]
        await send({"type": f"{kind}.complete"})
        if kind == "lifespan.shutdown":
            return
