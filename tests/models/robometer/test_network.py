"""The network against numbers recorded from the reference, in every mode that a checkpoint may have."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from robometer_rl.models.robometer.checkpoint import Checkpoint, load_checkpoint
from robometer_rl.models.robometer.heads import decode_progress
from robometer_rl.models.robometer.network import RobometerOutput
from robometer_rl.models.robometer.processing import RobometerInputs
from tests.golden import BASE, CHECKPOINT, FIXTURES, LOGITS, arrays, clips, continuous, copy_of, pairs, report, tiny

CLIPS = {"progress_odd_size": ("odd",), "progress_small_3frames": ("small",)}
POOLED: dict[str, Any] = {"use_per_frame_progress_token": False}
VIDEO: dict[str, Any] = {**POOLED, "use_multi_image": False}
MODES: dict[str, dict[str, dict[str, Any]]] = {
    "progress_batch": {},
    "progress_odd_size": {},
    "progress_small_3frames": {},
    "preference_batch": {},
    "preference_batch_swapped": {},
    "preference_batch_no_progress_sentence": {"training": {"predict_pref_progress": False}},
    "progress_pool_mean": {"model": {**POOLED, "frame_pooling": "mean"}},
    "progress_pool_boundary": {"model": {**POOLED, "frame_pooling": "boundary"}},
    "progress_pool_attention": {"model": {**POOLED, "frame_pooling": "attention"}},
    "preference_pool_attention": {"model": {**POOLED, "frame_pooling": "attention"}},
    "progress_pool_attention_temp0.25": {
        "model": {**POOLED, "frame_pooling": "attention", "frame_pooling_attn_temperature": 0.25}
    },
    "progress_continuous_l2": {},
    "preference_continuous_l2": {},
}


def checkpoint_for(name: str, directory: Path) -> Checkpoint:
    if "continuous" in name:
        return load_checkpoint(continuous(directory))
    settings = MODES[name]
    return load_checkpoint(copy_of(CHECKPOINT, directory, **settings)) if settings else tiny()


def inputs_of(name: str, checkpoint: Checkpoint) -> RobometerInputs:
    if name.startswith("preference"):
        return checkpoint.processor.preference_inputs(pairs(name))
    return checkpoint.processor.progress_inputs(clips(name, *CLIPS.get(name, ("prog0", "prog1", "prog2"))))


def sides(output: RobometerOutput) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Progress and success of each trajectory: A of the first prompt, B of the first prompt, A of the second, ..."""
    counts = [count for prompt in output.sides for count in prompt]
    return list(zip(output.progress.split(counts), output.success.split(counts), strict=True))


def recorded_sides(name: str) -> list[tuple[NDArray[np.float32], NDArray[np.float32]]]:
    recorded = arrays(name)
    shown = "AB" if "progress_logits_B" in recorded else "A"
    return [
        (recorded[f"progress_logits_{side}"][row], recorded[f"success_logits_{side}"][row])
        for row in range(len(recorded["input_ids"]))
        for side in shown
    ]


def check_prompts(name: str, inputs: RobometerInputs) -> None:
    """Ids and padding exact, positions exact where something looks."""
    recorded = arrays(name)
    mask = recorded["attention_mask"] == 1
    np.testing.assert_array_equal(inputs.attention_mask.numpy(), mask)
    np.testing.assert_array_equal(inputs.input_ids.numpy()[mask], recorded["input_ids"][mask])
    np.testing.assert_array_equal(inputs.position_ids.numpy()[:, mask], recorded["position_ids"][:, mask])


def check_values(name: str, output: RobometerOutput) -> None:
    expected = recorded_sides(name)
    assert len(sides(output)) == len(expected)
    for (progress, success), (want_progress, want_success) in zip(sides(output), expected, strict=True):
        np.testing.assert_allclose(progress.numpy(), want_progress, rtol=0, atol=LOGITS)
        np.testing.assert_allclose(success.numpy(), want_success, rtol=0, atol=LOGITS)


def check_preference(name: str, output: RobometerOutput) -> None:
    if name.startswith("preference"):
        assert output.preference is not None
        want = arrays(name)["pref_logits"][:, 0]
        np.testing.assert_allclose(output.preference.numpy(), want, rtol=0, atol=LOGITS)
    else:
        assert output.preference is None


@torch.inference_mode()
@pytest.mark.parametrize("name", MODES)
def test_outputs_are_the_recorded_ones(name: str, tmp_path: Path) -> None:
    checkpoint = checkpoint_for(name, tmp_path)
    inputs = inputs_of(name, checkpoint)
    check_prompts(name, inputs)
    output = checkpoint.network(inputs)
    check_values(name, output)
    check_preference(name, output)


@torch.inference_mode()
def test_hidden_states_are_the_recorded_ones() -> None:
    name, network = "progress_batch", tiny().network
    recorded, inputs = arrays(name), inputs_of("progress_batch", tiny())
    assert inputs.frames is not None
    hidden, _ = network.decode(inputs.input_ids, inputs.position_ids, network.encode(inputs.frames))
    read = (inputs.input_ids[0] == network.special.progress).nonzero().squeeze(-1)
    np.testing.assert_array_equal(read.numpy(), recorded["sample0_prog_positions"])
    np.testing.assert_allclose(hidden[0, read].numpy(), recorded["sample0_prog_hidden"], rtol=0, atol=LOGITS)
    means = [row[mask].mean(0).numpy() for row, mask in zip(hidden, inputs.attention_mask, strict=True)]
    np.testing.assert_allclose(means, recorded["last_hidden_mean_per_sample"], rtol=0, atol=LOGITS)


@torch.inference_mode()
def test_clips_do_not_depend_on_their_batch() -> None:
    """Different lengths and sizes, which the reference cannot batch."""
    chosen = [*clips("progress_batch", "prog0", "prog1", "prog2"), *clips("progress_small_3frames", "small")]
    together = sides(tiny().network(tiny().processor.progress_inputs(chosen)))
    for clip, (progress, success) in zip(chosen, together, strict=True):
        ((alone, alone_success),) = sides(tiny().network(tiny().processor.progress_inputs([clip])))
        torch.testing.assert_close(progress, alone, rtol=0, atol=LOGITS)
        torch.testing.assert_close(success, alone_success, rtol=0, atol=LOGITS)


@torch.inference_mode()
def test_one_frame_has_one_value() -> None:
    (clip,) = clips("progress_small_3frames", "small")
    single = type(clip)(clip.frames[:1], clip.task)
    ((progress, success),) = sides(tiny().network(tiny().processor.progress_inputs([single])))
    whole = sides(tiny().network(tiny().processor.progress_inputs([clip])))[0][0]
    assert (progress.shape, success.shape) == ((1, 10), (1,))
    torch.testing.assert_close(progress[0], whole[0], rtol=0, atol=LOGITS)  # causal


@torch.inference_mode()
def test_eager_attention_gives_the_same() -> None:
    checkpoint = load_checkpoint(CHECKPOINT, attn_implementation="eager")
    check_values("progress_batch", checkpoint.network(inputs_of("progress_batch", checkpoint)))


@torch.inference_mode()
def test_bfloat16_is_close() -> None:
    checkpoint = load_checkpoint(CHECKPOINT, dtype=torch.bfloat16)
    output = checkpoint.network(inputs_of("progress_batch", checkpoint))
    assert output.progress.dtype == torch.bfloat16
    for (progress, success), (want, want_success) in zip(sides(output), recorded_sides("progress_batch"), strict=True):
        np.testing.assert_allclose(progress.float().numpy(), want, rtol=0, atol=0.1)
        np.testing.assert_allclose(success.float().numpy(), want_success, rtol=0, atol=0.1)
        decoded, _ = decode_progress(progress)
        np.testing.assert_allclose(decoded.numpy(), decode_progress(torch.from_numpy(want))[0].numpy(), atol=0.02)


@torch.inference_mode()
@pytest.mark.parametrize(
    ("directory", "name"), [("checkpoint_sharded", "progress_batch"), ("checkpoint_lora", "checkpoint_lora_outputs")]
)
def test_checkpoints_of_the_references_trainer_give_what_it_recorded(directory: str, name: str) -> None:
    checkpoint = load_checkpoint(FIXTURES / directory, base_model=BASE)
    if name == "progress_batch":
        check_values(name, checkpoint.network(inputs_of(name, checkpoint)))
        return
    described = report(name)
    (clip,) = clips("progress_batch", "prog0", "prog1", "prog2")[1:2]
    assert (described["clip"], described["task"]) == ("prog1", clip.task)
    ((progress, success),) = sides(checkpoint.network(checkpoint.processor.progress_inputs([clip])))
    np.testing.assert_allclose(progress.numpy(), arrays(name)["progress_logits_A"][0], rtol=0, atol=LOGITS)
    np.testing.assert_allclose(success.numpy(), arrays(name)["success_logits_A"][0], rtol=0, atol=LOGITS)


class Video:
    """A recording in video mode, and what the network computes for it."""

    def __init__(self, name: str, average: bool, directory: Path) -> None:
        settings = {**VIDEO, "average_temporal_patches": average}
        self.average = average
        self.checkpoint = load_checkpoint(copy_of(CHECKPOINT, directory, model=settings))
        processor, self.network = self.checkpoint.processor, self.checkpoint.network
        if name.startswith("preference"):
            self.inputs = processor.preference_inputs(pairs(name))
        else:
            self.inputs = processor.progress_inputs(clips(name, "prog0"))
        assert self.inputs.frames is not None
        features = self.network.encode(self.inputs.frames)
        hidden, _ = self.network.decode(self.inputs.input_ids, self.inputs.position_ids, features)
        self.hidden = hidden[0]
        self.starts = (self.inputs.input_ids[0] == 613).nonzero().squeeze(-1).tolist()
        self.ends = (self.inputs.input_ids[0] == 614).nonzero().squeeze(-1).tolist()

    def read(self, windows: list[tuple[int, int]]) -> tuple[torch.Tensor, torch.Tensor]:
        """The heads at the last token of each window, or at its mean."""
        tokens = [self.hidden[first:end] for first, end in windows]
        vectors = [window.mean(0) if self.average else window[-1] for window in tokens]
        return self.network.read(torch.stack(vectors))


VIDEOS = [("progress_video_avg0", False), ("progress_video_avg1", True), ("preference_video_avg1", True)]


@torch.inference_mode()
@pytest.mark.parametrize(("name", "average"), VIDEOS)
def test_a_video_is_read_at_the_patches_of_each_pair(name: str, average: bool, tmp_path: Path) -> None:
    video = Video(name, average, tmp_path)
    check_prompts(name, video.inputs)
    output = video.network(video.inputs)
    check_preference(name, output)
    patches = [(start + 1, end) for start, end in zip(video.starts, video.ends, strict=True)]
    progress, success = video.read(patches)
    torch.testing.assert_close(output.progress, progress)
    torch.testing.assert_close(output.success, success)


@torch.inference_mode()
@pytest.mark.parametrize(("name", "average"), VIDEOS)
def test_the_reference_reads_a_video_beside_its_patches(name: str, average: bool, tmp_path: Path) -> None:
    """Its windows are as long as a pair's patches and follow each other without the text between pairs.

    They begin at the first "vision start" of a trajectory (one token later without averaging), and trajectory B at
    the second one of trajectory A. The same numbers at the same tokens: prompts, pixels and decoder are the same.
    """
    video, recorded = Video(name, average, tmp_path), arrays(name)
    for number, side in enumerate("AB" if name.startswith("preference") else "A"):
        pairs_of_frames, rows, columns = recorded["video_grid_thw"][number].tolist()
        patches = rows * columns // 4
        first = video.starts[number] + (0 if average else 1)
        drifting = [(first + pair * patches, first + (pair + 1) * patches) for pair in range(pairs_of_frames)]
        progress, success = video.read(drifting)
        np.testing.assert_allclose(progress.numpy(), recorded[f"progress_logits_{side}"][0], rtol=0, atol=LOGITS)
        np.testing.assert_allclose(success.numpy(), recorded[f"success_logits_{side}"][0], rtol=0, atol=LOGITS)


@torch.inference_mode()
def test_features_must_fill_the_places_for_them() -> None:
    inputs = inputs_of("progress_small_3frames", tiny())
    assert inputs.frames is not None
    features = tiny().network.encode(inputs.frames)[:-1]
    with pytest.raises(ValueError, match="12 visual features for 18 image tokens"):
        tiny().network.decode(inputs.input_ids, inputs.position_ids, features)
