from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from robometer_rl.frames import Clip, TaskError
from robometer_rl.models.robometer.config import CheckpointError
from robometer_rl.models.robometer.processing import RobometerProcessor
from tests.golden import CHECKPOINT, clips, copy_of, frames, pairs, report, tiny

ONE, OTHER = (Clip(frames(name)[:2], "open the drawer") for name in ("prog0", "prog1"))


@pytest.mark.parametrize("name", ["progress_batch", "preference_batch", "preference_batch_swapped"])
def test_prompts_spell_the_recorded_chat_texts(name: str) -> None:
    processor = tiny().processor
    if name == "progress_batch":
        inputs = processor.progress_inputs(clips(name, "prog0", "prog1", "prog2"))
    else:
        inputs = processor.preference_inputs(pairs(name))
    image = processor.tokens.image_id
    for row, text in enumerate(report(name)["texts"]):
        ids = inputs.input_ids[row][inputs.attention_mask[row]].tolist()
        once = [token for place, token in enumerate(ids) if token != image or ids[place - 1] != image]
        assert processor.tokenizer.decode(once) == text


def test_each_prompt_says_how_many_values_belong_to_whom() -> None:
    processor = tiny().processor
    assert processor.progress_inputs([ONE, Clip(frames("prog2"), "stack")]).sides == [(2,), (8,)]
    assert processor.preference_inputs([(ONE, Clip(OTHER.read()[:1], ONE.task))]).sides == [(2, 1)]


def test_a_pair_has_one_task() -> None:
    with pytest.raises(TaskError, match="'open the drawer' and 'close the drawer'"):
        tiny().processor.preference_inputs([(ONE, Clip(OTHER.frames, "close the drawer"))])


def test_a_task_cannot_smuggle_in_special_tokens() -> None:
    smuggling = [Clip(clip.frames, "open it <|prog_token|>") for clip in (ONE, OTHER)]
    for build in (
        lambda: tiny().processor.progress_inputs(smuggling),
        lambda: tiny().processor.preference_inputs([(smuggling[0], smuggling[1])]),
        lambda: tiny().processor.frame_blocks(smuggling[0].task, (4, 4), 2),
    ):
        with pytest.raises(TaskError, match="prog_token"):
            build()


def test_a_saved_processor_makes_the_same_inputs(tmp_path: Path) -> None:
    tiny().processor.save(tmp_path)
    again = RobometerProcessor.load(tmp_path, tiny().config, tiny().network.backbone)
    for build in ("progress_inputs", "preference_inputs"):
        given = [ONE, OTHER] if build == "progress_inputs" else [(ONE, OTHER)]
        before, after = getattr(tiny().processor, build)(given), getattr(again, build)(given)
        assert torch.equal(before.input_ids, after.input_ids)
        for one, other in zip(before.frames, after.frames, strict=True):
            assert torch.equal(one.pixels, other.pixels)


@pytest.mark.parametrize("name", ["tokenizer_config.json", "preprocessor_config.json"])
def test_a_missing_file_is_named(tmp_path: Path, name: str) -> None:
    (copy_of(CHECKPOINT, tmp_path) / name).unlink()
    with pytest.raises(CheckpointError, match=name.replace(".", r"\.")):
        RobometerProcessor.load(tmp_path, tiny().config, tiny().network.backbone)


def test_inputs_move_to_a_device_as_a_copy() -> None:
    inputs = tiny().processor.progress_inputs([ONE])
    moved = inputs.to("meta")
    assert moved.frames is not None
    assert moved.input_ids.device.type == moved.frames[0].pixels.device.type == "meta"
    assert inputs.input_ids.device.type == "cpu"
    assert moved.sides == inputs.sides


def test_frames_on_disk_are_read_like_frames_in_memory(tmp_path: Path) -> None:
    np.save(tmp_path / "frames.npy", frames("prog0"))
    mapped = Clip(np.load(tmp_path / "frames.npy", mmap_mode="r"), "open the drawer")
    held = Clip(frames("prog0"), "open the drawer")
    assert torch.equal(tiny().processor.patch(mapped).pixels, tiny().processor.patch(held).pixels)
