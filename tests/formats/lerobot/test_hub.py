"""A dataset on a small Hub on this machine: what is fetched of it, and when."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from robometer_rl.cli import main
from robometer_rl.data.reading import SourceError, Unreadable
from robometer_rl.data.store import TrajectoryStore
from robometer_rl.data.trajectory import Trajectory
from robometer_rl.formats.lerobot.reader import LeRobotConfig, read_lerobot
from robometer_rl.models.locations import HubError
from tests.data.fake_hub import COMMIT, FakeHub, serve
from tests.formats.lerobot.test_reader import TOP, V30, WRIST

ID = "someone/drawers"


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[FakeHub]:
    files = {path.relative_to(V30).as_posix(): path.read_bytes() for path in V30.rglob("*") if path.is_file()}
    with serve(FakeHub({ID: files})) as hub:
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", hub.url)
        template = f"{hub.url}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
        monkeypatch.setattr("huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
        monkeypatch.chdir(tmp_path)
        yield hub


def fetched(hub: FakeHub) -> set[str]:
    return {name for name, _ in hub.asked}


def test_episodes_are_those_of_the_directory(hub: FakeHub) -> None:
    found = list(read_lerobot(LeRobotConfig(Path(ID), camera=(TOP,), data_source="lerobot_v30")))
    local = list(read_lerobot(LeRobotConfig(V30, camera=(TOP,))))
    for here, there in zip(local, found, strict=True):
        assert isinstance(here, Trajectory)
        assert isinstance(there, Trajectory)
        assert (here.id, here.task, here.quality_label) == (there.id, there.task, there.quality_label)
        np.testing.assert_array_equal(here.frames[:], there.frames[:])
    assert found[0].source == f"{ID}#episode 0"


def test_only_what_is_read_is_fetched_and_no_sooner(hub: FakeHub) -> None:
    reading = read_lerobot(LeRobotConfig(Path(f"{ID}@{COMMIT}"), camera=(TOP,)))
    assert {name.partition("/")[0] for name in fetched(hub)} == {"meta"}
    next(reading)
    first = {name for name in fetched(hub) if not name.startswith("meta/")}
    assert len(first) == 2
    list(reading)
    assert not any(WRIST in name for name in fetched(hub))
    assert first < fetched(hub)
    hub.asked.clear()
    list(read_lerobot(LeRobotConfig(Path(f"{ID}@{COMMIT}"), camera=(TOP,))))
    assert not fetched(hub)


def test_what_the_hub_lacks_costs_its_episodes(hub: FakeHub) -> None:
    files = hub.datasets[ID]
    gone = next(name for name in files if name.startswith(f"videos/{TOP}"))
    del files[gone]
    found = list(read_lerobot(LeRobotConfig(Path(ID), camera=(TOP,))))
    assert {isinstance(each, Unreadable) for each in found} == {True, False}


def test_an_outage_ends_the_command_which_goes_on_later(hub: FakeHub, capsys: Any) -> None:
    words = ["data", "import", "lerobot", ID, "store", "--camera", TOP]
    last = sorted(name for name in hub.datasets[ID] if name.startswith(f"videos/{TOP}"))[-1]
    hub.failures[last] = (100, 403)
    assert main(words) != 0
    assert f"read the dataset {ID}" in capsys.readouterr().err.replace("\n", " ")
    before = len(TrajectoryStore.open("store"))
    assert 0 < before < 4
    hub.failures.clear()
    assert main(words) == 0
    assert f"{4 - before} imported, {before} already there" in capsys.readouterr().out


def test_other_names_are_directories_and_other_datasets_are_named(hub: FakeHub) -> None:
    with pytest.raises(SourceError, match=r"no meta/info\.json"):
        read_lerobot(LeRobotConfig(Path("nowhere")))
    with pytest.raises(HubError, match="someone/else"):
        read_lerobot(LeRobotConfig(Path("someone/else")))
