"""Names of the reference's data sets: the groups that it evaluates on, and the short names in its files and metrics."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from functools import cache
from importlib.resources import files
from typing import Any, Final

from robometer_rl.documents import parse_json

__all__ = ["group", "short_name"]

_LONGEST: Final = 60


@cache
def _known() -> dict[str, Any]:
    return parse_json((files("robometer_rl") / "assets" / "published_sets.json").read_text(encoding="utf-8"))


def group(name: str) -> list[str | list[str]]:
    """The sets of a group such as ``rbm-1m-ood``; inner lists are judged jointly.

    Raises:
        KeyError: There is no such group.
    """
    return _known()["groups"][name]


def short_name(names: Sequence[str]) -> str:
    """What the reference calls a set, or several that are judged jointly, in files and metrics.

    Where two of its short names are the same, so that their files would overwrite each other, the long one stays.

    Example:
        >>> short_name(["aliangdw_metaworld_metaworld_eval"])
        'mw_eval'
        >>> short_name(["my/data set:one"])
        'my_data_set_one'
    """
    known = _known()["short_names"]
    joined = "_".join(known.get(name, _plain(name)) for name in names)
    if len(joined) <= _LONGEST:
        return joined
    return f"{joined[:51]}_{hashlib.md5('_'.join(names).encode()).hexdigest()[:8]}"


def _plain(name: str) -> str:
    return re.sub(r"_+", "_", re.sub(r'[/\\:*?"<>| ,]', "_", name)).strip("_")
