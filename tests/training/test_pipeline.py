import json
from dataclasses import replace
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from robometer_rl.data.store import TrajectoryStore
from robometer_rl.data.trajectory import Trajectory
from robometer_rl.models.loading import load_reward_model
from robometer_rl.models.reward_model import UnsupportedByModelError
from robometer_rl.models.robometer.checkpoint import load_checkpoint
from robometer_rl.training import pipeline
from robometer_rl.training.config import StageConfig, TrainConfig, VisionPretraining
from robometer_rl.training.pipeline import calibrate, split_episodes, train
from robometer_rl.training.sampling import SamplingConfig, SamplingError
from tests.data.episodes import make_episode, make_episodes_of_two_tasks
from tests.training.tiny import SHAPE, make_tiny


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    path = tmp_path_factory.mktemp("data") / "store"
    store = TrajectoryStore(path)
    for trajectory in make_episodes_of_two_tasks(4):
        store.append(trajectory)
        store.append(replace(trajectory, id=f"{trajectory.id}-unseen", split="test"))
    return path


def _config(data, output, **changes):
    settings = {
        "shape": SHAPE,
        "pretraining": VisionPretraining(steps=2, batch_size=4),
        "frozen": StageConfig(steps=2, batch_size=4),
        "joint": StageConfig(steps=2, batch_size=4, vision_learning_rate=1e-4),
        "sampling": SamplingConfig(max_frames=4),
        "validation_fraction": 0.25,
        "bf16": False,
    }
    return TrainConfig(data=(data,), output=output, **(settings | changes))


def test_a_run_leaves_a_calibrated_checkpoint_and_a_report(data, tmp_path):
    directory = train(_config(data, tmp_path))
    model = load_reward_model(directory)
    assert str(model.default_protocol) == "nested(4)"
    report = json.loads((tmp_path / "report.json").read_text())
    assert set(report["seconds"]) == {"vision", "frozen", "joint"}
    assert (report["train_episodes"], report["calibration_episodes"]) == (12, 4)
    assert 0 < report["calibration"]["threshold"] < 1
    assert not list(tmp_path.glob("*/saves"))


def _flags(folder, names):
    path = folder / "flags.jsonl"
    path.write_text("".join(json.dumps({"data": "store", "episode": name, "flagged": True}) + "\n" for name in names))
    return path


def test_flagged_episodes_are_left_out_of_training_and_of_what_is_held_out(data, tmp_path, caplog):
    flags = _flags(tmp_path, ["push-expert-0", "push-expert-0-unseen", "pull-expert-1"])
    stages = {
        "pretraining": VisionPretraining(steps=0),
        "frozen": StageConfig(steps=1, batch_size=4),
        "joint": StageConfig(steps=0),
    }
    caplog.set_level("INFO")
    made = train(_config(data, tmp_path / "run", exclude=flags, **stages))
    report = json.loads((tmp_path / "run" / "report.json").read_text())
    assert report["train_episodes"] + report["calibration_episodes"] == 14
    assert report["excluded_episodes"] == 2
    assert f"trained without the 2 episodes that are flagged in {flags}" in caplog.text
    record = (made / "training.json").read_text()
    assert json.loads(record)["excluded_episodes"] == 2
    assert str(tmp_path) not in record
    _flags(tmp_path, TrajectoryStore(data).ids())
    with pytest.raises(ValueError, match="not among the 16 flagged ones"):
        train(_config(data, tmp_path / "none", exclude=flags))


@pytest.mark.parametrize("layout", ["processed_datasets", "tars", "robometer_dataset"])
def test_published_data_is_trained_on_where_it_lies(data, tmp_path, layout):
    published = Path(__file__).parents[1] / "fixtures" / "rbm_dataset" / layout
    config = _config(
        data,
        tmp_path,
        pretraining=VisionPretraining(steps=0),
        frozen=StageConfig(steps=1, batch_size=4),
        joint=StageConfig(steps=1, batch_size=4, vision_learning_rate=1e-4),
        validation_fraction=0.0,
        select=("rbm-1m-id",),
    )
    train(replace(config, data=(Path(f"rbm:{published}"), data)))
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["train_episodes"] == 7 + 16
    assert set(json.loads((tmp_path / "checkpoint" / "training.json").read_text())["data"]) >= {"libero256_10"}


def test_places_are_drawn_from_by_their_weights(data, tmp_path):
    own = TrajectoryStore(tmp_path / "own")
    for trajectory in make_episodes_of_two_tasks(1):
        own.append(replace(trajectory, id=f"own-{trajectory.id}", data_source="own"))
    no_stage = StageConfig(steps=0)
    stages = {
        "pretraining": VisionPretraining(steps=0),
        "frozen": StageConfig(steps=1, batch_size=4),
        "joint": no_stage,
    }
    config = replace(_config(data, tmp_path / "run", **stages), data=(data, own.path), weights=(1.0, 3.0))
    train(config)
    assert json.loads((tmp_path / "run" / "config.json").read_text())["weights"] == [1.0, 3.0]
    nothing = replace(config, output=tmp_path / "other", data_sources=("made-up",))
    with pytest.raises(ValueError, match="own has the weight 3 and no trajectories"):
        train(nothing)


def test_pairs_that_people_compared_are_trained_on(data, tmp_path, caplog):
    """Of two failures, say, of which the data do not know which is better."""
    store = TrajectoryStore.open(data)
    failures = [key for key in store.ids() if key.startswith("push-") and "expert" not in key and "unseen" not in key]
    line = {"data": data.name, "task": store[failures[0]].task, "annotator": "ann"}
    said = [(failures[0], failures[1], "right"), (failures[1], failures[2], "equal"), (failures[0], "absent", "left")]
    lines = [json.dumps(line | {"left": left, "right": right, "answer": answer}) for left, right, answer in said]
    path = tmp_path / "preferences.jsonl"
    path.write_text("".join(f"{each}\n" for each in lines))
    config = _config(
        data,
        tmp_path / "run",
        pretraining=VisionPretraining(steps=0),
        frozen=StageConfig(steps=1, batch_size=8),
        joint=StageConfig(steps=0),
        validation_fraction=0.0,
        preferences=path,
    )
    assert config.sampling.pairs.human == pytest.approx(1.0)  # as often as all others together
    caplog.set_level("INFO")
    train(config)
    assert json.loads((tmp_path / "run" / "report.json").read_text())["human_pairs"] == 1
    assert "trained on 1 pairs that people compared (left out: 1 equal, 1 about other episodes)" in caplog.text
    path.write_text(path.read_text().replace(f'"{data.name}"', '"other"'))
    with pytest.raises(ValueError, match=f"is about other, and not about {data.name}"):
        train(replace(config, output=tmp_path / "other"))


@pytest.mark.parametrize("success", [None, np.zeros(12, bool)])
def test_without_recorded_success_a_run_ends_without_a_threshold(tmp_path, caplog, success):
    store = TrajectoryStore(tmp_path / "store")
    for task in ("push", "pull"):
        for number in range(2):
            store.append(replace(make_episode(task, "expert", number), success=success))
            store.append(replace(make_episode(task, "stop_halfway", number), success=success))
    config = _config(
        store.path,
        tmp_path / "run",
        pretraining=VisionPretraining(steps=0),
        frozen=StageConfig(steps=1, batch_size=4),
        joint=StageConfig(steps=0),
    )
    assert load_reward_model(train(config)).success_threshold is None
    assert "no success threshold is chosen" in caplog.text


def test_finished_stages_are_not_repeated(data, tmp_path):
    config = _config(data, tmp_path)
    expected = load_checkpoint(train(config)).network.state_dict()
    times = {path: path.stat().st_mtime_ns for path in tmp_path.glob("*/model.safetensors")}
    killed = tmp_path / "joint" / ".config.yaml.partial"  # when the stage's last file was in its place
    killed.mkdir()
    assert all(
        torch.equal(tensor, expected[key])
        for key, tensor in load_checkpoint(train(config)).network.state_dict().items()
    )
    unchanged = [path for path, time in times.items() if path.stat().st_mtime_ns == time]
    assert {path.parent.name for path in unchanged} == {"vision", "frozen", "joint"}
    assert not killed.exists()


@pytest.mark.parametrize("content", ["[]", "{", "3"])
def test_a_report_that_is_none_is_named(data, tmp_path, content):
    config = _config(data, tmp_path)
    tmp_path.joinpath("report.json").write_text(content)
    with pytest.raises(ValueError, match=r"report\.json is (damaged|not of a training).*remove it"):
        train(config)


def test_an_output_belongs_to_one_configuration(data, tmp_path):
    config = _config(data, tmp_path, joint=StageConfig(steps=0, vision_learning_rate=1e-4))
    train(config)
    with pytest.raises(ValueError, match="another configuration: seed was 0 and is 1"):
        train(replace(config, seed=1))
    assert train(replace(config, workers=1)) == tmp_path / "checkpoint"


def test_a_start_that_failed_does_not_refuse_the_corrected_one(data, tmp_path):
    config = _config(data, tmp_path, start="nope", pretraining=VisionPretraining(steps=0))
    with pytest.raises(ValueError, match="nope"):
        train(config)
    corrected = replace(config, start=None, joint=StageConfig(steps=0), frozen=StageConfig(steps=1, batch_size=4))
    assert load_reward_model(train(corrected)).predict


@pytest.mark.parametrize("when", ["saves", "a half save"])
def test_one_that_ended_before_its_first_save_does_not_either(data, tmp_path, when, monkeypatch):
    config = _config(
        data,
        tmp_path,
        pretraining=VisionPretraining(steps=0),
        joint=StageConfig(steps=0),
        frozen=StageConfig(steps=1, batch_size=4),
    )

    def interrupted(*_):
        save = tmp_path / "frozen" / "saves" / "checkpoint-1"
        (save if when == "a half save" else save.parent).mkdir(parents=True)
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(pipeline, "_frozen", interrupted)
        with pytest.raises(KeyboardInterrupt):
            train(config)
    assert load_reward_model(train(replace(config, seed=1))).predict


def test_training_that_diverges_stops(data, tmp_path):
    diverging = StageConfig(steps=5, batch_size=4, learning_rate=1e30, warmup=0.0, max_grad_norm=0.0)
    settings = {"pretraining": VisionPretraining(steps=0), "joint": StageConfig(steps=0)}
    with pytest.raises(ValueError, match=r"the training has diverged|NaN or infinite"):
        train(_config(data, tmp_path, frozen=diverging, **settings))
    assert not (tmp_path / "checkpoint").exists()


def test_training_goes_on_from_a_checkpoint(data, tmp_path):
    first = train(_config(data, tmp_path / "first"))
    config = _config(data, tmp_path / "second", start=str(first), pretraining=VisionPretraining(steps=0))
    tuned = load_checkpoint(train(replace(config, joint=StageConfig(steps=0))))
    before, after = load_checkpoint(first).network.state_dict(), tuned.network.state_dict()
    assert all(torch.equal(before[key], after[key]) for key in before if ".visual." in key)
    assert not torch.equal(before["progress_head.4.weight"], after["progress_head.4.weight"])


def test_calibration_writes_the_threshold_that_separates_success():
    checkpoint = load_checkpoint(Path(str(files("robometer_rl") / "assets" / "robometer-mini")))
    checkpoint.processor.config = checkpoint.config.updated(success_threshold=None)
    choice = calibrate(checkpoint, _recorded_episodes())
    assert choice.true_positive_rate.value > 0.5
    assert choice.false_positive_rate.value <= 0.05
    assert checkpoint.config.success_threshold == pytest.approx(choice.threshold, abs=1e-4)
    assert checkpoint.network.config is checkpoint.config


def test_a_model_that_cannot_tell_success_gets_no_threshold(caplog):
    checkpoint = make_tiny()
    calibrate(checkpoint, [make_episode("push", "stop_halfway", 0), replace(_undecided(), id="done")])
    assert checkpoint.config.success_threshold is None
    assert "cannot be told apart" in caplog.text


def _recorded_episodes():
    folder = Path(__file__).parents[1] / "fixtures" / "metaworld"
    episodes = []
    for name, facts in json.loads((folder / "episodes.json").read_text()).items():
        strip = np.asarray(Image.open(folder / f"{name}.jpg"))
        frames = np.stack(np.split(strip, facts["frames"], axis=1))
        done = facts["success_index"]
        success = np.arange(len(frames)) >= (len(frames) if done is None else done)
        quality = "failure" if done is None else "successful"
        episodes.append(Trajectory(name, facts["task"], frames, quality, "metaworld", success=success))
    return episodes


def _undecided():
    """Done in its first frames, which look like those of an episode that is not done."""
    episode = make_episode("push", "stop_halfway", 0)
    return replace(episode, success=np.arange(len(episode)) < 3)


def test_episodes_are_held_out_from_every_task_and_outcome():
    trajectories = make_episodes_of_two_tasks(4)
    kept, held_out = split_episodes(trajectories, 0.25, seed=0)
    assert [episode.id for episode in split_episodes(trajectories, 0.25, seed=0)[1]] == [e.id for e in held_out]
    assert sorted((e.metadata["environment"], e.skill) for e in held_out) == sorted(
        (task, skill) for task in ("push", "pull") for skill in ("expert", "stop_halfway")
    )
    assert {e.id for e in kept} | {e.id for e in held_out} == {e.id for e in trajectories}
    assert len(split_episodes(trajectories, 0.0, seed=0)[1]) == 0


def test_data_that_cannot_be_sampled_is_refused_before_training(tmp_path):
    store = TrajectoryStore(tmp_path / "store")
    with pytest.raises(ValueError, match="there is no store of trajectories"):
        train(_config(store.path, tmp_path / "a"))
    for trajectory in make_episodes_of_two_tasks(2):
        if trajectory.skill == "expert":
            store.append(trajectory)
    with pytest.raises(SamplingError, match="fails"):
        train(_config(store.path, tmp_path / "b"))
    assert not (tmp_path / "b" / "vision").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"feature_views": 0}, "feature_views"),
        ({"validation_fraction": 1.0}, "validation_fraction"),
        ({"frozen": StageConfig(vision_learning_rate=1e-4)}, "frozen stage"),
        ({"start": "somewhere"}, "new networks"),
    ],
)
def test_contradictions_are_refused(data, tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        _config(data, tmp_path, **changes)


def test_a_checkpoint_of_tiled_pictures_says_so_and_goes_on_with_such(tmp_path):
    short = {
        "pretraining": VisionPretraining(steps=0),
        "frozen": StageConfig(steps=0),
        "joint": StageConfig(steps=1, batch_size=2, vision_learning_rate=1e-4),
        "validation_fraction": 0.0,
    }
    single, tiled = TrajectoryStore(tmp_path / "single"), TrajectoryStore(tmp_path / "tiled")
    for trajectory in make_episodes_of_two_tasks(2):
        single.append(trajectory)
        tiled.append(replace(trajectory, metadata={**trajectory.metadata, "tiled": True}))
    made = train(_config(tiled.path, tmp_path / "a", **short))
    assert load_reward_model(made).tiled
    with pytest.raises(UnsupportedByModelError, match="training on this data shows single views"):
        train(_config(single.path, tmp_path / "b", **short, start=str(made)))
    assert load_reward_model(train(_config(tiled.path, tmp_path / "c", **short, start=str(made)))).tiled
    assert not load_reward_model(train(_config(single.path, tmp_path / "d", **short))).tiled
