"""Infos of a vector environment: read and written for one of its environments.

Gymnasium batches what its environments report: ``infos[key]`` has one entry per environment, and the mask
``infos["_" + key]`` says which of them reported it. Vector environments of other makers leave the masks out where all
have reported, hand out torch tensors, or one dictionary per environment in a list.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
from gymnasium.vector import VectorEnv
from numpy.typing import NDArray

from robometer_rl.frames import as_array, is_tensor
from robometer_rl.wrappers.tensors import device_of

__all__ = [
    "add_info",
    "as_infos",
    "batch_row",
    "env_info",
    "final_info",
    "final_key",
    "forget_info",
    "keep_types",
    "on_host",
]

Infos = dict[str, Any]


def as_infos(infos: Any, num_envs: int) -> Infos:
    """Infos as a dictionary, also where they, or the ``final_info`` in them, are one dictionary per environment.

    Raises:
        TypeError: They are neither.
    """
    if isinstance(infos, Mapping):
        infos = dict(infos)
        final = infos.get("final_info", {})
        if not isinstance(final, Mapping):
            listed = [None] * num_envs if final is None else final
            infos["final_info"] = as_infos([info or {} for info in listed], num_envs)
        return infos
    if not isinstance(infos, (list, tuple)) or len(infos) != num_envs:
        raise TypeError(
            f"got infos of type {type(infos).__name__}; expected a dictionary of arrays with an entry for each of the "
            f"{num_envs} environments, as gymnasium.vector.VectorEnv.step describes it, or a list of one dictionary "
            "for each"
        )
    batched: Infos = {}
    for index, info in enumerate(infos):
        add_info(batched, info, index, num_envs, owned=True)
    return batched


def env_info(infos: Mapping[str, Any], index: int, num_envs: int) -> Infos:
    """The info of one environment, from the infos of a vector environment.

    Args:
        infos: Arrays, tensors or lists with one entry per environment, ``_key`` being the mask of ``key``; dictionaries
            of these. Any other value belongs to all environments.
        index: The environment.
        num_envs: Number of environments.
    """
    info: Infos = {}
    for key, value in infos.items():
        is_mask = key.startswith("_") and key[1:] in infos
        is_absent = f"_{key}" in infos and not infos[f"_{key}"][index]
        if is_mask or is_absent:
            continue
        if isinstance(value, Mapping):
            info[key] = env_info(value, index, num_envs)
        elif _is_batch(value, num_envs):
            item = value[index]
            # As Python's own it becomes an array of bools again when it is added to other infos.
            info[key] = bool(item) if isinstance(item, np.bool_) else item
        else:
            info[key] = value
    return info


def final_info(infos: Mapping[str, Any], index: int, num_envs: int) -> Infos:
    """What one environment reported at the end of an episode, where the same step has reset it; empty if nothing."""
    return env_info(infos.get("final_info") or {}, index, num_envs)


def final_key(infos: Mapping[str, Any]) -> str:
    """Under which key an environment gives the last observations of episodes that the same step has ended.

    Gymnasium says ``final_obs``; ManiSkill, as Gymnasium did before 1.0, ``final_observation``.
    """
    return "final_observation" if "final_observation" in infos else "final_obs"


def on_host(infos: Mapping[str, Any]) -> Infos:
    """Infos whose small tensors are NumPy arrays: one copy from an accelerator instead of one per environment."""
    found: Infos = {}
    for key, value in infos.items():
        shape = _shape(value)
        if isinstance(value, Mapping):
            found[key] = on_host(value)
        else:
            is_small = shape is not None and (len(shape) <= 1 or shape[1:] == (1,))
            found[key] = as_array(value) if is_small else value
    return found


def forget_info(infos: Infos, index: int) -> None:
    """Removes the info of one environment from the infos of a vector environment, as if it had reported none.

    The dictionary is changed; the arrays in it are not, since an environment may go on using them.
    """
    for key in [key for key in infos if f"_{key}" in infos]:
        value, mask = infos[key], np.array(as_array(infos[f"_{key}"]))
        mask[index] = False
        if not mask.any():
            del infos[key], infos[f"_{key}"]
            continue
        if isinstance(value, Mapping):
            value = dict(value)
            forget_info(value, index)
        elif is_tensor(value):
            value = value.clone()
            value[index] = 0
        else:
            value = np.array(as_array(value))
            value[index] = None if value.dtype == object else 0
        infos[key], infos[f"_{key}"] = value, mask


def add_info(infos: Infos, info: Mapping[str, Any], index: int, num_envs: int, owned: bool = False) -> None:
    """Adds the info of one environment to the infos of a vector environment.

    As Gymnasium does it, except that values of different types keep what they say: there NaN or a list becomes True
    where another environment has reported a bool before, and 0.5 becomes 0 after an int. Where a key has no mask yet,
    all environments have reported it.

    Args:
        infos: Is changed; the arrays in it are not, since an environment may go on using them.
        info: Of the environment.
        index: The environment.
        num_envs: Number of environments.
        owned: Whether the arrays were made here too, so that they may be changed.
    """
    for key, value in info.items():
        is_new = key not in infos
        mask = np.full(num_envs, not is_new)
        if f"_{key}" in infos:
            mask = np.array(as_array(infos[f"_{key}"]))
        mask[index] = True
        is_final = key in ("final_obs", "final_observation") and device_of(value) is None
        if is_final and is_new:
            infos[key] = _written(np.full(num_envs, None, object), index, value, owned=True)
        elif isinstance(value, Mapping) and (is_new or isinstance(infos[key], Mapping)) and not is_final:
            infos[key] = {} if is_new else dict(infos[key])
            add_info(infos[key], value, index, num_envs, owned)
        else:
            batch = _empty_batch(value, num_envs) if is_new else infos[key]
            if isinstance(batch, Mapping):
                # What others report as a dictionary.
                batch = _boxes([env_info(batch, other, num_envs) for other in range(num_envs)])
            elif not is_new and not _is_batch(batch, num_envs):
                # What belonged to all environments until now.
                batch = _boxes([batch] * num_envs)
            infos[key] = _written(batch, index, value, owned or is_new)
        infos[f"_{key}"] = mask


def keep_types(env: VectorEnv[Any, Any, Any]) -> None:
    """Makes a vector environment of Gymnasium batch the infos of its environments as `add_info` does."""
    env._add_info = partial(_add_to, env.num_envs)


def _add_to(num_envs: int, vector_infos: Infos, env_info: Mapping[str, Any], env_num: int) -> Infos:
    add_info(vector_infos, env_info, env_num, num_envs, owned=True)
    return vector_infos


def batch_row(batch: Any, index: int) -> Any:
    """One environment's part of what a vector environment has batched, or gives in an array of objects."""
    if isinstance(batch, Mapping):
        return {key: batch_row(part, index) for key, part in batch.items()}
    if isinstance(batch, tuple):
        return tuple(batch_row(part, index) for part in batch)
    return batch[index]


def _shape(value: Any) -> tuple[int, ...] | None:
    """The shape of an array or tensor of whatever library; None of anything else."""
    try:
        return tuple(value.shape)
    except AttributeError:
        return None


def _is_batch(value: Any, num_envs: int) -> bool:
    if isinstance(value, (list, tuple)):
        return len(value) == num_envs
    shape = _shape(value)
    return shape is not None and shape[:1] == (num_envs,)


def _empty_batch(value: Any, num_envs: int) -> Any:
    """An array for values like this one, as Gymnasium makes it; a tensor for tensors."""
    if is_tensor(value):
        return value.new_zeros((num_envs, *value.shape))
    if isinstance(value, (bool, int, float)):
        return np.zeros(num_envs, type(value))
    if isinstance(value, (np.ndarray, np.generic)):
        return np.zeros((num_envs, *value.shape), value.dtype)
    return np.full(num_envs, None, object)


def _written(batch: Any, index: int, value: Any, owned: bool) -> Any:
    """The batch, or a copy of it, with another value for one environment."""
    if is_tensor(batch) and is_tensor(value) and (value.dtype, value.shape) == (batch.dtype, batch.shape[1:]):
        batch = batch if owned else batch.clone()
        batch[index] = value
        return batch
    array = as_array(batch)
    item = None if array.dtype == object or isinstance(value, (str, Mapping, list, tuple)) else as_array(value)
    if item is not None and {array.dtype.kind, item.dtype.kind} <= set("biuf") and item.shape == array.shape[1:]:
        array = array.astype(_common_type(array.dtype, item.dtype, value), copy=not owned)
        array[index] = item
        return array
    if not (owned and array.dtype == object and array.ndim == 1):
        # Values of different kinds: each environment keeps its own.
        array = _boxes(array)
    array[index] = value
    return array


def _boxes(values: Sequence[Any] | NDArray[Any]) -> NDArray[Any]:
    """An array of objects, whatever these are."""
    boxes = np.empty(len(values), object)
    for place, value in enumerate(values):
        boxes[place] = value
    return boxes


def _common_type(batch: np.dtype[Any], item: np.dtype[Any], value: Any) -> np.dtype[Any]:
    """The type for a batch with one more value; a number of Python's own is as wide as what it comes to."""
    if batch.kind == item.kind and isinstance(value, (bool, int, float)):
        return batch
    return np.promote_types(batch, item)
