"""What a server takes at most, checked before memory is taken."""

from __future__ import annotations

from dataclasses import dataclass

from robometer_rl.frames import FrameError
from robometer_rl.serving.problems import Problem

__all__ = ["Limits"]


@dataclass(frozen=True)
class Limits:
    """What a server takes at most."""

    body: int = 256 << 20
    """Bytes of a request."""
    clips: int = 256
    """Clips or pairs of a request, and candidates of a peek."""
    frames: int = 10_000
    """Frames of a clip."""
    side: int = 2048
    """Pixels along a side of a frame."""
    histories: int = 64
    """Histories of all streams under one protocol; their memory is one buffer."""
    protocols: int = 4
    """Protocols that streams may have at a time."""
    requests: int = 256
    """Requests that wait or are answered at a time."""
    requests_per_token: int = 64
    """Of these, those of one token, where the server has several: one learner leaves room for the others."""
    queued_bytes: int = 1 << 30
    """Bytes of these requests."""
    upload_s: float = 60.0
    """Seconds that a request may take to arrive."""

    def check_frames(self, shape: tuple[int, ...], field: str) -> None:
        """Refuses frames (T, H, W, 3) of such a shape; channels may stand anywhere.

        Raises:
            Problem: Too many, or too large.
            FrameError: Not four axes.
        """
        if len(shape) != 4:
            raise FrameError(f"{field} has the shape {list(shape)}; expected (T, H, W, 3)")
        if shape[0] > self.frames:
            raise Problem(413, "too_large", f"{field} has {shape[0]} frames; this server takes {self.frames}", field)
        if max(shape[1:]) > self.side:
            raise Problem(
                413, "too_large", f"{field} has frames {list(shape[1:])}; this server takes {self.side} pixels", field
            )

    def check_count(self, count: int, what: str, field: str) -> None:
        """Refuses a request with no or too many parts.

        Raises:
            Problem: So it is.
        """
        if not count:
            raise Problem(422, "value", f"the request has no {what}", field)
        if count > self.clips:
            message = f"the request has {count} {what}; this server takes {self.clips} at a time"
            raise Problem(413, "too_large", message, field)
