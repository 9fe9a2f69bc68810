"""The benchmark of published data, at a size that takes a moment."""

import pytest

from benchmarks.data import DataConfig, measure


@pytest.mark.slow
def test_it_measures_what_it_says():
    numbers = measure(DataConfig(rows=(50,), episodes=5, clips=4, height=64, width=80))
    assert [(each["place"], each["rows"]) for each in numbers["opening"]] == [("rbm", 50), ("store", 50)]
    assert all(each["open_s"] > 0 and each["batch_s"] > 0 for each in numbers["opening"])
    assert 0 < numbers["import"]["added_fraction"] < 1
    assert set(numbers["frames_per_s"]) == {"npz", "png", "video"}
    assert min(numbers["frames_per_s"].values()) > 0
