"""Several servers of one model that share the work: ``load_reward_model("http://a:8000,http://b:8000")``.

History i of a stream is kept by server i modulo their number; clips are dealt out likewise. All servers are asked at
the same time. What one of them does not answer because it is away is asked of another one, which is given the histories
first; once it is back, it gets them back. Only when nobody answers any more is that an outage, and any other error of
one of them is an error of the whole.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import Any, Final, TypeVar

import numpy as np
from numpy.typing import NDArray

from robometer_rl.frames import Clip, FrameProtocol
from robometer_rl.models.reward_model import RewardModel, RewardStream
from robometer_rl.prediction import Prediction, StepPrediction
from robometer_rl.serving.client import RemoteRewardModel, RemoteStream
from robometer_rl.serving.connection import is_outage
from robometer_rl.serving.problems import ServerError
from robometer_rl.serving.wire import MODEL_FACTS

__all__ = ["GroupStream", "ServerGroup"]

logger = logging.getLogger(__name__)

T = TypeVar("T")

_LOOK_AGAIN_S: Final = 10.0  # after which a server that was away is looked for
_LOOK_S: Final = 1.0
_PAUSE_S: Final = 0.5  # where nobody answers


class ServerGroup(RewardModel):
    """Asks several servers of the same model; see `RewardModel`. May be pickled.

    Args:
        members: The servers, each with the patience after which another one is asked.
        patience: Seconds for which it may be that none of them answers.

    Raises:
        ServerError: They do not serve the same model, or one is a server of the reference.
    """

    def __init__(self, members: Sequence[RewardModel], patience: float) -> None:
        super().__init__()
        self.members = [member for member in members if isinstance(member, RemoteRewardModel)]
        served = {member.source: member.identity for member in self.members}
        if len(self.members) < len(members) or len(set(served.values())) > 1:
            raise ServerError(f"servers that share the work serve the same model of this package; these serve {served}")
        first = self.members[0]
        for name in MODEL_FACTS:
            setattr(self, name, getattr(first, name))
        self.default_protocol = first.default_protocol
        self.source = ",".join(member.source for member in self.members)
        self._patience = patience
        self._away: dict[int, float] = {}  # when to look for it again
        self._threads = ThreadPoolExecutor(len(self.members), thread_name_prefix="robometer-server")

    def __reduce__(self) -> Any:
        return ServerGroup, (self.members, self._patience)

    def predict(self, clips: Sequence[Clip]) -> list[Prediction]:
        """See `RewardModel.predict`."""
        return self._deal(clips, lambda member, part: member.predict(part))

    def predict_steps(
        self, clips: Sequence[Clip], protocol: FrameProtocol | None = None, every: int = 1
    ) -> list[Prediction]:
        """See `RewardModel.predict_steps`."""
        return self._deal(clips, lambda member, part: member.predict_steps(part, protocol, every))

    def compare(self, pairs: Sequence[tuple[Clip, Clip]], both_orders: bool = False) -> NDArray[np.float32]:
        """See `RewardModel.compare`."""
        return np.array(self._deal(pairs, lambda member, part: member.compare(part, both_orders)), np.float32)

    def stream(self, tasks: Sequence[str], protocol: FrameProtocol | None = None) -> RewardStream:
        """See `RewardModel.stream`."""
        return GroupStream(self, tasks, protocol or self.default_protocol)

    def all_of(self, jobs: Mapping[int, Callable[[RemoteRewardModel], T]]) -> dict[int, Future[T]]:
        """Runs jobs, each with the server of its number or, while that one is away, with another; waits for all."""
        give_up, left, done = time.monotonic() + self._patience, dict(jobs), {}
        while True:
            hosts = {number: self._host(number) for number in left}
            asked = {number: self._threads.submit(job, self.members[hosts[number]]) for number, job in left.items()}
            wait(asked.values())
            lost = {number: future for number, future in asked.items() if is_outage(future.exception())}
            done |= asked
            left = {number: jobs[number] for number in lost}
            for number, future in lost.items():
                self._note_away(hosts[number], future.exception())
            if not left:
                return done
            if len(self._away) == len(self.members):
                if time.monotonic() + _PAUSE_S > give_up:
                    return done
                time.sleep(_PAUSE_S)
                self._away.clear()

    def _host(self, number: int) -> int:
        """The server that does the work of another, or its own."""
        look = self._away.get(number)
        if look is not None and look < time.monotonic():
            self._look_for(number)
        there = [each for each in range(len(self.members)) if each not in self._away]
        return number if number in there or not there else there[number % len(there)]

    def _look_for(self, number: int) -> None:
        member = self.members[number]
        try:
            member.connection.alone(_LOOK_S).ask("GET", "/ready", repeat=False)
        except ServerError:
            self._away[number] = time.monotonic() + _LOOK_AGAIN_S
        else:
            logger.warning("%s answers again, and has its share of the work", member.source)
            self._away.pop(number, None)

    def _note_away(self, number: int, error: BaseException | None) -> None:
        if number not in self._away:
            logger.warning("%s is away, others do its work: %s", self.members[number].source, error)
        self._away[number] = time.monotonic() + _LOOK_AGAIN_S

    def _deal(self, items: Sequence[Any], ask: Callable[[RemoteRewardModel, list[Any]], Any]) -> list[Any]:
        count = len(self.members)
        parts = {n: list(items[n::count]) for n in range(count) if len(items) > n}

        def job(number: int) -> Callable[[RemoteRewardModel], Any]:
            return lambda member: ask(member, parts[number])

        answers = {number: future.result() for number, future in self.all_of({n: job(n) for n in parts}).items()}
        return [answers[place % count][place // count] for place in range(len(items))]


class GroupStream(RewardStream):
    """Histories at several servers; see `RewardStream`.

    Args:
        group: The servers.
        tasks: One per history.
        protocol: Which frames are shown.
    """

    def __init__(self, group: ServerGroup, tasks: Sequence[str], protocol: FrameProtocol) -> None:
        super().__init__(tasks, protocol)
        self.group = group
        self._count = len(group.members)

        def begin(number: int) -> Callable[[RemoteRewardModel], RemoteStream]:
            return lambda member: RemoteStream(member, self.tasks[number :: self._count], protocol)

        begun = group.all_of({number: begin(number) for number in range(self._count)})
        self._parts = [begun[number].result() for number in range(self._count)]

    def append(self, frames: Sequence[Any] | NDArray[Any], indices: Sequence[int] | None = None) -> StepPrediction:
        """See `RewardStream.append`."""
        chosen = self._chosen(indices)
        images = self._frames_for(frames, chosen)
        return self._together(chosen, lambda part, places, mine: part.append([images[p] for p in places], mine))

    def peek(self, frames: Sequence[Any] | NDArray[Any], indices: Sequence[int] | None = None) -> StepPrediction:
        """See `RewardStream.peek`."""
        rows = self._of_candidates(len(frames), indices)
        images = self._frames_for(frames, rows)
        return self._together(rows, lambda part, places, mine: part.peek([images[p] for p in places], mine))

    def reset(self, indices: Sequence[int] | None = None, tasks: Sequence[str] | None = None) -> None:
        """See `RewardStream.reset`."""
        chosen = self._chosen(indices)
        before = list(self.tasks)
        self._change_tasks(chosen, tasks)
        changed, self.tasks = self.tasks, before

        def reset(part: RemoteStream, places: list[int], mine: list[int]) -> None:
            part.reset(mine, None if tasks is None else [changed[chosen[place]] for place in places])

        self._at_once(chosen, reset)
        self.tasks = changed

    def restore(self, index: int, length: int, frames: Mapping[int, Any]) -> None:
        """See `RewardStream.restore`."""
        self._chosen([index])
        self._parts[index % self._count].restore(index // self._count, length, frames)

    def _places(self, chosen: Sequence[int]) -> dict[int, list[int]]:
        """For each server that keeps some of the histories, where they stand among the chosen ones."""
        found: dict[int, list[int]] = {}
        for place, index in enumerate(chosen):
            found.setdefault(index % self._count, []).append(place)
        return found

    def _at_once(self, chosen: Sequence[int], ask: Callable[[RemoteStream, list[int], list[int]], T]) -> dict[int, T]:
        """What each server answers. If one does not, the histories of all are what they were."""
        places = self._places(chosen)
        before = {number: self._parts[number].state() for number in places}

        def job(number: int) -> Callable[[RemoteRewardModel], T]:
            mine = [chosen[place] // self._count for place in places[number]]

            def run(member: RemoteRewardModel) -> T:
                self._parts[number].move(member)
                return ask(self._parts[number], places[number], mine)

            return run

        futures = self.group.all_of({number: job(number) for number in places})
        failures = [error for future in futures.values() if (error := future.exception()) is not None]
        if failures:
            for number, state in before.items():
                self._parts[number].go_back(state)
            raise failures[0]
        return {number: future.result() for number, future in futures.items()}

    def _together(
        self, chosen: Sequence[int], ask: Callable[[RemoteStream, list[int], list[int]], StepPrediction]
    ) -> StepPrediction:
        if not chosen:
            return self._parts[0].append([], [])
        answers, places = self._at_once(chosen, ask), self._places(chosen)
        order = np.argsort([place for number in answers for place in places[number]])
        said = list(answers.values())
        success = [each.success for each in said if each.success is not None]
        return StepPrediction(
            np.concatenate([each.progress for each in said])[order],
            np.concatenate(success)[order] if success else None,
            np.concatenate([each.progress_distribution for each in said])[order],
        )
