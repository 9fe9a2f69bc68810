"""The benchmark of published data, at a size that takes a moment."""

import pytest

from benchmarks.data import DataConfig, measure


@pytest.mark.slow
def test_it_measures_what_it_says(tmp_path):
    sizes = {"rows": (50,), "episodes": 5, "clips": 4, "height": 64, "width": 80}
    numbers = measure(DataConfig(**sizes, folder=tmp_path, name=""))
    places = [(each["place"], each["rows"]) for each in numbers["opening"]]
    assert places == [("packed", 50), ("rbm, first time", 50), ("rbm", 50)]
    assert all(each[f"{lap}_s"] > 0 for each in numbers["opening"] for lap in ("open", "plan", "batch"))
    assert 0 < numbers["import"]["added_fraction"] < 1
    kinds = {"npz", "png", "video"}
    assert set(numbers["frames_per_s"]) == {
        *kinds,
        *(f"shards of {kind}" for kind in kinds),
        "npz in place",
        "video in place",
    }
    assert min(each["wall"] for each in numbers["frames_per_s"].values()) > 0
