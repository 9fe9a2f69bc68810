"""Where the instruction of an episode comes from."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import gymnasium as gym
from gymnasium.core import ActType, ObsType
from gymnasium.utils import RecordConstructorArgs

from robometer_rl.frames import TaskError, check_task
from robometer_rl.wrappers.frame_sources import View

__all__ = [
    "TaskFromAttribute",
    "TaskFromInfo",
    "TaskSource",
    "TaskStages",
    "TaskToInfo",
    "parse_task",
    "read_instructions",
]


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


TaskSource = (
    str
    | Sequence[str]
    | TaskFromInfo
    | TaskFromAttribute
    | TaskStages
    | Callable[[Any, Mapping[str, Any]], str | Sequence[str] | TaskStages]
)
"""One instruction for all episodes; a list with one for each environment; where to read it after each reset, which may
be a callable of one environment's observation and info; or stages. What is read may be a list, too: the stages of
that episode."""

_EXPECTED = (
    "an instruction such as 'open the drawer', a list with one for each environment, TaskFromInfo(info_key), "
    "TaskFromAttribute(attribute), TaskStages(instructions) or a callable of (obs, info)"
)


class TaskToInfo(gym.Wrapper[ObsType, ActType, ObsType, ActType], RecordConstructorArgs):
    """Puts the instruction that a reset is given in its options into the info of the reset, for `TaskFromInfo`.

    A reset without one keeps the instruction that was given last, as where a vector environment resets itself. The
    option is not handed on to the environment, which may not know it.

    Args:
        env: One environment, or a sub-environment of a vector environment.
        task: The instruction until another is given.
        key: Of the option and of the info.

    Examples:
        >>> from robometer_rl.wrappers import TaskToInfo
        >>> env = TaskToInfo(make_env(), "open the drawer")
        >>> env.reset(options={"task": "close the drawer"})[1]["task"]
        'close the drawer'
        >>> env.reset()[1]["task"]
        'close the drawer'
    """

    def __init__(self, env: gym.Env[ObsType, ActType], task: str | None = None, key: str = "task") -> None:
        """See the class.

        Raises:
            TaskError: ``task`` is no instruction.
        """
        RecordConstructorArgs.__init__(self, task=task, key=key)
        gym.Wrapper.__init__(self, env)
        self._task = None if task is None else check_task(task)
        self._key = key

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[ObsType, dict[str, Any]]:
        """Resets the environment, for the instruction in ``options`` if there is one.

        Raises:
            TaskError: It is no instruction, or none was given until now.
        """
        others = dict(options or {})
        if self._key in others:
            self._task = check_task(others.pop(self._key))
        if self._task is None:
            raise TaskError(f"no instruction: give one to TaskToInfo, or reset with options={{{self._key!r}: ...}}")
        observation, info = self.env.reset(seed=seed, options=others if options is not None else None)
        return observation, {**info, self._key: self._task}


def parse_task(task: Any, num_envs: int) -> TaskSource:
    """Returns ``task`` if it is one instruction for all episodes, or one per environment, or says where to read it.

    A mapping with the field of one of the classes above is accepted too, because that is what
    ``gymnasium.envs.registration.EnvSpec.to_json`` turns them into.

    Args:
        task: What was given.
        num_envs: Number of environments.

    Raises:
        TaskError: Anything else, or a list of another length.
    """
    for kind, field in ((TaskFromInfo, "info_key"), (TaskFromAttribute, "attribute"), (TaskStages, "instructions")):
        if isinstance(task, Mapping) and set(task) == {field}:
            task = kind(task[field])
    if isinstance(task, str):
        return check_task(task)
    if isinstance(task, (tuple, list)):
        if len(task) != num_envs:
            raise TaskError(
                f"got {len(task)} instructions for {num_envs} environments; a list has one for each of them "
                "(instructions that follow one another are TaskStages)"
            )
        return tuple(check_task(each) for each in task)
    if isinstance(task, (TaskFromInfo, TaskFromAttribute, TaskStages)):
        return task
    if not callable(task):
        raise TaskError(f"got the task {task!r}; expected {_EXPECTED}")
    read: Callable[[Any, Mapping[str, Any]], Any] = task
    return read


def read_instructions(
    task: TaskSource,
    indices: Sequence[int],
    view: Callable[[int], View],
    read_attribute: Callable[[str, Sequence[int]], Sequence[Any]],
) -> list[tuple[str, ...]]:
    """What is to be done in episodes that begin: one instruction per stage for each, mostly a single one.

    Args:
        task: Where they come from, as `parse_task` returns it.
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
    elif isinstance(task, TaskFromInfo):
        values = [_from_info(view(index), task.info_key) for index in indices]
    elif callable(task):
        values = [task(view(index).observation, view(index).info) for index in indices]
    else:
        values = [task[index] for index in indices]
    return [_instructions(index, task, value) for index, value in zip(indices, values, strict=True)]


def _instructions(index: int, task: TaskSource, value: Any) -> tuple[str, ...]:
    if isinstance(value, TaskStages):
        return value.instructions
    found = tuple(value) if isinstance(value, (tuple, list)) else (value,)
    if not found or not all(isinstance(each, str) and each.strip() for each in found):
        raise TaskError(f"environment {index}: {task} gave {value!r}; expected a non-empty instruction, or stages")
    return found


def _from_info(view: View, key: str) -> Any:
    if key not in view.info:
        raise TaskError(f"environment {view.index}: the reset info has no {key!r}; it has {sorted(view.info)}")
    return view.info[key]
