"""Downloads from a small Hub on this machine."""

from __future__ import annotations

from pathlib import Path

import pytest

from robometer_rl.cli import main
from robometer_rl.data import download as module
from robometer_rl.data.download import DownloadConfig, download, plan_download
from robometer_rl.data.published import UnknownGroupError, data_path
from robometer_rl.files import OutsideError
from robometer_rl.formats.opening import open_episodes
from robometer_rl.models.locations import HubError
from tests.data.fake_hub import FakeHub, serve

FIXTURE = Path(__file__).parents[1] / "fixtures" / "rbm_dataset"
LIBERO = "abraranwar_libero_rfm_libero256_10"
GRADED = "jesbu1_roboreward_rfm_high_res_roboreward_train"
PARTS = (f"{GRADED}.tar.partaa", f"{GRADED}.tar.partab")


def files_of(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def hub(monkeypatch):
    """The archives, and one repository of videos with another subset, which nobody asks for."""
    videos = files_of(FIXTURE / "robometer_dataset" / "libero_rfm")
    videos["libero256_90/batch_0000/trajectory_0000.mp4"] = b"not wanted"
    datasets = {"jesbu1/processed_datasets": files_of(FIXTURE / "tars"), "abraranwar/libero_rfm": videos}
    with serve(FakeHub(datasets)) as hub:
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", hub.url)
        template = f"{hub.url}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
        monkeypatch.setattr("huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
        monkeypatch.setattr(module.time, "sleep", lambda seconds: None)
        yield hub


def names(folder: Path) -> list[str]:
    return sorted(name for name in files_of(folder) if ".cache/" not in name)


def test_only_what_a_group_needs_is_downloaded_and_can_be_read_at_once(hub, tmp_path, capsys):
    assert main(["data", "download", "libero_pi0", "rbm-1m-id", "--to", str(tmp_path)]) == 0
    assert names(tmp_path) == sorted([f"{LIBERO}.tar", *PARTS])
    assert f"next: robometer-rl data import rbm {tmp_path} STORE" in capsys.readouterr().out.replace("\n", " ")
    assert len(open_episodes([f"rbm:{tmp_path}"]).trajectories) == 7
    hub.asked.clear()
    download(DownloadConfig(("libero_pi0", "rbm-1m-id"), tmp_path))
    assert hub.asked == []


def test_videos_come_with_their_tables_and_without_other_subsets(hub, tmp_path, monkeypatch):
    monkeypatch.setenv("RFM_DATASET_PATH", str(tmp_path / "videos"))
    download(DownloadConfig((LIBERO,), stage="raw"))
    expected = [f"libero_rfm/{name}" for name in names(FIXTURE / "robometer_dataset" / "libero_rfm") if "/" in name]
    assert names(tmp_path / "videos") == expected
    assert len(open_episodes([f"rbm:{tmp_path / 'videos'}"], select=[LIBERO]).trajectories) == 3


def test_a_dry_run_says_the_sizes_and_writes_nothing(hub, tmp_path, capsys):
    assert main(["data", "download", LIBERO, GRADED, "--to", str(tmp_path / "new"), "--dry-run"]) == 0
    shown = capsys.readouterr().out
    size = sum(len(content) for content in hub.datasets["jesbu1/processed_datasets"].values())
    assert f"{size / 1e9:.3f} GB in 3 files" in shown
    assert not (tmp_path / "new").exists()
    assert hub.asked == []


def test_a_download_that_breaks_off_goes_on_where_it_ended(hub, tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.DOWNLOAD_CHUNK_SIZE", 4000)
    hub.cut[f"{LIBERO}.tar"] = 20_000
    download(DownloadConfig((LIBERO,), tmp_path))
    assert (tmp_path / f"{LIBERO}.tar").read_bytes() == hub.datasets["jesbu1/processed_datasets"][f"{LIBERO}.tar"]
    assert [wanted for _, wanted in hub.asked] == [None, "bytes=20000-"]


def test_a_hub_that_stumbles_is_asked_again_and_not_for_ever(hub, tmp_path):
    hub.failures[f"{LIBERO}.tar"] = (2, 500)
    download(DownloadConfig((LIBERO,), tmp_path))
    assert names(tmp_path) == [f"{LIBERO}.tar"]
    hub.failures[PARTS[0]] = (1000, 403)
    with pytest.raises(HubError, match=f"download {PARTS[0]}"):
        download(DownloadConfig((GRADED,), tmp_path))
    assert [name for name, _ in hub.asked].count(PARTS[0]) == 1
    hub.failures[PARTS[0]] = (1000, 500)
    hub.asked.clear()
    with pytest.raises(HubError, match=f"download {PARTS[0]}"):
        download(DownloadConfig((GRADED,), tmp_path, attempts=2))
    assert 2 <= len(hub.asked) < 50
    assert names(tmp_path) == [f"{LIBERO}.tar"]


def test_without_room_nothing_is_begun(hub, tmp_path, monkeypatch):
    monkeypatch.setattr(module.shutil, "disk_usage", lambda path: type("Usage", (), {"free": 1000})())
    with pytest.raises(OSError, match=r"0\.000 GB are free"):
        download(DownloadConfig((LIBERO,), tmp_path / "new"))
    assert not (tmp_path / "new").exists()
    assert hub.asked == []


def test_what_the_hub_lacks_is_named(hub, tmp_path, caplog):
    plan = plan_download(DownloadConfig(("libero",), tmp_path))
    assert len(plan.missing) == 5
    with pytest.raises(HubError, match=r"has nothing of rbm-1m-ood: .*published preprocessing does not make it"):
        download(DownloadConfig(("rbm-1m-ood",), tmp_path))
    with pytest.raises(HubError, match=r"has nothing of mw"):
        download(DownloadConfig(("mw",), tmp_path, stage="raw"))
    with pytest.raises(UnknownGroupError, match="'rbm-2m'"):
        download(DownloadConfig(("rbm-2m",), tmp_path))
    with pytest.raises(UnknownGroupError, match="got no name"):
        DownloadConfig(())


def test_a_hub_without_the_archives_is_an_error_in_words(hub, tmp_path, capsys):
    del hub.datasets["jesbu1/processed_datasets"]
    assert main(["data", "download", "mw", "--to", str(tmp_path)]) == 2
    assert "no dataset robometer/processed_datasets or jesbu1/processed_datasets" in capsys.readouterr().err


def test_names_that_lead_elsewhere_are_refused(hub, tmp_path):
    hub.datasets["jesbu1/processed_datasets"][f"../{LIBERO}.tar"] = b"evil"
    with pytest.raises(OutsideError):
        plan_download(DownloadConfig((LIBERO,), tmp_path))


@pytest.mark.parametrize(
    ("variable", "stage"),
    [
        ("ROBOMETER_PROCESSED_DATASETS_PATH", "processed"),
        ("RBM_PROCESSED_DATASETS_PATH", "processed"),
        ("ROBOMETER_DATASET_PATH", "raw"),
        ("RFM_DATASET_PATH", "raw"),
    ],
)
def test_the_environment_says_where_to(variable, stage, monkeypatch):
    for name in (
        "ROBOMETER_PROCESSED_DATASETS_PATH",
        "RBM_PROCESSED_DATASETS_PATH",
        "ROBOMETER_DATASET_PATH",
        "RFM_DATASET_PATH",
    ):
        monkeypatch.delenv(name, raising=False)
    assert data_path(stage) == Path("processed_datasets" if stage == "processed" else "robometer_dataset")
    monkeypatch.setenv(variable, "/data")
    assert data_path(stage) == Path("/data")
