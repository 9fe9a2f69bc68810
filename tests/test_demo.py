from __future__ import annotations

import json
import re
import shlex
from html import unescape
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import tyro

from robometer_rl.demo import DemoConfig, DemoEpisode, demo
from robometer_rl.envs.metaworld import make_env
from robometer_rl.frames import NestedFrames
from robometer_rl.report.replay import shown_frames
from robometer_rl.video import read_recording
from tests.fixed_models import BrightnessModel

pytestmark = pytest.mark.skipif(find_spec("metaworld") is None, reason="needs the extra 'metaworld'")


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> DemoConfig:
    return DemoConfig(out=tmp_path_factory.mktemp("demo page"), every=10, seed=3)


@pytest.fixture(scope="module")
def episodes(config: DemoConfig) -> list[DemoEpisode]:
    return demo(config, BrightnessModel(NestedFrames(4), success_threshold=0.2))


def test_only_the_expert_opens_the_drawer(episodes: list[DemoEpisode]) -> None:
    assert [(each.name, each.true_success) for each in episodes] == [
        ("expert", True),
        ("half-way", False),
        ("random", False),
    ]


def test_episodes_are_equally_long_and_scored_at_the_same_steps(episodes: list[DemoEpisode]) -> None:
    """Nothing can be read off the length of an episode."""
    steps = episodes[0].scores.numbers
    assert all(np.array_equal(each.scores.numbers, steps) for each in episodes)
    assert (steps[0], set(np.diff(steps)[:-1])) == (0, {10})
    assert 60 < steps[-1] < 200


def test_the_videos_show_the_frames_that_were_scored(episodes: list[DemoEpisode], config: DemoConfig) -> None:
    for episode in episodes:
        assert episode.frames.shape == (len(episode.scores), 128, 128, 3)
        seen = episode.frames.mean(axis=(1, 2, 3)) / 255
        np.testing.assert_allclose(episode.scores.progress, seen, atol=1e-6)
        assert len(read_recording(config.out / f"{episode.name}.mp4")) == len(episode.scores)


def test_the_return_is_the_progress_made_from_the_seeded_start(episodes: list[DemoEpisode], config: DemoConfig) -> None:
    env = make_env(config.task)
    env.reset(seed=config.seed)
    start = float(np.mean(env.render())) / 255  # pyright: ignore[reportArgumentType, reportCallIssue]
    env.close()
    for episode in episodes:
        assert episode.learned_return == pytest.approx(float(episode.scores.progress[-1]) - start, abs=1e-6)


def test_predicted_success_is_that_of_the_rule_at_the_end(episodes: list[DemoEpisode]) -> None:
    """The room's brightness, squared, is above this model's threshold from the start."""
    for episode in episodes:
        assert episode.scores.success.min() > episode.scores.threshold == 0.2
        assert episode.predicted_success
        assert episode.scores.success_detected.tolist() == [False] * 2 + [True] * (len(episode.scores) - 2)


def test_the_page_finds_its_files_and_says_how_it_was_made(episodes: list[DemoEpisode], config: DemoConfig) -> None:
    page = (config.out / "index.html").read_text(encoding="utf-8")
    numbers = [json.loads(unescape(text)) for text in re.findall(r"data-replay='([^']+)'", page)]
    assert [len(replay["series"]) for replay in numbers] == [3, 1, 1, 1]
    for series in (each for replay in numbers for each in replay["series"]):
        assert series["numbers"] == episodes[0].scores.numbers.tolist()
        assert (series["steps"], series["counted"]) == (list(range(len(series["numbers"]))), "step")
        assert series["shown"] == shown_frames("nested(4)", np.array(series["steps"])).tolist()
    assert "success from frame 2 (step 20)" in page
    files = {video["address"] for replay in numbers for video in replay["videos"]}
    assert sorted(files) == ["expert.mp4", "half-way.mp4", "random.mp4"]
    assert all((config.out / file).is_file() for file in files)
    for fact in (
        "brightness, float32",
        "nested(4)",
        "every 10 steps",
        "0.20 on 2 consecutive",
        f"metaworld {version('metaworld')}",
    ):
        assert fact in page
    for episode in episodes:
        assert f"{episode.scores.progress[-1]:.3f}" in page


def test_the_command_on_the_page_makes_the_page_again(episodes: list[DemoEpisode], config: DemoConfig) -> None:
    page = (config.out / "index.html").read_text(encoding="utf-8")
    (command,) = re.findall(r"<pre class='card'>(.*?)</pre>", page, re.DOTALL)
    program, name, *words = shlex.split(unescape(command))
    assert (program, name) == ("robometer-rl", "demo")
    assert tyro.cli(DemoConfig, args=words) == config


def test_an_unknown_task_says_which_exist(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"unknown Meta-World task 'drawer'.*drawer-open"):
        demo(DemoConfig(task="drawer", out=tmp_path), BrightnessModel())
