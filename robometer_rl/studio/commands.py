"""``robometer-rl ui``, and ``robometer-rl serve`` with the studio beside its routes."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from robometer_rl.extras import require
from robometer_rl.models.loading import family_of, load_reward_model
from robometer_rl.models.reward_model import RewardModel
from robometer_rl.report.terminal import open_console
from robometer_rl.serving import commands
from robometer_rl.serving.commands import PAGES, in_address, is_loopback, listening
from robometer_rl.serving.connection import without_token
from robometer_rl.studio.asking import Models

__all__ = ["ServeConfig", "StudioOptions", "UiConfig", "run_serve", "run_ui"]


@dataclass(frozen=True)
class StudioOptions:
    """What a studio shows, and where it keeps what is noted."""

    data: tuple[Path, ...] = ()
    """Folders and files that the studio shows; nothing else on the disk is."""
    camera: tuple[str, ...] = ()
    """Cameras of data sets that have several."""
    tile: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Show these cameras in one tiled picture, the first on top, to models that were trained on such."""
    task: tuple[str, ...] = ()
    """Instruction of every episode, in place of those of the data; needed by videos without a videos.jsonl."""
    live: tuple[Path, ...] = ()
    """Folders of training runs to watch, or folders above them; they may begin later."""
    notes: Path = Path("outputs/studio")
    """Folder for flags, answers of models, and preferences, as files of one JSON object per line."""
    upload_mb: int = 200
    """The most megabytes of an upload."""

    def __post_init__(self) -> None:
        if self.upload_mb < 1:
            raise ValueError(f"upload_mb is {self.upload_mb}; expected at least 1")


@dataclass(frozen=True)
class UiConfig(StudioOptions):
    """Open a studio in the browser: score, compare, browse and label recordings, watch training (docs/studio.md).

    Works offline: nothing is asked of the internet, and nothing is reported.
    """

    server: str | None = None
    """Address of a reward server, as in http://HOST:8000, whose model is asked."""
    model: tuple[str, ...] = ()
    """Models of this process, loaded when they are needed; the embedded 'mini' if nothing is given."""
    host: str = field(default_factory=lambda: os.environ.get("GRADIO_SERVER_NAME", "127.0.0.1"))
    """Address to listen at; the environment variable GRADIO_SERVER_NAME if not given."""
    port: int = field(default_factory=lambda: int(os.environ.get("GRADIO_SERVER_PORT", "7860")))
    """Port to listen at, GRADIO_SERVER_PORT if not given; 0 for a free one, which is printed."""
    public: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Listen where others reach it, too: there is no password, and whoever comes sees the data and asks the models."""
    device: str = "cpu"
    """Where models of this process run, such as 'cuda'."""
    dtype: Literal["float32", "bfloat16", "float16", "auto"] | None = None
    """Their precision; as stored in the checkpoint if not given."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.port < 1 << 16:
            raise ValueError(f"port is {self.port}; expected 0 to 65535")
        if not self.public and not is_loopback(self.host):
            raise ValueError(
                f"the host {self.host!r} can be reached by others, and the studio has no password: say --public if "
                "that is meant, or listen at 127.0.0.1 and come through a tunnel (ssh -L)"
            )
        for name in self.model:
            family_of(name)

    def models(self) -> Models:
        """Those that can be asked, the one that is asked first in front."""
        loaders: dict[str, Callable[[], RewardModel]] = {}
        if self.server is not None:
            loaders[without_token(self.server)] = partial(load_reward_model, self.server)
        for name in self.model or (() if loaders else ("mini",)):
            loaders[name] = partial(load_reward_model, name, self.device, self.dtype)
        return Models(loaders)


def run_ui(config: UiConfig) -> None:
    """Serves the studio until Ctrl-C."""
    require("gradio", "ui")
    uvicorn = require("uvicorn", "ui")
    models = config.models()
    if config.server is not None:
        models.get(models.names[0])  # whether there is one is known in a moment
    with _uploads() as uploads, listening(config.host, config.port) as listener:
        app = _studio(config, models, uploads, config.host, 10**6 * config.upload_mb, is_open=config.public)
        where = f"http://{in_address(config.host)}:{listener.getsockname()[1]}"
        if not config.data:  # there is nothing to be done but to ask a model
            models.begin(models.names[0])
        open_console().print(f"the studio is at {where}; Ctrl-C ends it", soft_wrap=True)
        options = uvicorn.Config(app, log_level="warning", access_log=False, timeout_graceful_shutdown=1)
        uvicorn.Server(options).run(sockets=[listener])


@dataclass(frozen=True)
class ServeConfig(StudioOptions, commands.ServeConfig):
    """Serve a reward model to other processes and machines: docs/serving.md.

    Whoever gives http://HOST:PORT as the name of a model is paid by it, from any environment that has NumPy. Programs
    written for the reference's evaluation server are answered, too.
    """

    ui: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Open the studio at /ui, too, for whoever may ask the model (extra ui): browsers are asked for the token."""

    def __post_init__(self) -> None:
        StudioOptions.__post_init__(self)
        commands.ServeConfig.__post_init__(self)
        if (self.data or self.live) and not self.ui:
            raise ValueError("data and live are what the studio shows: say --ui, too")
        if self.ui and self.ssl_certfile is not None:
            raise ValueError("the studio asks this server without encryption: put a proxy in front for https")


def run_serve(config: ServeConfig) -> None:
    """Serves a model until SIGTERM or Ctrl-C, and the studio if it is wanted; what is being answered then is finished.

    The studio is a client of the server, under a token of its own.
    """
    if not config.ui:
        commands.run_serve(config)
        return
    require("gradio", "ui")
    with _uploads() as uploads:

        def pages(address: str, most: int) -> Any:
            models = Models({config.model: partial(load_reward_model, address)})
            # Of a host that others reach any name may be meant; there the token decides.
            is_open = not is_loopback(config.host)
            return _studio(config, models, uploads, config.host, min(most, 10**6 * config.upload_mb), is_open, PAGES)

        commands.serve(config, partial(load_reward_model, config.model, config.device, config.dtype), pages)


@contextmanager
def _uploads() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="robometer-studio-") as folder:
        yield Path(folder)


def _studio(
    options: StudioOptions, models: Models, uploads: Path, host: str, most: int, is_open: bool, path: str = "/"
) -> Any:
    # A server without pages does not wait for what reads data sets and videos.
    from robometer_rl.studio.app import application
    from robometer_rl.studio.episodes import Library
    from robometer_rl.studio.live import Runs
    from robometer_rl.studio.material import Material
    from robometer_rl.studio.notes import Notes

    hosts = ("*",) if is_open else (host, "localhost", "127.0.0.1")
    library, notes = Library(options.data, options.camera, options.tile, options.task), Notes(options.notes)
    runs = Runs(options.live) if options.live else None
    return application(models, Material(options.data, uploads), library, notes, most, hosts, path, runs)
