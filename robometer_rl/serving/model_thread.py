"""The one thread that asks the model: whenever it is free, it takes what is waiting as one batch.

Nothing waits for a timer. Streams come first, one call of each, as rows of one pass; then clips, a few at a time, so
that a request for a thousand clips keeps nobody from the next frame for longer than these take.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Any, Final

from robometer_rl.models.reward_model import RewardModel
from robometer_rl.serving.calls import Attempt, Question, StreamAction, StreamCall
from robometer_rl.serving.metrics import Metrics
from robometer_rl.serving.slots import StreamTable

__all__ = ["ModelThread"]

# Frames of clips that go before streams are looked at again; one episode for `predict_steps` goes in one piece.
_FRAMES_OF_A_TURN: Final = 128
_SWEEP_S: Final = 5.0


class ModelThread:
    """Loads a model and answers calls, until it is closed.

    Args:
        load: Gives the model.
        table: Makes the streams of the model.
        metrics: Where work is counted.
        exact: Whether each call goes through the model alone, as if nobody else asked: which others share a pass
            changes numbers by a rounding error.

    Attributes:
        loaded: The model, once it is there, or why it is not.
        ended: Done when the thread has ended, with an error if it was not told to.
    """

    def __init__(
        self,
        load: Callable[[], RewardModel],
        table: Callable[[RewardModel], StreamTable],
        metrics: Metrics,
        exact: bool = False,
    ) -> None:
        self.loaded: Future[RewardModel] = Future()
        self.ended: Future[None] = Future()
        self._load, self._table, self._metrics, self._exact = load, table, metrics, exact
        self._questions: deque[Question] = deque()
        self._stream_calls: deque[StreamCall | StreamAction] = deque()
        self._waiting = threading.Condition()
        self._closing = False
        self._thread = threading.Thread(target=self._run, name="robometer-model", daemon=True)
        self._thread.start()

    @property
    def model(self) -> RewardModel | None:
        """The model, if it is there."""
        return self.loaded.result() if self.loaded.done() and self.loaded.exception() is None else None

    def submit(self, call: Question | StreamCall | StreamAction) -> Future[Any]:
        """Has a call answered, and returns its future."""
        with self._waiting:
            if isinstance(call, Question):
                self._questions.append(call)
            else:
                self._stream_calls.append(call)
            self._waiting.notify()
        return call.future

    def close(self) -> None:
        """Ends the thread after the batch that it works on."""
        with self._waiting:
            self._closing = True
            self._waiting.notify()
        # A model that is still being loaded cannot be stopped from doing so.
        if self.loaded.done():
            self._thread.join()

    def _run(self) -> None:
        with Attempt() as loading:
            model = self._load()
            streams = self._table(model)
        if loading.error is not None:
            self.loaded.set_exception(loading.error)
            self.ended.set_exception(loading.error)
            return
        self.loaded.set_result(model)
        with Attempt() as serving:
            self._serve(model, streams)
        if serving.error is None:
            self.ended.set_result(None)
        else:
            self.ended.set_exception(serving.error)

    def _serve(self, model: RewardModel, streams: StreamTable) -> None:
        while not self._closing:
            stream_calls, questions = self._take()
            if stream_calls:
                self._answer_streams(streams, stream_calls)
            if questions:
                self._answer_questions(model, questions)
            streams.sweep()
            self._metrics.note_streams(*streams.counts)

    def _take(self) -> tuple[list[StreamCall | StreamAction], list[Question]]:
        """One call of each stream, and questions of one kind; waits until there is something, or time to sweep."""
        with self._waiting:
            self._waiting.wait_for(lambda: self._stream_calls or self._questions or self._closing, _SWEEP_S)
            taken: dict[object, StreamCall | StreamAction] = {}
            left: deque[StreamCall | StreamAction] = deque()
            for call in self._stream_calls:
                # A new stream has no name yet.
                name = call.stream or call
                if name in taken:
                    left.append(call)
                else:
                    taken[name] = call
            self._stream_calls = left
            self._questions = deque(question for question in self._questions if not question.expire())
            first = self._questions[0] if self._questions else None
            asked = [question for question in self._questions if first is not None and _alike(question, first)]
        return [call for call in taken.values() if not call.expire()], asked[:1] if self._exact else asked

    def _answer_streams(self, streams: StreamTable, calls: Sequence[StreamCall | StreamAction]) -> None:
        self._metrics.note_waiting(calls)
        start = time.perf_counter()
        together = [[call] for call in calls] if self._exact else [calls]
        passes = [rows for part in together for rows in streams.answer(part)]
        if passes:
            self._metrics.note_work("stream", time.perf_counter() - start, passes)

    def _answer_questions(self, model: RewardModel, asked: Sequence[Question]) -> None:
        """Answers as much of questions of one kind as a turn may take."""
        turn, room = [], _FRAMES_OF_A_TURN
        for question in asked:
            for item in question.items[len(question.answers) :]:
                if turn and question.frames_of(item) > room and not self._exact:
                    break
                room -= question.frames_of(item)
                turn.append((question, item))
            else:
                continue
            break
        self._metrics.note_waiting([question for question, _ in turn if not question.answers])
        start = time.perf_counter()
        self._ask(model, turn)
        self._metrics.note_work(asked[0].kind, time.perf_counter() - start, [len(turn)])
        self._put_back(list(dict.fromkeys(question for question, _ in turn)))

    def _ask(self, model: RewardModel, turn: Sequence[tuple[Question, Any]]) -> None:
        """Asks about items together; about those of each question for themselves where that fails."""
        kind, options = turn[0][0].kind, dict(turn[0][0].options)
        with Attempt() as attempt:
            answers = getattr(model, kind)([item for _, item in turn], **options)
        questions = list(dict.fromkeys(question for question, _ in turn))
        if attempt.error is None:
            for (question, _), answer in zip(turn, answers, strict=True):
                question.answers.append(answer)
        elif len(questions) == 1:
            questions[0].fail(attempt.error)
        else:
            for question in questions:
                self._ask(model, [pair for pair in turn if pair[0] is question])

    def _put_back(self, asked: list[Question]) -> None:
        """Ends the questions that have their answers; those that had a turn and are not done go behind all others."""
        for question in asked:
            if not question.future.done() and len(question.answers) == len(question.items):
                question.future.set_result(question.answers)
        with self._waiting:
            left = [question for question in self._questions if not question.future.done()]
            self._questions = deque(sorted(left, key=asked.__contains__))


def _alike(question: Question, other: Question) -> bool:
    return question.kind == other.kind and question.options == other.options
