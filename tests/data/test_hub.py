"""Uploading and downloading stores; nothing here reaches the network."""

from types import SimpleNamespace

import pytest
from huggingface_hub.utils import filter_repo_objects

from robometer_rl.data import hub
from robometer_rl.data.hub import PARTS, UNFINISHED, PullConfig, PushConfig, pull, push
from robometer_rl.data.store import StoreError, TrajectoryStore
from robometer_rl.files import OutsideError
from tests.data.runs import trajectory


@pytest.fixture
def path(tmp_path):
    store = TrajectoryStore(tmp_path / "store")
    for name in "ab":
        store.append(trajectory(name))
    return store.path


def content(path):
    return {file: file.read_bytes() for file in path.rglob("*") if file.is_file()}


def test_a_dry_run_says_what_would_be_uploaded_and_leaves_the_store_as_it_is(path, capsys):
    before = content(path)
    files = push(PushConfig(path, "someone/drawers", dry_run=True))
    assert content(path) == before
    assert files == ["frames/a.zip", "frames/b.zip", "rows.arrow", "store.json"]
    shown = capsys.readouterr().out
    assert "4 files" in shown
    assert "2 trajectories" in shown
    assert "datasets/someone/drawers" in shown


def test_what_a_killed_writer_left_stays_here(path):
    (path / "frames" / ".c.zip.partial").mkdir()
    (path / "frames" / ".c.zip.partial" / "c.zip").write_bytes(b"half of it")
    TrajectoryStore.open(path).seal()
    files = push(PushConfig(path, "someone/drawers", dry_run=True))
    uploaded = filter_repo_objects(
        [file.relative_to(path).as_posix() for file in path.rglob("*") if file.is_file()],
        allow_patterns=PARTS,
        ignore_patterns=UNFINISHED,
    )
    assert sorted(uploaded) == files == ["frames/a.zip", "frames/b.zip", "rows.arrow", "store.json"]


def test_a_link_out_of_the_store_is_not_uploaded_as_what_it_leads_to(path, tmp_path):
    (tmp_path / "secret").write_text("mine")
    (path / "frames" / "c.zip").symlink_to(tmp_path / "secret")
    with pytest.raises(OutsideError, match=r"c\.zip"):
        push(PushConfig(path, "someone/drawers", dry_run=True))


@pytest.mark.parametrize("name", ["frames/../../x.zip", "/etc/rows.arrow"])
def test_nothing_is_downloaded_to_elsewhere(tmp_path, monkeypatch, name):
    info = SimpleNamespace(
        sha="abc", siblings=[SimpleNamespace(rfilename="store.json"), SimpleNamespace(rfilename=name)]
    )
    monkeypatch.setattr(hub.HfApi, "dataset_info", lambda *_, **__: info)
    monkeypatch.setattr(hub, "snapshot_download", lambda *_, **__: pytest.fail("it was downloaded"))
    with pytest.raises(OutsideError):
        pull(PullConfig("someone/drawers", tmp_path / "store"))


def test_the_files_that_are_uploaded_are_a_store(path, tmp_path):
    """What `pull` finds: the folder of an empty journal is not a file, so the Hub does not have it."""
    TrajectoryStore.open(path).seal()
    files = push(PushConfig(path, "someone/drawers", dry_run=True))
    for file in files:
        target = tmp_path / "pulled" / file
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes((path / file).read_bytes())
    store = TrajectoryStore.open(tmp_path / "pulled")
    store.verify()
    assert store.ids() == ("a", "b")
    store.append(trajectory("c"))
    store.seal()
    assert TrajectoryStore.open(tmp_path / "pulled").ids() == ("a", "b", "c")


def test_damaged_trajectories_are_not_uploaded(path):
    row = path / "rows" / "a.json"
    row.write_text(row.read_text().replace("suboptimal", "successful"))
    with pytest.raises(StoreError, match=r"1 trajectories in .* are damaged"):
        push(PushConfig(path, "someone/drawers", dry_run=True))


@pytest.mark.parametrize("repo", ["drawers", "a/b/c", ""])
def test_a_name_that_is_none_is_refused(path, tmp_path, repo):
    with pytest.raises(ValueError, match="expected OWNER/NAME"):
        push(PushConfig(path, repo, dry_run=True))
    with pytest.raises(ValueError, match="expected OWNER/NAME"):
        pull(PullConfig(repo, tmp_path / "new"))


def _as_downloaded(path):
    """The notes that the Hub's library leaves behind what it downloads."""
    notes = path / ".cache" / "huggingface" / "download"
    notes.mkdir(parents=True)
    for name in ("store.json", "rows.arrow"):
        (notes / f"{name}.metadata").write_text("commit\netag\n0\n")


def test_a_store_of_ones_own_is_not_overwritten(path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(StoreError, match="pull into another directory"):
        pull(PullConfig("someone/drawers", path))
    TrajectoryStore.open(path).seal()
    _as_downloaded(path)
    with pytest.raises(OSError, match=r"(?i)offline"):
        pull(PullConfig("someone/drawers", path))  # goes on with a download
    store = TrajectoryStore.open(path)
    store.append(trajectory("c"))
    store.seal()
    with pytest.raises(StoreError, match="pull into another directory"):
        pull(PullConfig("someone/drawers", path))
    assert TrajectoryStore.open(path).ids() == ("a", "b", "c")


def test_without_the_hub_both_say_so(path, tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(OSError, match=r"(?i)offline"):
        pull(PullConfig("someone/drawers", tmp_path / "new"))
    with pytest.raises(OSError, match=r"(?i)offline"):
        push(PushConfig(path, "someone/drawers"))
