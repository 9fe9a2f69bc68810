"""The published training and evaluation data by name: which collections a group such as ``rbm-1m-id`` consists of.

A collection is a subset of a repository on the Hub. The reference calls its preprocessed cache, and with it the
collection, by a key: owner, repository and subset joined by ``_``. Its groups have a list to train on and one to
evaluate on, in which several collections may be evaluated together. The table is ``assets/published_data.json``.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Final, Literal

from robometer_rl.documents import parse_json

__all__ = [
    "Collection",
    "GroupList",
    "Published",
    "Stage",
    "UnknownGroupError",
    "data_path",
    "published",
]

GroupList = Literal["train", "eval"]

Stage = Literal["processed", "raw"]

_PLACES: Final[Mapping[Stage, tuple[tuple[str, ...], str]]] = {
    "processed": (("ROBOMETER_PROCESSED_DATASETS_PATH", "RBM_PROCESSED_DATASETS_PATH"), "processed_datasets"),
    "raw": (("ROBOMETER_DATASET_PATH", "RFM_DATASET_PATH"), "robometer_dataset"),
}
"""The environment variables that say where data is, the first that is set counts, and the folder if none is."""

_TABLE: Final = Path(__file__).parent.parent / "assets" / "published_data.json"

_LONGEST: Final = 60  # letters of a short name


class UnknownGroupError(ValueError):
    """A name that is neither that of a group nor that of a collection; the message lists the groups."""


@dataclass(frozen=True)
class Collection:
    """A subset of a published repository.

    Attributes:
        key: What the reference calls its preprocessed cache.
        repository: Id on the Hub, of the videos.
        subset: The folder in it.
        problem: Why the published preprocessing does not make its cache; None if it does.
        stand_in: Key of what it makes of the same videos, if that is known.
    """

    key: str
    repository: str
    subset: str
    problem: str | None = None
    stand_in: str | None = None


@dataclass(frozen=True)
class Published:
    """What is published.

    Attributes:
        groups: By name, the lists of keys; those that are evaluated together are in a tuple.
        collections: By key.
        archives: Ids on the Hub of the repositories of preprocessed caches in archives, the newer one first.
        short_names: What the reference's evaluation calls some collections, by key; see `short_name`.
    """

    groups: Mapping[str, Mapping[GroupList, tuple[str | tuple[str, ...], ...]]]
    collections: Mapping[str, Collection]
    archives: tuple[str, ...]
    short_names: Mapping[str, str]

    def keys(self, names: Iterable[str], lists: Sequence[GroupList] = ("train", "eval")) -> tuple[str, ...]:
        """Keys of the collections that are meant by names of groups and collections, each once, in order.

        Raises:
            UnknownGroupError: There is no such group or collection, or no such list of a group.

        Examples:
            >>> published().keys(["mw"])
            ('aliangdw_metaworld_metaworld_train', 'aliangdw_metaworld_metaworld_eval')
        """
        return tuple(dict.fromkeys(key for name in names for key in self._keys(name, lists)))

    def split_of(self, key: str, names: Iterable[str]) -> str:
        """``test`` for a collection that some of these groups evaluate on and none trains on, else ``train``."""
        lists = [(self._of(name, "train"), self._of(name, "eval")) for name in names if name in self.groups]
        trained = any(key in train for train, _ in lists)
        return "test" if not trained and any(key in evaluated for _, evaluated in lists) else "train"

    def key_of(self, repository: str, subset: str) -> str:
        """The key of a subset of a repository of which only the name is known, and not its owner.

        It is the published one if there is exactly one, else both names joined.

        Examples:
            >>> published().key_of("libero_rfm", "libero256_10")
            'abraranwar_libero_rfm_libero256_10'
        """
        known = [
            each.key
            for each in self.collections.values()
            if (each.repository.partition("/")[2], each.subset) == (repository, subset)
        ]
        return known[0] if len(known) == 1 else f"{repository}_{subset}".replace("/", "_").replace(":", "_")

    def short_name(self, keys: Sequence[str]) -> str:
        """What the reference's evaluation calls a set, or several that are judged jointly, in files and metrics.

        Where two of its short names are the same, so that their files would overwrite each other, the long one stays.

        Examples:
            >>> published().short_name(["aliangdw_metaworld_metaworld_eval"])
            'mw_eval'
            >>> published().short_name(["my/data set:one"])
            'my_data_set_one'
        """
        joined = "_".join(self.short_names.get(key, _plain(key)) for key in keys)
        if len(joined) <= _LONGEST:
            return joined
        return f"{joined[:51]}_{hashlib.md5('_'.join(keys).encode()).hexdigest()[:8]}"

    def _keys(self, name: str, lists: Sequence[GroupList]) -> Iterator[str]:
        if name in self.groups:
            found = [key for which in lists for key in self._of(name, which)]
            if not found:
                has = " and ".join(self.groups[name])
                raise UnknownGroupError(f"the group {name} has no list to {' or '.join(lists)}; it has one to {has}")
            yield from found
        elif name in self.collections:
            yield name
        else:
            raise UnknownGroupError(
                f"there is no group or published collection {name!r}; the groups are {', '.join(sorted(self.groups))}"
            )

    def _of(self, name: str, which: GroupList) -> list[str]:
        entries = self.groups[name].get(which, ())
        return [key for entry in entries for key in ((entry,) if isinstance(entry, str) else entry)]


def data_path(stage: Stage) -> Path:
    """Where data of a stage is if nobody says so: where the reference's environment variables say, or a folder here."""
    variables, folder = _PLACES[stage]
    return Path(next((os.environ[name] for name in variables if os.environ.get(name)), folder))


@lru_cache(maxsize=1)
def published() -> Published:
    """What is published, as far as this release knows."""
    table: Any = parse_json(_TABLE.read_text(encoding="utf-8"))
    groups = {
        name: {
            which: tuple(entry if isinstance(entry, str) else tuple(entry) for entry in entries)
            for which, entries in lists.items()
        }
        for name, lists in table["groups"].items()
    }
    problems = table["unavailable"]
    listed = Published(groups, {}, tuple(table["processed"]), table["short_names"])
    every = {key for name in groups for which in groups[name] for key in listed._of(name, which)}
    every |= {problem["stand_in"] for problem in problems.values() if "stand_in" in problem}
    collections = {key: _collection(key, table["repositories"], problems.get(key, {})) for key in sorted(every)}
    return Published(groups, collections, listed.archives, listed.short_names)


def _plain(key: str) -> str:
    return re.sub(r"_+", "_", re.sub(r'[/\\:*?"<>| ,]', "_", key)).strip("_")


def _collection(key: str, repositories: Iterable[str], problem: Mapping[str, str]) -> Collection:
    # Some names begin with others: the longest that fits is the repository.
    repository = max((each for each in repositories if key.startswith(each.replace("/", "_") + "_")), key=len)
    subset = key[len(repository) + 1 :]
    return Collection(key, repository, subset, problem.get("reason"), problem.get("stand_in"))
