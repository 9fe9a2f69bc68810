import json
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from robometer_rl.data.store import StoreError, TrajectoryStore
from robometer_rl.evaluation.evaluate import EvaluateConfig, evaluate, evaluate_model, select_episodes
from robometer_rl.evaluation.measures import measure
from robometer_rl.evaluation.scoring import Scoring, score_episodes
from robometer_rl.evaluation.verdict import GateError
from robometer_rl.frames import NestedFrames
from robometer_rl.models.reward_model import RewardModel
from robometer_rl.prediction import NonFiniteOutputError, Prediction
from tests.data.episodes import SIZE, make_episodes_of_two_tasks
from tests.fixed_models import BrokenModel


class Oracle(RewardModel):
    """Reads progress off the made-up frames (where the bright column stands), if the task is the frames' own."""

    source = model_id = "oracle"
    default_protocol = NestedFrames(4)
    success_threshold = 0.5

    def predict(self, clips):
        return [self._predict(clip) for clip in clips]

    def _predict(self, clip):
        frames = clip.read().astype(float)
        column = (frames[:, 0, :, 1] == 250).argmax(axis=1) / (SIZE - 8)
        own = ("push" if frames[0, 0, -1, 0] == 120 else "pull") in clip.task or "the rope in" in clip.task
        progress = (column * own).astype(np.float32)
        return Prediction(
            progress, (progress > 0.98).astype(np.float32), np.zeros((len(clip), 0), np.float32), "given", "oracle"
        )

    def compare(self, pairs, both_orders=False):
        finals = [[self._predict(clip).progress[-1] for clip in pair] for pair in pairs]
        return np.array([0.9 if first > second else 0.1 for first, second in finals], np.float32)


class Clock(RewardModel):
    """Knows only how many frames it was shown, and always prefers the first trajectory."""

    source = model_id = "clock"
    default_protocol = NestedFrames(64)

    def predict(self, clips):
        times = [np.minimum(np.arange(len(clip)) / 40, 1.0).astype(np.float32) for clip in clips]
        return [Prediction(time, time, np.zeros((len(time), 0), np.float32), "given", "clock") for time in times]

    def compare(self, pairs, both_orders=False):
        return np.full(len(pairs), 0.9, np.float32)


@pytest.fixture(scope="module")
def episodes():
    return make_episodes_of_two_tasks(3)


def test_an_oracle_has_perfect_scores(episodes):
    evaluation = evaluate_model(Oracle(), episodes)
    value = {name: estimate.value for name, estimate in evaluation.metrics.items()}
    for name in ("voc_pearson", "voc_spearman", "success_auroc", "success_rule_recall", "success_above_failure"):
        assert value[name] == pytest.approx(1.0, abs=0.01), name
    for name in ("wrong_task_progress", "stall_rise", "success_rule_false_alarms", "still_progress_range"):
        assert value[name] == pytest.approx(0.0), name
    assert value["preference_accuracy_mean"] == 1.0
    assert value["voc_pearson_single_frame"] == pytest.approx(1.0, abs=0.01), "each frame tells its progress"
    assert np.isnan(value["voc_pearson_still"]), "a still picture is worth one constant"
    assert value["final_progress_expert"] == pytest.approx(1.0)
    assert value["final_progress_stop_halfway"] == pytest.approx(0.4, abs=0.06)
    assert evaluation.facts["episodes"] == {"expert": 6, "stop_halfway": 6}


def test_truth_comes_from_experts_of_the_same_task(episodes):
    agents = [replace(each, id=f"agent-{each.id}", skill="agent") for each in episodes if each.skill != "expert"]
    scores = score_episodes(Oracle(), [*episodes, *agents], Scoring(NestedFrames(4)))
    truth = scores.episodes[-1].truth
    assert truth is not None
    assert 0.3 < truth[-1] < 0.7, "it stops half-way"
    value = measure(scores)["farming_truth_correlation"].value
    assert value > 0.9


def test_what_reaching_is_worth_is_said(episodes):
    def moved(episode):
        state = episode.state.copy()
        state[:, 4] += np.maximum(state[:, 0] - state[0, 0] - 0.7, 0.0)  # the hand carries it over the last part
        return replace(episode, state=state)

    carried = [moved(each) for each in episodes]
    evaluations = {reaching: evaluate_model(Oracle(), carried, reaching=reaching) for reaching in (0.25, 1.0)}
    assert evaluations[1.0].metrics["voc_pearson"].value == pytest.approx(1.0, abs=0.01)
    assert evaluations[0.25].metrics["voc_pearson"].value < 0.95
    assert evaluations[0.25].facts["reaching"] == 0.25
    with pytest.raises(ValueError, match=r"reaching is the progress .* got 2"):
        evaluate_model(Oracle(), episodes, reaching=2.0)


def test_a_task_of_the_same_name_is_not_a_wrong_one(episodes):
    namesakes = [
        replace(each, id=f"{each.id}-2", metadata={**each.metadata, "environment": f"{each.metadata['environment']}-2"})
        for each in episodes
    ]
    scores = score_episodes(Oracle(), [*episodes, *namesakes], Scoring(NestedFrames(4), seed=3))
    wrong = [each.wrong_task for each in scores.episodes if each.is_expert]
    assert len(wrong) == 12
    assert all(progress is not None and progress.max() == 0 for progress in wrong)
    alone = [each for each in (*episodes, *namesakes) if "push" in each.id]
    assert all(each.wrong_task is None for each in score_episodes(Oracle(), alone, Scoring(NestedFrames(4))).episodes)


def test_a_clock_is_found_out(episodes):
    value = {name: estimate.value for name, estimate in evaluate_model(Clock(), episodes).metrics.items()}
    assert value["voc_pearson"] == pytest.approx(value["voc_pearson_clock"])
    assert value["voc_pearson"] > 0.9
    assert value["voc_pearson_still"] == pytest.approx(value["voc_pearson"]), "it does not look"
    assert value["success_above_failure"] == pytest.approx(0.5)
    assert value["stall_rise"] > 0.1
    assert value["preference_accuracy_better_first"] == 1.0
    assert value["preference_accuracy_better_second"] == 0.0


def test_thinned_histories_are_held_between_scored_frames(episodes):
    value = {name: e.value for name, e in evaluate_model(Oracle(), episodes, every=3).metrics.items()}
    assert 0.9 < value["voc_pearson"] < 0.999
    assert value["success_above_failure"] == 1.0


@pytest.fixture
def store(episodes, tmp_path):
    store = TrajectoryStore(tmp_path / "store")
    for episode in episodes:
        store.append(replace(episode, split="test"))
        store.append(replace(episode, id=f"{episode.id}-seen", split="train"))
        store.append(replace(episode, id=f"{episode.id}-elsewhere", split="test", data_source="elsewhere"))
    return store.path


def _run(config):
    return evaluate(config, Oracle(), select_episodes(config).trajectories)


def test_results_are_written_as_tables_json_without_nan_and_plots(store, tmp_path, capsys):
    output = tmp_path / "results" / "oracle.json"
    _run(EvaluateConfig("oracle", store, data_sources=("made-up",), output=output, protocol="nested(8)"))
    assert "voc_pearson" in capsys.readouterr().out
    result = json.loads(output.read_text())
    assert result["protocol"] == "nested(8)"
    assert result["metrics"]["voc_pearson_still"]["value"] is None
    assert set(result["metrics"]["voc_pearson"]) == {"value", "low", "high", "count", "undefined"}
    threshold = result["metrics"]["success_best_threshold"]
    assert threshold["value"] is not None
    assert (threshold["low"], threshold["high"]) == (None, None), "a chosen threshold has no interval"
    assert result["episodes"] == {"expert": 6, "stop_halfway": 6}, "of the test split and the data source only"
    assert result["tasks"] == ["pull", "push"]
    assert result["provenance"]["packages"]["torch"]
    for name in ("progress", "ranking", "success"):
        assert Image.open(output.parent / "oracle" / f"{name}.png").width > 200


def test_conditions_stand_side_by_side_and_groups_in_tables_of_their_own(store, tmp_path, capsys):
    config = EvaluateConfig(
        "oracle", store, conditions=("paraphrased", "jitter"), by="data_source", output=tmp_path / "all.json"
    )
    evaluation = _run(config)
    shown = capsys.readouterr().out
    for word in ("recorded", "paraphrased", "jitter", "elsewhere", "made-up"):
        assert word in shown
    assert "…" not in shown, "numbers are shown in full, however narrow the terminal"
    result = json.loads(config.output.read_text())
    assert list(result["conditions"]) == ["paraphrased", "jitter"]
    assert list(result["groups"]) == ["elsewhere", "made-up"]
    group = evaluation.groups["elsewhere"]
    assert group["recorded"]["voc_pearson"].count == 6
    assert evaluation.metrics["voc_pearson"].count == 12
    assert group["recorded"]["voc_pearson"].value == pytest.approx(1.0, abs=0.01)
    # It knows only some of the paraphrases.
    assert group["paraphrased"]["voc_pearson"].undefined > 0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"split": ("valid",)}, r"none of them of the split valid; its splits are \['test', 'train'\]"),
        ({"data_sources": ("libero_90",)}, r"of libero_90; .* its data sources \['elsewhere', 'made-up'\]"),
    ],
)
def test_episodes_that_are_not_there_are_named(store, changes, message):
    with pytest.raises(ValueError, match=message):
        select_episodes(EvaluateConfig("oracle", store, **changes))


def test_flagged_episodes_are_left_out_and_the_results_say_how_many(store, tmp_path):
    flags = tmp_path / "flags.jsonl"
    ids = [episode.id for episode in select_episodes(EvaluateConfig("oracle", store)).trajectories]
    lines = [json.dumps({"data": "store", "episode": name, "flagged": True}) for name in ids[:3]]
    flags.write_text("".join(f"{line}\n" for line in lines))
    config = EvaluateConfig("oracle", store, exclude=flags, output=tmp_path / "found.json")
    opened = select_episodes(config)
    assert [episode.id for episode in opened.trajectories] == ids[3:]
    evaluate(config, Oracle(), opened.trajectories, opened.excluded)
    result = json.loads(config.output.read_text())
    assert (result["excluded"], sum(result["episodes"].values())) == (3, len(ids) - 3)
    assert "3 flagged ones are left out" in (tmp_path / "found" / "index.html").read_text()


def test_a_store_that_is_not_there_is_named_and_not_made(tmp_path):
    with pytest.raises(StoreError, match="no store of trajectories at"):
        select_episodes(EvaluateConfig("oracle", tmp_path / "recordings"))
    assert not (tmp_path / "recordings").exists()


def test_episodes_without_a_second_instruction_cannot_be_paraphrased(episodes):
    with pytest.raises(ValueError, match="second instruction"):
        evaluate_model(Oracle(), [replace(each, instructions=()) for each in episodes], conditions=["paraphrased"])


def test_a_model_that_does_not_compare_is_measured_without_preference(episodes, caplog):
    class Silent(Oracle):
        compare = RewardModel.compare

    metrics = evaluate_model(Silent(), episodes).metrics
    assert metrics["success_above_failure"].value == 1.0
    assert not [name for name in metrics if name.startswith("preference")]
    assert "left out" in caplog.text


def test_without_experts_everything_but_correlations_is_measured(episodes, caplog):
    videos = [replace(episode, skill=None, success=None, state=None) for episode in episodes]
    metrics = evaluate_model(Oracle(), videos).metrics
    assert metrics["voc_pearson"].count == metrics["wrong_task_progress"].count == 0
    for name in ("success_above_failure", "preference_accuracy_mean"):
        assert metrics[name].value == 1.0, name
    assert "none of 12 episodes is a successful one of the skill 'expert'" in caplog.text


@pytest.mark.parametrize("name", ["results", "results.txt", "folder.json"])
def test_an_output_that_is_no_json_file_is_refused_before_anything_is_scored(tmp_path, name):
    (tmp_path / "folder.json").mkdir()
    with pytest.raises(ValueError, match=r"output must be a file NAME\.json"):
        EvaluateConfig("oracle", tmp_path, output=tmp_path / name)


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"protocol": "nested(99999999999)"}, "show at most 1024"),
        ({"protocol": ""}, "unknown frame protocol"),
        ({"every": 0}, "every must be a positive integer"),
        ({"seed": -1}, "seed must be at least 0"),
        ({"pairs": -1}, "pairs must be at least 0"),
        ({"reaching": float("nan")}, "reaching"),
    ],
)
def test_options_are_checked_before_hours_of_scoring(tmp_path, option, message):
    with pytest.raises(ValueError, match=message):
        EvaluateConfig("oracle", tmp_path, **option)


@pytest.mark.parametrize(("field", "said"), [("progress", "progress"), ("preference", "a preference")])
def test_a_model_that_answers_nan_is_not_measured(episodes, field, said):
    with pytest.raises(NonFiniteOutputError, match=f"broken gave {said} that is not finite"):
        evaluate_model(BrokenModel(field, np.nan), episodes)
    if field == "preference":
        with pytest.raises(ValueError, match=r"expected values in \[0, 1\], for pair 0 of"):
            evaluate_model(BrokenModel(field, 1.5), episodes)


def test_a_model_outside_of_its_limits_fails_the_command(episodes, tmp_path):
    gate = tmp_path / "gate.json"
    config = EvaluateConfig("oracle", tmp_path, gate=None, output=tmp_path / "said.json")
    gate.write_text(json.dumps({"success_above_failure": {"at_least": 0.9}, "stall_rise": {"at_most": 0.1}}))
    evaluate(replace(config, gate=gate), Oracle(), episodes)
    assert json.loads((tmp_path / "said.json").read_text())["verdict"]["light"] == "yellow", "there are 12 episodes"
    gate.write_text(json.dumps({"success_above_failure": {"at_most": 0.5}, "stal_rise": {"at_least": 0.1}}))
    with pytest.raises(GateError, match=r"is 1\.000, expected at most 0\.5; stal_rise is none .*mean 'stall_rise'"):
        evaluate(replace(config, gate=gate), Oracle(), episodes)
