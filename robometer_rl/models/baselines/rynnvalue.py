"""``rynnvalue:WHERE``: RynnValue, a Qwen3-VL that was trained to say how many seconds a task still takes.

A slot for its answer follows each picture of the prompt. Slots are seen by nothing but themselves, so one pass gives
the value of every frame, each with the frames before it. The network is described by its authors' release and by
LeRobot's port of it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from transformers import Qwen3VLConfig

from robometer_rl.documents import brief, parse_object, read_text
from robometer_rl.frames import Clip, NestedFrames
from robometer_rl.models.baselines.prompted import PromptedModel
from robometer_rl.models.baselines.vlm import FILES, LocalVLM, Prompt
from robometer_rl.models.locations import locate
from robometer_rl.models.robometer.backbone import parse_settings
from robometer_rl.models.robometer.config import CheckpointError, blamed_on
from robometer_rl.models.robometer.prompts import TURN_END, check_prompt_task
from robometer_rl.models.robometer.weights import check_coverage, read_weights, require_finite
from robometer_rl.prediction import Prediction
from robometer_rl.ranges import require_numbers

__all__ = ["Bins", "RynnValue", "Settings", "ValueHead", "load", "slot_mask"]

VALUE, RELATIVE = "<value>", "<relative_value>"
"""What slots are made of: for the time that is left, and for that since the picture before."""

_TASK: Final = "The agent is performing the following task: {task}."
_QUESTIONS: Final = (
    "Question: For each frame after the first, what is the time delta from the previous frame?"
    "Question: Estimate the minimum remaining time in seconds until the agent completes the task."
)
_SHAPE: Final = ("text_config", "vision_config", "image_token_id", "video_token_id", "vision_start_token_id")
_SHAPE_TOO: Final = ("vision_end_token_id", "tie_word_embeddings")
_ACTIVATIONS: Final[Mapping[str, type[nn.Module]]] = {
    "relu": nn.ReLU,
    "gelu": nn.GELU,
    "silu": nn.SiLU,
    "tanh": nn.Tanh,
    "leaky_relu": nn.LeakyReLU,
}


@dataclass(frozen=True)
class Settings:
    """What progress is made of, and what else the prompt says.

    Attributes:
        horizon_s: Seconds that a task takes: progress is 1 minus the share of them that is left. None takes what is
            left after the first frame for it.
        robot: What acts, as in ``a Franka arm``; checkpoints that were trained with such a sentence need one of both.
        camera: Where the pictures come from, as in ``a fixed camera``.

    Raises:
        ValueError: A time that is none.
    """

    horizon_s: float | None = None
    robot: str | None = None
    camera: str | None = None

    def __post_init__(self) -> None:
        if self.horizon_s is not None:
            require_numbers(self, "(0, inf)", "horizon_s")

    @property
    def sentence(self) -> str:
        """What stands in front of the task."""
        said = [] if self.robot is None else [f"The agent is {self.robot}."]
        return " ".join(said + ([] if self.camera is None else [f"The observation is captured from {self.camera}."]))


class Bins:
    """The values that a distribution is over.

    Args:
        settings: ``value_tokenizer_config`` of a checkpoint.

    Raises:
        CheckpointError: They describe no values.
    """

    def __init__(self, settings: Mapping[str, Any]) -> None:
        count, kind = settings.get("bins", 256), settings.get("support_transform", "linear")
        low, high, edges = (settings.get(name) for name in ("min_value", "max_value", "bin_edges"))
        with blamed_on("value_tokenizer_config"):
            self.is_logarithmic = kind == "symlog"
            if kind == "quantile":
                limits = torch.tensor(edges, dtype=torch.float32)
                self.centers = (limits[:-1] + limits[1:]) / 2
            elif kind in ("linear", "symlog"):
                ends = torch.tensor([0.0 if low is None else low, 1000.0 if high is None else high])
                first, last = (ends.sign() * ends.abs().log1p() if self.is_logarithmic else ends).tolist()
                self.centers = torch.linspace(first, last, count)
            else:
                raise CheckpointError(f"support_transform is {brief(kind)}; expected linear, symlog or quantile")
            if len(self.centers) != count or not self.centers.isfinite().all():
                raise CheckpointError(f"it describes {len(self.centers)} values; expected {count} finite ones")

    def mean(self, logits: torch.Tensor) -> torch.Tensor:
        """(...) the value that (..., bins) logits expect."""
        expected = logits.float().softmax(dim=-1) @ self.centers.to(logits.device)
        return expected.sign() * expected.abs().expm1() if self.is_logarithmic else expected


class _Block(nn.Module):
    """Two layers around which the input goes."""

    def __init__(self, width: int, activation: nn.Module) -> None:
        super().__init__()
        self.fc1, self.ln1, self.act = nn.Linear(width, width), nn.LayerNorm(width), activation
        self.fc2, self.ln2 = nn.Linear(width, width), nn.LayerNorm(width)

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        return hidden + self.ln2(self.fc2(self.act(self.ln1(self.fc1(hidden)))))


class _Residual(nn.Module):
    """A head of several layers."""

    def __init__(self, inputs: int, outputs: int, width: int, depth: int, activation: nn.Module) -> None:
        super().__init__()
        self.act = activation
        self.input_layer, self.input_norm = nn.Linear(inputs, width), nn.LayerNorm(width)
        self.blocks = nn.ModuleList([_Block(width, activation) for _ in range(depth)])
        self.final_layer = nn.Linear(width, outputs)

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        hidden = self.act(self.input_norm(self.input_layer(hidden)))
        for block in self.blocks:
            hidden = block(hidden)
        return self.final_layer(hidden)


class ValueHead(nn.Module):
    """From what stands in a slot to logits over `Bins`; names of its parameters are those of checkpoints.

    Args:
        settings: ``value_head_config`` of a checkpoint.
        inputs: Size of a slot.
        outputs: Bins.

    Raises:
        CheckpointError: No head of a known kind.
    """

    def __init__(self, settings: Mapping[str, Any], inputs: int, outputs: int) -> None:
        super().__init__()
        kind, name = settings.get("head_type", "linear"), settings.get("activation", "relu")
        if kind == "linear":
            self.proj: nn.Module = nn.Linear(inputs, outputs)
        elif kind == "bro" and name in _ACTIVATIONS:
            width, depth = settings.get("hidden_dims", 1024), settings.get("depth", 2)
            self.proj = _Residual(inputs, outputs, width, depth, _ACTIVATIONS[name]())
        else:
            raise CheckpointError(
                f"value_head_config has the head_type {brief(kind)} and the activation {brief(name)}; expected linear "
                f"or bro, and one of {', '.join(_ACTIVATIONS)}"
            )

    def forward(self, slots: torch.Tensor) -> torch.Tensor:
        """(n, outputs) logits of (n, inputs) slots."""
        return self.proj(slots)


def slot_mask(ids: torch.Tensor, slots: Sequence[int]) -> torch.Tensor:
    """What each token sees: all tokens before it but those of slots, and all of its own slot.

    Args:
        ids: (n,).
        slots: Ids of tokens that slots are made of; a run of one of them is a slot.

    Returns:
        (n, n) bool, a row per token.
    """
    is_slot = torch.isin(ids, torch.tensor(slots, device=ids.device))
    begins = torch.ones_like(is_slot)
    begins[1:] = ids[1:] != ids[:-1]
    run = begins.long().cumsum(0)
    own = (run[:, None] == run[None]) & is_slot[:, None] & is_slot[None]
    causal = torch.ones(len(ids), len(ids), dtype=torch.bool, device=ids.device).tril()
    return (causal & ~is_slot[None]) | own


class RynnValue(PromptedModel):
    """A loaded RynnValue; see `RewardModel`.

    Args:
        vlm: The network and its tokenizer.
        heads: Whose values are averaged.
        bins: What heads are over.
        source: What `load_reward_model` was given.
        repeats: Tokens of a slot, and of one for the time since the picture before.
        settings: What progress is made of.
    """

    def __init__(
        self,
        vlm: LocalVLM,
        heads: nn.ModuleList,
        bins: Bins,
        source: str,
        repeats: tuple[int, int] = (1, 1),
        settings: Settings | None = None,
    ) -> None:
        self.settings = settings or Settings()
        prompt = f"{self.settings.sentence}{_TASK}{_QUESTIONS}"
        super().__init__(vlm, source, prompt, horizon_s=self.settings.horizon_s)
        self.vlm, self.heads, self.values = vlm, heads.eval().requires_grad_(False), bins
        self.repeats = repeats
        self.default_protocol = NestedFrames(8)
        self._slots = [vlm.tokenizer.get_vocab()[token] for token in (VALUE, RELATIVE)]

    def predict(self, clips: Sequence[Clip]) -> list[Prediction]:
        """See `RewardModel.predict`."""
        return [self._prediction(self._progress(self.remaining(clip)), "given") for clip in clips]

    @torch.inference_mode()
    def remaining(self, clip: Clip) -> NDArray[np.float64]:
        """Seconds that the task still takes after each frame of a clip.

        Raises:
            TaskError: The task spells out a token that the model reserves.
        """
        with self.lock:
            prompt = self.prompt(clip)
            inputs = self.vlm.inputs([prompt])
            positions = self.vlm.positions(prompt)[:, None].to(self.vlm.device)
            mask = slot_mask(inputs["input_ids"][0], self._slots)
            given = inputs | {"attention_mask": mask[None, None], "position_ids": positions}
            hidden = self.vlm.network.model(**given).last_hidden_state[0]
            slots = hidden[inputs["input_ids"][0] == self._slots[0]].unflatten(0, (-1, self.repeats[0])).flatten(1)
            values = torch.stack([self.values.mean(head(slots)) for head in self.heads])
        return values.mean(0).double().cpu().numpy()

    def prompt(self, clip: Clip) -> Prompt:
        """The task, two questions, and each frame with its slots; no slot sees what stands behind it in training."""
        task = check_prompt_task(clip.task, self.vlm.reserved | {VALUE, RELATIVE})
        frames = clip.read()
        value, relative = VALUE * self.repeats[0], RELATIVE * self.repeats[1]
        parts: list[Any] = [f"{self.settings.sentence}{_TASK.replace('{task}', task)}{_QUESTIONS}"]
        for number, frame in enumerate(frames):
            parts += [frame, relative + value if number else value]
        text = self.vlm.chat(parts, answer=False).rpartition(TURN_END)[0]
        return self.vlm.prompt(text, [self.vlm.picture(frame) for frame in frames])

    def _progress(self, remaining: NDArray[np.float64]) -> NDArray[np.float64]:
        whole = remaining[0] if self.settings.horizon_s is None else self.settings.horizon_s
        # A task that takes no time is done.
        return np.ones_like(remaining) if whole <= 0 else np.clip(1.0 - remaining / whole, 0.0, 1.0)


def load(
    where: str,
    device: str | torch.device = "cpu",
    dtype: str | None = None,
    horizon_s: float | None = None,
    robot: str | None = None,
    camera: str | None = None,
) -> RynnValue:
    """Loads a RynnValue; see `robometer_rl.load_reward_model`.

    Args:
        where: ``Alibaba-DAMO-Academy/RynnValue-4B`` or another: a checkpoint directory, or a Hub id.
        device: Where to run.
        dtype: Precision; as stored if None.
        horizon_s: See `Settings`, as for the others.
        robot: See there.
        camera: See there.

    Raises:
        CheckpointError: The checkpoint is incomplete or of another kind.
        ValueError: A time that is none, or no sentence about robot or camera where the checkpoint needs one.
    """
    chosen = Settings(horizon_s, robot, camera)
    directory = locate(where, FILES).directory
    with blamed_on(directory / "config.json"):
        settings = parse_settings(read_text(directory / "config.json"))
        heads, bins, repeats = _heads(directory, settings)
        shape = {name: settings[name] for name in (*_SHAPE, *_SHAPE_TOO) if name in settings}
        config = Qwen3VLConfig.from_dict(shape)
    if _mapping(directory / "processor_config.json").get("use_meta") and not chosen.sentence:
        raise ValueError(f"{where} was trained with a sentence about what it sees; give the option robot or camera")
    vlm = LocalVLM.load(where, device, dtype, *_pixels(directory), config=config)
    if missing := [token for token in (VALUE, RELATIVE) if token not in vlm.tokenizer.get_vocab()]:
        raise CheckpointError(f"the tokenizer in {directory} lacks {', '.join(missing)}")
    return RynnValue(vlm, heads.to(vlm.device, vlm.network.dtype), bins, where, repeats, chosen)


def _heads(directory: Path, settings: Mapping[str, Any]) -> tuple[nn.ModuleList, Bins, tuple[int, int]]:
    """The heads that a checkpoint has beside its network, what they are over, and how long slots are."""
    described, values = settings.get("value_head_config"), settings.get("value_tokenizer_config")
    if not isinstance(described, dict) or not isinstance(values, dict):
        raise CheckpointError("it has no value_head_config and value_tokenizer_config; expected those of a RynnValue")
    repeats = tuple(settings.get(name, 1) for name in ("value_token_repeat", "relative_value_token_repeat"))
    counts = (*repeats, settings.get("num_value_heads", 1))
    if any(type(count) is not int or not 1 <= count <= 64 for count in counts):
        raise CheckpointError(f"it has slots and heads of {brief(counts)}; expected whole numbers from 1 to 64")
    bins = Bins(values)
    width = settings["text_config"]["hidden_size"] * repeats[0]
    heads = nn.ModuleList([ValueHead(described, width, len(bins.centers)) for _ in range(counts[2])])
    state = {key: tensor for key, tensor in read_weights(directory).items() if key.startswith("value_heads.")}
    own = {key.removeprefix("value_heads."): tensor for key, tensor in state.items()}
    require_finite(own, directory)
    check_coverage(heads.state_dict(), own, directory)
    heads.load_state_dict(own)
    return heads, bins, (repeats[0], repeats[1])


def _pixels(directory: Path) -> tuple[int, int]:
    """The area of a picture at least and at most, as the checkpoint's own preprocessing has it."""
    settings = _mapping(directory / "preprocessor_config.json")
    size = settings.get("size") or {}
    low, high = settings.get("min_pixels") or size.get("shortest_edge"), settings.get("max_pixels")
    high = high or size.get("longest_edge")
    if type(low) is not int or type(high) is not int or not 0 < low <= high:
        raise CheckpointError(
            f"{directory / 'preprocessor_config.json'} limits pictures to {brief(low)} .. {brief(high)} pixels; "
            "expected two numbers"
        )
    return low, high


def _mapping(path: Path) -> dict[str, Any]:
    """What a JSON file holds; nothing if there is no such file."""
    if not path.is_file():
        return {}
    with blamed_on(path):
        return parse_object(read_text(path))
