"""Frames of a trajectory, and the protocols that decide which of them a model sees.

A *history* is the list of frames o_0 .. o_t that an environment has shown since its reset. A reward model reads at
most ``max_frames`` of them, so a `FrameProtocol` names the ones it is shown when step t is scored. Which protocol
produced a number is part of the number: every output records it.
"""

from __future__ import annotations

import re
import sys
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Protocol, TypeAlias, TypeGuard, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from robometer_rl.documents import brief

if TYPE_CHECKING:
    import torch

__all__ = [
    "MAX_FRAMES",
    "MAX_TASK_LENGTH",
    "Clip",
    "Frame",
    "FrameError",
    "FrameProtocol",
    "FrameSequence",
    "NestedFrames",
    "TaskError",
    "UniformFrames",
    "are_tensors_of_one_kind",
    "as_array",
    "as_frame",
    "as_frames",
    "as_tensor_frames",
    "check_task",
    "grey_stacks",
    "is_tensor",
    "parse_protocol",
    "rgb_shape",
    "scored_steps",
]


MAX_FRAMES: Final = 1024
"""The most frames that a protocol may show at once. Published models were trained with 8 to 16."""

MAX_TASK_LENGTH: Final = 2000
"""The most characters of an instruction: a page, where instructions are a sentence."""


Frame: TypeAlias = "NDArray[np.uint8] | torch.Tensor"
"""One image, uint8 RGB (H, W, 3): an array, or a tensor that stays on its device."""


class FrameError(ValueError):
    """Frames that are not RGB images of one size; the message says what was given and what was expected."""


class TaskError(ValueError):
    """A task that is not a non-empty string of at most `MAX_TASK_LENGTH` whole characters."""


@runtime_checkable
class FrameSequence(Protocol):
    """What `Clip.frames` may be: an array, a memory map, a video decoder."""

    @property
    def shape(self) -> tuple[int, ...]:
        """``(T, H, W, 3)``."""
        ...

    def __len__(self) -> int: ...

    def __getitem__(self, index: slice, /) -> Any: ...


_EXPECTED = (
    "expected RGB frames: uint8 (or other integers from 0 to 255) (T, H, W, 3), float in [0, 1], or channels first "
    "(T, 3, H, W)"
)


def as_array(value: Any) -> NDArray[Any]:
    """Returns ``value`` as a NumPy array: also a torch tensor, of any device and dtype, with or without a gradient.

    Floating types that NumPy does not know, such as bfloat16, become float32. Nothing is copied that need not be.

    Raises:
        ValueError: A tensor without values (on the device ``meta``) or without a place for each of them (sparse,
            quantised), or lists that are no rectangle.
    """
    if not is_tensor(value):
        return np.asarray(value)
    import torch

    tensor = _readable(value).cpu()
    if tensor.is_floating_point() and tensor.dtype not in (torch.float16, torch.float32, torch.float64):
        tensor = tensor.float()
    return tensor.numpy()


def is_tensor(value: Any) -> TypeGuard[torch.Tensor]:
    """Whether ``value`` is a torch tensor; without importing torch, which whoever has one has done."""
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(value, torch.Tensor)


def _readable(tensor: torch.Tensor) -> torch.Tensor:
    """The tensor without its gradient; raises `ValueError` if it has no values that could be read."""
    import torch

    if tensor.is_meta or tensor.is_quantized or tensor.layout != torch.strided:
        raise ValueError(
            f"got a tensor of shape {tuple(tensor.shape)} and dtype {tensor.dtype} on the device {tensor.device}, laid "
            f"out as {tensor.layout}, whose values cannot be read; expected a dense tensor with values"
        )
    return tensor.detach()


def _as_pixels(value: Any) -> NDArray[Any]:
    try:
        return as_array(value)
    except ValueError as error:
        raise FrameError(f"{error}; {_EXPECTED}") from error


def _layout(shape: tuple[int, ...]) -> bool:
    """Whether frames of ``shape`` have their channels first; raises `FrameError` if they are not RGB frames."""
    if len(shape) != 4:
        raise FrameError(f"got {len(shape)} dimensions, shape {shape}{_advice(shape[1:])}; {_EXPECTED}")
    if 0 in shape:
        raise FrameError(f"got no pixels, shape {shape}; {_EXPECTED}")
    if shape[3] == 3:
        return False
    if shape[1] == 3:
        return True
    raise FrameError(f"got shape {shape}, which has no axis of 3 colour channels{_advice(shape[1:])}; {_EXPECTED}")


def _advice(shape: tuple[int, ...]) -> str:
    """What to do about an image of this shape, which is no RGB image."""
    if len(shape) == 2:
        return " (grey frames: repeat the channel three times first, np.stack([frame] * 3, axis=-1))"
    if len(shape) == 3 and 1 in (shape[0], shape[2]):
        return " (grey frames: repeat the channel three times first, np.repeat(frame, 3, axis))"
    if len(shape) == 3 and 4 in (shape[0], shape[2]):
        return (
            " (RGBA: drop the last channel, frame[..., :3]; or four grey frames on top of each other: give colour "
            "frames that are not stacked)"
        )
    if len(shape) == 4 and shape[-1] == 3:
        return " (several RGB images on top of each other: give the newest one, frame[-1])"
    if len(shape) == 3:
        return " (frames on top of each other: give the newest one, in colour)"
    return ""


def rgb_shape(shape: Sequence[int], dtype: np.dtype[Any] | None = None) -> tuple[int, int, int, int]:
    """``(T, H, W, 3)`` of stored frames, which may have their channels first; no pixel is looked at.

    Args:
        shape: As they are stored.
        dtype: As they are stored, if that is known.

    Raises:
        FrameError: Frames of this shape or type are not RGB.
    """
    channels_first = _layout(tuple(shape))
    if dtype is not None and (dtype.kind not in "uif" or (dtype.kind in "ui" and dtype.itemsize == 2)):
        what = "16-bit integers, as depth is: distances, not colours" if dtype.itemsize == 2 else f"{dtype}"
        raise FrameError(f"got frames stored as {what}; {_EXPECTED}")
    count, height, width = (shape[0], *shape[2:]) if channels_first else shape[:3]
    return count, height, width, 3


def as_frames(frames: Any) -> NDArray[np.uint8]:
    """Returns ``frames`` as uint8 RGB of shape (T, H, W, 3), converting on stated rules only.

    Args:
        frames: An array or a tensor, see `as_array`, or a list of images of one size. uint8 is taken as it is, and so
            are other integers from 0 to 255; floating point must be finite and within [0, 1] and is multiplied by 255
            and rounded; an axis of length 3 in second place is moved to the end unless the last axis has length 3
            already.

    Raises:
        FrameError: Empty, NaN or outside these ranges, another dtype, wrong rank, mixed sizes, or not three channels
            (grey, RGBA, stacked); the message says what to do.
    """
    if isinstance(frames, (list, tuple)):
        images = [_as_pixels(image) for image in frames]
        if not images:
            raise FrameError(f"got an empty list of frames; {_EXPECTED}")
        shapes = sorted({image.shape for image in images})
        if len(shapes) > 1:
            raise FrameError(f"got frames of different shapes, {shapes}; all frames of a clip have one size")
        array = np.stack(images)
    else:
        array = _as_pixels(frames)
    channels_first = _layout(array.shape)
    if array.dtype != np.uint8:
        array = _integer_to_uint8(array) if np.issubdtype(array.dtype, np.integer) else _float_to_uint8(array)
    return np.ascontiguousarray(array.transpose(0, 2, 3, 1) if channels_first else array)


def _integer_to_uint8(array: NDArray[Any]) -> NDArray[np.uint8]:
    _require_bytes(array.dtype, int(array.min()), int(array.max()))
    return array.astype(np.uint8)


def _require_bytes(dtype: Any, low: int, high: int) -> None:
    if low < 0 or high > 255:
        raise FrameError(f"got {dtype} pixels from {low} to {high} (depth is no colour); {_EXPECTED}")


def _float_to_uint8(array: NDArray[Any]) -> NDArray[np.uint8]:
    if not np.issubdtype(array.dtype, np.floating):
        raise FrameError(f"got dtype {array.dtype}; {_EXPECTED}")
    if not np.isfinite(array).all():
        raise FrameError(f"got NaN or infinite pixels; {_EXPECTED}")
    _require_fractions(float(array.min()), float(array.max()))
    # In float32 at least: half precision cannot hold all of 0..255 times what it lacks.
    return np.rint(array.astype(np.promote_types(array.dtype, np.float32)) * 255.0).astype(np.uint8)


def _require_fractions(low: float, high: float) -> None:
    if low < 0.0 or high > 1.0:
        advice = " (convert with frame.astype(np.uint8), or divide by 255)" if low >= 0.0 and high <= 255.0 else ""
        raise FrameError(f"got floating point pixels from {low:g} to {high:g}{advice}; {_EXPECTED}")


def are_tensors_of_one_kind(images: Iterable[Any]) -> TypeGuard[list[torch.Tensor]]:
    """Whether images are tensors, at least one, that have one shape, dtype and device."""
    kinds = {(image.shape, image.dtype, image.device) if is_tensor(image) else None for image in images}
    return len(kinds) == 1 and None not in kinds


def as_tensor_frames(images: Sequence[torch.Tensor]) -> torch.Tensor:
    """Returns images as uint8 RGB of shape (n, H, W, 3) on the device they are on, all at once; always a copy.

    Args:
        images: Of one kind, see `are_tensors_of_one_kind`; the rules of `as_frames`, and its numbers.

    Raises:
        FrameError: As `as_frames`.
    """
    import torch

    try:
        batch = torch.stack([_readable(image) for image in images])
    except ValueError as error:
        raise FrameError(f"{error}; {_EXPECTED}") from error
    channels_first = _layout(tuple(batch.shape))
    if batch.is_floating_point():
        low, high = (float(bound) for bound in batch.aminmax())
        if not np.isfinite([low, high]).all():
            raise FrameError(f"got NaN or infinite pixels; {_EXPECTED}")
        _require_fractions(low, high)
        batch = (batch.to(torch.promote_types(batch.dtype, torch.float32)) * 255.0).round_().to(torch.uint8)
    elif batch.dtype is torch.bool or batch.is_complex():
        raise FrameError(f"got dtype {batch.dtype}; {_EXPECTED}")
    elif batch.dtype is not torch.uint8:
        _require_bytes(batch.dtype, int(batch.min()), int(batch.max()))
        batch = batch.to(torch.uint8)
    return (batch.permute(0, 2, 3, 1) if channels_first else batch).contiguous()


def as_frame(frame: Any) -> NDArray[np.uint8]:
    """Returns one image as uint8 RGB of shape (H, W, 3); the rules and errors of `as_frames`."""
    array = _as_pixels(frame)
    if array.dtype == object:
        raise FrameError(f"got one frame of shape {array.shape}, {brief(frame)}; expected (H, W, 3) or (3, H, W)")
    if array.ndim != 3:
        raise FrameError(f"got one frame of shape {array.shape}{_advice(array.shape)}; expected (H, W, 3) or (3, H, W)")
    return as_frames(array[None])[0]


def grey_stacks(frames: Sequence[Frame], before: Sequence[Frame]) -> list[bool]:
    """Which frames are not in colour but three grey frames on top of each other, the newest one last.

    Then two of the channels are those of the image ``before``, moved up by one: no camera does that.

    Args:
        frames: (H, W, 3) uint8 each.
        before: The image that came before each of them; of another size, it says nothing.
    """
    pairs = list(zip(frames, before, strict=True))
    both = [*frames, *before]
    if are_tensors_of_one_kind(both):
        import torch

        # At once, since every look at a result waits for the accelerator.
        now, then = torch.stack(both).chunk(2)
        moved = (now[..., :2] == then[..., 1:]).flatten(1).all(1)
        return (moved & ~(now[..., :2] == now[..., 1:]).flatten(1).all(1)).tolist()
    return [_is_grey_stack(as_array(frame), as_array(image)) for frame, image in pairs]


def _is_grey_stack(frame: NDArray[np.uint8], before: NDArray[np.uint8]) -> bool:
    if frame.shape != before.shape or not np.array_equal(frame[..., :2], before[..., 1:]):
        return False
    # Grey pictures in three channels look so too, as long as nothing moves.
    return not np.array_equal(frame[..., :2], frame[..., 1:])


def check_task(task: Any) -> str:
    """Returns ``task``; raises `TaskError` unless it is a string with something in it, and not a whole book."""
    if not isinstance(task, str) or not task.strip():
        raise TaskError(f"got the task {brief(task)}; expected a non-empty instruction such as 'open the drawer'")
    if len(task) > MAX_TASK_LENGTH:
        raise TaskError(
            f"got a task of {len(task)} characters, {brief(task)}; expected an instruction of at most {MAX_TASK_LENGTH}"
        )
    try:
        task.encode()
    except UnicodeEncodeError as error:  # bytes of a command line that are not UTF-8, or half a letter
        raise TaskError(f"got the task {brief(task)}, which is not text: {error.reason}; expected UTF-8") from error
    return task


@dataclass(frozen=True, eq=False)
class Clip:
    """What a model is asked about: the frames of a trajectory and one instruction.

    Attributes:
        frames: (T, H, W, 3) RGB, see `as_frames`; anything with ``len``, ``shape`` and slicing, so that a long
            episode may stay on disk. A list of images is stacked.
        task: The instruction, a non-empty string.
    """

    frames: FrameSequence
    task: str

    def __post_init__(self) -> None:
        check_task(self.task)
        if isinstance(self.frames, (list, tuple)):
            object.__setattr__(self, "frames", as_frames(self.frames))
        # Arrays first: the structural check costs more than all the others together.
        if not isinstance(self.frames, (np.ndarray, FrameSequence)):
            given = type(self.frames).__name__
            raise FrameError(f"got frames of type {given}; expected something with len, shape and slicing")
        _layout(tuple(self.frames.shape))

    def __len__(self) -> int:
        return len(self.frames)

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of its frames."""
        return rgb_shape(self.frames.shape)[1:3]

    def read(self, indices: Iterable[int] | None = None) -> NDArray[np.uint8]:
        """Reads frames, all or the chosen ones in the order given, as uint8 (T, H, W, 3); see `as_frames`."""
        if indices is None:
            return as_frames(self.frames[:])
        chosen = list(indices)
        if isinstance(self.frames, np.ndarray):
            return as_frames(self.frames[chosen])
        return np.concatenate([as_frames(self.frames[index : index + 1]) for index in chosen])


class FrameProtocol(ABC):
    """Which frames of a history o_0 .. o_t the model sees when it scores step t.

    Attributes:
        name: The short name that outputs record together with ``max_frames``, as in ``nested(8)``.
        max_frames: The most frames a model is shown at once, `MAX_FRAMES` at most.
    """

    name: str
    max_frames: int

    @abstractmethod
    def slots(self, t: int) -> NDArray[np.int64]:
        """Indices of the frames shown for step ``t``, in order, at most ``max_frames``; the last one is ``t``.

        A frame may appear more than once (padding). Predictions for step t are read at the last slot.
        """

    @abstractmethod
    def retained(self, t: int) -> NDArray[np.int64]:
        """Indices among o_0 .. o_t that some later step may still show."""

    def __str__(self) -> str:
        return f"{self.name}({self.max_frames})"


@dataclass(frozen=True)
class UniformFrames(FrameProtocol):
    """The published rule: the whole history, thinned evenly, padded on the right by repeating the last frame.

    Steps below ``max_frames`` show every frame; later ones show ``rint(linspace(0, t, max_frames))``, both ends
    included (docs/reference.md §3.1). Predictions are read at the last slot, padding included, as the reference does.

    Examples:
        >>> UniformFrames(8).slots(31).tolist()
        [0, 4, 9, 13, 18, 22, 27, 31]
        >>> UniformFrames(4).slots(1).tolist()
        [0, 1, 1, 1]
    """

    max_frames: int = 8
    name = "uniform"

    def __post_init__(self) -> None:
        _require_count(self, 1)

    def slots(self, t: int) -> NDArray[np.int64]:
        """See `FrameProtocol.slots`; always ``max_frames`` of them."""
        _require_step(t)
        if t < self.max_frames:
            return np.minimum(np.arange(self.max_frames), t)
        if self.max_frames == 1:
            return np.array([t])
        return np.rint(np.linspace(0, t, self.max_frames)).astype(np.int64)

    def retained(self, t: int) -> NDArray[np.int64]:
        """All of them: any frame may be picked again later."""
        return np.arange(t + 1)


@dataclass(frozen=True)
class NestedFrames(FrameProtocol):
    """The streaming rule: keyframes at multiples of a power of two, and the newest frame.

    The stride is the smallest power of two with ``ceil(t / stride) <= max_frames - 1``; step t shows the multiples of
    the stride below t, then t itself. Within a stride the shown frames of neighbouring steps share their prefix, so a
    causal model can share the work; when the stride doubles, half of the keyframes are dropped for good.

    Examples:
        >>> NestedFrames(4).slots(3).tolist(), NestedFrames(4).slots(5).tolist()
        ([0, 1, 2, 3], [0, 2, 4, 5])
    """

    max_frames: int = 8
    name = "nested"

    def __post_init__(self) -> None:
        _require_count(self, 2)

    def stride(self, t: int) -> int:
        """Distance between the keyframes shown for step ``t``."""
        _require_step(t)
        stride = 1
        while -(-t // stride) > self.max_frames - 1:
            stride *= 2
        return stride

    def levels(self, num_steps: int) -> Iterator[tuple[int, range]]:
        """The strides of a history of ``num_steps`` steps, each with the steps that use it.

        Examples:
            >>> list(NestedFrames(4).levels(10))
            [(1, range(0, 4)), (2, range(4, 7)), (4, range(7, 10))]
        """
        start, stride = 0, 1
        while start < num_steps:
            stop = (self.max_frames - 1) * stride + 1
            yield stride, range(start, min(stop, num_steps))
            start, stride = stop, 2 * stride

    def slots(self, t: int) -> NDArray[np.int64]:
        """See `FrameProtocol.slots`; no padding."""
        return np.append(np.arange(0, t, self.stride(t)), t)

    def retained(self, t: int) -> NDArray[np.int64]:
        """Multiples of the current stride: at most ``max_frames`` of them, however long the history."""
        return np.arange(0, t + 1, self.stride(t))


def _require_count(protocol: FrameProtocol, minimum: int) -> None:
    value = protocol.max_frames
    if isinstance(value, bool) or not isinstance(value, int) or value < minimum:
        raise ValueError(f"{protocol.name} frames need an integer max_frames >= {minimum}, got {brief(value)}")
    if value > MAX_FRAMES:
        raise ValueError(f"{protocol.name} frames show at most {MAX_FRAMES} at once, got max_frames={brief(value)}")


def _require_step(t: int) -> None:
    if t < 0:
        raise ValueError(f"steps count from 0 (the reset frame), got {t}")


_PROTOCOLS: dict[str, type[UniformFrames] | type[NestedFrames]] = {
    UniformFrames.name: UniformFrames,
    NestedFrames.name: NestedFrames,
}


def parse_protocol(text: str) -> FrameProtocol:
    """The inverse of ``str(protocol)``: ``"nested(8)"``, or a bare name for its default ``max_frames``."""
    match = re.fullmatch(r"(\w+)(?:\(([0-9]{1,18})\))?", text.strip())
    if match is None or match[1] not in _PROTOCOLS:
        raise ValueError(
            f"unknown frame protocol {brief(text)}; expected one of {sorted(_PROTOCOLS)}, as in 'nested(8)'"
        )
    return _PROTOCOLS[match[1]](int(match[2])) if match[2] else _PROTOCOLS[match[1]]()


def scored_steps(num_frames: int, every: int = 1) -> NDArray[np.int64]:
    """Steps of an episode that are scored: 0, every, 2 every, ... and always the last one.

    Protocols index *this* list, as if the frames between had never been seen: they need not even be rendered.

    Examples:
        >>> scored_steps(12, every=5).tolist()
        [0, 5, 10, 11]
    """
    if isinstance(every, bool) or not isinstance(every, int) or every < 1:
        raise ValueError(f"every must be a positive integer, got {every!r}")
    if num_frames < 1:
        raise ValueError(f"an episode has at least one frame, got {num_frames}")
    steps = np.arange(0, num_frames, min(every, num_frames))
    return steps if steps[-1] == num_frames - 1 else np.append(steps, num_frames - 1)


def same_length(name: str, given: int, expected: int) -> None:
    """Raises `ValueError` unless as many ``name`` were given as expected."""
    if given != expected:
        raise ValueError(f"got {given} {name}, expected {expected}")
