"""``robometer-rl ui``: the studio, from the command line."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Literal

import tyro

from robometer_rl.extras import require
from robometer_rl.models.loading import family_of, load_reward_model
from robometer_rl.models.reward_model import RewardModel
from robometer_rl.report.terminal import open_console
from robometer_rl.serving.commands import in_address, is_loopback, listening
from robometer_rl.serving.connection import without_token
from robometer_rl.studio.asking import Models
from robometer_rl.studio.episodes import Library
from robometer_rl.studio.material import Material
from robometer_rl.studio.notes import Notes

__all__ = ["UiConfig", "run_ui"]


@dataclass(frozen=True)
class UiConfig:
    """Open a studio in the browser: score, compare, browse and label recordings (docs/studio.md).

    Works offline: nothing is asked of the internet, and nothing is reported.
    """

    server: str | None = None
    """Address of a reward server, as in http://HOST:8000, whose model is asked."""
    model: tuple[str, ...] = ()
    """Models of this process, loaded when they are first asked; the embedded 'mini' if nothing is given."""
    data: tuple[Path, ...] = ()
    """Folders and files to look at; nothing else on the disk is shown."""
    camera: tuple[str, ...] = ()
    """Cameras of data sets that have several."""
    notes: Path = Path("outputs/studio")
    """Folder for flags, answers of models, and preferences, as files of one JSON object per line."""
    host: str = "127.0.0.1"
    """Address to listen at."""
    port: int = 7860
    """Port to listen at; 0 for a free one, which is printed."""
    public: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Listen where others reach it, too: there is no password, and whoever comes sees the data and asks the models."""
    upload_mb: int = 200
    """The most megabytes of an upload."""
    device: str = "cpu"
    """Where models of this process run, such as 'cuda'."""
    dtype: Literal["float32", "bfloat16", "float16"] | None = None
    """Their precision; as stored in the checkpoint if not given."""

    def __post_init__(self) -> None:
        if not 0 <= self.port < 1 << 16:
            raise ValueError(f"port is {self.port}; expected 0 to 65535")
        if self.upload_mb < 1:
            raise ValueError(f"upload_mb is {self.upload_mb}; expected at least 1")
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
    from robometer_rl.studio.app import application

    models = config.models()
    if config.server is not None:
        models.get(models.names[0])  # whether there is one is known in a moment
    with tempfile.TemporaryDirectory(prefix="robometer-studio-") as uploads:
        material = Material(config.data, Path(uploads))
        hosts = ("*",) if config.public else (config.host, "localhost", "127.0.0.1")
        with listening(config.host, config.port) as listener:
            library, notes = Library(config.data, config.camera), Notes(config.notes)
            app = application(models, material, library, notes, config.upload_mb, hosts)
            where = f"http://{in_address(config.host)}:{listener.getsockname()[1]}"
            open_console().print(f"the studio is at {where}; Ctrl-C ends it", soft_wrap=True)
            options = uvicorn.Config(app, log_level="warning", access_log=False, timeout_graceful_shutdown=1)
            uvicorn.Server(options).run(sockets=[listener])
