"""Where the instruction of an episode comes from."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from robometer_rl.frames import TaskError, check_task
from robometer_rl.wrappers.frame_sources import View

__all__ = ["TaskFromAttribute", "TaskFromInfo", "TaskSource", "parse_task", "read_tasks"]


@dataclass(frozen=True)
class TaskFromInfo:
    """The instruction is in the info of each reset, under ``info_key``."""

    info_key: str


@dataclass(frozen=True)
class TaskFromAttribute:
    """The instruction is an attribute of the (sub-)environment, read after each reset."""

    attribute: str


TaskSource = str | TaskFromInfo | TaskFromAttribute


def parse_task(task: Any) -> TaskSource:
    """Returns ``task`` if it is one instruction for all episodes or says where to read it.

    A mapping with the field of `TaskFromInfo` or `TaskFromAttribute` is accepted too, because that is what
    ``gymnasium.envs.registration.EnvSpec.to_json`` turns them into.

    Raises:
        TaskError: Anything else.
    """
    if isinstance(task, Mapping) and set(task) == {"info_key"}:
        task = TaskFromInfo(**task)
    if isinstance(task, Mapping) and set(task) == {"attribute"}:
        task = TaskFromAttribute(**task)
    if not isinstance(task, (str, TaskFromInfo, TaskFromAttribute)):
        raise TaskError(
            f"got the task {task!r}; expected an instruction such as 'open the drawer', TaskFromInfo(info_key) or "
            "TaskFromAttribute(attribute)"
        )
    return check_task(task) if isinstance(task, str) else task


def read_tasks(
    task: TaskSource,
    indices: Sequence[int],
    view: Callable[[int], View],
    read_attribute: Callable[[str, Sequence[int]], Sequence[Any]],
) -> list[str]:
    """The instructions of episodes that begin.

    Args:
        task: Where they come from.
        indices: The environments.
        view: What an environment shows after its reset.
        read_attribute: Values of a named attribute of the chosen environments.

    Raises:
        TaskError: An instruction is absent or not a non-empty string; the message names the environment.
    """
    if isinstance(task, str):
        return [task] * len(indices)
    if isinstance(task, TaskFromAttribute):
        values = read_attribute(task.attribute, indices)
    else:
        values = [_from_info(view(index), task.info_key) for index in indices]
    for index, value in zip(indices, values, strict=True):
        if not isinstance(value, str) or not value.strip():
            raise TaskError(f"environment {index}: {task} gave {value!r}; expected a non-empty instruction")
    return list(values)


def _from_info(view: View, key: str) -> Any:
    if key not in view.info:
        raise TaskError(f"environment {view.index}: the reset info has no {key!r}; it has {sorted(view.info)}")
    return view.info[key]
