"""Reading the frames of recordings, and writing frames as videos."""

from robometer_rl.video.images import IMAGE_SUFFIXES, VideoError
from robometer_rl.video.recording import VIDEO_SUFFIXES, Recording, decode_video, read_recording
from robometer_rl.video.writing import write_video

__all__ = [
    "IMAGE_SUFFIXES",
    "VIDEO_SUFFIXES",
    "Recording",
    "VideoError",
    "decode_video",
    "read_recording",
    "write_video",
]
