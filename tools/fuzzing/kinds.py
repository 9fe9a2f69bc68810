"""The kinds of files that commands read: a small sound example of each, and the commands that are given it."""

from __future__ import annotations

import io
import json
import shutil
import signal
import tarfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import yaml
from numpy.typing import NDArray
from PIL import Image

from fuzzing.trying import attempt
from tests.data.episodes import make_episodes_of_two_tasks
from tests.formats.hdf5 import aloha_files, maniskill_files
from tests.library import ROOT
from tests.relabeling import kinds as labelled

FIXTURES: Final = ROOT / "tests" / "fixtures"
RBM: Final = FIXTURES / "rbm_dataset"
CHECKPOINT: Final = FIXTURES / "robometer_tiny" / "checkpoint"
TINY: Final = ("--model", str(CHECKPOINT))
TASK: Final = ("--task", "open the drawer")
TRAINING: Final = (
    "train", "robometer-mini", "--start", str(CHECKPOINT), "--pretraining.steps", "0", "--frozen.steps", "0",
    "--joint.steps", "2", "--joint.batch-size", "2", "--joint.vision-learning-rate", "None", "--save-every", "1",
    "--validation-fraction", "0", "--no-bf16",
)  # fmt: skip


NO_EPISODES: Final = tuple(
    f"--episodes.{skill}=0"
    for skill in (
        "expert", "noisy", "stop-halfway", "wrong-place", "random", "hover", "undo", "wrong-push", "flail", "drop",
        "wrong-object",
    )
)  # fmt: skip


@dataclass(frozen=True)
class Kind:
    """Files of one kind.

    Attributes:
        make: Makes an example at a path.
        commands: Command lines, with ``@`` for the example and ``%`` for a new path to write to.
        name: Of the example.
        given: Which part of the example is damaged; all of it if empty.
    """

    make: Callable[[Path], None]
    commands: tuple[tuple[str, ...], ...]
    name: str = "data"
    given: str = ""


def words(command: tuple[str, ...], path: Path, output: Path) -> list[str]:
    """A command line about an example at ``path`` that writes to ``output``."""
    return [word.replace("@", str(path)).replace("%", str(output)) for word in command]


def frames(count: int = 6, size: int = 32) -> NDArray[np.uint8]:
    """A square that moves over noise."""
    pictures = np.random.default_rng(count).integers(0, 90, (count, size, size, 3), np.uint8)
    for number, picture in enumerate(pictures):
        picture[4 : 4 + size // 4, number : number + size // 4] = 250
    return pictures


def _video(path: Path) -> None:
    from robometer_rl.video import write_video

    write_video(path, frames(), fps=10)


def _gif(path: Path) -> None:
    pictures = [Image.fromarray(frame) for frame in frames()]
    pictures[0].save(path, save_all=True, append_images=pictures[1:], duration=100)


def _images(suffix: str) -> Callable[[Path], None]:
    def make(path: Path) -> None:
        path.mkdir()
        for number, frame in enumerate(frames(3)):
            Image.fromarray(frame).save(path / f"frame{number}.{suffix}")

    return make


def _npz(path: Path) -> None:
    np.savez_compressed(path, frames=frames())


def _listed_videos(path: Path) -> None:
    path.mkdir()
    rows = []
    for number in range(2):
        _video(path / f"take {number}.mp4")
        rows.append({"video": f"take {number}.mp4", "task": "open the drawer", "quality": "successful"})
    (path / "videos.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def _roboreward(path: Path) -> None:
    (path / "train").mkdir(parents=True)
    _video(path / "train" / "a.mp4")
    (path / "train" / "metadata.jsonl").write_text(
        json.dumps({"file_name": "a.mp4", "task": "put the pot in the sink", "reward": 3}) + "\n"
    )


def _agibot(path: Path) -> None:
    action = {"start_frame": 0, "end_frame": 4, "action_text": "lift the cup", "skill": "Pick"}
    episode = {
        "episode_id": 648642,
        "task_name": "serve tea",
        "init_scene_text": "",
        "label_info": {"action_config": [action]},
    }
    (path / "task_info").mkdir(parents=True)
    (path / "task_info" / "task_327.json").write_text(json.dumps([episode]))
    _video(path / "video.mp4")
    content = (path / "video.mp4").read_bytes()
    (path / "video.mp4").unlink()
    (path / "observations" / "327").mkdir(parents=True)
    with tarfile.open(path / "observations" / "327" / "648642-648642.tar", "w") as archive:
        member = tarfile.TarInfo("648642/videos/head_color.mp4")
        member.size = len(content)
        archive.addfile(member, io.BytesIO(content))


def _roboarena(path: Path) -> None:
    folder = path / "evaluation_sessions" / "0a1b"
    policies = {
        "A": {"policy_name": "pi0", "partial_success": 1.0},
        "B": {"policy_name": "fast", "partial_success": 0.2},
    }
    for number, policy in policies.items():
        place = folder / f"{number}_{policy['policy_name']}"
        place.mkdir(parents=True)
        _video(place / "2025_06_01_left.mp4")
        _video(place / "2025_06_01_right.mp4")
    metadata = {"language_instruction": "put the pen into the cup", "preference": "A", "policies": policies}
    (folder / "metadata.yaml").write_text(yaml.safe_dump(metadata))


def _robofac(path: Path) -> None:
    videos = [
        f"realworld_data/so100_place_cube_error/videos/chunk-000/observation.images.{camera}/episode_000000.mp4"
        for camera in ("above", "side")
    ]
    for video in (*videos, "simulation_data/success_data/PlaceCube/view0/1f2e.mp4"):
        (path / video).parent.mkdir(parents=True)
        _video(path / video)
    turns = [
        {"from": "human", "value": "<video>\nCan you identify what task the robot is doing?"},
        {"from": "assistant", "value": "Place the cube"},
    ]
    entry = {"id": "0", "video": videos[0].removeprefix("realworld_data/"), "task": "PlaceCube", "conversations": turns}
    (path / "training_qa.json").write_text(json.dumps([entry]))


def _maniskill(path: Path) -> None:
    path.mkdir()
    maniskill_files.record(path / "trajectory.h5")


def _aloha(path: Path) -> None:
    path.mkdir()
    for number, compress in enumerate((False, True)):
        aloha_files.record(path / f"episode_{number}.hdf5", compress=compress)


def _hdf5_folder(path: Path) -> None:
    """Files of several layouts, of which the first decides."""
    path.mkdir()
    shutil.copyfile(next((FIXTURES / "libero_hdf5").glob("*.hdf5")), path / "a_demo.hdf5")
    maniskill_files.record(path / "b.h5")
    aloha_files.record(path / "c.hdf5", compress=True)


def _store(path: Path) -> None:
    from robometer_rl.data.store import TrajectoryStore

    store = TrajectoryStore(path)
    for episode in make_episodes_of_two_tasks(2):
        store.append(episode)


def _sealed_store(path: Path) -> None:
    from robometer_rl.data.store import TrajectoryStore

    _store(path)
    TrajectoryStore.open(path).seal()


def _video_store(path: Path) -> None:
    from robometer_rl.cli import main

    source = path.with_name("listed")
    _listed_videos(source)
    main(["data", "import", "videos", str(source), str(path), "--keep-videos"])
    shutil.rmtree(source)


def _copy(source: Path) -> Callable[[Path], None]:
    return lambda path: (
        Path(shutil.copytree(source, path) if source.is_dir() else shutil.copyfile(source, path)) and None
    )


def _with_tokenizer(name: str) -> Callable[[Path], None]:
    """A checkpoint with what it would take from its base model's directory on the Hub."""

    def make(path: Path) -> None:
        shutil.copytree(CHECKPOINT, path, ignore=shutil.ignore_patterns("*.safetensors*", "config.*"))
        shutil.copytree(FIXTURES / "robometer_tiny" / name, path, dirs_exist_ok=True)

    return make


def _labelled(name: str) -> Callable[[Path], None]:
    return lambda path: labelled.KINDS[name].make(path, 3)


def _recipe(path: Path) -> None:
    path.write_text(
        "summary: Trains for two steps\nstart: null\npretraining: {steps: 0}\nfrozen: {steps: 1, batch_size: 2}\n"
        "joint: {steps: 0}\nvalidation_fraction: 0.25\ntargets: {reaching: 0.25}\nselection: {metrics: [voc_pearson]}\n"
    )


def _evaluation(path: Path) -> None:
    metric = {"value": 0.9, "low": 0.8, "high": 1.0, "count": 3, "undefined": 0}
    content = {"protocol": "uniform(8)", "every": 1, "episodes": {"expert": 3}, "metrics": {"voc_pearson": metric}}
    path.write_text(json.dumps(content))


def _reward(path: Path) -> None:
    from robometer_rl import RewardSpec

    path.write_text(RewardSpec(mode="level", success_threshold=0.5).to_json())


def _run(path: Path) -> None:
    """A training that was killed behind a save."""
    path.mkdir()
    _store(path / "store")
    command = [*TRAINING, "--joint.steps", "200", "--data", "data/store", "--output", "data/run"]
    _killed(
        command, path.parent, lambda: any((path / "run" / "joint" / "saves").glob("checkpoint-*/trainer_state.json"))
    )
    # What is damaged is finished in a few steps.
    settings = path / "run" / "config.json"
    settings.write_text(settings.read_text().replace('"steps": 200', '"steps": 4'))


def _journal(path: Path) -> None:
    """A relabelling that was killed behind the first episodes."""
    path.mkdir()
    labelled.KINDS["npz"].make(path / "episodes", 40)
    command = ["relabel", "data/episodes", *TINY, "--pack-tokens", "60", "--output", "data/out"]
    _killed(command, path.parent, lambda: _size(path / "out.journal") > 2000)


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _killed(command: list[str], folder: Path, is_ready: Callable[[], bool]) -> None:
    """Runs a command until what it has written is there, and kills it then."""
    for seconds in range(1, 60):
        outcome = attempt(command, folder, (signal.SIGKILL, 0.25 * seconds))
        if is_ready():
            return
        if not outcome.killed:
            raise RuntimeError(f"{command} ended by itself: {outcome.output}")
    raise RuntimeError(f"{command} writes nothing")


SCORE = (("score", "@", *TASK, *TINY, "--out", "%"), ("score", "@", *TASK, *TINY, "--out", "%", "--every", "3"))
TIMED = (*SCORE, ("score", "@", *TASK, *TINY, "--out", "%", "--fps", "4"))
DONE = ("--quality", "successful")
MINARI = ("relabel", "@", *TINY, *TASK, "--output", "%-v1")
LEROBOT = ("--camera", "observation.images.top")
CAMERAS = ("--cameras", "observation.images.top")
HIGH = ("--camera", "cam_high")
STORE = (
    ("data", "inspect", "@", "--output", "%.png"),
    ("data", "verify", "@"),
    ("data", "import", "store", "@", "%"),
    ("evaluate", str(CHECKPOINT), "@", "--split", "train", "--output", "%.json"),
    ("calibrate", str(CHECKPOINT), "@", "--max-false-alarms", "0.99", "--output", "%"),
    (*TRAINING, "--data", "@", "--output", "%"),
)
MODEL = (
    ("score", "{npz}", *TASK, "--model", "@", "--out", "%"),
    ("publish", "@", "me/robometer", "--dry-run"),
)


def _relabel(*options: str) -> tuple[str, ...]:
    return ("relabel", "@", *TINY, *TASK, "--output", "%", *options)


def _import(name: str, *options: str) -> tuple[str, ...]:
    return ("data", "import", name, "@", "%", *options)


PUBLISHED = (_import("rbm"), _import("rbm", "--no-keep-videos"))

KINDS: Final[dict[str, Kind]] = {
    "mp4": Kind(_video, TIMED, "take.mp4"),
    "gif": Kind(_gif, TIMED, "take.gif"),
    "png folder": Kind(_images("png"), SCORE),
    "jpeg folder": Kind(_images("jpg"), SCORE),
    "webp folder": Kind(_images("webp"), SCORE),
    "npz": Kind(_npz, SCORE, "take.npz"),
    "listed videos": Kind(_listed_videos, (_import("videos"), _import("videos", "--keep-videos"), _relabel())),
    "RoboReward": Kind(_roboreward, (_import("roboreward"),)),
    "AgiBot": Kind(_agibot, (_import("agibot"),)),
    "LIBERO HDF5": Kind(
        _labelled("hdf5"), (_import("libero_hdf5"), _relabel("--cameras", "agentview_rgb", "--report")), "a_demo.hdf5"
    ),
    "robomimic HDF5": Kind(
        _copy(next((FIXTURES / "robomimic_hdf5").glob("*.hdf5"))),
        (
            _import("robomimic_hdf5", "--camera", "agentview_image", "--task", "lift the cube"),
            _relabel("--cameras", "agentview_image"),
        ),
        "image.hdf5",
    ),
    "ManiSkill": Kind(
        _maniskill,
        (_import("maniskill", *TASK), _import("hdf5", *TASK), _relabel(), _relabel("--write", "jsonl")),
        given="trajectory.h5",
    ),
    "ManiSkill's list": Kind(_maniskill, (_import("maniskill", *TASK), _relabel()), given="trajectory.json"),
    "ALOHA": Kind(_aloha, (_import("aloha", *TASK, *HIGH, *DONE), _relabel("--cameras", "cam_high"))),
    "HDF5 by content": Kind(
        _hdf5_folder,
        (
            _import("hdf5", *TASK, "--camera", "agentview_rgb", "--quality", "successful"),
            _relabel("--cameras", "agentview_rgb"),
        ),
    ),
    "RoboArena": Kind(_roboarena, (_import("roboarena"), _import("roboarena", "--keep-videos"))),
    "RoboFAC": Kind(
        _robofac, (_import("robofac"), _import("robofac", "--camera", "above", "side", "--tile", "--keep-videos"))
    ),
    "RBM caches": Kind(
        _copy(RBM / "processed_datasets"), (*PUBLISHED, (*TRAINING, "--data", "rbm:@", "--output", "%"))
    ),
    "RBM archives": Kind(_copy(RBM / "tars"), (*PUBLISHED, (*TRAINING, "--data", "rbm:@", "--output", "%"))),
    "RBM repositories": Kind(_copy(RBM / "robometer_dataset"), PUBLISHED),
    "RBM conversion": Kind(
        _copy(RBM / "save_to_disk"),
        (_import("rbm", "--videos", str(RBM / "robometer_dataset" / "libero_rfm" / "libero256_10")),),
    ),
    "Minari HDF5": Kind(_labelled("minari"), (_import("minari", *TASK), MINARI), "reach-v0"),
    "Minari Arrow": Kind(_labelled("minari_arrow"), (_import("minari", *TASK), MINARI), "reach-v0"),
    "LeRobot v2.1": Kind(
        _copy(FIXTURES / "lerobot_v21"), (_import("lerobot", *LEROBOT, *DONE), _relabel(*CAMERAS, "--write", "sidecar"))
    ),
    "LeRobot v3.0": Kind(
        _copy(FIXTURES / "lerobot_v30"),
        (_import("lerobot", *LEROBOT), _relabel(*CAMERAS), _relabel(*CAMERAS, "--write", "sidecar")),
    ),
    "LeRobot images": Kind(
        _copy(FIXTURES / "lerobot_v30_images"), (_import("lerobot", *LEROBOT, *DONE), _relabel(*CAMERAS))
    ),
    "npz episodes": Kind(_labelled("npz"), (_relabel(), _relabel("--report", "--verify"))),
    "SB3 buffer": Kind(_labelled("sb3"), (_relabel(), _relabel("--reward", "level")), "buffer.pkl"),
    "store": Kind(_store, STORE),
    "sealed store": Kind(_sealed_store, STORE),
    "store of videos": Kind(_video_store, STORE[:3]),
    "checkpoint": Kind(_copy(CHECKPOINT), MODEL),
    "sharded checkpoint": Kind(_with_tokenizer("checkpoint_sharded"), MODEL[:1]),
    "LoRA checkpoint": Kind(_with_tokenizer("checkpoint_lora"), MODEL[:1]),
    "recipe": Kind(_recipe, (("train", "@", "--data", "{store}", "--output", "%"), ("train", "@", "--help")), "r.yaml"),
    "evaluation": Kind(
        _evaluation, (("publish", str(CHECKPOINT), "me/robometer", "--evaluation", "@", "--dry-run"),), "results.json"
    ),
    "reward": Kind(
        _reward,
        (
            ("relabel", "{episodes}", *TINY, *TASK, "--reward", "@", "--output", "%"),
            ("calibrate", str(CHECKPOINT), "{store}", "--reward", "@", "--max-false-alarms", "0.99", "--output", "%"),
        ),
        "reward.json",
    ),
    "interrupted training": Kind(
        _run, ((*TRAINING, "--joint.steps", "4", "--data", "data/store", "--output", "data/run"),), given="run"
    ),
    "interrupted relabelling": Kind(
        _journal,
        (("relabel", "data/episodes", *TINY, "--pack-tokens", "60", "--output", "data/out"),),
        given="out.journal",
    ),
}
"""By the name that the table of figures has."""
