"""What a server counts, for Prometheus."""

from __future__ import annotations

import time
from collections.abc import Sequence

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from robometer_rl.models.reward_model import RewardModel
from robometer_rl.serving.calls import Call

__all__ = ["Metrics"]

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 120.0)
_ROWS = (1, 2, 4, 8, 16, 32, 64, 128, 256)


class Metrics:
    """Counters of one server; names and labels are in docs/serving.md."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        given = {"registry": self.registry, "namespace": "robometer"}
        self.requests = Counter("requests", "Requests answered", ["route", "status"], **given)
        self.request_seconds = Histogram("request_seconds", "From head to answer", ["route"], buckets=_SECONDS, **given)
        self.rejected = Counter("rejected", "Requests answered with an error", ["reason"], **given)
        self.waiting_requests = Gauge("queue_requests", "Requests that wait or are answered", **given)
        self.waiting_bytes = Gauge("queue_bytes", "Bytes of these requests", **given)
        self._frames = Counter("frames", "Frames given to the model", **given)
        self._queue_seconds = Histogram("queue_seconds", "From request to model", buckets=_SECONDS, **given)
        self._model_seconds = Counter("model_seconds", "Time that the model worked", ["kind"], **given)
        self._batch_rows = Histogram("batch_rows", "Clips or histories per pass", ["kind"], buckets=_ROWS, **given)
        self._streams = Gauge("streams", "Streams", **given)
        self._histories = Gauge("histories", "Histories of all streams", **given)
        self._stream_bytes = Gauge("stream_bytes", "Bytes that histories take at most", **given)
        self._info = Gauge("model_info", "The model that is served", ["id", "revision", "dtype"], **given)
        self.last_used = time.time()
        self.busy_seconds = 0.0
        self.passes = 0

    def text(self) -> bytes:
        """All of them as Prometheus reads them."""
        return generate_latest(self.registry)

    def note_model(self, model: RewardModel) -> None:
        """Says which model answers."""
        self._info.labels(model.model_id, model.revision or "", model.dtype).set(1)

    def note_waiting(self, calls: Sequence[Call]) -> None:
        """Counts calls that the model begins with, and how long they have waited."""
        now = time.monotonic()
        for call in dict.fromkeys(calls):
            self._queue_seconds.observe(now - call.received)
            self._frames.inc(call.num_frames)

    def note_work(self, kind: str, seconds: float, passes: Sequence[int]) -> None:
        """Counts passes of the model, each with so many rows."""
        self._model_seconds.labels(kind).inc(seconds)
        for rows in passes:
            self._batch_rows.labels(kind).observe(rows)
        self.last_used = time.time()
        self.busy_seconds += seconds
        self.passes += len(passes)

    def note_streams(self, streams: int, histories: int, nbytes: int) -> None:
        """Says how many streams there are, and what they take."""
        self._streams.set(streams)
        self._histories.set(histories)
        self._stream_bytes.set(nbytes)
