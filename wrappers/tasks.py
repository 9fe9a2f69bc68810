"""Where the instruction of an episode comes from."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from robometer_rl.frames import TaskError, check_task
from robometer_rl.wrappers.frame_sources import View

__all__ = ["TaskFromAttribute", "TaskFromInfo", "TaskSource", "TaskStages", "parse_task", "read_instructions"]


@dataclass(frozen=True)
class TaskFromInfo:
    """The instruction is in the info of each reset, under ``info_key``."""

    info_key: str


@dataclass(frozen=True)
class TaskFromAttribute:
    """The instruction is an attribute of the (sub-)environment, read after each reset."""

    attribute: str


@dataclass(frozen=True)
class TaskStages:
    """Instructions to be followed one after the other, for a task that is too long for one.

    Each episode begins with the first. On the step on which the success rule of the `robometer_rl.RewardSpec` fires,
    the stage is complete: the next instruction applies, and the history begins anew with the current frame, which is
    scored with it and pays nothing. The success bonus is thus paid once per stage, and ``terminate_on_success`` ends
    the episode with the last one.

    ``mode="potential"`` is refused: it would no longer leave optimal policies as they are, since the potential jumps
    where a stage begins and nobody pays for it.

    Attributes:
        instructions: At least one.

    Examples:
        >>> from robometer_rl.wrappers import TaskStages
        >>> TaskStages(("open the drawer", "put the bowl in the drawer")).instructions[0]
        'open the drawer'
    """

    instructions: tuple[str, ...]

    def __post_init__(self) -> None:
        if not isinstance(self.instructions, (tuple, list)) or not self.instructions:
            raise TaskError(f"TaskStages needs a list of instructions, one per stage, got {self.instructions!r}")
        # A tuple, also of the list that it becomes in JSON.
        object.__setattr__(self, "instructions", tuple(check_task(task) for task in self.instructions))


TaskSource = str | TaskFromInfo | TaskFromAttribute | TaskStages


def parse_task(task: Any) -> TaskSource:
    """Returns ``task`` if it is one instruction for all episodes or says where to read it.

    A mapping with the field of one of the classes above is accepted too, because that is what
    ``gymnasium.envs.registration.EnvSpec.to_json`` turns them into.

    Raises:
        TaskError: Anything else.
    """
    for kind, field in ((TaskFromInfo, "info_key"), (TaskFromAttribute, "attribute"), (TaskStages, "instructions")):
        if isinstance(task, Mapping) and set(task) == {field}:
            task = kind(task[field])
    if not isinstance(task, TaskSource):
        raise TaskError(
            f"got the task {task!r}; expected an instruction such as 'open the drawer', TaskFromInfo(info_key), "
            "TaskFromAttribute(attribute) or TaskStages(instructions)"
        )
    return check_task(task) if isinstance(task, str) else task


def read_instructions(
    task: TaskSource,
    indices: Sequence[int],
    view: Callable[[int], View],
    read_attribute: Callable[[str, Sequence[int]], Sequence[Any]],
) -> list[tuple[str, ...]]:
    """What is to be done in episodes that begin: one instruction per stage for each, mostly a single one.

    Args:
        task: Where they come from.
        indices: The environments.
        view: What an environment shows after its reset.
        read_attribute: Values of a named attribute of the chosen environments.

    Raises:
        TaskError: An instruction is absent or not a non-empty string; the message names the environment.
    """
    if isinstance(task, str):
        return [(task,)] * len(indices)
    if isinstance(task, TaskStages):
        return [task.instructions] * len(indices)
    if isinstance(task, TaskFromAttribute):
        values = read_attribute(task.attribute, indices)
    else:
        values = [_from_info(view(index), task.info_key) for index in indices]
    for index, value in zip(indices, values, strict=True):
        if not isinstance(value, str) or not value.strip():
            raise TaskError(f"environment {index}: {task} gave {value!r}; expected a non-empty instruction")
    return [(value,) for value in values]


def _from_info(view: View, key: str) -> Any:
    if key not in view.info:
        raise TaskError(f"environment {view.index}: the reset info has no {key!r}; it has {sorted(view.info)}")
    return view.info[key]
