"""Replay buffers in pickles, opened without running code that a file names.

A pickle is a program: it may call anything that Python can import. A file that is not said to be trusted may use what
`Stable-Baselines3` writes into a buffer and nothing else: its buffers, the spaces of Gymnasium, random generators and
arrays of NumPy, all by their exact names. What would let a file build arrays over memory that is not its own (types
with references in them, arrays around foreign bytes) is refused as well.
"""

from __future__ import annotations

import pickle
import struct
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np

from robometer_rl.data.reading import SourceError
from robometer_rl.extras import require
from robometer_rl.files import check_regular

__all__ = ["load_buffer"]

_BUFFERS: Final = "stable_baselines3.common.buffers"
_LABELLED: Final = "robometer_rl.wrappers.sb3.replay_buffer"
_SPACES: Final = "gymnasium.spaces"
_RANDOM: Final = "numpy.random"

# Classes and functions that do nothing but make or hold values, whatever they are called with.
_HARMLESS: Final = frozenset(
    {
        *((_BUFFERS, name) for name in ("ReplayBuffer", "DictReplayBuffer", "NStepReplayBuffer")),
        *((_LABELLED, name) for name in ("LabelledReplayBuffer", "LabelledDictReplayBuffer")),
        ("stable_baselines3.her.her_replay_buffer", "HerReplayBuffer"),
        ("stable_baselines3.her.goal_selection_strategy", "GoalSelectionStrategy"),
        (f"{_SPACES}.box", "Box"),
        (f"{_SPACES}.dict", "Dict"),
        (f"{_SPACES}.discrete", "Discrete"),
        (f"{_SPACES}.multi_binary", "MultiBinary"),
        (f"{_SPACES}.multi_discrete", "MultiDiscrete"),
        *((f"{_RANDOM}._pickle", name) for name in ("__generator_ctor", "__bit_generator_ctor")),
        *((f"{_RANDOM}._{name.lower()}", name) for name in ("PCG64", "MT19937", "Philox", "SFC64")),
        *((f"{_RANDOM}.bit_generator", name) for name in ("SeedSequence", "__pyx_unpickle_SeedSequence")),
        ("collections", "deque"),
        ("collections", "OrderedDict"),
        ("torch", "device"),
    }
)

# Numbers, truth values and texts; dates and structures have no place in a buffer.
_KINDS: Final = "biufSUO?"

# What a damaged pickle, or one that is none, fails with.
_DAMAGE: Final = (
    pickle.PickleError,
    ArithmeticError,
    AssertionError,
    AttributeError,
    BufferError,
    EOFError,
    ImportError,
    LookupError,
    MemoryError,
    RuntimeError,  # of PyTorch's devices; one that nests too deeply is of this kind, too
    TypeError,
    ValueError,
    struct.error,
)


def load_buffer(path: Path, *, trusted: bool = False) -> Any:
    """Opens what ``save_replay_buffer`` wrote.

    Args:
        path: The file.
        trusted: Whether the file may run whatever code it names.

    Raises:
        SourceError: It names something else than a buffer consists of, or is damaged.
        ImportError: The extra ``sb3`` is not installed.
        OSError: The file cannot be read.
    """
    save_util = require("stable_baselines3.common.save_util", "sb3")
    check_regular(path)
    try:
        if trusted:
            return save_util.load_from_pkl(path)
        with path.open("rb") as file:
            return _BufferUnpickler(file).load()
    except _NotOfABufferError as error:
        raise SourceError(
            f"{path} is not opened, because it names {error}, which a replay buffer of Stable-Baselines3 does not "
            "contain, and opening a pickle runs what it names. If you trust whoever made it, say so (--trust-pickle, "
            "or trust_pickle=True)"
        ) from error
    except _DAMAGE as error:
        raise SourceError(f"{path} is not a replay buffer, or is damaged: {type(error).__name__}: {error}") from error


class _NotOfABufferError(Exception):
    """A name, type or array that a buffer does not contain."""


def _dtype(name: Any, *_: Any) -> np.dtype[Any]:
    made = np.dtype(name) if isinstance(name, str) else None
    if made is None or made.kind not in _KINDS or made.fields is not None or made.subdtype is not None:
        raise _NotOfABufferError(f"the type {name!r}")
    return made


def _empty_array(*_: Any) -> np.ndarray[Any, Any]:
    """What NumPy begins an array with, which gets its content later."""
    return np.empty(0, np.int8)


def _scalar(dtype: Any, content: Any = b"") -> Any:
    if not isinstance(dtype, np.dtype) or not isinstance(content, bytes) or dtype.hasobject:
        raise _NotOfABufferError("a number that is none")
    return np.frombuffer(content, dtype, count=1)[0]


def _array_of(content: Any, dtype: Any, shape: Any, order: Any) -> np.ndarray[Any, Any]:
    if not isinstance(dtype, np.dtype) or dtype.hasobject:
        raise _NotOfABufferError("an array of objects around bytes")
    return np.frombuffer(content, dtype).reshape(shape, order=order)


class _NoClass:
    """Stands for a class that is named and never called."""


def _numpy_modules(name: str) -> tuple[str, str]:
    return f"numpy.core.{name}", f"numpy._core.{name}"


# In place of the functions that NumPy's arrays are pickled with.
_OURS: Final[Mapping[tuple[str, str], Callable[..., Any] | type]] = {
    ("numpy", "dtype"): _dtype,
    ("numpy", "ndarray"): _NoClass,
    **{(module, "_reconstruct"): _empty_array for module in _numpy_modules("multiarray")},
    **{(module, "scalar"): _scalar for module in _numpy_modules("multiarray")},
    **{(module, "_frombuffer"): _array_of for module in _numpy_modules("numeric")},
}


# In Python and not in C, since only there it can be seen what a state is given to.
_Unpickler: Any = vars(pickle)["_Unpickler"]


class _BufferUnpickler(_Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        """What may be named."""
        if (module, name) in _OURS:
            return _OURS[module, name]
        if (module, name) not in _HARMLESS:
            raise _NotOfABufferError(f"{module}.{name}")
        return super().find_class(module, name)

    def _build(self) -> None:
        """Gives the object below the top of the stack its state."""
        state, instance = self.stack[-1], self.stack[-2]
        if isinstance(instance, np.dtype):
            plain = (instance, instance.newbyteorder("<"), instance.newbyteorder(">"))
            if state not in [each.__reduce__()[2] for each in plain]:
                raise _NotOfABufferError(f"a changed type {instance}")
        elif isinstance(instance, type) or callable(instance):
            raise _NotOfABufferError(f"a change of {instance!r}")
        elif isinstance(instance, np.ndarray) and not _is_state_of_array(state):
            raise _NotOfABufferError("an array of objects around bytes")
        super().load_build()

    dispatch: Final = {**_Unpickler.dispatch, pickle.BUILD[0]: _build}


def _is_state_of_array(state: Any) -> bool:
    """Whether objects come as a list of them, and numbers as bytes."""
    if not isinstance(state, tuple) or len(state) != 5 or not isinstance(state[2], np.dtype):
        return False
    return isinstance(state[4], list if state[2].hasobject else bytes)
