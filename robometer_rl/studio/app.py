"""The studio as a web application: its pages, and what it lets nobody do.

A browser that shows it asks nothing of any other host: a content security policy forbids it, whatever a library or a
recording's name would have it load. Nothing is counted or reported. Files are served from the folder of uploads alone,
which is emptied of what is an hour old, and removed at the end.
"""

from __future__ import annotations

import os
from functools import cache
from importlib.resources import files
from typing import Any, Final

from robometer_rl.extras import require
from robometer_rl.report.replay import replay_head
from robometer_rl.studio.asking import Models
from robometer_rl.studio.browsing import BrowsePage
from robometer_rl.studio.comparing import compare_page
from robometer_rl.studio.episodes import Library
from robometer_rl.studio.labelling import LabelPage
from robometer_rl.studio.live import Runs, live_page, live_routes
from robometer_rl.studio.material import Material
from robometer_rl.studio.notes import Notes
from robometer_rl.studio.parts import markup
from robometer_rl.studio.results import results_page
from robometer_rl.studio.scoring import score_page

__all__ = ["application"]

_POLICY: Final = "default-src 'self' 'unsafe-inline' 'unsafe-eval' blob: data:; base-uri 'self'; frame-ancestors 'self'"
_HUB: Final = " https://huggingface.co"  # shows a Space within a page of its own
_HEADERS: Final = (
    (b"referrer-policy", b"no-referrer"),
    (b"x-content-type-options", b"nosniff"),
)
_SCRIPTS: Final = ("studio.js", "live.js", "webcam.js")
_SWEEP_S: Final = 600
_KEPT_S: Final = 3600
_WAITING: Final = 32  # questions that may stand in the queue


def application(
    models: Models,
    material: Material,
    library: Library,
    notes: Notes,
    upload_bytes: int = 200_000_000,
    hosts: tuple[str, ...] = ("*",),
    path: str = "/",
    runs: Runs | None = None,
) -> Any:
    """An ASGI application with all pages.

    Args:
        models: Who can be asked.
        material: Which recordings can be looked at.
        library: Which data sets can be browsed.
        notes: Where flags, answers and preferences are kept.
        upload_bytes: The most bytes of an upload.
        hosts: Names that browsers may call this server by; others are refused, so that no page of the internet can
            have its own name lead here.
        path: What the addresses of all pages begin with.
        runs: Which training runs are shown; none if None.
    """
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    os.environ["GRADIO_TEMP_DIR"] = str(material.uploads)
    gr, fastapi = require("gradio", "ui"), require("fastapi", "ui")
    hosts_only = require("starlette.middleware.trustedhost", "ui").TrustedHostMiddleware
    redirect = require("starlette.responses", "ui").RedirectResponse
    app = fastapi.FastAPI(openapi_url=None)
    app.add_middleware(hosts_only, allowed_hosts=list(hosts))
    app.add_middleware(_OnlyHere)
    if path != "/":  # browsers look for the icon there, and Gradio has it below its path
        app.add_api_route("/favicon.ico", lambda: redirect(f"{path}/favicon.ico"))
    live_routes(app, runs or Runs(()), path)
    return gr.mount_gradio_app(
        app,
        _pages(models, material, library, notes, at_first="live" if runs and not material.places else "score"),
        path=path,
        theme=gr.themes.Default(
            primary_hue="blue",
            neutral_hue="slate",
            font=["system-ui", "sans-serif"],  # of the browser: none is fetched
            font_mono=["ui-monospace", "monospace"],
        ),
        css=_asset("studio.css"),
        head="".join([replay_head(), *(f"<script>\n{_asset(name)}</script>" for name in _SCRIPTS)]),
        max_file_size=upload_bytes,
        footer_links=[],
        show_error=False,
        ssr_mode=False,
        pwa=False,
        mcp_server=False,
        enable_monitoring=False,
    )


def _pages(models: Models, material: Material, library: Library, notes: Notes, at_first: str) -> Any:
    gr = require("gradio", "ui")
    with gr.Blocks(
        title="Robometer studio", analytics_enabled=False, delete_cache=(_SWEEP_S, _KEPT_S), fill_width=True
    ) as blocks:
        markup("<h1 class='studio-title'>Robometer studio</h1>")
        with gr.Tabs(elem_id="studio-tabs", overflow_behavior="wrap", selected=at_first):
            with gr.Tab("Score", id="score"):
                score_page(models, material)
            with gr.Tab("Compare", id="compare"):
                compare_page(models, material)
            with gr.Tab("Browse", id="browse"):
                browse = BrowsePage(library, models, notes)
            with gr.Tab("Label", id="label"):
                LabelPage(library, models, notes)
            with gr.Tab("Live", id="live"):
                live_page()
            with gr.Tab("Evaluate", id="evaluate"):
                results_page(material)
        browse.open_at(blocks)
    blocks.space_id = None  # or pages of a Space ask for fonts elsewhere
    blocks.queue(max_size=_WAITING, default_concurrency_limit=2)
    return blocks


@cache
def _asset(name: str) -> str:
    return (files("robometer_rl") / "assets" / "studio" / name).read_text(encoding="utf-8")


class _OnlyHere:
    """Adds to every answer that nothing of other hosts may be loaded."""

    def __init__(self, app: Any) -> None:
        self._app = app
        policy = _POLICY + (_HUB if "SPACE_ID" in os.environ else "")
        self._headers = ((b"content-security-policy", policy.encode()), *_HEADERS)

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        async def answer(message: Any) -> None:
            if message["type"] == "http.response.start":
                message = {**message, "headers": [*message.get("headers", ()), *self._headers]}
            await send(message)

        await self._app(scope, receive, answer)
