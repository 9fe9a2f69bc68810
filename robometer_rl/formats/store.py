"""Another store of trajectories, as `robometer-rl collect` records it: this is how recordings are brought together."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from robometer_rl.data.reading import Reading, SourceError, attempt
from robometer_rl.data.streaming import open_store

__all__ = ["StoredConfig", "read_stored"]


@dataclass(frozen=True)
class StoredConfig:
    """Another store of trajectories.

    Attributes:
        path: Directory of the store, or its address, as in hf://datasets/OWNER/NAME.
        split: Only episodes of these splits; of all if none is named.
    """

    path: Path
    split: tuple[str, ...] = ()


def read_stored(config: StoredConfig) -> Reading:
    """The episodes of a store in the order of their ids, with everything that the store knows of them.

    Raises:
        StoreError: There is no such store.
        SourceError: It has no episodes of a split that is asked for.
    """
    store = open_store(config.path)
    columns = store.columns("split")
    splits = dict(zip(columns["id"], columns["split"], strict=True))
    missing = sorted(set(config.split) - set(splits.values()))
    if missing:
        raise SourceError(
            f"{config.path} has no episodes of the splits {missing}; it has {sorted(set(splits.values()))}"
        )
    # Of a damaged row not even the split is known: it is among those wanted, so that it is listed.
    wanted = [each for each in store.ids() if not config.split or splits.get(each) in (*config.split, None)]
    return (attempt(each, lambda each=each: store[each]) for each in wanted)
