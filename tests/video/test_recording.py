from __future__ import annotations

import struct
import tracemalloc
import zlib
from pathlib import Path

import imageio_ffmpeg
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from robometer_rl.frames import Clip, FrameError
from robometer_rl.video import Recording, VideoError, read_recording, write_video
from robometer_rl.video import recording as recording_module

Frames = NDArray[np.uint8]


def gradient(count: int = 12, height: int = 32, width: int = 48) -> Frames:
    """Frames that are all different, red rising with time and green from left to right."""
    frames = np.zeros((count, height, width, 3), np.uint8)
    frames[..., 0] = np.linspace(0, 250, count)[:, None, None]
    frames[..., 1] = np.linspace(0, 250, width)
    frames[..., 2] = 90
    return frames


def save_gif(path: Path, frames: Frames, milliseconds: int) -> None:
    images = [Image.fromarray(frame) for frame in frames]
    images[0].save(path, save_all=True, append_images=images[1:], duration=milliseconds)


def test_a_written_video_is_read_back_frame_by_frame(tmp_path: Path) -> None:
    frames = gradient()
    write_video(tmp_path / "clip.mp4", frames, fps=10)
    recording = read_recording(tmp_path / "clip.mp4")
    assert recording.frames.shape == frames.shape
    assert recording.frames.dtype == np.uint8
    # Lossy compression with halved colour resolution, but the right frame in the right place and colours in order.
    assert np.abs(recording.frames.astype(int) - frames).mean() < 3
    assert recording.fps == recording.playback_fps == 10
    np.testing.assert_array_equal(recording.numbers, np.arange(12))
    assert recording.seconds is not None
    np.testing.assert_allclose(recording.seconds, np.arange(12) / 10)


def test_a_written_video_is_what_browsers_play(tmp_path: Path) -> None:
    path = tmp_path / "odd.mp4"
    write_video(path, gradient(3, height=31, width=47), fps=5)
    reader = imageio_ffmpeg.read_frames(path)
    meta = next(reader)
    reader.close()
    assert meta["codec"] == "h264"
    assert meta["pix_fmt"].startswith("yuv420p")
    # The index comes before the pictures, so that a browser need not fetch the whole file to start.
    content = path.read_bytes()
    assert content.index(b"moov") < content.index(b"mdat")
    recording = read_recording(path)
    assert recording.frames.shape == (3, 32, 48, 3)
    assert np.abs(recording.frames[:, 31].astype(int) - recording.frames[:, 30]).mean() < 4


def test_a_video_is_thinned_evenly_and_keeps_both_ends(tmp_path: Path) -> None:
    write_video(tmp_path / "clip.mp4", gradient(12), fps=10)
    recording = read_recording(tmp_path / "clip.mp4", fps=4)
    assert recording.numbers.tolist() == [0, 2, 5, 8, 10, 11]
    everything = read_recording(tmp_path / "clip.mp4")
    np.testing.assert_array_equal(recording.frames, everything.frames[recording.numbers])
    assert recording.playback_fps == pytest.approx(10 / 2.2)
    # More than the file has is all that the file has.
    assert len(read_recording(tmp_path / "clip.mp4", fps=100)) == 12


def test_the_beginning_of_a_recording_is_a_recording() -> None:
    times = np.array([0.0, 0.1, 0.4])
    whole = Recording(
        np.zeros((3, 4, 4, 3), np.uint8), np.array([0, 2, 5]), 10.0, times, np.array([False, False, True])
    )
    part = whole.beginning(2)
    assert (len(part), part.fps, part.numbers.tolist()) == (2, 10.0, [0, 2])
    assert part.seconds is not None
    assert part.seconds.tolist() == [0.0, 0.1]
    assert part.true_success is not None
    assert not part.true_success.any()
    assert Recording(whole.frames, whole.numbers).beginning(1).seconds is None


def test_a_gif_keeps_its_frames_and_its_speed(tmp_path: Path) -> None:
    frames = gradient(7)
    save_gif(tmp_path / "clip.GIF", frames, 50)
    recording = read_recording(tmp_path / "clip.GIF")
    assert recording.frames.shape == frames.shape
    assert np.abs(recording.frames.astype(int) - frames).mean() < 6
    assert recording.fps == pytest.approx(20)
    assert read_recording(tmp_path / "clip.GIF", fps=10).numbers.tolist() == [0, 2, 4, 6]


@pytest.mark.parametrize(
    "arrays",
    [
        {"frames": gradient(), "actions": np.zeros(12)},
        {"arr_0": gradient(), "other": np.zeros(3)},
        {"anything": gradient()},
        {"frames": gradient().transpose(0, 3, 1, 2)},
        {"frames": gradient().astype(np.float32) / 255},
    ],
)
def test_an_npz_holds_frames_under_a_known_or_the_only_name(tmp_path: Path, arrays: dict[str, NDArray]) -> None:
    np.savez(tmp_path / "clip.npz", allow_pickle=False, **arrays)
    recording = read_recording(tmp_path / "clip.npz")
    np.testing.assert_array_equal(recording.frames, gradient())
    assert recording.fps is recording.seconds is recording.playback_fps is None


@pytest.mark.parametrize(
    ("success", "known"),
    [
        ([False, True, True, False], [False, True, True, False]),
        ([0, 0, 1, 1], [False, False, True, True]),
        ([0.0, 1.0, 1.0], [False, False, True, True]),  # one per step: after it
        ([[0], [0], [0], [1]], [False, False, False, True]),
        (True, None),  # of the whole recording, of which frame nobody knows
        ([0.0, np.nan, 1.0, 1.0], None),
    ],
)
def test_an_npz_may_say_in_which_frames_the_task_is_done(tmp_path: Path, success: object, known: object) -> None:
    np.savez(tmp_path / "clip.npz", frames=gradient(4), success=np.array(success))
    said = read_recording(tmp_path / "clip.npz").true_success
    assert (said if said is None else said.tolist()) == known


@pytest.mark.parametrize(
    ("success", "message"),
    [
        ([0, 1], "2 values of success for 4 frames; expected one per frame"),
        ([0.0, 0.5, 1.0, 1.0], r"clip\.npz says what cannot be read of success: .* neither 0 nor 1"),
        (["no", "no", "yes", "yes"], "cannot be read of success"),
    ],
)
def test_success_that_cannot_be_read_is_not_left_out(tmp_path: Path, success: list, message: str) -> None:
    np.savez(tmp_path / "clip.npz", frames=gradient(4), success=np.array(success))
    with pytest.raises(VideoError, match=message):
        read_recording(tmp_path / "clip.npz")


def test_a_single_array_called_success_is_frames(tmp_path: Path) -> None:
    np.savez(tmp_path / "clip.npz", success=gradient(4))
    recording = read_recording(tmp_path / "clip.npz")
    assert (len(recording), recording.true_success) == (4, None)


def test_a_folder_of_images_is_read_in_natural_order(tmp_path: Path) -> None:
    frames = gradient(12)
    for number, frame in enumerate(frames):
        Image.fromarray(frame).save(tmp_path / f"Frame{number}.png")
    (tmp_path / "notes.txt").write_text("not a frame")
    (tmp_path / "._Frame0.png").write_bytes(b"what macOS leaves behind")
    np.testing.assert_array_equal(read_recording(tmp_path).frames, frames)


def test_grey_and_transparent_images_become_rgb(tmp_path: Path) -> None:
    Image.new("L", (8, 6), 70).save(tmp_path / "1.png")
    Image.new("RGBA", (8, 6), (10, 20, 30, 0)).save(tmp_path / "2.png")
    frames = read_recording(tmp_path).frames
    assert frames[0, 0, 0].tolist() == [70, 70, 70]
    assert frames[1, 0, 0].tolist() == [10, 20, 30]


def test_many_frames_live_in_a_temporary_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_video(tmp_path / "clip.mp4", gradient(), fps=10)
    in_memory = read_recording(tmp_path / "clip.mp4").frames
    monkeypatch.setattr(recording_module, "SPILL_BYTES", 5 * in_memory[0].nbytes)
    spilled = read_recording(tmp_path / "clip.mp4").frames
    assert isinstance(spilled, np.memmap)
    np.testing.assert_array_equal(spilled, in_memory)
    np.testing.assert_array_equal(Clip(spilled, "open the drawer").read([11, 0]), in_memory[[11, 0]])


def test_a_video_that_breaks_off_is_reported(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (50, 64, 64, 3), np.uint8)
    write_video(tmp_path / "whole.mp4", noise, fps=5)
    content = (tmp_path / "whole.mp4").read_bytes()
    (tmp_path / "part.mp4").write_bytes(content[: len(content) // 3])
    assert 0 < len(read_recording(tmp_path / "part.mp4")) < 40
    assert "may be cut off" in caplog.text


@pytest.mark.parametrize("name", ["clip.mp4", "clip.webm", "clip.gif", "clip.npz"])
@pytest.mark.parametrize("content", [b"", b"this is not a recording" * 50])
def test_a_damaged_file_is_named(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(VideoError, match=name):
        read_recording(tmp_path / name)


def test_what_cannot_be_read_says_what_can(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"missing\.mp4"):
        read_recording(tmp_path / "missing.mp4")
    (tmp_path / "clip.txt").write_text("frames")
    with pytest.raises(VideoError, match=r"clip\.txt is not a recording.*\.mp4.*\.gif.*folder"):
        read_recording(tmp_path / "clip.txt")
    (tmp_path / "empty").mkdir()
    with pytest.raises(VideoError, match=r"holds no images.*\.png"):
        read_recording(tmp_path / "empty")
    np.savez(tmp_path / "two.npz", a=gradient(), b=gradient())
    with pytest.raises(VideoError, match=r"\['a', 'b'\]; expected 'frames'"):
        read_recording(tmp_path / "two.npz")
    np.savez(tmp_path / "grey.npz", frames=gradient()[..., :1])
    with pytest.raises(FrameError, match=r"grey\.npz, array 'frames'.*grey frames"):
        read_recording(tmp_path / "grey.npz")


def test_images_of_another_size_or_depth_are_refused(tmp_path: Path) -> None:
    Image.new("RGB", (8, 6)).save(tmp_path / "1.png")
    Image.new("RGB", (8, 7)).save(tmp_path / "2.png")
    with pytest.raises(FrameError, match=r"frame 1 has shape \(7, 8, 3\), the ones before it \(6, 8, 3\)"):
        read_recording(tmp_path)
    Image.fromarray(np.zeros((6, 8), np.uint16)).save(tmp_path / "2.png")
    with pytest.raises(VideoError, match=r"2\.png is an image of mode I;16"):
        read_recording(tmp_path)
    (tmp_path / "2.png").write_bytes(b"broken")
    with pytest.raises(VideoError, match=r"2\.png is not a readable image"):
        read_recording(tmp_path)


@pytest.mark.parametrize("fps", [0.0, -1.0, float("nan")])
def test_a_rate_must_be_positive(tmp_path: Path, fps: float) -> None:
    with pytest.raises(VideoError, match="expected a positive number"):
        read_recording(tmp_path, fps=fps)


def test_only_formats_with_a_frame_rate_are_thinned(tmp_path: Path) -> None:
    np.savez(tmp_path / "clip.npz", frames=gradient())
    with pytest.raises(VideoError, match="stores no frame rate"):
        read_recording(tmp_path / "clip.npz", fps=5)


def test_a_video_needs_frames_of_one_size_and_a_known_name(tmp_path: Path) -> None:
    with pytest.raises(VideoError, match="no frames"):
        write_video(tmp_path / "clip.mp4", [], fps=5)
    with pytest.raises(VideoError, match=r"ending in \.mp4"):
        write_video(tmp_path / "clip.avi", gradient(), fps=5)
    with pytest.raises(FrameError, match=r"frame 1 has shape \(6, 4, 3\), the first one \(4, 4, 3\)"):
        write_video(tmp_path / "clip.mp4", [np.zeros((4, 4, 3), np.uint8), np.zeros((6, 4, 3), np.uint8)], fps=5)


def claim(height: int, width: int) -> bytes:
    """A PNG of a few bytes that says how large it is, and has nothing else."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(bytes(100))), (b"IEND", b""))
    parts = [
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in chunks
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("size", [(8193, 8192), (100_000, 1_000), (100_000, 100_000)])
def test_pictures_that_claim_to_be_huge_are_refused_before_they_are_decoded(
    tmp_path: Path, size: tuple[int, int]
) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos/0.png").write_bytes(claim(*size))
    Image.new("P", (8, 8)).save(tmp_path / "a.gif")
    content = bytearray((tmp_path / "a.gif").read_bytes())
    content[6:10] = struct.pack("<HH", 65535, 65535)
    (tmp_path / "a.gif").write_bytes(content)
    tracemalloc.start()
    for name in ("photos", "a.gif"):
        with pytest.raises(VideoError, match=r"claims|exceeds limit"):
            read_recording(tmp_path / name)
    assert tracemalloc.get_traced_memory()[1] < 10 << 20
    tracemalloc.stop()


def test_a_gif_that_is_cut_off_is_damaged_and_its_pauses_are_its_own(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    images = [Image.fromarray(rng.integers(0, 255, (32, 32, 3), np.uint8)) for _ in range(4)]
    images[0].save(tmp_path / "a.gif", save_all=True, append_images=images[1:], duration=[100, 20, 500, 70])
    assert read_recording(tmp_path / "a.gif").seconds.tolist() == pytest.approx([0, 0.1, 0.12, 0.62])
    content = (tmp_path / "a.gif").read_bytes()
    (tmp_path / "a.gif").write_bytes(content[: len(content) // 2])
    with pytest.raises(VideoError, match="cannot be decoded"):
        read_recording(tmp_path / "a.gif")
