"""RynnValue on small random weights: each part by its definition, since no outputs of the released one are at hand."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from robometer_rl import load_reward_model
from robometer_rl.cli import main
from robometer_rl.data.store import TrajectoryStore
from robometer_rl.frames import Clip, TaskError
from robometer_rl.models.baselines.rynnvalue import RELATIVE, VALUE, Bins, RynnValue, ValueHead, slot_mask
from robometer_rl.models.reward_model import UnsupportedByModelError
from robometer_rl.models.robometer.config import CheckpointError
from tests.data.episodes import make_episodes_of_two_tasks
from tests.models.baselines.tiny_vlm import add_words, recorded_clips, tiny_vlm
from tests.relabeling.episodes import record, write_npz

CLIPS = recorded_clips()
TASK = "open the drawer"
HEADS: dict[str, dict[str, Any]] = {"linear": {}, "bro": {"head_type": "bro", "hidden_dims": 8, "depth": 1}}


def make(folder: Path, head: dict[str, Any], **settings: Any) -> Path:
    """A checkpoint in the released layout: slots of two tokens, two heads over 11 values from 0 to 10 seconds."""
    tiny_vlm(folder)
    add_words(folder, [VALUE, RELATIVE])
    config = json.loads((folder / "config.json").read_text())
    config |= {
        "model_type": "rynn_value_lang",
        "num_value_heads": 2,
        "value_token_repeat": 2,
        "value_head_config": head,
    }
    config["value_tokenizer_config"] = {"bins": 11, "min_value": 0.0, "max_value": 10.0}
    (folder / "config.json").write_text(json.dumps(config | settings))
    torch.manual_seed(0)
    heads = nn.ModuleList([ValueHead(head, 2 * 64, 11) for _ in range(2)])
    own = {f"value_heads.{key}": tensor for key, tensor in heads.state_dict().items()}
    state = load_file(folder / "model.safetensors") | own
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make(tmp_path_factory.mktemp("rynnvalue") / "tiny", HEADS["linear"])


def test_slots_are_seen_by_nothing_but_themselves() -> None:
    text, value, relative = 1, 7, 8
    seen = slot_mask(torch.tensor([text, value, value, text, relative, value, value, text]), [value, relative])
    assert [row.nonzero().flatten().tolist() for row in seen] == [
        [0],
        [0, 1, 2],
        [0, 1, 2],
        [0, 3],
        [0, 3, 4],
        [0, 3, 5, 6],
        [0, 3, 5, 6],
        [0, 3, 7],
    ]


@pytest.mark.parametrize(
    ("settings", "centers"),
    [
        ({"bins": 3, "min_value": 0.0, "max_value": 10.0}, [0.0, 5.0, 10.0]),
        ({"bins": 3, "min_value": 0.0, "max_value": 8.0, "support_transform": "symlog"}, [0.0, 2.0, 8.0]),
        ({"bins": 2, "support_transform": "quantile", "bin_edges": [0.0, 1.0, 5.0]}, [0.5, 3.0]),
    ],
)
def test_bins_stand_for_seconds(settings: dict[str, Any], centers: list[float]) -> None:
    sure = 1000.0 * torch.eye(len(centers))
    assert Bins(settings).mean(sure).tolist() == pytest.approx(centers, abs=1e-5)


def test_bins_that_stand_for_nothing_are_refused() -> None:
    for settings in ({"support_transform": "square"}, {"bins": 3, "support_transform": "quantile", "bin_edges": [0.0]}):
        with pytest.raises(CheckpointError, match="value_tokenizer_config"):
            Bins(settings)


def test_one_pass_says_of_each_frame_what_its_history_alone_says(checkpoint: Path) -> None:
    model = load_reward_model(f"rynnvalue:{checkpoint}?horizon_s=12")
    assert isinstance(model, RynnValue)
    frames = CLIPS["five"]
    together = model.remaining(Clip(frames, TASK))
    alone = [model.remaining(Clip(frames[: t + 1], TASK))[-1] for t in range(len(frames))]
    np.testing.assert_allclose(together, alone, rtol=0, atol=1e-4)
    assert np.ptp(together) > 1e-3
    (said,) = model.predict([Clip(frames, TASK)])
    np.testing.assert_allclose(said.progress, 1 - together / 12, atol=1e-6)
    stream = model.stream([TASK])
    live = np.concatenate([stream.append([frame]).progress for frame in frames])
    np.testing.assert_allclose(live, said.progress, rtol=0, atol=1e-5)
    (other,) = model.predict([Clip(frames, "close the lid")])
    assert np.abs(other.progress - said.progress).max() > 1e-4


def test_values_are_the_heads_mean_of_what_stands_in_the_slots(checkpoint: Path) -> None:
    """The same with transformers' own mask, where there is one slot and so nothing that must not see it."""
    model = load_reward_model(f"rynnvalue:{checkpoint}")
    assert isinstance(model, RynnValue)
    clip = Clip(CLIPS["one"], TASK)
    prompt = model.prompt(clip)
    size, value = len(prompt), model.vlm.tokenizer.get_vocab()[VALUE]
    assert [place for place, token in enumerate(prompt.ids.tolist()) if token == value] == [size - 2, size - 1]
    inputs = model.vlm.inputs([prompt])
    floats = torch.zeros(1, 1, size, size)
    floats.masked_fill_(torch.ones_like(floats, dtype=torch.bool).triu(1), torch.finfo(torch.float32).min)
    floats[..., -2, -1] = 0.0  # the two tokens of the slot see each other
    with torch.inference_mode():
        positions = model.vlm.positions(prompt)[:, None]
        hidden = model.vlm.network.model(**inputs | {"attention_mask": floats, "position_ids": positions})
        slots = hidden.last_hidden_state[0, -2:].flatten()[None]
        logits = torch.stack([head(slots) for head in model.heads])
    expected = (logits.softmax(-1) @ torch.arange(11.0)).mean()
    assert model.remaining(clip)[0] == pytest.approx(float(expected), abs=1e-5)


def test_progress_is_what_is_no_longer_left(checkpoint: Path) -> None:
    model = load_reward_model(f"rynnvalue:{checkpoint}")
    assert isinstance(model, RynnValue)
    assert model._progress(np.array([8.0, 4.0, 10.0, 0.0])).tolist() == [0.0, 0.5, 0.0, 1.0]
    assert model._progress(np.array([0.0, 0.0])).tolist() == [1.0, 1.0]
    assert (model.causal, model.has_success) == (True, False)
    with pytest.raises(UnsupportedByModelError, match="does not compare"):
        model.compare([])
    with pytest.raises(TaskError, match="reserves"):
        model.predict([Clip(CLIPS["one"], "open <value>")])


def test_heads_of_several_layers(tmp_path: Path) -> None:
    model = load_reward_model(f"rynnvalue:{make(tmp_path / 'bro', HEADS['bro'])}")
    assert isinstance(model, RynnValue)
    assert 0.0 < model.remaining(Clip(CLIPS["one"], TASK))[0] < 10.0


def test_other_checkpoints_are_refused(checkpoint: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="expected those of a RynnValue"):
        load_reward_model(f"rynnvalue:{tiny_vlm(tmp_path / 'plain')}")
    with pytest.raises(CheckpointError, match="expected linear or bro"):
        load_reward_model(
            f"rynnvalue:{make_other(tmp_path / 'odd', checkpoint, value_head_config={'head_type': 'odd'})}"
        )
    with pytest.raises(CheckpointError, match=r"missing 2\.proj"):
        load_reward_model(f"rynnvalue:{make_other(tmp_path / 'three', checkpoint, num_value_heads=3)}")
    needs = make_other(tmp_path / "meta", checkpoint)
    (needs / "processor_config.json").write_text('{"use_meta": true}')
    with pytest.raises(ValueError, match="give the option robot or camera"):
        load_reward_model(f"rynnvalue:{needs}")
    said = load_reward_model(f"rynnvalue:{needs}", robot="a Franka arm", camera="a fixed camera")
    assert isinstance(said, RynnValue)
    text = said.vlm.tokenizer.decode(said.prompt(Clip(CLIPS["one"], TASK)).ids)
    opening = "The agent is a Franka arm. The observation is captured from a fixed camera.The agent is performing"
    assert f"{opening} the following task: {TASK}." in text


def make_other(folder: Path, checkpoint: Path, **settings: Any) -> Path:
    """A checkpoint whose settings say something else."""
    folder.mkdir()
    for path in checkpoint.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | settings))
    return folder


def test_it_scores_relabels_and_is_evaluated(checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    name = f"rynnvalue:{checkpoint}?horizon_s=12"
    np.savez("clip.npz", frames=CLIPS["two"])
    assert main(["score", "clip.npz", "--task", TASK, "--model", name, "--out", "scores"]) == 0
    write_npz(tmp_path / "data", {"0": record(2, 0), "1": record(1, 1)})
    assert main(["relabel", "data", "--model", name, "--output", "labelled"]) == 0
    assert np.isfinite(np.load("labelled/0.npz")["robometer/progress"]).all()
    store = TrajectoryStore(Path("store"))
    for episode in make_episodes_of_two_tasks(1):
        store.append(episode)
    words = ["--split", "train", "test", "--every", "20", "--protocol", "nested(2)", "--output", "found.json"]
    assert main(["evaluate", name, "store", *words]) == 0
    assert json.loads(Path("found.json").read_text())["record"]["horizon_s"] == 12
