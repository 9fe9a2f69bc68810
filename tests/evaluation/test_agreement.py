from __future__ import annotations

import math
from itertools import product

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from robometer_rl.evaluation.agreement import agreement, cohen_kappa, difference, krippendorff_alpha

CATEGORIES = st.sampled_from(["left", "right", "equal"])
TWO = st.lists(st.tuples(CATEGORIES, CATEGORIES), min_size=1, max_size=40)
UNITS = st.lists(st.lists(CATEGORIES, min_size=1, max_size=4), min_size=1, max_size=30)
RATINGS = st.dictionaries(
    st.integers(0, 30), st.dictionaries(st.sampled_from(["ann", "bob", "eve"]), CATEGORIES), max_size=20
)


def test_kappa_of_the_example_of_two_readers_of_fifty_grants() -> None:
    # Both say yes to 20 of 50 and no to 15; one alone says yes to 5, the other alone to 10.
    first = ["yes"] * 20 + ["yes"] * 5 + ["no"] * 10 + ["no"] * 15
    second = ["yes"] * 20 + ["no"] * 5 + ["yes"] * 10 + ["no"] * 15
    assert cohen_kappa(first, second) == pytest.approx(0.4)


def test_alpha_of_krippendorffs_own_example() -> None:
    # Four observers of twelve units, "Computing Krippendorff's Alpha-Reliability", section C: nominal data.
    table = [
        [1, 2, 3, 3, 2, 1, 4, 1, 2, None, None, None],
        [1, 2, 3, 3, 2, 2, 4, 1, 2, 5, None, 3],
        [None, 3, 3, 3, 2, 3, 4, 2, 2, 5, 1, None],
        [1, 2, 3, 3, 2, 4, 4, 1, 2, 5, 1, None],
    ]
    units = [[value for value in column if value is not None] for column in zip(*table, strict=True)]
    assert krippendorff_alpha(units) == pytest.approx(0.743, abs=5e-4)


def test_what_nobody_rated_twice_is_no_agreement() -> None:
    found = agreement({"a": {"ann": "left"}, "b": {"bob": "left"}})
    assert (found.same, found.pairs, found.items) == (0, 0, 0)
    assert math.isnan(found.share)
    assert math.isnan(found.corrected)
    assert math.isnan(difference({"a": {"ann": 1.0}}).mean)


def test_agreement_on_the_only_answer_there_is_says_nothing() -> None:
    found = agreement({number: {"ann": "left", "bob": "left"} for number in range(9)})
    assert found.share == 1.0
    assert math.isnan(found.corrected)


def test_both_need_the_same_items() -> None:
    with pytest.raises(ValueError, match="got 1 and 2 ratings"):
        cohen_kappa([1], [1, 2])


@given(TWO)
def test_kappa_does_not_depend_on_who_is_first_or_on_names(said: list[tuple[str, str]]) -> None:
    first, second = ([pair[place] for pair in said] for place in (0, 1))
    kappa = cohen_kappa(first, second)
    assert same_number(kappa, cohen_kappa(second, first))
    assert same_number(kappa, cohen_kappa([f"{each}!" for each in first], [f"{each}!" for each in second]))
    assert math.isnan(kappa) or -1.0 <= kappa <= 1.0 + 1e-12


@given(TWO)
def test_kappa_and_alpha_are_one_where_all_agree_on_more_than_one_answer(said: list[tuple[str, str]]) -> None:
    first = [one for one, _ in said]
    assume(len(set(first)) > 1)
    assert cohen_kappa(first, first) == pytest.approx(1.0)
    assert krippendorff_alpha([[each] * 3 for each in first]) == pytest.approx(1.0)


@given(UNITS, st.randoms(use_true_random=False))
def test_alpha_does_not_depend_on_order_and_leaves_single_ratings_out(units: list[list[str]], random) -> None:
    alpha = krippendorff_alpha(units)
    shuffled = [random.sample(unit, len(unit)) for unit in random.sample(units, len(units))]
    assert same_number(alpha, krippendorff_alpha(shuffled))
    assert same_number(alpha, krippendorff_alpha([*units, ["left"]]))
    assert math.isnan(alpha) or alpha <= 1.0 + 1e-12


def test_independent_raters_agree_as_chance_has_it() -> None:
    said = list(product("abc", "abc"))  # every answer of one with every answer of the other, once
    assert cohen_kappa(*zip(*said, strict=True)) == pytest.approx(0.0)
    # Alpha corrects for the size of the sample, and comes to 0 as it grows.
    assert krippendorff_alpha(said * 200) == pytest.approx(0.0, abs=1e-3)


@given(RATINGS)
def test_more_ratings_by_one_alone_change_nothing(ratings: dict[int, dict[str, str]]) -> None:
    found = agreement(ratings)
    assert 0 <= found.same <= found.pairs
    assert found.items == sum(len(by_rater) > 1 for by_rater in ratings.values())
    more = agreement({**ratings, "alone": {"ann": "left"}})
    assert (more.same, more.pairs, more.items) == (found.same, found.pairs, found.items)
    assert same_number(more.corrected, found.corrected)


@given(
    st.dictionaries(st.integers(0, 9), st.dictionaries(st.sampled_from("abc"), st.floats(-50, 50))), st.floats(-9, 9)
)
def test_a_difference_does_not_depend_on_where_the_scale_begins(ratings, shift: float) -> None:
    found = difference(ratings)
    moved = difference({item: {who: value + shift for who, value in by.items()} for item, by in ratings.items()})
    assert (found.pairs, found.items) == (moved.pairs, moved.items)
    assert math.isnan(found.mean) if not found.pairs else moved.mean == pytest.approx(found.mean, abs=1e-9)


def same_number(one: float, other: float) -> bool:
    return (math.isnan(one) and math.isnan(other)) or one == pytest.approx(other)
