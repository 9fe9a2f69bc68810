"""``robometer-rl serve``: a reward model for other processes and machines."""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import os
import secrets
import signal
import socket
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal

import tyro

from robometer_rl.extras import require
from robometer_rl.models.loading import load_reward_model
from robometer_rl.models.reward_model import RewardModel
from robometer_rl.report.terminal import open_console
from robometer_rl.serving.limits import Limits

if TYPE_CHECKING:
    from robometer_rl.serving.gate import Door, WithPages
    from robometer_rl.serving.service import Settings

__all__ = ["PAGES", "ServeConfig", "in_address", "is_loopback", "listening", "read_tokens", "run_serve", "serve"]

logger = logging.getLogger(__name__)

TOKEN_VARIABLE: Final = "ROBOMETER_RL_TOKEN"

PAGES: Final = "/ui"
"""Where pages for people are, if there are any."""


@dataclass(frozen=True)
class ServeConfig:
    """Serve a reward model to other processes and machines: docs/serving.md.

    Whoever gives http://HOST:PORT as the name of a model is paid by it, from any environment that has NumPy. Programs
    written for the reference's evaluation server are answered, too.
    """

    model: str = "mini"
    """The embedded 'mini', a checkpoint directory, a Hub id ('ID@REVISION'), or FAMILY:WHERE."""
    host: str = "127.0.0.1"
    """Address to listen at; 0.0.0.0 for all of this machine, which asks for a token."""
    port: int = 8000
    """Port to listen at; 0 for a free one, which is printed."""
    device: str = "cpu"
    """Where the model runs, such as 'cuda'."""
    dtype: Literal["float32", "bfloat16", "float16", "auto"] | None = None
    """Precision of the model; as stored in the checkpoint if not given."""
    token_file: Path | None = None
    """File with the tokens that clients may show, one a line; the environment variable ROBOMETER_RL_TOKEN if not
    given."""
    no_token: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Let anybody who reaches this machine ask, and with --ui look."""
    no_reference_routes: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Leave out /evaluate_batch, /evaluate_batch_npy, /gpu_status and /model_info."""
    stream_memory_gb: float = 4.0
    """Memory that the histories of streams may take; beyond it streams are refused."""
    lease_s: float = 600.0
    """Forget a stream that was not used for so many seconds."""
    grace_s: float = 20.0
    """Seconds that requests have to be answered after SIGTERM."""
    exact: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Ask the model about one request at a time: numbers do not depend on who else asks, and several clients wait
    longer."""
    replicas: int = 1
    """Copies of the model, each on a GPU of its own if there are; more than one are run by Ray (docs/serving.md)."""
    gpus_per_replica: float | None = None
    """GPUs of a replica; 1 where the device is 'cuda' if not given, else 0."""
    ssl_certfile: Path | None = None
    """Certificate, for https."""
    ssl_keyfile: Path | None = None
    """Its key."""
    limits: Limits = field(default_factory=Limits)
    """What is taken at most."""

    def __post_init__(self) -> None:
        if not 0 <= self.port < 1 << 16:
            raise ValueError(f"port is {self.port}; expected 0 to 65535")
        if self.replicas < 1:
            raise ValueError(f"replicas is {self.replicas}; expected 1 or more")
        for name in ("stream_memory_gb", "lease_s", "grace_s"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} is {getattr(self, name)}; expected a positive number")


def run_serve(config: ServeConfig) -> None:
    """Serves until SIGTERM or Ctrl-C; what is being answered then is finished."""
    serve(config, partial(load_reward_model, config.model, config.device, config.dtype))


def read_tokens(config: ServeConfig) -> tuple[str, ...]:
    """The tokens that clients may show; none if anybody may ask.

    Raises:
        ValueError: None was given, and others than this machine may reach the server; or there is none in its place.
        OSError: Its file cannot be read.
    """
    text = os.environ.get(TOKEN_VARIABLE)
    if config.token_file is not None:
        text = config.token_file.read_text(encoding="utf-8")
    tokens = tuple(dict.fromkeys(line.strip() for line in (text or "").splitlines() if line.strip()))
    if text is not None and not tokens:
        raise ValueError(f"the token in {config.token_file or TOKEN_VARIABLE} is empty")
    if config.no_token:
        return ()
    if not tokens and not is_loopback(config.host):
        raise ValueError(
            f"the host {config.host!r} can be reached by others: give a token with --token-file or {TOKEN_VARIABLE}, "
            "or say --no-token"
        )
    return tokens


def serve(config: ServeConfig, load: Callable[[], RewardModel], pages: Callable[[str, int], Any] | None = None) -> None:
    """Serves a model; see `run_serve`.

    Args:
        config: How.
        load: Gives the model.
        pages: Makes the pages for people, see `robometer_rl.serving.gate.WithPages`, of the address at which they reach
            the server as one more client of it, and of the most bytes of a request; None for no pages.

    Raises:
        OSError: The port is taken.
        Exception: What loading the model raised.
    """
    tokens = read_tokens(config)
    for package in ("fastapi", "prometheus_client", "python_multipart"):
        require(package, "serve")
    uvicorn = require("uvicorn", "serve")
    from robometer_rl.serving.gate import WithPages
    from robometer_rl.serving.service import Settings

    # Pages have a token of their own, and so their own share of the queue.
    own = secrets.token_urlsafe() if tokens and pages is not None else ""
    settings = Settings(
        limits=config.limits,
        tokens=(*tokens, own) if own else tokens,
        stream_bytes=int(config.stream_memory_gb * 1e9),
        lease_s=config.lease_s,
        exact=config.exact,
        reference_routes=not config.no_reference_routes,
    )
    with listening(config.host, config.port) as listener:
        port = listener.getsockname()[1]
        here = f"http://{f':{own}@' if own else ''}{_reached_at(config.host)}:{port}"
        shown = None if pages is None else pages(here, config.limits.body)  # or why not, before a model is loaded
        service = _service(config, load, settings)
        with_pages = None if shown is None else WithPages(service.app, shown, PAGES, service.door)
        scheme = "http" if config.ssl_certfile is None else "https"
        where = f"{scheme}://{in_address(config.host)}:{port}"
        options = uvicorn.Config(
            with_pages or service.app,
            log_level="warning",
            access_log=False,
            timeout_keep_alive=75,
            ssl_certfile=config.ssl_certfile,
            ssl_keyfile=config.ssl_keyfile,
        )
        asyncio.run(_until_stopped(uvicorn.Server(options), service, listener, config, where, with_pages))
        service.close()
    open_console().print("stopped; clients go on when the server is started again", soft_wrap=True)


@dataclass(frozen=True)
class _Service:
    """What answers.

    Attributes:
        app: The ASGI application.
        door: Who may come in.
        loaded: Done when requests can be answered.
        ended: Done when they cannot be any more.
        close: Ends it.
    """

    app: Any
    door: Door
    loaded: Future[Any]
    ended: Future[None]
    close: Callable[[], None]


def _service(config: ServeConfig, load: Callable[[], RewardModel], settings: Settings) -> _Service:
    """The model in this process, or replicas of it in others."""
    if config.replicas > 1:
        require("ray.serve", "ray")
        from robometer_rl.serving.replicas import Replicas

        gpus = config.gpus_per_replica
        if gpus is None:
            gpus = float(config.device.startswith("cuda"))
        several = Replicas(load, settings, config.replicas, gpus, config.grace_s)
        return _Service(several.app, several.door, several.loaded, several.ended, several.close)
    from robometer_rl.serving.app import application
    from robometer_rl.serving.service import RewardServer

    server = RewardServer(load, settings)
    return _Service(application(server), server.door, server.thread.loaded, server.thread.ended, server.thread.close)


async def _until_stopped(
    uvicorn: Any, service: _Service, listener: Any, config: ServeConfig, where: str, pages: WithPages | None
) -> None:
    """Answers from the first moment on, with 503 until the model is there."""
    loop = asyncio.get_running_loop()
    stopping = asyncio.Event()

    def stop(number: int, frame: FrameType | None) -> None:
        if stopping.is_set():
            uvicorn.force_exit = True
        loop.call_soon_threadsafe(stopping.set)

    uvicorn.handle_exit = stop
    answering = asyncio.create_task(uvicorn.serve(sockets=[listener]))
    loading, ended = asyncio.wrap_future(service.loaded), asyncio.wrap_future(service.ended)
    stopped = asyncio.create_task(stopping.wait())
    console = open_console()
    console.print(f"listening at {where}; loading {config.model}", soft_wrap=True)
    if pages is not None:
        console.print(f"the studio is at {where}{PAGES}", soft_wrap=True)
    await asyncio.wait({answering, loading, stopped}, return_when=asyncio.FIRST_COMPLETED)
    if loading.done() and loading.exception() is None:
        # Ray has put handlers of its own before them.
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, stop)
        console.print(f"serving {config.model} at {where}", soft_wrap=True)
        await asyncio.wait({answering, stopped, ended}, return_when=asyncio.FIRST_COMPLETED)
    broken = ended.exception() if ended.done() else None
    if broken is not None:
        uvicorn.should_exit = uvicorn.force_exit = True
        raise broken
    await _drain(service.door, config.grace_s)
    if pages is not None:
        pages.end()
    uvicorn.should_exit = True
    await answering
    stopped.cancel()


async def _drain(door: Door, seconds: float) -> None:
    """Lets requests be answered that have begun."""
    door.draining = True
    try:
        async with asyncio.timeout(seconds):
            while door.requests:
                await asyncio.sleep(0.02)
    except TimeoutError:
        logger.warning("%d requests were not answered within %g s", door.requests, seconds)


def listening(host: str, port: int) -> socket.socket:
    """A socket that the kernel accepts connections for from now on.

    Raises:
        OSError: The port is taken, or the host is not this machine's.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # With its protocol said, or asyncio does not see that it may send small packets at once (TCP_NODELAY): an answer of
    # two packets would wait for the acknowledgement of the first, which comes after 40 ms.
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except OSError as error:
        listener.close()
        raise OSError(f"cannot listen at {host}:{port}: {error.strerror}; choose another --port") from error
    listener.listen(1024)
    return listener


def _reached_at(host: str) -> str:
    """Where this machine reaches what listens there, as addresses have it."""
    everywhere = {"0.0.0.0": "127.0.0.1", "::": "::1"}
    return in_address(everywhere.get(host, host))


def in_address(host: str) -> str:
    """A host as addresses have it."""
    return f"[{host}]" if ":" in host else host


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches what listens there."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
