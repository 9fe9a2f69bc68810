"""docs/fine-tuning.md, from a folder of videos to a wrapper, on a handful of small videos."""

import json
import re
import shlex
from pathlib import Path

import numpy as np
import pytest

from robometer_rl import load_reward_model
from robometer_rl.cli import main
from robometer_rl.models.robometer.adapters import adapter_of
from robometer_rl.video import write_video
from tests.data.episodes import make_episode

PAGE = (Path(__file__).parents[2] / "docs" / "fine-tuning.md").read_text()
COMMANDS = [line for block in re.findall(r"```sh\n(.*?)```", PAGE, re.DOTALL) for line in block.splitlines() if line]
SHORT = ["--frozen.steps", "2", "--frozen.batch-size", "2", "--feature-views", "2", "--validation-fraction", "0"]


def test_the_page_shows_the_whole_way():
    assert [command.split()[1] for command in COMMANDS] == ["data", "data", "train", "evaluate", "publish"]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Two tasks, with experts and half-way stops for training and for the test."""
    monkeypatch.chdir(tmp_path)
    lines = []
    for task in ("push", "pull"):
        for skill, quality in (("expert", "successful"), ("stop_halfway", "suboptimal")):
            for split in ("train", "test"):
                episode = make_episode(task, skill, number=len(lines) % 2, length=8)
                frames = np.asarray(episode.frames).repeat(2, axis=1).repeat(2, axis=2)
                name = f"videos/{episode.id}-{split}.mp4"
                (tmp_path / "my_robot" / "videos").mkdir(parents=True, exist_ok=True)
                write_video(tmp_path / "my_robot" / name, frames, fps=10)
                line = {"video": name, "task": episode.task, "quality": quality, "skill": skill, "split": split}
                done = {} if episode.success_index is None else {"success_frame": episode.success_index}
                lines.append(line | done)
    (tmp_path / "my_robot" / "videos.jsonl").write_text("\n".join(map(json.dumps, lines)))
    return tmp_path


def test_every_command_and_the_example_run(folder, capsys):
    for command in COMMANDS:
        words = shlex.split(command)[1:]
        assert main(words + SHORT if words[0] == "train" else words) == 0, (command, capsys.readouterr().err)
    shown = capsys.readouterr().out
    assert "adapter_model.safetensors" in shown
    assert 'load_reward_model("you/my-robot")' in shown
    assert "`voc_pearson`" in shown

    model = load_reward_model("runs/my_robot/checkpoint")
    adapter = adapter_of(model.network)
    assert adapter is not None
    assert (adapter.lora.r, adapter.lora.base_model_name_or_path) == (8, "mini")

    (example,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    exec(compile(example, "docs/fine-tuning.md", "exec"), {})
    assert len(re.findall(r"progress \d\.\d\d", capsys.readouterr().out)) == 10


def test_the_recipe_of_the_page_is_one(tmp_path):
    from robometer_rl.training.recipes import parse_training

    (text,) = re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)
    (tmp_path / "my_robot.yaml").write_text(text)
    config = parse_training([str(tmp_path / "my_robot.yaml"), "--output", "runs/second"], "train")
    assert (config.start, config.lora.rank, config.frozen.steps) == ("mini", 8, 200)


def test_the_lines_of_the_page_describe_videos(tmp_path):
    from robometer_rl.data.reading import Unreadable
    from robometer_rl.formats.videos import VideosConfig, read_videos

    (text,) = re.findall(r"```json\n(.*?)```", PAGE, re.DOTALL)
    (tmp_path / "videos.jsonl").write_text(text)
    (tmp_path / "videos").mkdir()
    names = [json.loads(line)["video"] for line in text.splitlines()]
    for name in names:
        write_video(tmp_path / name, np.zeros((12, 32, 32, 3), np.uint8), fps=10)
    episodes = list(read_videos(VideosConfig(tmp_path)))
    assert len(episodes) == len(names)
    assert not [episode for episode in episodes if isinstance(episode, Unreadable)]
