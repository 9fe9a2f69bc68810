"""LeRobot, HDF5 and Minari: real datasets of each format are labelled, and everything else stays as it was."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pyarrow.parquet as pq
import pytest

from robometer_rl import load_reward_model
from robometer_rl.cli import main
from robometer_rl.data.reading import SourceError
from robometer_rl.formats.dataset import LABEL_ARRAYS, DatasetOptions
from robometer_rl.formats.hdf5.detection import HDF5Config, read_hdf5
from robometer_rl.formats.table import open_dataset
from robometer_rl.models.reward_model import RewardModel
from robometer_rl.relabeling.engine import Labeller, label_dataset
from robometer_rl.rewards import RewardSpec
from robometer_rl.wrappers import RobometerReward, Tiles
from tests.fixed_models import PixelModel
from tests.formats.hdf5 import aloha_files, maniskill_files
from tests.library import ROOT
from tests.relabeling.episodes import TASK, Recorded, Replay
from tests.relabeling.kinds import Kind, content, make_hdf5, make_lerobot, make_minari, make_npz

FIXTURES = ROOT / "tests" / "fixtures"
TOP = "observation.images.top"
LEROBOT = FIXTURES / "lerobot_v30"
LIBERO = next((FIXTURES / "libero_hdf5").glob("*.hdf5"))
ROBOMIMIC = FIXTURES / "robomimic_hdf5" / "lift.hdf5"
SPEC = RewardSpec("level", task_weight=0.5)


def label(path: Path, spec: RewardSpec = SPEC, model: RewardModel | None = None, **options: Any):
    _, dataset = open_dataset(DatasetOptions(path, **options))
    return dataset, label_dataset(dataset, Labeller(model or PixelModel(), spec))


def require_live_rewards(dataset: Any, labels: Any, model: RewardModel | None = None, tolerance: float = 1e-6) -> None:
    """Every step whose outcome was recorded pays what a live wrapper pays over the same frames."""
    model = model or PixelModel()
    for key, found in labels.episodes.items():
        episode = dataset.episode(key)
        frames = {name.replace("/", "_"): np.asarray(images[:]) for name, images in episode.cameras.items()}
        steps = episode.num_frames - 1
        terminated = episode.terminated and steps == episode.num_steps
        rewards = np.zeros(steps) if episode.task_rewards is None else episode.task_rewards[:steps]
        recorded = Recorded(frames, rewards, terminated)
        cameras = tuple(f"obs/{name}" for name in frames)
        shown = Tiles(*cameras) if dataset.options.tile else cameras
        env = RobometerReward(Replay(recorded), model, episode.tasks[0], labels.provenance.spec, frames=shown)
        env.reset()
        live = [env.step(0)[1] for _ in range(steps)]
        np.testing.assert_allclose(found.rewards[:steps], live, rtol=0, atol=tolerance)
        assert found.imputed.tolist() == [False] * steps + [True] * (episode.num_steps - steps)


def make_arm(path: Path, episodes: int) -> None:
    make_minari(path, episodes, size=64)


@pytest.mark.parametrize(
    "kind",
    [
        Kind(make_lerobot, (TOP,)),
        Kind(make_hdf5, ("agentview_rgb", "eye_in_hand_rgb")),
        Kind(make_arm),
    ],
    ids=["lerobot", "hdf5", "minari"],
)
def test_the_embedded_model_labels_stored_frames_as_it_pays_live(tmp_path, kind):
    path = tmp_path / ("data.hdf5" if kind.make is make_hdf5 else "data-v0")
    kind.make(path, 4)
    model = load_reward_model("mini")
    dataset, labels = label(path, RewardSpec(), model, cameras=kind.cameras, tasks=("open the drawer",))
    assert len(labels.episodes) == len(dataset)
    require_live_rewards(dataset, labels, model, tolerance=1e-4)


# --- LeRobot ---


def test_cameras_in_one_picture_are_labelled_as_they_are_paid_for(tmp_path):
    pytest.importorskip("cv2")
    cameras = (TOP, "observation.images.wrist")
    dataset, labels = label(LEROBOT, cameras=cameras, tile=True)
    require_live_rewards(dataset, labels)
    assert labels.provenance.cameras == (f"tiles({TOP}, observation.images.wrist)",)
    _, others = label(LEROBOT, cameras=cameras[::-1], tile=True)
    key = next(iter(labels.episodes))
    assert not np.allclose(labels.episodes[key].progress, others.episodes[key].progress)
    writer = dataset.writer("copy", tmp_path / "labelled")
    writer.check()
    writer.write(labels)
    assert writer.written() == labels.provenance


def test_one_camera_is_no_tiled_picture(tmp_path, capsys):
    words = ["relabel", str(LEROBOT), "--cameras", TOP, "--tile", "--output", str(tmp_path / "out")]
    assert main(words) == 2
    assert "a tiled picture needs several cameras" in capsys.readouterr().err


def test_a_labelled_copy_of_a_lerobot_dataset(tmp_path):
    before = content(LEROBOT)
    dataset, labels = label(LEROBOT, cameras=(TOP, "observation.images.wrist"))
    require_live_rewards(dataset, labels)
    for name in ("first", "second"):
        writer = dataset.writer("copy", tmp_path / name)
        writer.check()
        writer.write(labels)
        assert writer.written() == labels.provenance
    assert content(tmp_path / "first") == content(tmp_path / "second")
    assert content(LEROBOT) == before
    videos = {name for name in before if name.endswith(".mp4")}
    assert videos
    assert all((tmp_path / "first" / name).read_bytes() == before[name] for name in videos)
    info = json.loads((tmp_path / "first/meta/info.json").read_text())
    stats = json.loads((tmp_path / "first/meta/stats.json").read_text())
    rewards = np.concatenate([entry.rewards for entry in labels.episodes.values()])
    assert stats["next.reward"]["mean"] == pytest.approx([rewards.mean()])
    for path in sorted((LEROBOT / "data").rglob("*.parquet")):
        old, new = pq.read_table(path), pq.read_table(tmp_path / "first" / path.relative_to(LEROBOT))
        assert set(new.column_names) == {name for name, kind in info["features"].items() if kind["dtype"] != "video"}
        kept = {"next.reward": "robometer.original_reward", "next.success": "robometer.original_success"}
        for name in old.column_names:
            assert new[kept.get(name, name)].equals(old[name]), name
        entry = labels.episodes[f"episode_{old['episode_index'][0].as_py():06d}"]
        np.testing.assert_array_equal(new["next.reward"].to_numpy(), entry.rewards.astype(np.float32))
        np.testing.assert_array_equal(new["robometer.progress"].to_numpy(), entry.progress)
    again, _ = label(tmp_path / "first", cameras=(TOP,))
    np.testing.assert_array_equal(
        again.episode("episode_000000").task_rewards, dataset.episode("episode_000000").task_rewards
    )


def test_sidecars_of_lerobot_datasets(tmp_path):
    for path in (LEROBOT, FIXTURES / "lerobot_v21"):
        dataset, labels = label(path, cameras=(TOP,))
        dataset.writer("sidecar", tmp_path / path.name).write(labels)
        progress = pq.read_table(tmp_path / path.name / "robometer_progress.parquet")
        assert progress.column_names == ["index", "episode_index", "frame_index", "progress_sparse"]
        assert progress["index"].to_pylist() == list(range(progress.num_rows))
        expected = np.concatenate([entry.progress for entry in labels.episodes.values()])
        np.testing.assert_array_equal(progress["progress_sparse"].to_numpy(), expected)
        rewards = pq.read_table(tmp_path / path.name / "labels.parquet")["reward"].to_numpy()
        np.testing.assert_array_equal(rewards, np.concatenate([e.rewards for e in labels.episodes.values()]))
    with pytest.raises(SourceError, match=r"v3\.0 only"):
        dataset.writer("copy", tmp_path / "copy")


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize(
    "kind",
    [
        Kind(make_npz),
        Kind(make_lerobot, (TOP,)),
        Kind(make_lerobot, (TOP,), "sidecar"),
        Kind(make_hdf5, ("agentview_rgb",)),
        Kind(make_hdf5, ("agentview_rgb",), "in_place"),
        Kind(make_arm),
    ],
    ids=["npz", "lerobot", "lerobot sidecar", "hdf5", "hdf5 in place", "minari"],
)
def test_labels_are_read_as_they_were_written_beside_the_rewards_before(tmp_path, kind):
    path = tmp_path / {make_arm: "arm-v0", make_hdf5: "data.hdf5"}.get(kind.make, "data")
    kind.make(path, 3)
    dataset, writer = kind.open(path)
    before = {key: dataset.episode(key).task_rewards for key in dataset.keys}
    assert all(dataset.stored_labels(key) is None for key in dataset.keys)
    if kind.mode == "sidecar":
        writer = dataset.writer("sidecar")  # where it is looked for
    labels = label_dataset(dataset, Labeller(PixelModel(), SPEC))
    writer.write(labels)
    place = path if kind.mode == "sidecar" else writer.destination
    _, again = open_dataset(DatasetOptions(place, kind.cameras, (TASK,)), dataset.format)
    for key, written in zip(again.keys, labels.episodes.values(), strict=True):
        found = again.stored_labels(key)
        assert found is not None
        assert found.provenance == labels.provenance
        for array in LABEL_ARRAYS:
            if array != "imputed" or kind.make is not make_arm:  # Minari has an observation after every step
                np.testing.assert_allclose(getattr(found.labels, array), getattr(written, array), rtol=1e-6, atol=1e-7)
        np.testing.assert_array_equal(again.episode(key).task_rewards, before[written.key])


def test_a_sidecar_that_is_none_is_named(tmp_path):
    shutil.copytree(LEROBOT, tmp_path / "data")
    _, dataset = open_dataset(DatasetOptions(tmp_path / "data", (TOP,)))
    (tmp_path / "data-robometer").mkdir()
    (tmp_path / "data-robometer" / "labels.parquet").write_bytes(b"nothing")
    with pytest.raises(ValueError, match="Parquet"):
        dataset.stored_labels(dataset.keys[0])
    pq.write_table(
        pq.read_table(next((LEROBOT / "data").rglob("*.parquet"))).select(["index"]),
        tmp_path / "data-robometer/labels.parquet",
    )
    with pytest.raises(ValueError, match="lacks the columns"):
        dataset.stored_labels(dataset.keys[0])


def test_images_in_lerobot_tables_are_not_encoded_again(tmp_path):
    images = FIXTURES / "lerobot_v30_images"
    dataset, labels = label(images, RewardSpec())
    dataset.writer("copy", tmp_path / "new").write(labels)
    name = "data/chunk-000/file-000.parquet"
    old, new = pq.ParquetFile(images / name), pq.ParquetFile(tmp_path / "new" / name)
    assert new.num_row_groups == old.num_row_groups
    assert new.read()[TOP].equals(old.read()[TOP])


def test_bad_lerobot_episodes_are_skipped_and_keep_their_rewards(tmp_path):
    root = Path(shutil.copytree(LEROBOT, tmp_path / "data"))
    (root / f"videos/{TOP}/chunk-000/file-001.mp4").unlink()
    dataset, labels = label(root, cameras=(TOP,))
    assert [entry.name for entry in labels.skipped] == ["episode_000002", "episode_000003"]
    dataset.writer("copy", tmp_path / "new").write(labels)
    old, new = (pq.read_table(place / "data/chunk-000/file-002.parquet") for place in (root, tmp_path / "new"))
    assert new["next.reward"].to_pylist() == old["next.reward"].to_pylist()
    assert np.isnan(new["robometer.progress"].to_numpy()).all()
    (root / "data/chunk-000/file-003.parquet").write_bytes(b"broken")
    with pytest.raises(OSError, match="repair it, or write a sidecar"):
        dataset.writer("copy", tmp_path / "other").check()
    with pytest.raises(OSError, match="which is to be copied"):
        dataset.writer("copy", root / "other").check()


# --- HDF5 ---


def tree(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = {}
    with h5py.File(path, "r") as file:
        file.visititems(lambda name, item: found.update({name: item[()]}) if isinstance(item, h5py.Dataset) else None)
    return found


@pytest.mark.parametrize(
    ("path", "options"),
    [
        (LIBERO, {"cameras": ("agentview_rgb", "eye_in_hand_rgb")}),
        (ROBOMIMIC, {"cameras": ("agentview_image",), "tasks": ("lift the cube",)}),
    ],
)
@pytest.mark.parametrize("mode", ["copy", "in_place"])
def test_hdf5_files(tmp_path, path, options, mode):
    source = Path(shutil.copy(path, tmp_path / path.name))
    before, stored = source.read_bytes(), tree(source)
    dataset, labels = label(source, **options)
    require_live_rewards(dataset, labels)
    writer = dataset.writer(mode)
    writer.check()
    writer.write(labels)
    assert writer.written() == labels.provenance
    assert (writer.destination == source) == (mode == "in_place")
    new = tree(writer.destination)
    for name, values in stored.items():
        kept = name.replace("/rewards", "/robometer/original_rewards")
        np.testing.assert_array_equal(new[kept], values)
        assert new[kept].dtype == values.dtype
    for key, entry in labels.episodes.items():
        group = f"data/{key.partition('#')[2]}"
        np.testing.assert_array_equal(new[f"{group}/rewards"], entry.rewards)
        np.testing.assert_array_equal(new[f"{group}/robometer/progress"], entry.progress)
        np.testing.assert_array_equal(new[f"{group}/robometer/imputed"], entry.imputed)
    if mode == "copy":
        assert source.read_bytes() == before
        again = dataset.writer("copy", tmp_path / "again.hdf5")
        again.write(labels)
        assert again.destination.read_bytes() == writer.destination.read_bytes()
        relabelled, _ = label(writer.destination, **options)
        original = next(values for name, values in stored.items() if name.endswith("demo_0/rewards"))
        np.testing.assert_array_equal(relabelled.episode(relabelled.keys[0]).task_rewards, original)


MANISKILL_TASK = ("pick up the cube",)


@pytest.mark.parametrize("mode", ["copy", "in_place"])
@pytest.mark.parametrize(("kind", "key"), [("maniskill", "trajectory.h5#traj_1"), ("aloha", "episode_0.hdf5")])
def test_files_of_maniskill_and_aloha(tmp_path, kind, key, mode):
    source = tmp_path / "data" / key.partition("#")[0]
    source.parent.mkdir()
    if kind == "maniskill":
        maniskill_files.record(source)
        with h5py.File(source, "a") as file:
            file["traj_1/rewards"] = np.arange(6.0, dtype=np.float32)
    else:
        aloha_files.record(source, compress=True)
    before, stored = source.read_bytes(), tree(source)
    given = {"cameras": ("cam_high",) if kind == "aloha" else (), "tasks": MANISKILL_TASK}
    dataset, labels = label(source, spec=RewardSpec("level"), **given)
    require_live_rewards(dataset, labels)
    writer = dataset.writer(mode)
    writer.check()
    writer.write(labels)
    assert writer.written() == labels.provenance
    place = {"maniskill": "traj_1/", "aloha": ""}[kind]
    new = tree(writer.destination)
    for name, values in stored.items():
        kept = f"{place}robometer/original_rewards" if name.endswith("rewards") else name
        np.testing.assert_array_equal(new[kept], values)
    entry = labels.episodes[key]
    for name in ("progress", "success", "returns", "advantages", "success_detected", "imputed"):
        np.testing.assert_array_equal(new[f"{place}robometer/{name}"], getattr(entry, name))
    np.testing.assert_array_equal(new[f"{place}rewards"], entry.rewards)
    # All steps of ManiSkill have an observation after them; of ALOHA's the last has not.
    assert entry.imputed.any() == (kind == "aloha")
    again, _ = label(writer.destination, spec=RewardSpec("level"), **given)
    original = again.episode(key.replace(source.name, writer.destination.name)).task_rewards
    assert (original is None) == (kind == "aloha")
    if mode == "copy":
        assert source.read_bytes() == before
        copied = read_hdf5(HDF5Config(writer.destination, "stack", given["cameras"], quality="successful"))
        originals = read_hdf5(HDF5Config(source, "stack", given["cameras"], quality="successful"))
        assert [each.seed for each in copied] == [each.seed for each in originals], "what lies beside is copied, too"


def test_what_lies_where_a_list_of_maniskill_goes_is_not_overwritten(tmp_path):
    source = maniskill_files.record(tmp_path / "a.h5")
    dataset, labels = label(source, spec=RewardSpec("level"), tasks=MANISKILL_TASK)
    (tmp_path / "a-robometer.json").write_text("{}")
    with pytest.raises(FileExistsError, match=r"a-robometer.json is in the way"):
        dataset.writer("copy").check()
    (tmp_path / "a-robometer.json").write_bytes(source.with_suffix(".json").read_bytes())
    writer = dataset.writer("copy")
    writer.check()  # as a run leaves it that was killed behind it
    writer.write(labels)
    assert writer.destination.is_file()


def test_maniskill_asks_for_an_instruction(tmp_path, capsys):
    maniskill_files.record(tmp_path / "a.h5")
    assert main(["relabel", str(tmp_path / "a.h5")]) == 2
    assert "ManiSkill records no instructions" in capsys.readouterr().err


def test_bad_demonstrations_are_skipped_and_folders_are_copied_whole(tmp_path):
    folder = tmp_path / "data"
    folder.mkdir()
    path = Path(shutil.copy(LIBERO, folder / LIBERO.name))
    (folder / "broken.hdf5").write_bytes(b"broken")
    (folder / "notes.txt").write_text("notes")
    with h5py.File(path, "a") as file:
        del file["data/demo_1/obs/agentview_rgb"]
    dataset, labels = label(folder, cameras=("agentview_rgb",))
    assert [entry.name for entry in labels.skipped] == ["broken.hdf5", f"{path.name}#demo_1"]
    with pytest.raises(SourceError, match="write a copy"):
        dataset.writer("in_place")
    writer = dataset.writer("copy")
    writer.write(labels)
    assert (writer.destination / "notes.txt").read_text() == "notes"
    assert writer.written() == labels.provenance
    old, new = tree(path), tree(writer.destination / path.name)
    np.testing.assert_array_equal(new["data/demo_1/rewards"], old["data/demo_1/rewards"])
    assert np.isnan(new["data/demo_1/robometer/progress"]).all()


def test_an_hdf5_file_that_cannot_be_written_is_left_as_it_was(tmp_path, monkeypatch):
    source = Path(shutil.copy(LIBERO, tmp_path / LIBERO.name))
    before = source.read_bytes()
    dataset, labels = label(source, cameras=("agentview_rgb",))

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(shutil, "copyfile", full)
    with pytest.raises(OSError, match="No space left"):
        dataset.writer("in_place").write(labels)
    assert source.read_bytes() == before
    assert [entry.name for entry in tmp_path.iterdir()] == [source.name]


# --- Minari ---


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("encoded", [False, True])
@pytest.mark.parametrize("data_format", ["hdf5", "arrow", "parquet"])
def test_a_new_version_of_a_minari_data_set(tmp_path, monkeypatch, data_format, encoded):
    minari = pytest.importorskip("minari")
    from gymnasium import spaces
    from minari.data_collector.episode_buffer import EpisodeBuffer

    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    rng = np.random.default_rng(0)
    episodes = [
        EpisodeBuffer(
            id=number,
            seed=7 + number,
            options={"goal": number},
            observations=list(rng.integers(0, 256, (6, 32, 32, 3), np.uint8)),
            actions=[np.zeros(2, np.float32)] * 5,
            rewards=[0.25 * step for step in range(5)],
            terminations=[False] * 4 + [number == 0],
            truncations=[False] * 4 + [number == 1],
            infos={"success": [False] * 6},
        )
        for number in range(2)
    ]
    old = minari.create_dataset_from_buffers(
        "arm/reach-v0",
        episodes,
        observation_space=spaces.Box(0, 255, (32, 32, 3), np.uint8),
        action_space=spaces.Box(-1, 1, (2,), np.float32),
        data_format=data_format,
        jpeg_encoding=encoded,
    )
    path = Path(old.storage.data_path).parent
    before = content(path)
    dataset, labels = label(path, tasks=("reach",))
    require_live_rewards(dataset, labels)
    writer = dataset.writer("copy")
    writer.check()
    writer.write(labels)
    assert content(path) == before
    assert writer.written() == labels.provenance
    new = minari.load_dataset("arm/reach-v1")
    assert (new.id, new.total_steps, "arm/reach-v1" in minari.list_local_datasets()) == ("arm/reach-v1", 10, True)
    for number in range(2):
        one, other = (next(iter(each.storage.get_episode_metadata([number]))) for each in (old, new))
        assert (other["seed"], other["options"]) == (7 + number, one["options"])
    for one, other in zip(old.iterate_episodes(), new.iterate_episodes(), strict=True):
        entry = labels.episodes[f"episode_{one.id}"]
        np.testing.assert_array_equal(other.observations, one.observations)
        np.testing.assert_array_equal(other.actions, one.actions)
        np.testing.assert_array_equal(other.rewards, entry.rewards)
        np.testing.assert_array_equal(other.truncations, one.truncations)
        np.testing.assert_array_equal(other.infos["robometer_progress"], entry.progress)
        np.testing.assert_array_equal(other.infos["robometer_original_rewards"][1:], one.rewards)
    again, _ = label(writer.destination, tasks=("reach",))
    np.testing.assert_array_equal(again.episode("episode_1").task_rewards, [0, 0.25, 0.5, 0.75, 1])
    with pytest.raises(SourceError, match="must end in a version"):
        dataset.writer("copy", tmp_path / "arm" / "labelled")
