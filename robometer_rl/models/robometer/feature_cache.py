"""Vision features that will be needed again, within a fixed amount of memory."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable
from typing import Generic, TypeVar

import torch

__all__ = ["FeatureStore"]

Key = TypeVar("Key", bound=Hashable)


class FeatureStore(Generic[Key]):
    """Features by key; beyond a number of bytes those used longest ago are dropped.

    Attributes:
        limit: Bytes.
    """

    limit: int = 1 << 30

    def __init__(self) -> None:
        self._features: OrderedDict[Key, torch.Tensor] = OrderedDict()
        self._bytes = 0

    def __len__(self) -> int:
        return len(self._features)

    def get(self, key: Key) -> torch.Tensor | None:
        """The features of ``key``, which were now used last; None if there are none."""
        if key in self._features:
            self._features.move_to_end(key)
        return self._features.get(key)

    def put(self, key: Key, features: torch.Tensor) -> None:
        """Keeps features, if there are none of that key yet."""
        if key in self._features:
            return
        # The tower gives views of one tensor per pass, each of which would keep the whole pass alive.
        self._features[key] = features.clone()
        self._bytes += features.nbytes
        while self._bytes > self.limit:
            self._bytes -= self._features.popitem(last=False)[1].nbytes

    def discard(self, key: Key) -> None:
        """Drops the features of ``key``, if there are any."""
        dropped = self._features.pop(key, None)
        self._bytes -= 0 if dropped is None else dropped.nbytes
