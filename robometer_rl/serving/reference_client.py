"""The reference's evaluation server, and servers in its format, as a reward model.

They answer one kind of question, the frames given; everything else follows from it (`RewardModel`). They are asked in
requests of clips of equal length, because they fail at others, and give no reason when they fail.
"""

from __future__ import annotations

import io
import json
import secrets
from collections.abc import Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from robometer_rl.frames import Clip, UniformFrames, same_length
from robometer_rl.models.reward_model import RewardModel
from robometer_rl.prediction import Prediction, as_probabilities
from robometer_rl.serving.connection import Connection
from robometer_rl.serving.problems import ServerError

__all__ = ["ReferenceServerModel"]

_CLIPS: Final = 16  # of a request


class ReferenceServerModel(RewardModel):
    """Asks a server in the reference's format; see `RewardModel`. May be pickled.

    Args:
        connection: The server.

    Raises:
        ServerError: It is of neither kind.
    """

    def __init__(self, connection: Connection) -> None:
        super().__init__()
        self.connection = connection
        self.source = connection.address
        if connection.encoding is not None:
            raise ServerError(
                f"{self.source} is a server of the reference, which takes no pictures; leave out ?encoding"
            )
        about = connection.ask("GET", "/model_info").content
        if not isinstance(about, dict) or not ("experiment_config" in about or "reward_model" in about):
            raise ServerError(f"{self.source}/model_info does not describe a model; is it a reward server?")
        settings = about.get("experiment_config") or {}
        self.model_id = str(about.get("model_path") or about.get("reward_model"))
        self.default_protocol = UniformFrames(int((settings.get("data") or {}).get("max_frames") or 8))

    def __reduce__(self) -> Any:
        return ReferenceServerModel, (self.connection,)

    def predict(self, clips: Sequence[Clip]) -> list[Prediction]:
        """See `RewardModel.predict`; there is no distribution over progress bins."""
        found: dict[int, Prediction] = {}
        for numbers in _groups([len(clip) for clip in clips]):
            asked = [clips[number] for number in numbers]
            said = self._evaluate([("progress", {"trajectory": clip}) for clip in asked])
            values = self._per_clip(said, asked)
            found |= dict(zip(numbers, values, strict=True))
        return [found[number] for number in range(len(clips))]

    def compare(self, pairs: Sequence[tuple[Clip, Clip]], both_orders: bool = False) -> NDArray[np.float32]:
        """See `RewardModel.compare`."""
        first = np.array([self._first_is_better(a, b) for a, b in pairs], np.float32)
        if not both_orders:
            return first
        second = np.array([self._first_is_better(b, a) for a, b in pairs], np.float32)
        return (first + 1.0 - second) * np.float32(0.5)

    def _first_is_better(self, first: Clip, second: Clip) -> float:
        said = self._evaluate([("preference", {"chosen_trajectory": first, "rejected_trajectory": second})])
        answer = said.get("outputs_preference") or {}
        (probability,) = self._floats([answer.get("prediction_probs")], 1, "a preference")
        return float(probability[0])

    def _per_clip(self, said: dict[str, Any], asked: Sequence[Clip]) -> list[Prediction]:
        progress = said.get("outputs_progress") or {}
        success = (said.get("outputs_success") or {}).get("success_probs") or progress.get("success_probs")
        values = self._floats(progress.get("progress_pred"), len(asked), "progress")
        probabilities = [None] * len(asked) if success is None else self._floats(success, len(asked), "success")
        found = []
        for clip, one, other in zip(asked, values, probabilities, strict=True):
            same_length("values of the server", len(one), len(clip))
            found.append(Prediction(one, other, np.zeros((len(one), 0), np.float32), "given", self.model_id))
        return found

    def _floats(self, given: Any, count: int, what: str) -> list[NDArray[np.float32]]:
        if not isinstance(given, list) or len(given) != count or not all(isinstance(each, list) for each in given):
            raise ServerError(f"{self.source} gave no {what} for {count} samples; it answered {given!r:.200}")
        return [as_probabilities(each, what, model=self.model_id) for each in given]

    def _evaluate(self, samples: Sequence[tuple[str, dict[str, Clip]]]) -> dict[str, Any]:
        texts: dict[str, str] = {}
        files: dict[str, bytes] = {}
        for number, (kind, trajectories) in enumerate(samples):
            sample: dict[str, Any] = {"sample_type": kind}
            for name, clip in trajectories.items():
                key = f"sample_{number}_{name}_frames"
                files[key] = _npy(clip.read())
                sample[name] = {
                    "frames": {"__numpy_file__": key},
                    "frames_shape": [len(clip), *clip.size, 3],
                    "task": clip.task,
                    "id": str(number),
                    "metadata": {"subsequence_length": len(clip)},
                    "video_embeddings": None,
                }
            texts[f"sample_{number}"] = json.dumps(sample)
        boundary = secrets.token_hex(16)
        body = _form(texts | {"use_frame_steps": "false"}, files, boundary)
        kind = f"multipart/form-data; boundary={boundary}"
        said = self.connection.ask("POST", "/evaluate_batch_npy", body, kind).content
        if not isinstance(said, dict):
            raise ServerError(f"{self.source} answered {said!r:.200}; expected an object")
        return said


def _groups(lengths: Sequence[int]) -> list[list[int]]:
    """Numbers of clips of equal length, so many as a request has at most."""
    of_length: dict[int, list[int]] = {}
    for number, length in enumerate(lengths):
        of_length.setdefault(length, []).append(number)
    return [group[start : start + _CLIPS] for group in of_length.values() for start in range(0, len(group), _CLIPS)]


def _npy(array: NDArray[np.uint8]) -> bytes:
    file = io.BytesIO()
    np.lib.format.write_array(file, array, version=(1, 0), allow_pickle=False)
    return file.getvalue()


def _form(texts: dict[str, str], files: dict[str, bytes], boundary: str) -> bytes:
    """A body of ``multipart/form-data``: the texts, then the files."""
    parts = []
    for name, text in texts.items():
        parts += [
            f'--{boundary}\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n'.encode(),
            text.encode(),
            b"\r\n",
        ]
    for name, data in files.items():
        head = f'Content-Disposition: form-data; name="{name}"; filename="{name}.npy"\r\n'
        parts += [f"--{boundary}\r\n{head}Content-Type: application/octet-stream\r\n\r\n".encode(), data, b"\r\n"]
    return b"".join([*parts, f"--{boundary}--\r\n".encode()])
