"""Stores on a small Hub on this machine, read without being downloaded."""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from robometer_rl.data import streaming
from robometer_rl.data.pack import PackConfig, pack
from robometer_rl.data.store import ChecksumError, StoreError, TrajectoryStore
from robometer_rl.data.streaming import HubPart, HubStore, open_store
from robometer_rl.formats.opening import open_episodes
from robometer_rl.models.locations import HubError
from tests.data.fake_hub import FakeHub, serve
from tests.data.runs import assert_same, trajectory

pytest.importorskip("datasets")

PACKED, LOOSE = "hf://datasets/someone/packed", "hf://datasets/someone/both/loose"


@pytest.fixture
def source(tmp_path: Path) -> TrajectoryStore:
    store = TrajectoryStore.create(tmp_path / "source")
    for number in range(6):
        store.append(trajectory(f"run.{number}", seed=number, split=("train", "test")[number % 2]))
    store.seal()
    return store


@pytest.fixture
def hub(source: TrajectoryStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    def files(folder: Path, prefix: str = "") -> dict[str, bytes]:
        found = [each for each in folder.rglob("*") if each.is_file()]
        return {f"{prefix}{each.relative_to(folder)}": each.read_bytes() for each in found}

    packed = pack(PackConfig(source.path, tmp_path / "packed", shard_mb=0.004))
    assert len(packed.shards) > 1
    datasets = {"someone/packed": files(packed.path), "someone/both": files(source.path, "loose/")}
    with serve(FakeHub(datasets)) as hub:
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", hub.url)
        template = f"{hub.url}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
        monkeypatch.setattr("huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hf"))
        monkeypatch.setattr("huggingface_hub.utils._http.time.sleep", lambda seconds: None)
        monkeypatch.setenv("ROBOMETER_CACHE", str(tmp_path / "cache"))
        yield hub


@pytest.mark.parametrize("address", [PACKED, LOOSE, f"{PACKED}@main", Path(PACKED)])
def test_a_store_on_the_hub_equals_the_one_that_was_pushed(hub: FakeHub, source: TrajectoryStore, address) -> None:
    store = open_store(address)
    assert store.ids() == source.ids()
    for name in source.ids():
        assert_same(store[name], source[name])


def test_only_what_is_asked_for_is_fetched_and_once(hub: FakeHub) -> None:
    opened = open_episodes([PACKED], lambda each: each.split == "test")
    assert [each.id for each in opened.trajectories.facts()] == ["run.1", "run.3", "run.5"]
    assert {name for name, _ in hub.asked} == {"store.json", "rows.arrow"}
    hub.asked.clear()
    opened.trajectories[1].frames[:]
    ((name, wanted),) = hub.asked
    assert name.startswith("shards/")
    assert wanted is not None
    first, last = map(int, wanted.removeprefix("bytes=").split("-"))
    assert last - first + 1 < len(hub.datasets["someone/packed"][name])
    pickle.loads(pickle.dumps(opened.trajectories[1].frames))[:]
    opened.trajectories[1].frames[:2]
    assert len(hub.asked) == 1


def test_a_hub_that_stumbles_is_asked_again_and_not_for_ever(hub: FakeHub) -> None:
    store = open_store(PACKED)
    place = store.row("run.0").frames.place
    assert place is not None
    hub.failures[f"shards/{place.shard}"] = (2, 503)
    assert store["run.0"].frames[:].shape == (5, 6, 7, 3)
    hub.failures[f"shards/{store.row('run.5').frames.place.shard}"] = (100, 503)  # type: ignore[union-attr]
    with pytest.raises(HubError, match=r"could not read hf://datasets/someone/packed@"):
        store["run.5"].frames[:]


def test_the_cache_stays_within_its_bounds(hub: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ROBOMETER_HUB_CACHE_GB", "1e-6")
    monkeypatch.setattr(streaming, "_LOOKED_AFTER", 1)
    store = open_store(PACKED)
    sizes: list[int] = []
    for name in store.ids():
        store[name].frames[:]
        sizes.append(sum(each.stat().st_size for each in (tmp_path / "cache" / "hub").iterdir()))
    assert max(sizes) <= 1000
    assert store["run.0"].frames[:].shape == (5, 6, 7, 3)


def test_a_shard_that_is_not_whole_on_the_hub_is_named(hub: FakeHub) -> None:
    files = hub.datasets["someone/packed"]
    files["shards/000001.tar"] = files["shards/000001.tar"][:600]
    with pytest.raises(StoreError, match=r"000001\.tar has 600 bytes; expected 10240"):
        open_episodes([PACKED])
    part = HubPart("someone/packed", "0123456789abcdef", "shards/000001.tar", 512, 4000)
    with pytest.raises(HubError, match="ends before byte 4512"):
        part.open()


def test_a_row_that_leads_out_of_its_dataset_is_damaged(hub: FakeHub) -> None:
    store = open_store(PACKED)
    row = store.row("run.0")
    assert row.frames.place is not None
    with pytest.raises(ChecksumError, match=r"'run\.0'.*not the one that was written"):
        store.frames_of(row.placed(replace(row.frames.place, shard="../rows.arrow")))


def test_what_is_no_store_and_no_address_is_said(hub: FakeHub, source: TrajectoryStore) -> None:
    with pytest.raises(StoreError, match=r"is no store of trajectories: it has no store\.json"):
        open_store("hf://datasets/someone/both")
    with pytest.raises(StoreError, match="expected hf://datasets/OWNER/NAME"):
        open_store("hf://someone/both")
    with pytest.raises(HubError, match="someone/nothing"):
        open_store("hf://datasets/someone/nothing")
    store = open_store(PACKED)
    assert isinstance(store, HubStore)
    with pytest.raises(StoreError, match="is on the Hub; append to a copy"):
        store.append(trajectory("more"))
