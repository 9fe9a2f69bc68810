import json
from importlib.util import find_spec

import numpy as np
import pytest
import torch

from robometer_rl.evaluation.evaluate import evaluate_model
from robometer_rl.models.loading import load_reward_model
from robometer_rl.models.robometer.inference import Robometer
from robometer_rl.training.bucketing import TokenCounts
from robometer_rl.training.collate import Collator, PixelSource
from robometer_rl.training.config import LossWeights, Selection, StageConfig
from robometer_rl.training.episodes import make_episodes
from robometer_rl.training.sampling import Sampler, SamplingConfig
from robometer_rl.training.trainer import StageData, run_stage, training_arguments
from robometer_rl.training.validation import METRICS, BestCheckpoints, Validation, choose_episodes
from tests.data.episodes import make_episode, make_episodes_of_two_tasks
from tests.training.tiny import make_tiny

REPORTS = ("tensorboard",) if find_spec("tensorboard") else ()


@pytest.fixture(scope="module")
def episodes():
    return make_episodes_of_two_tasks(2)


def test_what_a_checkpoint_is_chosen_by_is_what_evaluate_reports(episodes, tmp_path):
    checkpoint = make_tiny()
    validation = Validation(episodes, Selection(every=1, metrics=METRICS), tmp_path, reaching=0.3)
    measured = validation.measure(checkpoint)
    reported = evaluate_model(Robometer(checkpoint, "a", "a"), validation.episodes, reaching=0.3).metrics
    assert list(measured) == list(METRICS)
    for name, value in measured.items():
        told = reported[name].value if name in reported else np.nan
        # Beside the controls the model is asked in other batches.
        np.testing.assert_allclose(value, told, atol=1e-4, err_msg=name)
    assert {name for name, value in measured.items() if np.isnan(value)} == {"final_tau_a", "graded_ranking_accuracy"}


def test_the_model_is_asked_for_what_is_wanted_only(episodes, tmp_path, monkeypatch):
    compared = []
    compare = Robometer.compare
    monkeypatch.setattr(Robometer, "compare", lambda self, pairs: (compared.extend(pairs), compare(self, pairs))[1])
    Validation(episodes, Selection(every=1), tmp_path).measure(make_tiny())
    assert not compared
    Validation(episodes, Selection(every=1, metrics=("preference_accuracy_mean",)), tmp_path).measure(make_tiny())
    assert len(compared) == 2 * 8, "all pairs of both tasks, in both orders"


def test_names_of_version_0_1_are_taken_with_a_warning():
    with pytest.warns(DeprecationWarning, match="ranking_accuracy is now success_above_failure"):
        selection = Selection(metrics=("ranking_accuracy", "voc_pearson"))
    assert selection.metrics == ("success_above_failure", "voc_pearson")
    with pytest.warns(DeprecationWarning, match="tau_a is now final_tau_a"):
        assert set(Selection(metrics=("tau_a", "preference_accuracy")).metrics) < set(METRICS)


def test_episodes_are_taken_in_turn_from_every_task_and_outcome():
    chosen = choose_episodes(make_episodes_of_two_tasks(3), 6)
    assert len(chosen) == 6
    assert {(e.metadata["environment"], e.quality_label) for e in chosen[:4]} == {
        (task, quality) for task in ("push", "pull") for quality in ("successful", "suboptimal")
    }
    assert len({episode.id for episode in chosen}) == 6


def test_the_best_are_kept_and_equals_are_not_taken(tmp_path):
    best, checkpoint = BestCheckpoints(tmp_path, 2), make_tiny()
    for step, score in ((1, 0.2), (2, 0.6), (3, 0.5), (4, 0.5), (5, 0.9), (6, float("nan"))):
        best.offer(f"frozen-{step}", step, {"a": score - 0.1, "b": score + 0.1}, checkpoint)
    assert [(pytest.approx(score), path.name) for score, path in best.ranking()] == [
        (0.9, "frozen-5"),
        (0.6, "frozen-2"),
    ]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["frozen-2", "frozen-5"]
    record = json.loads((tmp_path / "frozen-5" / "metrics.json").read_text())
    assert record == {"step": 5, "score": pytest.approx(0.9), "metrics": {"a": pytest.approx(0.8), "b": 1.0}}
    assert len(load_reward_model(tmp_path / "frozen-2").predict([make_episode("push", "expert", 0).clip()])) == 1


def test_what_cannot_be_measured_is_named_before_training(episodes, tmp_path):
    with pytest.raises(ValueError, match="unknown metrics \\['accuracy'\\]"):
        Validation(episodes, Selection(every=1, metrics=("accuracy",)), tmp_path)
    with pytest.raises(ValueError, match="no episodes"):
        Validation([], Selection(every=1), tmp_path)
    failures = [episode for episode in episodes if episode.quality_label != "successful"]
    validation = Validation(failures, Selection(every=1), tmp_path)
    with pytest.raises(
        ValueError, match=r"\['voc_pearson', 'success_above_failure', 'success_auroc'\] are not defined"
    ):
        validation.check(make_tiny())


def test_evaluation_keeps_checkpoints_and_leaves_training_alone(episodes, tmp_path):
    results = []
    for name in ("with", "without"):
        checkpoint = make_tiny()
        sampler = Sampler(make_episodes(episodes), SamplingConfig(max_frames=4, pair_fraction=0.4))
        collator = Collator(checkpoint.processor, PixelSource(episodes, augment=False, seed=0))
        selection = Selection(every=1, metrics=("success_auroc", "voc_pearson"), keep=1)
        validation = Validation(episodes, selection, tmp_path / name / "best") if name == "with" else None
        arguments = training_arguments(
            tmp_path / name / "frozen" / "saves",
            2,
            4,
            1e-3,
            0.0,
            0.0,
            seed=0,
            use_cpu=True,
            save_strategy="no",
            logging_steps=1,
            eval_strategy="steps" if validation else "no",
            eval_steps=1,
            report_to=REPORTS,
        )
        data = StageData(sampler, collator, TokenCounts(checkpoint.processor, episodes), 0)
        run_stage(checkpoint, data, StageConfig(steps=2, batch_size=4), LossWeights(), arguments, validation)
        results.append(checkpoint.network.state_dict())
    for key, value in results[0].items():
        # Another random number anywhere moves weights by a thousandth.
        torch.testing.assert_close(value, results[1][key], atol=2e-4, rtol=1e-3, msg=key)
    (best,) = (tmp_path / "with" / "best").iterdir()
    assert best.name in ("frozen-000001", "frozen-000002")
    prediction = load_reward_model(best).predict_steps([episodes[0].clip()])[0]
    assert len(prediction.progress) == len(episodes[0])
    assert set(json.loads((best / "metrics.json").read_text())["metrics"]) == {"success_auroc", "voc_pearson"}
    if REPORTS:
        assert _reported(tmp_path / "with") >= {"train/progress", "train/loss", "eval/voc_pearson"}


def _reported(directory):
    """Names of the values in TensorBoard's files."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    (events,) = {path.parent for path in directory.rglob("events.out.*")}
    accumulator = EventAccumulator(str(events))
    accumulator.Reload()
    return set(accumulator.Tags()["scalars"])
