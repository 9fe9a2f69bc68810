from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from robometer_rl.cli import main
from robometer_rl.formats.dataset import DatasetOptions
from robometer_rl.formats.label_lines import read_label_lines
from robometer_rl.formats.table import open_dataset
from robometer_rl.relabeling.commands import journal_path, parse_reward, relabel, report_path
from robometer_rl.relabeling.engine import Labeller
from robometer_rl.relabeling.journal import JournalError
from robometer_rl.rewards import RewardSpec
from tests.fixed_models import PixelModel
from tests.relabeling.episodes import record, write_npz
from tests.relabeling.kinds import content

EPISODES = {f"episode_{number}": record(length, number) for number, length in enumerate((3, 1, 8, 2, 5, 9, 4))}


@pytest.fixture
def folder(tmp_path):
    write_npz(tmp_path / "data", EPISODES)
    return tmp_path / "data"


def prepare(folder, output, pack_tokens=30):
    _, dataset = open_dataset(DatasetOptions(folder))
    return dataset, Labeller(PixelModel(), pack_tokens=pack_tokens), dataset.writer("copy", output)


def test_a_second_run_with_another_model_or_reward_over_the_same_journal_is_refused(tmp_path, folder):
    class Interrupted(PixelModel):
        def predict_steps(self, clips, protocol=None, every=1):
            if self.calls:
                raise KeyboardInterrupt
            return super().predict_steps(clips, protocol, every)

    output = tmp_path / "out"
    dataset, labeller, writer = prepare(folder, output)
    with pytest.raises(KeyboardInterrupt):
        relabel(dataset, Labeller(Interrupted(), pack_tokens=30), writer)
    assert journal_path(writer).exists()
    assert not output.exists()
    other = PixelModel()
    other.model_id = "another"
    for changed in (Labeller(other, pack_tokens=30), Labeller(PixelModel(), RewardSpec("level"), pack_tokens=30)):
        with pytest.raises(JournalError, match="labels of another run"):
            relabel(dataset, changed, writer)
    np.savez(folder / "one_more.npz", front=np.zeros((3, 8, 8, 3), np.uint8), task=np.array("x"))
    with pytest.raises(JournalError, match="dataset was"):
        relabel(*prepare(folder, output))
    (folder / "one_more.npz").unlink()
    assert relabel(dataset, labeller, writer) is not None
    assert output.is_dir()
    assert not journal_path(writer).exists()


def test_a_run_killed_after_its_last_act_finds_that_it_had_finished(tmp_path, folder, monkeypatch):
    dataset, labeller, writer = prepare(folder, tmp_path / "out")
    unlink = Path.unlink

    def interrupted(path: Path, missing_ok: bool = False) -> None:
        if path == journal_path(writer):
            raise KeyboardInterrupt
        unlink(path, missing_ok)

    monkeypatch.setattr(Path, "unlink", interrupted)
    with pytest.raises(KeyboardInterrupt):
        relabel(dataset, labeller, writer)
    monkeypatch.undo()
    before = content(tmp_path / "out")
    assert relabel(dataset, labeller, writer) is None
    assert content(tmp_path / "out") == before
    assert not journal_path(writer).exists()


def test_an_output_that_is_there_is_left_alone(tmp_path, folder):
    (tmp_path / "out").mkdir()
    with pytest.raises(FileExistsError, match="is there already"):
        relabel(*prepare(folder, tmp_path / "out"))
    assert list((tmp_path / "out").iterdir()) == []
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data", "out"]


def test_where_nothing_can_be_written_is_known_before_anything_is_scored(tmp_path, folder):
    before = content(folder)
    dataset, labeller, writer = prepare(folder, tmp_path / "data" / "episode_0.npz" / "out")
    with pytest.raises(OSError, match="episode_0"):
        relabel(dataset, labeller, writer)
    assert labeller.model.calls == 0
    assert content(folder) == before


def test_the_reward_of_the_command_line(tmp_path):
    spec = RewardSpec("potential", gamma=0.9, task_weight=1.0)
    (tmp_path / "reward.json").write_text(spec.to_json())
    assert parse_reward("level") == RewardSpec("level")
    assert parse_reward(spec.to_json()) == spec
    assert parse_reward(str(tmp_path / "reward.json"), every=3) == RewardSpec.from_dict(spec.to_dict() | {"every": 3})
    for text, message in (("potential", "needs gamma"), ("joy", "expected one of level"), ('{"mode": 3}', "mode")):
        with pytest.raises(ValueError, match=message):
            parse_reward(text)


def test_the_command_labels_verifies_and_reports(tmp_path, capsys):
    episodes = {f"episode_{number}": record(4, number, size=32, success=bool(number)) for number in range(3)}
    write_npz(tmp_path / "data", episodes)
    np.savez(tmp_path / "data" / "dark.npz", sound=np.zeros(3))
    words = ["relabel", str(tmp_path / "data"), "--reward", "level", "--protocol", "nested(4)", "--verify", "--report"]
    assert main(words) == 0
    said = capsys.readouterr().out
    assert "3 episodes with 12 steps labelled" in said
    assert "dark.npz" in said
    output = tmp_path / "data-robometer"
    assert f"python examples/offline_rl.py {output}\n" in said
    provenance = json.loads((output / "robometer.json").read_text())["provenance"]
    assert (provenance["protocol"], provenance["reward"]["mode"]) == ("nested(4)", "level")
    report = tmp_path / "data-robometer-report"
    assert (report / "index.html").stat().st_size > 10_000
    assert len(list(report.glob("*.mp4"))) == 3
    assert main(words) == 2
    assert "is there already" in capsys.readouterr().err


def test_the_discount_of_the_reward_is_that_of_returns_unless_another_is_given(tmp_path, folder):
    reward = RewardSpec("potential", gamma=0.9, task_weight=1.0).to_json()
    words = ["relabel", str(folder), "--reward", reward, "--write", "jsonl"]
    assert main([*words, "--output", str(tmp_path / "own.jsonl")]) == 0
    assert main([*words, "--output", str(tmp_path / "given.jsonl"), "--discount", "0.5", "--n-step", "2"]) == 0
    own, given = (read_label_lines(tmp_path / f"{name}.jsonl").provenance for name in ("own", "given"))
    assert [(each.discount, each.n_step) for each in (own, given)] == [(0.9, None), (0.5, 2)]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["nowhere"], "no dataset at nowhere"),
        (["{data}", "--format", "floppy"], "no format 'floppy'"),
        (["{data}", "--write", "in_place"], "can be written as copy"),
        (["{data}", "--cameras", "left"], "no camera is called 'left'"),
        (["{data}", "--protocol", "psychic"], "unknown frame protocol"),
        (["{data}", "--discount", "1.5"], "discount of Horizon must be a number in (0, 1]"),
        (["{data}", "--n-step", "0"], "n_step of Horizon must be a whole number"),
        (["{data}", "--tolerance-s", "0.1"], "tolerance_s is about the times of LeRobot datasets"),
        (["{empty}"], "looks like none of the formats"),
    ],
)
def test_what_is_wrong_with_the_words_is_said_at_once(tmp_path, folder, capsys, words, message):
    (tmp_path / "empty").mkdir()
    places = {"data": str(folder), "empty": str(tmp_path / "empty")}
    assert main(["relabel", *(word.format(**places) for word in words)]) == 2
    assert message in capsys.readouterr().err


def test_the_page_is_beside_the_output(tmp_path, folder):
    _, _, writer = prepare(folder, tmp_path / "out.v2")
    assert journal_path(writer).name == "out.v2.journal"
    assert report_path(writer) == tmp_path / "out.v2-report" / "index.html"
