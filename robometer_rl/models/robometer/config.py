"""What a Robometer checkpoint says about itself: `config.yaml`, as published, plus one section of our own.

The published file is the whole experiment configuration of the reference trainer. Only the settings that change what
the model computes are read; everything else is carried along unchanged, so that saving a checkpoint loses nothing.
Settings that the published files do not have (default protocol, image size, calibration) live in the section
``robometer_rl``; a checkpoint without it behaves as published.
"""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass, field, replace
from typing import Any, Literal, cast, get_args

import yaml

from robometer_rl.frames import FrameProtocol, UniformFrames, parse_protocol

__all__ = ["CheckpointError", "FramePooling", "ProgressType", "RobometerConfig"]

ProgressType = Literal["discrete", "l1", "l2"]
FramePooling = Literal["mean", "boundary", "attention"]

_OWN_SECTION = "robometer_rl"
# Pixel limits of an image in the reference's preprocessing: 4 to 16384 merged tokens of 32 x 32 pixels.
PUBLISHED_MIN_PIXELS = 4 * 32 * 32
PUBLISHED_MAX_PIXELS = 16384 * 32 * 32


class CheckpointError(ValueError):
    """A checkpoint that is incomplete, contradictory or of another kind; the message names the file or key."""


@dataclass(frozen=True)
class RobometerConfig:
    """Settings that change what a Robometer computes (spec section 0).

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
    settings: Mapping[str, Any] = field(default_factory=dict, repr=False, compare=False)

    def __post_init__(self) -> None:
        _choice("progress_loss_type", self.progress_type, get_args(ProgressType))
        _choice("frame_pooling", self.frame_pooling, get_args(FramePooling))
        if self.max_frames < 1 or self.progress_bins < 2:
            raise CheckpointError(
                f"config.yaml needs max_frames >= 1 and progress_discrete_bins >= 2, "
                f"got {self.max_frames} and {self.progress_bins}"
            )
        if not 0 < self.min_pixels <= self.max_pixels:
            raise CheckpointError(f"config.yaml: got min_pixels {self.min_pixels} and max_pixels {self.max_pixels}")

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
        """Reads a ``config.yaml``; unknown keys are kept, not judged."""
        try:
            settings = yaml.load(text, Loader=_SettingsLoader)
        except yaml.YAMLError as error:
            raise CheckpointError(f"config.yaml is not valid YAML: {error}") from error
        if not isinstance(settings, dict):
            raise CheckpointError(f"config.yaml holds {type(settings).__name__}; expected a mapping of sections")
        model, data, training, own = (_section(settings, name) for name in ("model", "data", "training", _OWN_SECTION))
        protocol = own.get("default_protocol")
        return cls(
            max_frames=data.get("max_frames", cls.max_frames),
            progress_type=model.get("progress_loss_type", cls.progress_type),
            progress_bins=model.get("progress_discrete_bins") or cls.progress_bins,
            per_frame_token=model.get("use_per_frame_progress_token", False),
            multi_image=model.get("use_multi_image", False),
            frame_pooling=model.get("frame_pooling", cls.frame_pooling),
            frame_pooling_temperature=model.get("frame_pooling_attn_temperature", 1.0),
            average_temporal_patches=model.get("average_temporal_patches", False),
            predict_pref_progress=training.get("predict_pref_progress", cls.predict_pref_progress),
            base_model=model.get("base_model_id") or "",
            default_protocol=None if protocol is None else parse_protocol(protocol),
            min_pixels=own.get("min_pixels", PUBLISHED_MIN_PIXELS),
            max_pixels=own.get("max_pixels", PUBLISHED_MAX_PIXELS),
            success_threshold=own.get("success_threshold"),
            settings=settings,
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
        settings.pop(_OWN_SECTION, None)
        if own:
            settings[_OWN_SECTION] = own
        return yaml.safe_dump(settings, sort_keys=True)

    def updated(self, **changes: Any) -> RobometerConfig:
        """A copy with some settings changed."""
        return replace(self, **changes)


class _SettingsLoader(yaml.SafeLoader):
    """Safe loader that reads the one Python object tag of published files (ReWINDTransformerConfig) as a mapping."""


def _tagged_mapping(loader: yaml.SafeLoader, _suffix: str, node: yaml.Node) -> dict[Any, Any]:
    return loader.construct_mapping(cast(yaml.MappingNode, node), deep=True)


_SettingsLoader.add_multi_constructor("tag:yaml.org,2002:python/object", _tagged_mapping)


def _section(settings: dict[str, Any], name: str, create: bool = False) -> dict[str, Any]:
    section = settings.setdefault(name, {}) if create else settings.get(name) or {}
    if not isinstance(section, dict):
        raise CheckpointError(f"config.yaml: section {name!r} holds {section!r}; expected a mapping")
    return section


def _choice(key: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise CheckpointError(f"config.yaml: {key} is {value!r}; expected one of {sorted(allowed)}")
