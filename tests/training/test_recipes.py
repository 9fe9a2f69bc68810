import shlex
from dataclasses import fields
from pathlib import Path

import pytest
import tyro

from robometer_rl.data.published import published
from robometer_rl.evaluation.published.commands import parse_evaluate
from robometer_rl.training.config import TrainConfig
from robometer_rl.training.recipes import RecipeError, load_recipe, parse_training, recipe_names
from tests.library import ROOT

WHERE = ["--data", "store", "--output", "run"]


@pytest.fixture
def recipe(tmp_path):
    def write(text: str) -> str:
        path = tmp_path / "mine.yaml"
        path.write_text(text)
        return str(path)

    return write


def test_the_recipes_of_the_issue_ship():
    assert recipe_names() == ["libero", "lora", "lora-cpu", "rbm-1m", "robometer-mini"]


@pytest.mark.parametrize("name", recipe_names())
def test_shipped_recipes_need_only_data_and_output(name):
    config = parse_training([name, *WHERE], "robometer-rl train")
    assert (config.data, config.output) == ((Path("store"),), Path("run"))
    assert load_recipe(name).summary


def test_the_recipe_of_the_embedded_model_is_the_default_configuration():
    assert parse_training(["robometer-mini", *WHERE], "train") == TrainConfig(data=(Path("store"),), output=Path("run"))


def test_the_published_settings_are_those_of_the_reference():
    stage = load_recipe("rbm-1m").config.joint
    assert (stage.steps, stage.batch_size, stage.learning_rate, stage.warmup, stage.max_grad_norm) == (
        15000,
        16,
        2e-5,
        0.1,
        10.0,
    )
    assert stage.vision_learning_rate is None
    assert load_recipe("rbm-1m").config.sampling.max_frames == 8
    libero = load_recipe("libero").config
    stage = libero.frozen
    assert (stage.steps, stage.batch_size, stage.learning_rate, stage.warmup, stage.max_grad_norm) == (
        5000,
        16,
        2e-5,
        0.1,
        10.0,
    )
    assert (libero.sampling.max_frames, libero.start) == (8, "robometer/Robometer-4B")
    lora = load_recipe("lora").config
    assert (lora.lora.rank, lora.lora.alpha, lora.lora.dropout, lora.frozen.steps) == (32, 64, 0.05, 1000)


def commands_in(page: str, beginning: str) -> list[list[str]]:
    """The words of the commands on a page of the documentation that begin so."""
    lines = (ROOT / "docs" / page).read_text().splitlines()
    return [shlex.split(line)[2:] for line in lines if line.startswith(f"robometer-rl {beginning}")]


def test_the_documented_commands_are_the_published_trainings():
    configs = [
        parse_training(words, "robometer-rl train")
        for words in commands_in("training.md", "train")
        if words[-1] in ("runs/rbm-1m", "runs/libero")
    ]
    assert [config.select for config in configs] == [("rbm-1m-id", "rbm-1m-ood"), ("libero_pi0",)]
    assert [config.joint.steps + config.frozen.steps for config in configs] == [15000, 5000]
    assert {(str(*config.data), config.sampling.max_frames, config.data_sources) for config in configs} == {
        ("rbm:processed_datasets", 8, ())
    }


def test_the_documented_commands_are_the_published_evaluations():
    configs = [
        parse_evaluate(words, "robometer-rl evaluate")
        for words in commands_in("evaluation.md", "evaluate")
        if "--select" in words
    ]
    keys = published().keys(["rbm-1m-ood"])
    found = [(config.kind, config.split, getattr(config, "prefixes", None)) for config in configs]
    assert found == [
        ("alignment", ("test",), 5),
        ("ranking", (), False),
        ("confusion", (), None),
        ("alignment", ("test",), None),
        ("ranking", ("test",), False),
    ]
    assert [getattr(config, "trajectories", None) for config in configs] == [30, None, None, 100, None]
    assert [getattr(config, "per_quality", None) for config in configs] == [None, 1000, None, None, 20]
    assert (configs[2].joint, len(set(configs[2].select) & set(keys))) == (True, 3)


def test_a_cpu_starts_from_the_embedded_model_with_one_task_and_saves_before_its_end():
    config = load_recipe("lora-cpu").config
    assert (config.start, config.lora.rank, config.frozen.gradient_checkpointing) == ("mini", 8, False)
    assert (config.sampling.clips.other_task, config.sampling.pairs.other_task) == (0.0, 0.0)
    assert config.save_every < config.frozen.steps


def test_libero_90_is_kept_for_the_test():
    sources = load_recipe("libero").config.data_sources
    assert sorted(sources) == ["libero_10", "libero_goal", "libero_object", "libero_spatial"]


def test_options_after_a_recipe_override_it():
    words = ["lora", *WHERE, "--start", "mini", "--lora.rank", "4", "--frozen.learning-rate", "1e-4"]
    config = parse_training(words, "train")
    assert (config.start, config.lora.rank, config.frozen.learning_rate) == ("mini", 4, 1e-4)
    assert config.lora.alpha == 64, "the rest is the recipe's"


def test_a_recipe_is_read_from_a_path(recipe):
    path = recipe(
        "summary: mine\ndata: [a/store]\nstart: mini\npretraining: {steps: 0}\nfrozen: {learning_rate: 1e-3}\n"
        "sampling: {intervals: [1, 2], clips: {rewind: 0}}\njoint: {vision_learning_rate: null}\n"
    )
    config = parse_training([path, "--output", "run"], "train")
    assert (config.data, config.start, config.frozen.learning_rate) == ((Path("a/store"),), "mini", 1e-3)
    assert config.sampling.intervals == (1, 2)
    assert config.sampling.clips.rewind == 0.0
    assert config.joint.vision_learning_rate is None


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("frozen: {stpes: 3}", r"unknown key 'frozen.stpes'; did you mean 'frozen.steps'\?"),
        ("froozen: {steps: 3}", r"unknown key 'froozen'; did you mean 'frozen'\?"),
        ("max_frames: 4", r"unknown key 'max_frames'; did you mean 'sampling.max_frames'\?"),
        ("qqqq: 4", r"unknown key 'qqqq'$"),
        ("frozen: {steps: many}", "sets frozen.steps to 'many'; expected int"),
        ("frozen: {steps: true}", "sets frozen.steps to True; expected int"),
        ("frozen: {learning_rate: fast}", "sets frozen.learning_rate to 'fast'; expected float"),
        ("bf16: 1", "sets bf16 to 1; expected bool"),
        ("lora: {part: heads}", "sets lora.part to 'heads'; expected one of"),
        ("frozen: 3", "sets frozen to 3; expected StageConfig"),
        ("data_sources: libero", "sets data_sources to 'libero'; expected"),
        ("validation_fraction: 2.0", "validation_fraction of TrainConfig must be a number in"),
        ("frozen: {batch_size: 0}", "batch_size of StageConfig must be a whole number of at least 1"),
    ],
)
def test_what_a_recipe_gets_wrong_is_named(recipe, text, message):
    path = recipe(f"summary: mine\n{text}\n")
    with pytest.raises(RecipeError, match=message) as raised:
        load_recipe(path)
    assert "mine.yaml" in str(raised.value)


@pytest.mark.parametrize(
    ("text", "message"), [("- a\n", "expected a mapping"), ("a: [", "not valid YAML"), ("seed: 1\n", "needs a line")]
)
def test_a_file_that_is_no_recipe(recipe, text, message):
    with pytest.raises(RecipeError, match=message):
        load_recipe(recipe(text))


def test_an_unknown_recipe_is_answered_with_the_closest():
    with pytest.raises(RecipeError, match=r"no recipe 'robometer-mni'; did you mean 'robometer-mini'\?.*rbm-1m"):
        load_recipe("robometer-mni")


@pytest.mark.parametrize(("words", "code"), [(["--help"], 0), ([], 2), (["--data", "store"], 2)])
def test_without_a_recipe_the_recipes_are_listed(words, code, capsys):
    with pytest.raises(SystemExit) as stop:
        parse_training(words, "robometer-rl train")
    assert stop.value.code == code
    output = capsys.readouterr()
    assert "robometer-mini" in output.out + output.err


def test_what_a_recipe_leaves_out_is_asked_for(capsys):
    with pytest.raises(SystemExit) as stop:
        parse_training(["robometer-mini", "--data", "store"], "robometer-rl train")
    assert stop.value.code == 2
    assert "--output" in capsys.readouterr().err
    missing = [
        entry.name for entry in fields(TrainConfig) if getattr(load_recipe("lora").config, entry.name) is tyro.MISSING
    ]
    assert missing == ["data", "output"]


def test_the_published_trainings_are_one_line_each():
    words = ["--data", "rbm:caches", "mine", "--select", "rbm-1m-id", "rbm-1m-ood", "--output", "run"]
    config = parse_training(["rbm-1m", *words], "train")
    assert config.data == (Path("rbm:caches"), Path("mine"))
    assert config.select == ("rbm-1m-id", "rbm-1m-ood")
    assert (config.joint.steps, config.joint.batch_size, config.sampling.max_frames) == (15000, 16, 8)
    config = parse_training(["libero", *words, "--data-sources"], "train")
    assert config.data_sources == ()
    assert (config.frozen.steps, config.frozen.batch_size, config.sampling.max_frames) == (5000, 16, 8)
