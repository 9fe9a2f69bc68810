"""An RLDS dataset that tensorflow-datasets wrote; runs where the extra ``rlds`` is installed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from robometer_rl.data.reading import SourceError, Unreadable
from robometer_rl.data.trajectory import Trajectory
from robometer_rl.formats.rlds import RldsConfig, read_rlds
from robometer_rl.tiles import tile
from tests.formats import counters

tfds = pytest.importorskip("tensorflow_datasets")
pytest.importorskip("tensorflow")

LENGTHS = (6, 9, 4, 7)
INSTRUCTIONS = ("open the drawer", "", "close the drawer", "push the button")
PARAPHRASE = "press the button"


def step(episode: int, number: int) -> dict[str, Any]:
    last = number == LENGTHS[episode] - 1
    picture = counters.draw(episode, number)
    return {
        "observation": {
            "image": picture,
            # One episode was recorded without its second camera.
            "image_additional_view": counters.draw(episode, number, "wrist") * np.uint8(episode != 2),
            "depth": np.zeros((64, 64, 1), np.float32),
            "state": np.array([number], np.float32),
        },
        "action": np.zeros(2, np.float32),
        "reward": np.float32(last and episode != 2),
        "discount": np.float32(1),
        "is_first": number == 0,
        "is_last": last,
        "is_terminal": last,
        "language_instruction": INSTRUCTIONS[episode],
        "language_instruction_2": PARAPHRASE if episode == 3 else "",
    }


def features() -> Any:
    kind = tfds.features
    observation = {
        "image": kind.Image(shape=(64, 64, 3), encoding_format="png"),
        "image_additional_view": kind.Image(shape=(64, 64, 3), encoding_format="jpeg"),
        "depth": kind.Tensor(shape=(64, 64, 1), dtype=np.float32),
        "state": kind.Tensor(shape=(1,), dtype=np.float32),
    }
    flags = {name: kind.Scalar(dtype=np.bool_) for name in ("is_first", "is_last", "is_terminal")}
    numbers = {name: kind.Scalar(dtype=np.float32) for name in ("reward", "discount")}
    texts = {name: kind.Text() for name in ("language_instruction", "language_instruction_2")}
    action = {"action": kind.Tensor(shape=(2,), dtype=np.float32)}
    steps = {"observation": kind.FeaturesDict(observation), **action, **flags, **numbers, **texts}
    return kind.FeaturesDict({"steps": kind.Dataset(steps), "episode_metadata": {"file_path": kind.Text()}})


@tfds.core.registered.skip_registration()  # which takes a name once
def build(data_dir: Path, episodes: dict[str, tuple[int, ...]], shards: int) -> Path:
    """Episodes by split, written by the library itself."""

    class Counters(tfds.core.GeneratorBasedBuilder):
        VERSION = tfds.core.Version("1.0.0")
        pkg_dir_path = Path(__file__).parent

        def _info(self) -> Any:
            return tfds.core.DatasetInfo(builder=self, features=features())

        def _split_generators(self, dl_manager: Any) -> Any:
            return {split: self._generate_examples(numbers) for split, numbers in episodes.items()}

        def _generate_examples(self, numbers: tuple[int, ...]) -> Iterator[tuple[str, dict[str, Any]]]:
            for episode in numbers:
                steps = [step(episode, number) for number in range(LENGTHS[episode])]
                yield f"{episode}", {"steps": steps, "episode_metadata": {"file_path": f"{episode}.hdf5"}}

    builder = Counters(data_dir=data_dir)
    builder.download_and_prepare(
        download_config=tfds.download.DownloadConfig(num_shards=shards, compute_stats="skip", try_download_gcs=False)
    )
    return Path(builder.data_path)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four episodes in two files."""
    return build(tmp_path_factory.mktemp("rlds"), {"train": (0, 1, 2, 3)}, 2)


@pytest.fixture(scope="module")
def soar(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Splits that are called after outcomes."""
    return build(tmp_path_factory.mktemp("soar"), {"success": (0, 3), "failure": (2,)}, 1)


def read(path: Path, **options: Any) -> list[Trajectory | Unreadable]:
    return list(read_rlds(RldsConfig(path, **options)))


def written(entry: Trajectory | Unreadable) -> int:
    """Which of the episodes above it is: the library shuffles what it writes."""
    return counters.read(entry.frames[:1][0])[0]


def test_episodes_are_the_ones_written(dataset: Path) -> None:
    found = [entry for entry in read(dataset, camera=("image",), success_reward=1.0) if isinstance(entry, Trajectory)]
    assert sorted(written(entry) for entry in found) == [0, 2, 3]
    for entry in found:
        episode = written(entry)
        length = LENGTHS[episode]
        assert entry.task == INSTRUCTIONS[episode]
        assert entry.instructions == ((PARAPHRASE,) if episode == 3 else ())
        np.testing.assert_array_equal(entry.frames[:], np.stack([counters.draw(episode, i) for i in range(length)]))
        assert entry.quality_label == ("failure" if episode == 2 else "successful")
        assert entry.success.tolist() == [False] * (length - 1) + [episode != 2]
        assert entry.steps.tolist() == list(range(length))
        assert (entry.data_source, entry.split, entry.skill) == ("oxe_counters", "train", None)


def test_order_and_ids_are_stable(dataset: Path) -> None:
    first, second = (read(dataset, camera=("image",), quality="successful") for _ in range(2))
    ids = [entry.id if isinstance(entry, Trajectory) else entry.name for entry in first]
    assert ids == [entry.id if isinstance(entry, Trajectory) else entry.name for entry in second]
    numbers = {f"oxe_counters-train-{number:06d}-image" for number in range(4)}
    bad = [entry.name for entry in first if isinstance(entry, Unreadable)]
    assert len(numbers & set(ids)) == 3
    assert [name.startswith("counters#train ") for name in bad] == [True]


def test_what_is_bad_is_named_and_the_rest_is_read(dataset: Path) -> None:
    found = read(dataset, camera=("image_additional_view",), quality="successful", skill="expert")
    reasons = sorted(entry.reason for entry in found if isinstance(entry, Unreadable))
    assert len(reasons) == 2
    assert "no instruction" in reasons[0]
    assert "is black" in reasons[1]
    kept = [entry for entry in found if isinstance(entry, Trajectory)]
    assert sorted(written(entry) for entry in kept) == [0, 3]
    assert {counters.read(image)[2] for entry in kept for image in entry.frames[:]} == {"wrist"}
    assert {(entry.skill, entry.success) for entry in kept} == {("expert", None)}


def test_a_damaged_file_costs_its_own_episodes(dataset: Path) -> None:
    files = sorted(dataset.glob("*.tfrecord*"))
    assert len(files) == 2
    content = files[0].read_bytes()
    lengths = tfds.builder_from_directory(dataset).info.splits["train"].shard_lengths
    try:
        files[0].write_bytes(content[:-200] + bytes(200))
        found = read(dataset, camera=("image",), quality="successful")
    finally:
        files[0].write_bytes(content)
    last = [entry.name for entry in found if isinstance(entry, Unreadable) and "file 0" in entry.reason]
    assert last == [f"counters#train {lengths[0] - 1} to {lengths[0] - 1}"]
    intact = [entry.id for entry in found if isinstance(entry, Trajectory) and entry.metadata["episode"] >= lengths[0]]
    whole = read(dataset, camera=("image",), quality="successful")
    assert intact == [entry.id for entry in whole if isinstance(entry, Trajectory)][-len(intact) :]
    assert intact


def test_pictures_are_turned_on_request(dataset: Path) -> None:
    for stored, flipped in zip(
        read(dataset, camera=("image",), quality="successful"),
        read(dataset, camera=("image",), quality="successful", orientation="flip"),
        strict=True,
    ):
        if isinstance(stored, Trajectory):
            np.testing.assert_array_equal(flipped.frames[:], stored.frames[:][:, ::-1])


def test_wrong_options_are_refused_before_anything_is_read(dataset: Path, tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"no features\.json"):
        read_rlds(RldsConfig(tmp_path, quality="successful"))
    with pytest.raises(SourceError, match=r"no split 'test'; expected one of \['train'\]"):
        read_rlds(RldsConfig(dataset, split=("test",), quality="successful"))
    with pytest.raises(SourceError, match="no camera was named; expected one of image, image_additional_view"):
        read_rlds(RldsConfig(dataset, quality="successful"))
    with pytest.raises(SourceError, match="does not say which episodes succeeded"):
        read_rlds(RldsConfig(dataset, camera=("image",)))


def test_splits_that_are_called_after_outcomes_say_them(soar: Path) -> None:
    found = read(soar, camera=("image",))
    assert sorted((written(each), each.quality_label) for each in found) == [
        (0, "successful"),
        (2, "failure"),
        (3, "successful"),
    ]
    assert {(each.split, each.success) for each in found} == {("train", None)}
    assert [each.id for each in found if written(each) == 2] == ["oxe_counters-failure-000000-image"]
    (failure,) = read(soar, camera=("image",), split=("failure",))
    assert failure.source == "counters#failure 0"
    assert {each.quality_label for each in read(soar, camera=("image",), quality="suboptimal")} == {"suboptimal"}
    by_reward = read(soar, camera=("image",), success_reward=1.0)
    assert sorted((written(each), bool(each.success.any())) for each in by_reward) == [(0, True), (2, False), (3, True)]


def test_each_camera_has_a_trajectory_or_all_have_a_tiled_one(soar: Path) -> None:
    cameras = ("image", "image_additional_view")
    found = read(soar, camera=cameras)
    assert [each.metadata["camera"] for each in found if isinstance(each, Trajectory)] == [*cameras, *cameras, "image"]
    (black,) = [each for each in found if isinstance(each, Unreadable)]
    assert black.name == "counters#failure 0, image_additional_view"
    pytest.importorskip("cv2")
    tiled = read(soar, camera=cameras, tile=True)
    assert [isinstance(each, Unreadable) for each in tiled] == [False, False, True]
    assert tiled[0].tiled
    views = [np.asarray(each.frames[1:2])[0] for each in found[:2]]
    np.testing.assert_array_equal(tiled[0].frames[1:2][0], tile(views))
