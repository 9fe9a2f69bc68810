import json
import shutil
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file, save_file

from robometer_rl.data.store import TrajectoryStore
from robometer_rl.models.robometer.adapters import adapter_of
from robometer_rl.models.robometer.checkpoint import load_checkpoint
from robometer_rl.models.robometer.config import CheckpointError
from robometer_rl.models.robometer.prompts import EXTRA_TOKENS
from robometer_rl.provenance import read_record
from robometer_rl.training.config import LoRA, StageConfig, TrainConfig, VisionPretraining
from robometer_rl.training.language_model import is_language_model, write_start
from robometer_rl.training.pipeline import train
from tests.data.episodes import make_episodes_of_two_tasks
from tests.golden import CHECKPOINT, FIXTURES

EMBEDDING = "model.language_model.embed_tokens.weight"


@pytest.fixture
def base(tmp_path):
    """A Qwen3-VL with rows in reserve, whose weights are those of the recorded Robometer."""
    directory = tmp_path / "base" / "qwen"
    shutil.copytree(FIXTURES / "base_processor", directory)
    state = {key: tensor for key, tensor in load_file(CHECKPOINT / "model.safetensors").items() if key[:6] == "model."}
    rows = json.loads((directory / "config.json").read_text())["text_config"]["vocab_size"]
    table = state[EMBEDDING]
    state[EMBEDDING] = torch.cat([table, torch.ones(rows - len(table), table.shape[1])])
    save_file(state, directory / "model.safetensors")
    return directory


def test_a_start_has_the_language_models_weights_the_new_tokens_and_new_heads(base, tmp_path):
    write_start(base, "Qwen/Qwen3-VL-tiny", tmp_path / "start", max_frames=8, seed=0)
    start, recorded = load_checkpoint(tmp_path / "start"), load_checkpoint(CHECKPOINT)
    vocabulary, expected = (each.processor.tokenizer.get_vocab() for each in (start, recorded))
    assert [vocabulary[token] for token in EXTRA_TOKENS] == [expected[token] for token in EXTRA_TOKENS]
    mine, theirs = start.network.state_dict(), recorded.network.state_dict()
    assert mine.keys() == theirs.keys()
    assert all(torch.equal(mine[key], theirs[key]) for key in mine if key.startswith("model."))
    assert not torch.equal(mine["progress_head.0.weight"], theirs["progress_head.0.weight"])
    assert (start.config.base_model, str(start.config.protocol)) == ("Qwen/Qwen3-VL-tiny", "uniform(8)")


def test_heads_depend_on_the_seed_alone(base, tmp_path):
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        write_start(base, "qwen", tmp_path / name, max_frames=8, seed=seed)
    first, again, other = (load_file(tmp_path / name / "model.safetensors")["success_head.0.weight"] for name in "abc")
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_without_rows_in_reserve_new_tokens_start_at_the_mean(base, tmp_path):
    state = load_file(base / "model.safetensors")
    table = state[EMBEDDING] = state[EMBEDDING][:630]
    save_file(state, base / "model.safetensors")
    write_start(base, "qwen", tmp_path / "start", max_frames=8, seed=0)
    rows = load_file(tmp_path / "start" / "model.safetensors")[EMBEDDING]
    torch.testing.assert_close(rows[630:], table.mean(dim=0).expand(5, -1))


def test_robometers_are_told_from_language_models(base, tmp_path):
    assert is_language_model(base)
    assert not is_language_model(CHECKPOINT)
    assert not is_language_model(tmp_path)
    (base / "config.json").write_text(json.dumps({"model_type": "qwen2_vl"}))
    assert not is_language_model(base)


def test_what_is_missing_is_named(base, tmp_path):
    (base / "preprocessor_config.json").rename(tmp_path / "elsewhere.json")
    with pytest.raises(CheckpointError, match="has no preprocessor_config"):
        write_start(base, "qwen", tmp_path / "start", max_frames=8, seed=0)
    (tmp_path / "elsewhere.json").rename(base / "preprocessor_config.json")
    save_file({"model.visual.x": torch.zeros(1)}, base / "model.safetensors")
    with pytest.raises(CheckpointError, match="embed_tokens"):
        write_start(base, "qwen", tmp_path / "start", max_frames=8, seed=0)
    assert not (tmp_path / "start").exists()


def test_training_starts_from_a_language_model(base, tmp_path):
    store = TrajectoryStore(tmp_path / "store")
    for trajectory in make_episodes_of_two_tasks(1):
        store.append(trajectory)
    config = TrainConfig(
        data=(store.path,),
        output=tmp_path / "run",
        start=str(base),
        lora=LoRA(rank=2, targets=("q_proj",), new_tokens=True),
        pretraining=VisionPretraining(steps=0),
        frozen=StageConfig(steps=1, batch_size=2),
        validation_fraction=0.0,
        bf16=False,
    )
    with pytest.raises(ValueError, match=r"lora\.new_tokens"):
        train(replace(config, output=tmp_path / "other", lora=LoRA(rank=2)))
    tuned = load_checkpoint(train(config))
    adapter = adapter_of(tuned.network)
    assert adapter is not None
    assert adapter.lora.base_model_name_or_path is None, "everything is in one file"
    assert read_record(tmp_path / "run" / "checkpoint")["data"]["made-up"]["tasks"] == 2
