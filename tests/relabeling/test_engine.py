from __future__ import annotations

import logging
from dataclasses import replace

import numpy as np
import pytest

from robometer_rl.data.reading import Unreadable
from robometer_rl.formats.dataset import Labels
from robometer_rl.frames import NestedFrames, TaskError
from robometer_rl.models.loading import load_reward_model
from robometer_rl.prediction import NonFiniteOutputError
from robometer_rl.relabeling.engine import (
    Labeller,
    NothingLabelledError,
    VerificationError,
    label_dataset,
    run_facts,
    verify_labels,
)
from robometer_rl.relabeling.journal import Journal, JournalError
from robometer_rl.rewards import RewardSpec
from tests.fixed_models import BrokenModel, PixelModel
from tests.relabeling.episodes import MemoryDataset, live_rewards, record

EPISODES = {str(number): record(length, number) for number, length in enumerate((3, 1, 8, 2, 5, 5, 1))}


def test_broken_episodes_are_listed_and_the_others_labelled():
    labels = label_dataset(
        MemoryDataset(EPISODES, broken=frozenset({"0", "4"})), Labeller(PixelModel(), pack_tokens=20)
    )
    assert list(labels.episodes) == ["1", "2", "3", "5", "6"]
    assert [(entry.name, entry.reason) for entry in labels.skipped] == [
        ("elsewhere", "known from the start"),
        ("0", "a hole in the file"),
        ("4", "a hole in the file"),
    ]


def test_nothing_labelled_is_an_error_with_a_reason():
    with pytest.raises(NothingLabelledError, match="known from the start"):
        label_dataset(MemoryDataset(EPISODES, broken=frozenset(EPISODES)), Labeller(PixelModel()))


def test_a_run_goes_on_after_the_last_whole_pack_and_asks_about_no_episode_twice(tmp_path):
    class Failing(PixelModel):
        def predict_steps(self, clips, protocol=None, every=1):
            self.packs = getattr(self, "packs", 0) + 1
            if self.packs == 3:
                raise NonFiniteOutputError("clip 0, frame 1")
            return super().predict_steps(clips, protocol, every)

    whole = label_dataset(MemoryDataset(EPISODES), Labeller(PixelModel(), pack_tokens=30))
    path = tmp_path / "journal"
    data = MemoryDataset(EPISODES)
    first, second = Labeller(Failing(), pack_tokens=30), Labeller(PixelModel(), pack_tokens=30)
    facts = run_facts(data, first)
    with Journal(path, facts) as journal, pytest.raises(NonFiniteOutputError):
        label_dataset(data, first, journal)
    data.opened.clear()
    with Journal(path, facts) as journal:
        done = len(journal.entries)
        assert 0 < done < len(data)
        labels = label_dataset(data, second, journal)
    assert data.opened == list(data.keys)[done:]
    for key, expected in whole.episodes.items():
        for name in ("progress", "success", "rewards", "success_detected", "imputed"):
            assert getattr(labels.episodes[key], name).tobytes() == getattr(expected, name).tobytes()


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("field", ["progress", "success"])
def test_what_is_no_number_is_written_nowhere_and_names_the_episodes(field, value, tmp_path):
    data, labeller = MemoryDataset(EPISODES), Labeller(BrokenModel(field, value), pack_tokens=30)
    with (
        Journal(tmp_path / "journal", run_facts(data, labeller)) as journal,
        pytest.raises(NonFiniteOutputError, match=rf"{field} that is not finite.*the episodes 0, 1"),
    ):
        label_dataset(data, labeller, journal)
    assert journal.entries == []


def test_an_episode_that_the_model_refuses_is_listed_and_the_others_labelled():
    class Choosy(PixelModel):
        def predict_steps(self, clips, protocol=None, every=1):
            if any(len(clip) == 9 for clip in clips):
                raise TaskError("it contains <|prog_token|>")
            return super().predict_steps(clips, protocol, every)

    data, whole = MemoryDataset(EPISODES), label_dataset(MemoryDataset(EPISODES), Labeller(PixelModel()))
    labels = label_dataset(data, Labeller(Choosy(), pack_tokens=10**6))
    assert list(labels.episodes) == ["0", "1", "3", "4", "5", "6"]
    assert labels.skipped[-1] == Unreadable("2", "the model refuses it: it contains <|prog_token|>")
    assert all((labels.episodes[key].rewards == whole.episodes[key].rewards).all() for key in labels.episodes)


def test_a_model_that_answers_too_little_is_found_out():
    class Sparing(PixelModel):
        def predict_steps(self, clips, protocol=None, every=1):
            return super().predict_steps(clips, protocol, every)[1:]

    with pytest.raises(ValueError, match="predictions of the model, expected"):
        label_dataset(MemoryDataset(EPISODES), Labeller(Sparing()))


@pytest.mark.parametrize(
    "change",
    [
        {"spec": RewardSpec("level")},
        {"protocol": NestedFrames(4)},
        {"pack_tokens": 31},
        {"model": PixelModel(success_threshold=0.9)},
    ],
    ids=lambda change: next(iter(change)),
)
def test_a_journal_of_other_settings_is_refused(tmp_path, change):
    data = MemoryDataset(EPISODES)
    settings = {"model": PixelModel(), "pack_tokens": 30}
    with Journal(tmp_path / "journal", run_facts(data, Labeller(**settings))) as journal:
        label_dataset(data, Labeller(**settings), journal)
    Journal(tmp_path / "journal", run_facts(data, Labeller(**settings))).close()
    with pytest.raises(JournalError, match="cannot be mixed"):
        Journal(tmp_path / "journal", run_facts(data, Labeller(**(settings | change))))


def test_another_checkpoint_in_the_same_directory_is_another_run(tmp_path):
    model = PixelModel()
    model.source = str(tmp_path)
    (tmp_path / "weights").write_text("one")
    before = run_facts(MemoryDataset(EPISODES), Labeller(model))
    (tmp_path / "weights").write_text("two, trained on")
    after = run_facts(MemoryDataset(EPISODES), Labeller(model))
    assert {name for name in before if before[name] != after[name]} == {"model files"}


def test_episodes_cannot_be_ended_by_predicted_success():
    with pytest.raises(ValueError, match="terminate_on_success"):
        Labeller(PixelModel(), RewardSpec(terminate_on_success=True))
    with pytest.raises(ValueError, match="pack_tokens"):
        Labeller(PixelModel(), pack_tokens=0)


def test_the_log_says_where_a_run_goes_on(tmp_path, caplog):
    data, labeller = MemoryDataset(EPISODES), Labeller(PixelModel())
    with Journal(tmp_path / "journal", run_facts(data, labeller)) as journal, caplog.at_level(logging.INFO):
        label_dataset(data, labeller, journal)
        label_dataset(data, labeller, journal)
    assert "going on after 7 of 7 episodes" in caplog.text


def test_the_embedded_model_labels_in_packs_what_it_pays_live():
    model = load_reward_model("mini")
    episodes = {str(steps): record(steps, steps, size=64) for steps in (3, 6, 11)}
    for protocol in (None, NestedFrames(4)):
        labels = label_dataset(MemoryDataset(episodes), Labeller(model, RewardSpec("delta"), protocol))
        for key, recorded in episodes.items():
            expected = live_rewards(recorded, model, RewardSpec("delta"), protocol)
            np.testing.assert_allclose(labels.episodes[key].rewards, expected, rtol=0, atol=1e-4)


EQUALLY_LONG = {str(number): record(4, number) for number in range(10)}
DATA, LABELLER = MemoryDataset(EQUALLY_LONG), Labeller(PixelModel())


def with_wrong_progress(labels: Labels, by: float) -> Labels:
    episodes = {key: replace(episode, progress=episode.progress + by) for key, episode in labels.episodes.items()}
    return replace(labels, episodes=episodes)


def test_a_sample_is_scored_again():
    labels = label_dataset(DATA, LABELLER)
    found = verify_labels(DATA, LABELLER, labels, sample=4, seed=1)
    assert len(set(found.episodes)) == 4
    assert found.difference == 0.0
    assert len(verify_labels(DATA, LABELLER, labels).episodes) == 10
    assert verify_labels(DATA, LABELLER, labels, sample=4, seed=2).episodes != found.episodes


def test_other_labels_are_an_error_that_names_the_episode():
    labels = label_dataset(DATA, LABELLER)
    assert verify_labels(DATA, LABELLER, with_wrong_progress(labels, 5e-5)).difference == pytest.approx(5e-5, rel=0.1)
    with pytest.raises(VerificationError, match=r"episode \d has other labels .* 0.0003"):
        verify_labels(DATA, LABELLER, with_wrong_progress(labels, 3e-4))


def test_an_episode_that_vanished_is_an_error():
    labels = label_dataset(DATA, LABELLER)
    with pytest.raises(VerificationError, match="a hole in the file"):
        verify_labels(MemoryDataset(EQUALLY_LONG, broken=frozenset(EQUALLY_LONG)), LABELLER, labels)
