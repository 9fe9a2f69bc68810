"""Resetting some environments of a vector environment, without trusting that the others are left alone.

Gymnasium's convention is ``reset(options={"reset_mask": mask})``. Vector environments that do not know it restart all
of their environments instead, and wrappers in between may drop the options: episodes would then be continued in
histories that they do not belong to. ManiSkill's environments are told ``env_idx``, the numbers of those to be reset.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, TypeVar

import numpy as np
from gymnasium.vector import AsyncVectorEnv, SyncVectorEnv, VectorEnv
from gymnasium.vector.utils import iterate
from gymnasium.wrappers.vector import RecordEpisodeStatistics
from numpy.typing import NDArray

from robometer_rl.frames import as_array
from robometer_rl.wrappers.recorders import VectorRecorders, vector_layers
from robometer_rl.wrappers.tensors import device_of

__all__ = ["MaskedResets", "ResetMaskError", "parse_reset_options"]

T = TypeVar("T")
Bools = NDArray[np.bool_]
_MASK = "reset_mask"
_NUMBERS = "env_idx"


class ResetMaskError(ValueError):
    """A vector environment does not reset those environments alone that it should."""


def parse_reset_options(
    options: Mapping[str, Any] | None, env: VectorEnv[Any, Any, Any]
) -> tuple[Bools | None, dict[str, Any] | None]:
    """Which environments a reset is for, and its other options.

    Args:
        options: Of the reset.
        env: The vector environment; ``env_idx`` is looked for in options of other makers' environments only.

    Returns:
        (n,) those, None if it is for all; and the options without that.

    Raises:
        ValueError: The mask is not one truth value per environment, the numbers are none of environments, or nothing
            is left to be reset.
    """
    count = env.num_envs
    numbered = options is not None and _NUMBERS in options and not _is_gymnasium(env.unwrapped)
    if options is None or not (_MASK in options or numbered):
        return None, None if options is None else dict(options)
    others = {key: value for key, value in options.items() if key != _MASK and not (numbered and key == _NUMBERS)}
    if _MASK in options:
        mask = np.array(as_array(options[_MASK]), np.bool_)
        expected = f"{count} truth values, at least one of them True"
    else:
        numbers = as_array(options[_NUMBERS]).reshape(-1)
        expected = f"numbers of environments from 0 to {count - 1}"
        is_valid = numbers.dtype.kind in "iu" and bool(((numbers >= 0) & (numbers < count)).all())
        mask = np.isin(np.arange(count), numbers) & is_valid
    if mask.shape != (count,) or not mask.any():
        key = _MASK if _MASK in options else _NUMBERS
        raise ValueError(f"options[{key!r}] is {options[key]!r}; expected {expected}")
    return mask, others


def _is_gymnasium(base: Any) -> bool:
    return isinstance(base, (SyncVectorEnv, AsyncVectorEnv))


class MaskedResets:
    """Resets environments through what a reward wrapper wraps, and finds out whether ``reset_mask`` is honoured.

    `SyncVectorEnv` and `AsyncVectorEnv` honour it. Of others it is an error if nobody asks for the mask, or if the
    observations of environments that it leaves out are not those from before; this is looked at until it has been seen
    once.

    Args:
        env: What the reward wrapper wraps.
        recorders: The recorders inside, which must keep what they have counted of the others.

    Attributes:
        shown: The observations of the last reset or step.
    """

    def __init__(self, env: VectorEnv[Any, Any, Any], recorders: VectorRecorders) -> None:
        self._env = env
        self._recorders = recorders
        *inside, base = vector_layers(env)
        self._is_known = _is_gymnasium(base)
        # Wrappers in between may show other observations after every call, for instance with new statistics.
        is_shown = all(isinstance(layer, RecordEpisodeStatistics) for layer in inside)
        self._compares = is_shown and not self._is_known
        self.shown: Any = None

    def reset(
        self, mask: NDArray[np.bool_], seed: Any = None, options: Mapping[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Resets the environments in the mask.

        Args:
            mask: (n,) those.
            seed: As for ``reset`` of a vector environment.
            options: Other options, or None. They are copied: environments take the mask out of them. To environments
                that show tensors the mask is one, and ``env_idx`` goes with it.

        Raises:
            ResetMaskError: The environment refuses the mask, or restarts others, too. All environments must then be
                reset.
        """
        # Copied before, since an environment may give out its own buffer.
        before = self._rows(self.shown) if self._compares else None
        asked = _AskedOptions({**(options or {}), **self._told(mask)})
        with self._recorders.resetting(mask):
            try:
                observations, infos = self._env.reset(seed=seed, options=asked)
            except Exception as error:
                if not self._is_known:
                    raise self._error(f"its reset() failed: {type(error).__name__}: {error}", mask) from error
                raise
        if not asked.mask_was_read:
            raise self._error("nobody has asked for it, so that all environments were reset", mask)
        if before is not None:
            self._compare(before, self._rows(observations), mask)
        return observations, infos

    def _told(self, mask: Bools) -> dict[str, Any]:
        device = device_of(self.shown)
        if device is None:
            return {_MASK: mask.copy()}
        import torch

        numbers = torch.as_tensor(np.flatnonzero(mask), device=device)
        return {_MASK: torch.as_tensor(mask, device=device), _NUMBERS: numbers}

    def _compare(self, before: list[Any], after: list[Any], mask: NDArray[np.bool_]) -> None:
        others = np.flatnonzero(~mask).tolist()
        changed = [index for index in others if not _same(before[index], after[index])]
        if changed:
            raise self._error(f"the observations of environments {changed}, which it leaves out, have changed", mask)
        # Environments that looked as they do after a reset prove nothing.
        first = after[int(np.argmax(mask))]
        self._compares = all(_same(before[index], first) for index in others)

    def _rows(self, observations: Any) -> list[Any]:
        return list(iterate(self._env.observation_space, _copy(observations)))

    def _error(self, what: str, mask: NDArray[np.bool_]) -> ResetMaskError:
        return ResetMaskError(
            f"{self._env} must honour options={{'reset_mask': mask}} to reset the environments "
            f"{np.flatnonzero(mask).tolist()} alone, and {what}. Use SyncVectorEnv or AsyncVectorEnv, or "
            "RewardSpec(terminate_on_success=False) and no partial resets; reset() all environments before going on"
        )


class _AskedOptions(dict[str, Any]):
    """Options of a reset that know whether anybody has looked for the mask in them, or at all of them."""

    mask_was_read = False

    def _note(self, key: Any) -> None:
        self.mask_was_read |= key in (_MASK, _NUMBERS)

    def __getitem__(self, key: str) -> Any:
        self._note(key)
        return super().__getitem__(key)

    def __contains__(self, key: object) -> bool:
        self._note(key)
        return super().__contains__(key)

    def get(self, key: str, default: Any = None) -> Any:
        self._note(key)
        return super().get(key, default)

    def pop(self, key: str, *default: Any) -> Any:
        self._note(key)
        return super().pop(key, *default)

    def __iter__(self) -> Iterator[str]:
        self._note(_MASK)
        return super().__iter__()

    def keys(self) -> Any:
        self._note(_MASK)
        return super().keys()

    def items(self) -> Any:
        self._note(_MASK)
        return super().items()

    def values(self) -> Any:
        self._note(_MASK)
        return super().values()

    def copy(self) -> dict[str, Any]:
        self._note(_MASK)
        return dict(self)


def _copy(value: T) -> T:
    if isinstance(value, Mapping):
        return {key: _copy(part) for key, part in value.items()}  # pyright: ignore[reportReturnType]
    if isinstance(value, (tuple, list)):
        return tuple(_copy(part) for part in value)  # pyright: ignore[reportReturnType]
    return np.array(as_array(value))  # pyright: ignore[reportReturnType]


def _same(one: Any, other: Any) -> bool:
    if isinstance(one, Mapping):
        return all(_same(one[key], other[key]) for key in one)
    if isinstance(one, tuple):
        return all(_same(*parts) for parts in zip(one, other, strict=True))
    return np.array_equal(one, other, equal_nan=one.dtype.kind == "f")
