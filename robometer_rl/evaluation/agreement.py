"""Whether several people, or people and a model, say the same of the same things, more often than by chance.

Per cent agreement is high where one answer is usual, whoever says what; Cohen's kappa (1960) and Krippendorff's alpha
(2011, doi 10.1080/19312458.2011.568376) are 1 for full agreement and 0 for what chance brings about. All of them are
about items that two or more have rated; the number of these stands beside every value.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any, Final

import numpy as np

__all__ = [
    "Agreement",
    "Difference",
    "Ratings",
    "agreement",
    "cohen_kappa",
    "difference",
    "krippendorff_alpha",
]

Ratings = Mapping[Any, Mapping[str, Hashable]]
"""What was said of each item, by who said it; whoever said nothing of it is left out."""

_KAPPA: Final = "Cohen's kappa"
_ALPHA: Final = "Krippendorff's alpha"


@dataclass(frozen=True)
class Agreement:
    """How often raters say the same.

    Attributes:
        same: Pairs of ratings of one item that are the same.
        pairs: Pairs of ratings of one item.
        items: Items that two or more have rated.
        corrected: The same corrected for chance; NaN where chance alone would agree always, or nobody rated twice.
        measure: What ``corrected`` is: Cohen's kappa of two raters, Krippendorff's alpha of more.
    """

    same: int
    pairs: int
    items: int
    corrected: float
    measure: str

    @property
    def share(self) -> float:
        """Of the pairs that are the same; NaN without any."""
        return self.same / self.pairs if self.pairs else float("nan")


def agreement(ratings: Ratings) -> Agreement:
    """How often raters choose the same category.

    Args:
        ratings: Categories without an order.

    Examples:
        >>> said = {"a": {"ann": 1, "bob": 1}, "b": {"ann": 0, "bob": 0}, "c": {"ann": 1, "bob": 0}, "d": {"ann": 1}}
        >>> found = agreement(said)
        >>> found.same, found.pairs, round(found.corrected, 2), found.measure
        (2, 3, 0.4, "Cohen's kappa")
    """
    shared = [by_rater for by_rater in ratings.values() if len(by_rater) > 1]
    twice = [pair for by_rater in shared for pair in combinations(by_rater.values(), 2)]
    raters = sorted({rater for by_rater in shared for rater in by_rater})
    if len(raters) == 2:
        columns = ([by_rater[rater] for by_rater in shared] for rater in raters)
        corrected, measure = cohen_kappa(*columns), _KAPPA
    else:
        corrected, measure = krippendorff_alpha([list(by_rater.values()) for by_rater in shared]), _ALPHA
    return Agreement(sum(one == other for one, other in twice), len(twice), len(shared), corrected, measure)


def cohen_kappa(first: Sequence[Hashable], second: Sequence[Hashable]) -> float:
    """Cohen's kappa of two raters who have rated the same n items.

    Args:
        first: (n,) categories that one of them chose.
        second: (n,) those of the other.

    Returns:
        (p - q) / (1 - q) for the share p of items on which they agree and the share q on which they would if each
        answered as often, and about other items; NaN without items, or where q is 1.

    Raises:
        ValueError: Different numbers of ratings.
    """
    if len(first) != len(second):
        raise ValueError(f"two raters rate the same items; got {len(first)} and {len(second)} ratings")
    count = len(first)
    same = sum(one == other for one, other in zip(first, second, strict=True))
    one, other = Counter(first), Counter(second)
    by_chance = sum(one[category] * other[category] for category in one)  # of count**2
    if by_chance == count**2:
        return float("nan")
    return (same * count - by_chance) / (count**2 - by_chance)


def krippendorff_alpha(units: Iterable[Sequence[Hashable]]) -> float:
    """Krippendorff's alpha of categories without an order; any number of raters, who need not rate everything.

    Args:
        units: What was said of each item; items with a single rating do not count.

    Returns:
        1 - observed / expected disagreement; NaN where all ratings are the same, or none can be paired.
    """
    pairable = [Counter(unit) for unit in units if len(unit) > 1]
    totals = Counter[Hashable]()
    observed = 0.0
    for unit in pairable:
        totals.update(unit)
        count = unit.total()
        observed += (count**2 - sum(number**2 for number in unit.values())) / (count - 1)
    count = totals.total()
    expected = count**2 - sum(number**2 for number in totals.values())  # of count * (count - 1)
    return 1.0 - observed * (count - 1) / expected if expected else float("nan")


@dataclass(frozen=True)
class Difference:
    """How far apart numbers are that raters gave.

    Attributes:
        mean: Mean absolute difference over pairs of ratings of one item; NaN without any.
        pairs: Pairs of ratings of one item.
        items: Items that two or more have rated.
    """

    mean: float
    pairs: int
    items: int


def difference(ratings: Mapping[Any, Mapping[str, float]]) -> Difference:
    """How far apart raters are on a scale.

    Args:
        ratings: Numbers on one scale, such as frames, seconds or grades.

    Examples:
        >>> difference({"a": {"ann": 10, "bob": 14}, "b": {"ann": 7, "bob": 7}, "c": {"bob": 3}})
        Difference(mean=2.0, pairs=2, items=2)
    """
    shared = [list(by_rater.values()) for by_rater in ratings.values() if len(by_rater) > 1]
    apart = [abs(one - other) for values in shared for one, other in combinations(values, 2)]
    return Difference(float(np.mean(apart)) if apart else float("nan"), len(apart), len(shared))
