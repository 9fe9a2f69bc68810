"""What a Robometer checkpoint says about itself: `config.yaml`, as published, plus one section of our own.

The published file is the whole experiment configuration of the reference trainer. Only the settings that change what
the model computes are read; everything else is carried along unchanged, so that saving a checkpoint loses nothing.
Settings that the published files do not have (default protocol, image size, calibration, tiles) live in the section
``robometer_rl``; a checkpoint without it behaves as published. LeRobot's conversions say the same in a ``config.json``.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass, field, replace
from typing import Any, Literal, cast, get_args

import yaml

from robometer_rl.documents import DocumentError, brief
from robometer_rl.frames import MAX_FRAMES, FrameProtocol, UniformFrames, parse_protocol
from robometer_rl.yaml_documents import BoundedLoader, parse_yaml

__all__ = ["CheckpointError", "FramePooling", "ProgressType", "RobometerConfig", "SettingsLoader", "blamed_on"]

ProgressType = Literal["discrete", "l1", "l2"]
FramePooling = Literal["mean", "boundary", "attention"]

_OWN_SECTION = "robometer_rl"
# Pixel limits of an image in the reference's preprocessing: 4 to 16384 merged tokens of 32 x 32 pixels.
PUBLISHED_MIN_PIXELS = 4 * 32 * 32
PUBLISHED_MAX_PIXELS = 16384 * 32 * 32

_MOST_BINS = 10_000
_LONGEST_PROBLEM = 2000  # characters


class CheckpointError(ValueError):
    """A checkpoint that is incomplete, contradictory or of another kind; the message names the file or key."""


@contextmanager
def blamed_on(place: object) -> Iterator[None]:
    """Makes a `CheckpointError` that names a place, usually a file, of whatever goes wrong in the block.

    Other libraries read these files, and each has errors of its own for what is wrong in them, bare `Exception` among
    them. None of them names the file.
    """
    try:
        yield
    except Exception as error:
        if isinstance(error, CheckpointError) and str(place) in str(error):
            raise
        kind = "" if isinstance(error, (CheckpointError, DocumentError)) else f"{type(error).__name__}: "
        raise CheckpointError(f"{place}: {kind}{str(error)[:_LONGEST_PROBLEM]}") from error


@dataclass(frozen=True)
class RobometerConfig:
    """Settings that change what a Robometer computes (docs/reference.md §2.7).

    Attributes:
        max_frames: Most frames shown at once in training.
        progress_type: ``discrete`` for a distribution over ``progress_bins`` values, ``l1`` or ``l2`` for one value.
        progress_bins: Number of bins over [0, 1], both ends included.
        per_frame_token: A progress token follows each frame and the heads read it; otherwise patches are pooled.
        multi_image: Frames are given as images; otherwise as one video of frame pairs.
        frame_pooling: How a frame's patch tokens are pooled when there is no progress token.
        frame_pooling_temperature: Temperature of attention pooling.
        average_temporal_patches: In video mode, pool each frame pair instead of reading its last patch.
        predict_pref_progress: The pair prompt also asks for the first trajectory's progress.
        base_model: Name of the language model the checkpoint was made from.
        default_protocol: Protocol that the checkpoint was trained and measured with, None if it states none.
        min_pixels: Smaller frames are enlarged to this area.
        max_pixels: Larger frames are reduced to this area.
        success_threshold: Calibrated threshold on the success probability, None if never calibrated.
        tiled: Whether it was trained on tiled pictures of several cameras, see `robometer_rl.tiles`.
        settings: The whole ``config.yaml``.
    """

    max_frames: int = 8
    progress_type: ProgressType = "discrete"
    progress_bins: int = 10
    per_frame_token: bool = True
    multi_image: bool = True
    frame_pooling: FramePooling = "mean"
    frame_pooling_temperature: float = 1.0
    average_temporal_patches: bool = False
    predict_pref_progress: bool = True
    base_model: str = ""
    default_protocol: FrameProtocol | None = None
    min_pixels: int = PUBLISHED_MIN_PIXELS
    max_pixels: int = PUBLISHED_MAX_PIXELS
    success_threshold: float | None = None
    tiled: bool = False
    settings: Mapping[str, Any] = field(default_factory=dict, repr=False, compare=False)

    def __post_init__(self) -> None:
        _choice("progress_loss_type", self.progress_type, get_args(ProgressType))
        _choice("frame_pooling", self.frame_pooling, get_args(FramePooling))
        if not 1 <= self.max_frames <= MAX_FRAMES:
            raise CheckpointError(f"settings need max_frames >= 1 and <= {MAX_FRAMES}, got {brief(self.max_frames)}")
        if not 2 <= self.progress_bins <= _MOST_BINS:
            raise CheckpointError(
                f"settings need progress_discrete_bins >= 2 and <= {_MOST_BINS}, got {brief(self.progress_bins)}"
            )
        if not 0 < self.frame_pooling_temperature < math.inf:
            raise CheckpointError(
                f"settings need a finite frame_pooling_attn_temperature > 0, got {self.frame_pooling_temperature}"
            )
        if self.per_frame_token and not self.multi_image:
            raise CheckpointError("settings ask for use_per_frame_progress_token, which needs use_multi_image")
        if not 0 < self.min_pixels <= self.max_pixels <= PUBLISHED_MAX_PIXELS:
            raise CheckpointError(
                f"settings need 0 < min_pixels <= max_pixels <= {PUBLISHED_MAX_PIXELS}, "
                f"got {brief(self.min_pixels)}, {brief(self.max_pixels)}"
            )
        if self.success_threshold is not None and not 0.0 <= self.success_threshold <= 1.0:
            raise CheckpointError(
                f"setting success_threshold is {self.success_threshold!r}; expected a probability in [0, 1]"
            )

    @property
    def discrete(self) -> bool:
        """Whether the progress head predicts a distribution."""
        return self.progress_type == "discrete"

    @property
    def progress_outputs(self) -> int:
        """Width of the progress head."""
        return self.progress_bins if self.discrete else 1

    @property
    def protocol(self) -> FrameProtocol:
        """The stated protocol, else the published one."""
        return self.default_protocol or UniformFrames(self.max_frames)

    @classmethod
    def from_yaml(cls, text: str) -> RobometerConfig:
        """Reads a ``config.yaml``; unknown keys are kept, not judged.

        Raises:
            CheckpointError: Not settings, a value that is out of its range, or a file that is larger than settings are.
        """
        try:
            settings = parse_yaml(text, SettingsLoader)
        except DocumentError as error:
            raise CheckpointError(f"config.yaml: {error}") from error
        if not isinstance(settings, dict):
            raise CheckpointError(f"config.yaml holds {type(settings).__name__}; expected a mapping of sections")
        if "model" not in settings:
            raise CheckpointError("config.yaml has no section 'model'; it is cut off, or of something else")
        model, data, training, own = (_section(settings, name) for name in ("model", "data", "training", _OWN_SECTION))
        # The reference copies these two from its section `data`; files from before it did so have them there only.
        shown = {**data, **model}
        return cls(
            **_model_settings(model),
            per_frame_token=_read(shown, "use_per_frame_progress_token", bool, False),
            multi_image=_read(shown, "use_multi_image", bool, False),
            max_frames=_read(data, "max_frames", int, cls.max_frames),
            predict_pref_progress=_read(training, "predict_pref_progress", bool, cls.predict_pref_progress),
            default_protocol=_protocol(own),
            min_pixels=_read(own, "min_pixels", int, PUBLISHED_MIN_PIXELS),
            max_pixels=_read(own, "max_pixels", int, PUBLISHED_MAX_PIXELS),
            success_threshold=_read(own, "success_threshold", float, None),
            tiled=_read(own, "tiled", bool, False),
            settings=settings,
        )

    @classmethod
    def from_lerobot(cls, settings: Mapping[str, Any]) -> RobometerConfig:
        """Reads the ``config.json`` of a checkpoint that LeRobot converted.

        Its ``success_threshold`` is not taken over: LeRobot uses it to turn a probability into 0 or 1, and it was not
        calibrated.
        """
        return cls(
            **_model_settings(settings),
            per_frame_token=_read(settings, "use_per_frame_progress_token", bool, cls.per_frame_token),
            multi_image=_read(settings, "use_multi_image", bool, cls.multi_image),
            max_frames=_read(settings, "max_frames", int, cls.max_frames),
        )

    def to_yaml(self) -> str:
        """The inverse of `from_yaml`: the carried settings with this object's values written into them."""
        settings = deepcopy(dict(self.settings))
        _section(settings, "data", create=True).update(
            max_frames=self.max_frames,
            use_multi_image=self.multi_image,
            use_per_frame_progress_token=self.per_frame_token,
        )
        _section(settings, "model", create=True).update(
            progress_loss_type=self.progress_type,
            progress_discrete_bins=self.progress_bins,
            use_per_frame_progress_token=self.per_frame_token,
            use_multi_image=self.multi_image,
            frame_pooling=self.frame_pooling,
            frame_pooling_attn_temperature=self.frame_pooling_temperature,
            average_temporal_patches=self.average_temporal_patches,
            base_model_id=self.base_model,
        )
        _section(settings, "training", create=True).update(predict_pref_progress=self.predict_pref_progress)
        own: dict[str, Any] = {}
        if self.default_protocol is not None:
            own["default_protocol"] = str(self.default_protocol)
        if (self.min_pixels, self.max_pixels) != (PUBLISHED_MIN_PIXELS, PUBLISHED_MAX_PIXELS):
            own |= {"min_pixels": self.min_pixels, "max_pixels": self.max_pixels}
        if self.success_threshold is not None:
            own["success_threshold"] = self.success_threshold
        if self.tiled:
            own["tiled"] = True
        settings.pop(_OWN_SECTION, None)
        if own:
            settings[_OWN_SECTION] = own
        return yaml.safe_dump(settings, sort_keys=True)

    def updated(self, **changes: Any) -> RobometerConfig:
        """A copy with some settings changed."""
        return replace(self, **changes)


class SettingsLoader(BoundedLoader):
    """Safe loader that reads the one Python object tag of published files (ReWINDTransformerConfig) as a mapping."""


def _tagged_mapping(loader: yaml.SafeLoader, _suffix: str, node: yaml.Node) -> dict[Any, Any]:
    return loader.construct_mapping(cast(yaml.MappingNode, node), deep=True)


SettingsLoader.add_multi_constructor("tag:yaml.org,2002:python/object", _tagged_mapping)


def _section(settings: dict[str, Any], name: str, create: bool = False) -> dict[str, Any]:
    section = settings.setdefault(name, {}) if create else settings.get(name) or {}
    if not isinstance(section, dict):
        raise CheckpointError(f"config.yaml: section {name!r} holds {brief(section)}; expected a mapping")
    return section


def _model_settings(section: Mapping[str, Any]) -> dict[str, Any]:
    """Settings that the reference's section ``model`` and LeRobot's file have under the same names."""
    default = RobometerConfig
    return {
        "progress_type": _read(section, "progress_loss_type", str, default.progress_type),
        "progress_bins": _read(section, "progress_discrete_bins", int, default.progress_bins),
        "frame_pooling": _read(section, "frame_pooling", str, default.frame_pooling),
        "frame_pooling_temperature": _read(section, "frame_pooling_attn_temperature", float, 1.0),
        "average_temporal_patches": _read(section, "average_temporal_patches", bool, False),
        "base_model": _read(section, "base_model_id", str, ""),
    }


def _read(section: Mapping[str, Any], key: str, kind: type, default: Any) -> Any:
    """A setting of the type ``kind``; ``default`` where it is absent or null."""
    value = section.get(key)
    if value is None:
        return default
    # A bool is an int to Python, not to whoever wrote the file.
    kinds = (int, float) if kind is float else kind
    if not isinstance(value, kinds) or (isinstance(value, bool) and kind is not bool):
        raise CheckpointError(f"setting {key} is {brief(value)}; expected {kind.__name__}")
    try:
        return kind(value)
    except OverflowError as error:
        raise CheckpointError(f"setting {key} is {brief(value)}; expected {kind.__name__}") from error


def _protocol(own: Mapping[str, Any]) -> FrameProtocol | None:
    text = _read(own, "default_protocol", str, None)
    try:
        return None if text is None else parse_protocol(text)
    except ValueError as error:
        raise CheckpointError(f"setting default_protocol: {error}") from error


def _choice(key: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise CheckpointError(f"setting {key} is {brief(value)}; expected one of {sorted(allowed)}")
