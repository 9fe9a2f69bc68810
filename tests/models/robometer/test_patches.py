"""Preprocessing against transformers' own, which the reference uses, and against recorded pixels."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil, smart_resize

from robometer_rl.frames import FrameError
from robometer_rl.models.robometer.config import PUBLISHED_MAX_PIXELS, PUBLISHED_MIN_PIXELS, CheckpointError
from robometer_rl.models.robometer.patches import FramePatcher, PatchedFrames, group_by_grid, resize_frame
from robometer_rl.models.robometer.processing import RobometerProcessor
from tests.golden import CHECKPOINT, arrays, clips, frames, pairs, report, tiny

PREPROCESSOR = (CHECKPOINT / "preprocessor_config.json").read_text()


def patcher(min_pixels: int = PUBLISHED_MIN_PIXELS, max_pixels: int = PUBLISHED_MAX_PIXELS) -> FramePatcher:
    return FramePatcher.from_json(PREPROCESSOR, min_pixels, max_pixels)


def both_halves(patched: PatchedFrames) -> torch.Tensor:
    """Rows as the reference has them: a still image fills both temporal halves of a patch."""
    halves = patched.pixels.unflatten(2, (3, 1, -1)).expand(-1, -1, -1, 2, -1)
    return halves.flatten(2).flatten(0, 1)


# Below 17 pixels transformers rounds a side to nothing; the reference resizes with qwen-vl-utils, which does not.
sides = st.integers(17, 900)
limits = st.sampled_from([(4096, 4096 * 4096), (PUBLISHED_MIN_PIXELS, 65536), (32 * 32 * 64, 32 * 32 * 128)])


@given(sides, sides, limits)
def test_sizes_are_those_of_transformers(height: int, width: int, pixels: tuple[int, int]) -> None:
    expected = smart_resize(height, width, factor=32, min_pixels=pixels[0], max_pixels=pixels[1])
    assert patcher(*pixels).resized(height, width) == expected


@pytest.mark.parametrize("size", [(128, 128), (100, 150), (48, 40), (300, 64), (97, 31)])
def test_patches_are_those_of_transformers(size: tuple[int, int]) -> None:
    images = np.random.default_rng(0).integers(0, 256, (2, *size, 3), dtype=np.uint8)
    resized = [Image.fromarray(image) for image in patcher().resize(images)]
    settings: dict[str, Any] = {key: value for key, value in json.loads(PREPROCESSOR).items() if "processor" not in key}
    settings["do_resize"] = False
    processor = Qwen2VLImageProcessorPil(**settings)
    expected = processor(resized, return_tensors="pt")
    patched = patcher()(images)
    torch.testing.assert_close(both_halves(patched), expected["pixel_values"], rtol=0, atol=1e-6)
    assert [[1, *patched.grid]] * 2 == expected["image_grid_thw"].tolist()


# Made with Pillow 13. The sides of a frame are resized one after the other, in another order by Pillow 12.
RESIZED = {
    ((100, 150), (96, 160)): "1439adaffcae5344",
    ((48, 40), (96, 64)): "484917246077a991",
    ((480, 640), (224, 288)): "8f98e6f1b9dbf021",
    ((300, 120), (64, 128)): "74644f91d8c44d0f",
    ((157, 300), (96, 224)): "97ca33dddcb446c7",
}


@pytest.mark.parametrize("sizes", RESIZED, ids=str)
def test_resized_frames_are_the_same_with_every_release_of_pillow(
    sizes: tuple[tuple[int, int], tuple[int, int]],
) -> None:
    before, after = sizes
    frame = np.random.default_rng(0).integers(0, 256, (*before, 3), dtype=np.uint8)
    resized = resize_frame(frame, *after)
    assert resized.shape == (*after, 3)
    assert hashlib.sha256(resized.tobytes()).hexdigest()[:16] == RESIZED[sizes]
    whole = np.asarray(Image.fromarray(frame).resize((after[1], after[0]), Image.Resampling.BICUBIC))
    assert np.abs(resized.astype(int) - whole).mean() < 1


def patched_clips(name: str, *chosen: str) -> list[PatchedFrames]:
    return [tiny().processor.patch(clip) for clip in clips(name, *chosen)]


def patched_pairs(name: str) -> list[PatchedFrames]:
    return [tiny().processor.patch(clip) for pair in pairs(name) for clip in pair]


def check_fingerprint(pixels: np.ndarray, recorded: dict[str, Any]) -> None:
    assert list(pixels.shape) == recorded["shape"]
    np.testing.assert_allclose(pixels.min(), recorded["min"], atol=1e-6)
    np.testing.assert_allclose(pixels.max(), recorded["max"], atol=1e-6)
    np.testing.assert_allclose(pixels.ravel()[:5], recorded["first5"], atol=1e-6)
    np.testing.assert_allclose(pixels.ravel()[-5:], recorded["last5"], atol=1e-6)
    # The recording is float32; so is the error of each of its many terms.
    np.testing.assert_allclose(pixels.sum(), recorded["sum"], atol=pixels.size * 1e-7)
    np.testing.assert_allclose((pixels**2).sum(), recorded["sum_sq"], atol=pixels.size * 1e-7)


@pytest.mark.parametrize(
    ("name", "patch"),
    [
        ("progress_batch", lambda: patched_clips("progress_batch", "prog0", "prog1", "prog2")),
        ("progress_odd_size", lambda: patched_clips("progress_odd_size", "odd")),
        ("progress_small_3frames", lambda: patched_clips("progress_small_3frames", "small")),
        ("preference_batch", lambda: patched_pairs("preference_batch")),
        ("preference_batch_swapped", lambda: patched_pairs("preference_batch_swapped")),
    ],
)
def test_pixels_are_the_recorded_ones(name: str, patch: Callable[[], list[PatchedFrames]]) -> None:
    recorded, patched = report(name)["pixel_values"], patch()
    pixels = torch.cat([both_halves(part) for part in patched]).numpy().astype(np.float64)
    check_fingerprint(pixels, recorded)
    grids = [grid for part in patched for grid in [[1, *part.grid]] * len(part)]
    assert grids == arrays(name)["image_grid_thw"].tolist()


@pytest.mark.parametrize("name", ["progress_video_avg0", "preference_video_avg1"])
def test_pixels_of_videos_are_the_recorded_ones(name: str) -> None:
    config = tiny().config.updated(per_frame_token=False, multi_image=False)
    processor = RobometerProcessor(tiny().processor.tokenizer, PREPROCESSOR, config, tiny().network.backbone)
    shown = [clip for pair in pairs(name) for clip in pair] if "preference" in name else clips(name, "prog0")
    patched = [processor.patch(clip) for clip in shown]
    pixels = torch.cat([part.pixels.flatten(0, 1) for part in patched]).numpy().astype(np.float64)
    check_fingerprint(pixels, report(name)["pixel_values_videos"])
    assert [[len(part), *part.grid] for part in patched] == arrays(name)["video_grid_thw"].tolist()


def test_the_first_frame_is_the_recorded_one() -> None:
    patched = patcher()(frames("prog0")[:1])
    expected = arrays("progress_batch")["sample0_first_frame_pixel_values"]
    np.testing.assert_allclose(both_halves(patched).numpy(), expected, rtol=0, atol=1e-6)


def test_a_tiny_side_becomes_one_token() -> None:
    assert patcher().resized(8, 140) == (32, 128)


def test_an_odd_last_frame_is_paired_with_itself() -> None:
    odd = frames("prog0")[:3]
    even = np.concatenate([odd, odd[-1:]])
    torch.testing.assert_close(patcher().frame_pairs(odd).pixels, patcher().frame_pairs(even).pixels, rtol=0, atol=0)
    assert len(patcher().frame_pairs(odd)) == 2


def test_frames_of_the_right_size_are_not_resampled() -> None:
    exact = frames("prog0")
    assert patcher().resize(exact) is exact


def test_a_sliver_is_refused() -> None:
    with pytest.raises(FrameError, match="aspect ratio below 200"):
        patcher().resized(10, 2001)


def test_frames_of_one_grid_are_grouped() -> None:
    square, wide = (patcher()(frames(name)) for name in ("prog0", "prog1"))
    assert group_by_grid([square, wide, square]) == {(8, 8): [square, square], (6, 10): [wide]}


@pytest.mark.parametrize("text", ["{", "{}", '{"patch_size": 16}'])
def test_a_damaged_preprocessor_file_is_named(text: str) -> None:
    with pytest.raises(CheckpointError, match=r"preprocessor_config\.json"):
        FramePatcher.from_json(text, 1, 2)
