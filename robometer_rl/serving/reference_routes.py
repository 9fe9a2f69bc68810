"""The routes of the reference's evaluation server, for its client script and programs written for it.

They answer as the reference does where it answers. Where it fails without a reason, or answers something else than was
asked, they answer what was meant or say what is wrong: clips of different lengths and pairs in one request, one frame
with ``use_frame_steps``, pixels in JSON, frames that are no RGB frames. docs/serving.md lists the differences.
"""

from __future__ import annotations

import asyncio
import io
import json
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, cast

import numpy as np
from fastapi import FastAPI, Request, Response, UploadFile
from fastapi.responses import JSONResponse
from numpy.typing import NDArray

from robometer_rl.archives import ARCHIVE_DAMAGE
from robometer_rl.documents import DocumentError, brief, parse_json
from robometer_rl.extras import require
from robometer_rl.frames import Clip, FrameError, as_frames
from robometer_rl.models.reward_model import RewardModel, UnsupportedByModelError
from robometer_rl.prediction import Prediction
from robometer_rl.serving import openapi
from robometer_rl.serving.calls import Question
from robometer_rl.serving.limits import Limits
from robometer_rl.serving.problems import Problem
from robometer_rl.serving.service import RewardServer
from robometer_rl.tiles import TileLayout, tile_views

__all__ = ["ReferenceRoutes", "read_npy"]

_PARTS: Final = 1024
# With `use_frame_steps` every prefix of a clip is shown as so many frames.
_SHOWN: Final = 4
_VIEWS: Final = 16
_LONGEST_HEADER: Final = 10_000

Parts = Mapping[str, bytes]


@dataclass(frozen=True)
class _Sample:
    """One sample of a request: a clip, or a pair with the chosen clip first."""

    item: Clip | tuple[Clip, Clip]


class ReferenceRoutes:
    """``/evaluate_batch``, ``/evaluate_batch_npy``, ``/gpu_status`` and ``/model_info``."""

    def __init__(self, server: RewardServer) -> None:
        self._server = server

    def add(self, app: FastAPI) -> None:
        """Adds them to an application."""
        app.add_api_route("/evaluate_batch", self.evaluate_batch, methods=["POST"], openapi_extra=openapi.SAMPLES)
        form = openapi.SAMPLES_NPY
        app.add_api_route("/evaluate_batch_npy", self.evaluate_batch_npy, methods=["POST"], openapi_extra=form)
        app.add_api_route("/gpu_status", self.gpu_status, methods=["GET"])
        app.add_api_route("/model_info", self.model_info, methods=["GET"])

    async def evaluate_batch(self, request: Request) -> Response:
        """Samples as one JSON object, pixels as nested lists."""
        _require_type(request, "application/json")
        text = await request.body()
        try:
            given = await asyncio.to_thread(lambda: parse_json(text.decode()))
        except (DocumentError, UnicodeDecodeError) as error:
            raise Problem(400, "malformed", f"the body is not read: {error}") from error
        if not isinstance(given, dict) or not isinstance(given.get("samples"), list):
            raise Problem(422, "value", f"the body is {brief(given)}; expected an object with a list 'samples'")
        return await self._evaluate(request, given["samples"], {}, given.get("use_frame_steps", False))

    async def evaluate_batch_npy(self, request: Request) -> Response:
        """Samples as text fields of a form, arrays as files of it."""
        _require_type(request, "multipart/form-data")
        texts: dict[int, str] = {}
        files: dict[str, bytes] = {}
        steps: object = False
        async with request.form(max_files=_PARTS, max_fields=_PARTS) as form:
            for name, value in form.multi_items():
                if isinstance(value, str):
                    if name == "use_frame_steps":
                        steps = value
                    elif found := re.fullmatch(r"sample_(\d{1,6})", name):
                        texts[int(found[1])] = value
                else:
                    files[name] = await cast(UploadFile, value).read()
        samples = [_object(texts[number], f"sample_{number}") for number in sorted(texts)]
        return await self._evaluate(request, samples, files, steps)

    async def gpu_status(self) -> Response:
        """How much the model has worked; it is one, whatever it runs on."""
        metrics, model = self._server.metrics, self._server.thread.model
        status = "ready" if not self._server.door.requests else "processing"
        worked = {
            "total_requests": metrics.passes,
            "total_processing_time": metrics.busy_seconds,
            "last_used": metrics.last_used,
            "status": status,
        }
        free = int(model is not None and status == "ready")
        counts = {"total_gpus": 1, "available_gpus": free, "max_workers": 1, "pool_size": 1}
        return JSONResponse(counts | {"gpu_stats": {"0": worked}})

    async def model_info(self) -> Response:
        """Which model answers, as far as clients of the reference ask."""
        model = self._server.model
        return JSONResponse(json.loads(json.dumps(_facts(model), default=str)))

    async def _evaluate(self, request: Request, samples: list[Any], files: Parts, steps: object) -> Response:
        limits = self._server.settings.limits
        limits.check_count(len(samples), "samples", "samples")
        model = self._server.model
        read = [_read_sample(sample, number, files, limits, model) for number, sample in enumerate(samples)]
        # Reading pixels from text takes long enough for others to notice.
        items = [sample.item for sample in await asyncio.to_thread(lambda: [sample() for sample in read])]
        clips = [item for item in items if isinstance(item, Clip)]
        pairs = [item for item in items if not isinstance(item, Clip)]
        asked = []
        if clips:
            asked.append(self._progress(request, clips, _boolean(steps)))
        if pairs:
            asked.append(self._server.ask(request, Question(kind="compare", items=pairs)))
        # One after the other: only one of them can listen whether the client is still there.
        answers = [await question for question in asked]
        predictions: list[Prediction] = answers[0] if clips else []
        first = answers[-1] if pairs else []
        return JSONResponse(_outputs(predictions, [float(value) for value in first]))

    async def _progress(self, request: Request, clips: list[Clip], steps: bool) -> list[Any]:
        """Progress and success per frame, of each clip."""
        if not steps:
            return [
                (said.progress, said.success)
                for said in await self._server.ask(request, Question(kind="predict", items=clips))
            ]
        prefixes = [Clip(clip.read(_prefix(count)), clip.task) for clip in clips for count in range(1, len(clip) + 1)]
        said = iter(await self._server.ask(request, Question(kind="predict", items=prefixes)))
        return [_newest([next(said) for _ in range(len(clip))]) for clip in clips]


def _require_type(request: Request, expected: str) -> None:
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != expected:
        raise Problem(415, "unsupported_media", f"got the content type {kind[:80]!r}; expected {expected}")


def _prefix(count: int) -> list[int]:
    """The frames by which a prefix of ``count`` frames is shown."""
    return np.linspace(0, count - 1, _SHOWN).astype(np.int64).tolist()


def _newest(said: list[Prediction]) -> tuple[NDArray[np.float32], NDArray[np.float32] | None]:
    progress = np.array([each.progress[-1] for each in said], np.float32)
    success = [each.success[-1] for each in said if each.success is not None]
    return progress, np.array(success, np.float32) if success else None


def _outputs(predictions: list[Any], first: list[float]) -> dict[str, Any]:
    """The answer in the reference's words."""
    success = [probabilities for _, probabilities in predictions]
    has_success = bool(success) and all(probabilities is not None for probabilities in success)
    preference = {
        "predictions": [int(probability > 0.5) for probability in first],
        "prediction_probs": first,
        "preference_labels": [1.0] * len(first),
    }
    return {
        "outputs_preference": preference if first else None,
        "outputs_progress": {"progress_pred": [each.tolist() for each, _ in predictions]} if predictions else None,
        "outputs_success": {"success_probs": [each.tolist() for each in success]} if has_success else None,
    }


def _object(text: str, name: str) -> object:
    try:
        return parse_json(text)
    except DocumentError as error:
        raise Problem(400, "malformed", f"the field {name} is not read: {error}", name) from error


def _boolean(value: object) -> bool:
    found = {"true": True, "false": False}.get(str(value).strip().strip('"').lower())
    if found is None:
        raise Problem(422, "value", f"use_frame_steps is {brief(value)}; expected true or false", "use_frame_steps")
    return found


def _read_sample(
    sample: object, number: int, files: Parts, limits: Limits, model: RewardModel
) -> Callable[[], _Sample]:
    """Checks what a sample is, and returns what reads it."""
    name = f"sample_{number}"
    kind = sample.get("sample_type") if isinstance(sample, dict) else None
    if not isinstance(sample, dict) or kind not in ("progress", "preference"):
        raise Problem(
            422, "value", f"{name} is {brief(sample)}; expected a sample_type 'progress' or 'preference'", name
        )

    def clip(key: str, task: object = None) -> Clip:
        trajectory = sample.get(key)
        if not isinstance(trajectory, dict):
            raise Problem(422, "value", f"{name}.{key} is {brief(trajectory)}; expected a trajectory", name)
        if trajectory.get("views") is not None:
            frames = _tiled(trajectory, f"{name}.{key}.views", files, limits)
        else:
            model.require_views(f"{name}.{key} without views", tiled=trajectory.get("tiled") is True)
            frames = _frames(trajectory, f"{name}.{key}.frames", files, limits)
        return Clip(frames, cast(str, trajectory.get("task") if task is None else task))

    def pair() -> _Sample:
        chosen = clip("chosen_trajectory")
        return _Sample((chosen, clip("rejected_trajectory", chosen.task)))

    return pair if kind == "preference" else lambda: _Sample(clip("trajectory"))


def _tiled(trajectory: Mapping[str, Any], name: str, files: Parts, limits: Limits) -> NDArray[np.uint8]:
    """Views of several cameras as one picture; see `robometer_rl.tiles`."""
    views = trajectory["views"]
    if not isinstance(views, dict) or not 2 <= len(views) <= _VIEWS:
        raise FrameError(f"{name} is {brief(views)}; expected 2 to {_VIEWS} views by their names")
    primary, secondary = trajectory.get("primary_view"), trajectory.get("secondary_views")
    if primary is not None and not isinstance(primary, str):
        raise FrameError(f"{name}: primary_view is {brief(primary)}; expected one of {brief(list(views))}")
    if secondary is not None and (
        not isinstance(secondary, list) or not all(isinstance(each, str) for each in secondary)
    ):
        raise FrameError(f"{name}: secondary_views is {brief(secondary)}; expected a list of names of views")
    try:
        require("cv2", "tiles")
    except ImportError as error:
        raise UnsupportedByModelError(f"{name} cannot be tiled on this server: {error}") from error
    fraction = trajectory.get("primary_height_fraction")
    layout = TileLayout(
        trajectory.get("target_width"),
        trajectory.get("target_height"),
        **({} if fraction is None else {"primary_fraction": fraction}),
    )
    arrays = {view: _array(given, f"{name}.{view}", files, limits) for view, given in views.items()}
    tiles = tile_views(arrays, next(iter(views)) if primary is None else primary, secondary, layout)
    limits.check_frames(tiles.shape, name)
    if (size := math.prod(tiles.shape)) > limits.body:
        raise Problem(413, "too_large", f"{name} tile to {size} bytes; this server takes {limits.body}", name)
    return tiles[:]


def _frames(trajectory: Mapping[str, Any], name: str, files: Parts, limits: Limits) -> NDArray[np.uint8]:
    given = trajectory.get("frames")
    if given is None:
        raise UnsupportedByModelError(f"{name} is missing; this model needs frames and takes no embeddings")
    array = _array(given, name, files, limits)
    shape = trajectory.get("frames_shape")
    if shape is not None and (not isinstance(shape, list) or shape != list(array.shape)):
        raise FrameError(f"{name} has the shape {list(array.shape)}, and frames_shape says {brief(shape)}")
    return as_frames(array)


def _array(given: object, name: str, files: Parts, limits: Limits) -> NDArray[Any]:
    """An array as it was sent, in a part or as text."""
    if isinstance(given, dict):
        key = given.get("__numpy_file__")
        if not isinstance(key, str) or key not in files:
            raise Problem(422, "missing_part", f"{name} refers to the part {brief(key)}, which is not there", name)
        array = read_npy(files[key], name, limits)
    else:
        array = _pixels(given, name)
    limits.check_frames(array.shape, name)
    return array


def _pixels(given: object, name: str) -> NDArray[Any]:
    """Pixels that were written as nested lists. Paths, which the reference would open, are not."""
    if not isinstance(given, list) or not given or isinstance(given[0], str):
        raise FrameError(f"{name} is {brief(given)}; expected pixels as nested lists, or a part; paths are not opened")
    try:
        return np.array(given)
    except ValueError as error:
        raise FrameError(f"{name} is no array: its lists have different lengths") from error


def read_npy(data: bytes, name: str, limits: Limits) -> NDArray[Any]:
    """The array of a ``.npy`` file; what it claims is compared with what is there, and nothing is unpickled.

    Raises:
        FrameError: It is none.
        Problem: It is too large.
    """
    stream = io.BytesIO(data)
    try:
        major, _ = np.lib.format.read_magic(stream)
        read = np.lib.format.read_array_header_1_0 if major == 1 else np.lib.format.read_array_header_2_0
        shape, is_fortran, dtype = read(stream, max_header_size=_LONGEST_HEADER)
    except ARCHIVE_DAMAGE as error:
        raise FrameError(f"{name} is no .npy file: {' '.join(str(error).split())[:200]}") from error
    if dtype.kind not in "uif":
        raise FrameError(f"{name} is an array of {dtype}; expected uint8 pixels")
    limits.check_frames(shape, name)
    left = len(data) - stream.tell()
    if (size := int(np.prod(shape, dtype=object)) * dtype.itemsize) != left or min(shape) < 0:
        raise FrameError(f"{name} claims {size} bytes of pixels and has {left}")
    return np.frombuffer(data, dtype, offset=stream.tell()).reshape(shape, order="F" if is_fortran else "C")


def _facts(model: RewardModel) -> dict[str, Any]:
    """What ``/model_info`` says."""
    from robometer_rl.models.robometer.inference import Robometer

    about: dict[str, Any] = {"model_path": model.source, "num_gpus": 1}
    if not isinstance(model, Robometer):
        settings = {"data": {"max_frames": model.default_protocol.max_frames}, "model": {}, "loss": {}}
        return about | {"reward_model": model.model_id, "experiment_config": settings}
    config, parameters = model.checkpoint.config, list(model.network.parameters())
    sections = ("mode", "debug", "trainer_cls", "model", "peft", "data", "training", "loss", "logging", "custom_eval")
    settings = {name: config.settings.get(name, {}) for name in sections}
    settings["data"] = {**settings["data"], "max_frames": config.max_frames}
    settings["model"] = {**settings["model"], "base_model_id": config.base_model}
    bins = {"progress_loss_type": config.progress_type, "progress_discrete_bins": config.progress_bins}
    settings["loss"] = {**settings["loss"], **bins}
    total = sum(parameter.numel() for parameter in parameters)
    trainable = sum(parameter.numel() for parameter in parameters if parameter.requires_grad)
    parts = [
        (name, type(part).__name__, sum(p.numel() for p in part.parameters()))
        for name, part in model.network.named_children()
    ]
    architecture = {
        "model_class": type(model.network).__name__,
        "model_module": type(model.network).__module__,
        "total_parameters": total,
        "trainable_parameters": trainable,
        "frozen_parameters": total - trainable,
        "trainable_percentage": 100.0 * trainable / total,
        "architecture_summary": [{"name": name, "type": kind, "parameters": count} for name, kind, count in parts],
    }
    return about | {"experiment_config": settings, "model_architecture": architecture}
