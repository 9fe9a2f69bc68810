"""A vision-language model that runs here: Qwen3-VL and Qwen2.5-VL on plain transformers.

Pictures reach it as its own processor would hand them over, without torchvision: resized by Pillow, cut by
`robometer_rl.models.robometer.patches`. A picture, and two frames of a video that follow each other, are the same to
it: patches of two layers, which are equal in a picture.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import (
    AutoConfig,
    AutoModelForImageTextToText,
    AutoTokenizer,
    GenerationConfig,
    PretrainedConfig,
    PreTrainedTokenizerBase,
    Qwen3VLForConditionalGeneration,
)

from robometer_rl.documents import read_text
from robometer_rl.models.devices import precision, usable_device
from robometer_rl.models.locations import UnknownModelError, locate
from robometer_rl.models.robometer.config import CheckpointError, blamed_on
from robometer_rl.models.robometer.patches import FramePatcher, Grid
from robometer_rl.models.robometer.prompts import (
    IMAGE_PAD,
    TURN_END,
    TURN_START,
    VIDEO_PAD,
    VISION_END,
    VISION_START,
    check_prompt_task,
)

__all__ = [
    "FILES",
    "Film",
    "LocalVLM",
    "Picture",
    "Prompt",
    "Question",
    "Video",
    "load_pretrained",
    "pair_seconds",
    "sha256_of",
]

FILES: Final = ("*.safetensors", "*.json", "*.txt", "*.jinja")
"""What is wanted of a checkpoint on the Hub."""

PICTURE, VIDEO = 1, 2
"""Kinds of tokens besides text, which is 0, as transformers numbers them."""

_KINDS: Final = ("qwen3_vl", "qwen2_5_vl")
_PAD: Final = {IMAGE_PAD: PICTURE, VIDEO_PAD: VIDEO}
_PLACE: Final = re.compile(
    re.escape(VISION_START) + f"({re.escape(IMAGE_PAD)}|{re.escape(VIDEO_PAD)})" + re.escape(VISION_END)
)
_PIXELS: Final = {PICTURE: "pixel_values", VIDEO: "pixel_values_videos"}
_GRIDS: Final = {PICTURE: "image_grid_thw", VIDEO: "video_grid_thw"}
_ANY_SIZE: Final = 1 << 40  # pixels

Frames = NDArray[np.uint8]


@dataclass(frozen=True, eq=False)
class Video:
    """Frames in time, of a size that the model takes as it is.

    Attributes:
        frames: (F, H, W, 3) RGB, H and W multiples of `FramePatcher.factor`.
        seconds: When each is shown.
    """

    frames: Frames
    seconds: Sequence[float]


@dataclass(frozen=True, eq=False)
class Question:
    """What a model is asked, in one turn.

    Attributes:
        parts: Texts, pictures (H, W, 3) and videos, in order.
        system: What is said before it of the model's part; its own default if None.
    """

    parts: tuple[str | Frames | Video, ...]
    system: str | None = None


@dataclass(frozen=True, eq=False)
class Picture:
    """A picture, or two frames of a video, cut into patches.

    Attributes:
        pixels: (patches, 3 * 2 * patch_size ** 2) float32.
        grid: Rows and columns of patches.
        kind: `PICTURE` or `VIDEO`.
    """

    pixels: torch.Tensor
    grid: Grid
    kind: int


@dataclass(frozen=True, eq=False)
class Film:
    """Frames of a video, two by two.

    Attributes:
        pairs: In time.
        seconds: When each pair is shown.
    """

    pairs: Sequence[Picture]
    seconds: Sequence[float]


@dataclass(frozen=True, eq=False)
class Prompt:
    """A question as the network reads it.

    Attributes:
        ids: (n,) token ids.
        kinds: (n,) what each stands for: text, `PICTURE` or `VIDEO`.
        pictures: In the order in which their tokens stand.
    """

    ids: torch.Tensor
    kinds: torch.Tensor
    pictures: list[Picture]

    def __len__(self) -> int:
        return len(self.ids)


class LocalVLM:
    """A loaded vision-language model.

    Args:
        network: The weights.
        tokenizer: Its tokenizer, with its chat template.
        patcher: Cuts pictures; its pixel limits are those of single pictures.
        model_id: Name recorded in outputs.
        revision: Commit on the Hub, if known.

    Attributes:
        token_budget: Tokens per pass; bounds memory.
    """

    token_budget: int = 16384

    def __init__(
        self,
        network: Any,
        tokenizer: PreTrainedTokenizerBase,
        patcher: FramePatcher,
        model_id: str,
        revision: str | None = None,
    ) -> None:
        self.network = network.eval().requires_grad_(False)
        stops = network.generation_config.eos_token_id or tokenizer.eos_token_id
        # Checkpoints ask to be sampled from, and penalise repetition: neither is part of a measurement.
        pad_id = tokenizer.pad_token_id
        network.generation_config = GenerationConfig(do_sample=False, eos_token_id=stops, pad_token_id=pad_id)
        self.tokenizer = tokenizer
        self.patcher = patcher
        self.model_id = model_id
        self.revision = revision
        self.device: torch.device = network.device
        self.dtype = str(network.dtype).removeprefix("torch.")
        self.reserved = frozenset(tokenizer.all_special_tokens) | {TURN_START, TURN_END, *_PAD, VISION_START}
        self._whole = replace(patcher, min_pixels=1, max_pixels=_ANY_SIZE)

    @classmethod
    def load(
        cls,
        where: str | Path,
        device: str | torch.device = "cpu",
        dtype: str | None = None,
        min_pixels: int = 1,
        max_pixels: int = _ANY_SIZE,
        config: PretrainedConfig | None = None,
    ) -> LocalVLM:
        """Reads a model from a directory or the Hub.

        Args:
            where: A checkpoint directory, or a Hub id with an optional revision.
            device: Where to run.
            dtype: Precision; as stored if None.
            min_pixels: Smaller pictures are enlarged to this area.
            max_pixels: Larger ones are reduced to it.
            config: The shape of the network, where the checkpoint's own ``config.json`` describes more than that.

        Raises:
            CheckpointError: The checkpoint is incomplete or of another kind.
            UnknownModelError: The name means nothing here.
        """
        if "://" in str(where):
            raise UnknownModelError(
                f"got the endpoint {str(where)!r}; this model needs the weights here: give a checkpoint directory, or "
                "a Hub id"
            )
        target = usable_device(device)
        kind = precision(dtype, target)
        found = locate(where, FILES)
        directory = found.directory
        with blamed_on(directory):
            config = config or AutoConfig.from_pretrained(directory, local_files_only=True, trust_remote_code=False)
            if config.model_type not in _KINDS:
                raise CheckpointError(
                    f"{directory} holds a {config.model_type!r}; expected one of {', '.join(_KINDS)} (others can be "
                    "asked behind an endpoint, as in NAME@https://HOST/v1)"
                )
            network, tokenizer = load_pretrained(AutoModelForImageTextToText, directory, kind, config=config)
            patcher = FramePatcher.from_json(read_text(directory / "preprocessor_config.json"), min_pixels, max_pixels)
        return cls(network.to(target), tokenizer, patcher, found.model_id, found.revision)

    def check_task(self, task: str) -> str:
        """Returns ``task``; raises `TaskError` if it is empty or spells out a token that the model reserves."""
        return check_prompt_task(task, self.reserved)

    def picture(self, frame: Frames) -> Picture:
        """A picture (H, W, 3), resized to what the model takes."""
        (fitted,) = self.patcher.resize(frame[None])
        (doubled,) = self.frame_pairs(np.stack([fitted, fitted]))
        return replace(doubled, kind=PICTURE)

    def frame_pairs(self, frames: Frames) -> list[Picture]:
        """Frames (F, H, W, 3) of a size that the model takes, two by two; an odd last one is doubled."""
        cut = self._whole.frame_pairs(frames)
        return [Picture(pixels, cut.grid, VIDEO) for pixels in cut.pixels]

    def chat(self, parts: Sequence[str | Frames | Video], answer: bool = True, system: str | None = None) -> str:
        """The text of one turn in the checkpoint's own template, with one mark where each picture or video stands.

        Args:
            parts: See `Question`.
            answer: Whether the turn of the model is opened behind it.
            system: See `Question`.
        """
        content = [{"type": "text", "text": part} if isinstance(part, str) else {"type": _name(part)} for part in parts]
        turns: list[Any] = [] if system is None else [{"role": "system", "content": system}]
        turns.append({"role": "user", "content": content})
        return str(self.tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=answer))

    def prompt(self, text: str, shown: Sequence[Picture | Film]) -> Prompt:
        """Tokens of a text with pictures and videos in the places that `chat` has marked, in order."""
        blocks = iter(shown)
        pictures: list[Picture] = []

        def expanded(place: re.Match[str]) -> str:
            block = next(blocks)
            pairs, stamps = ([block], [""]) if isinstance(block, Picture) else (block.pairs, _stamps(block.seconds))
            pictures.extend(pairs)
            return "".join(
                f"{stamp}{VISION_START}{place[1] * self._tokens(pair)}{VISION_END}"
                for pair, stamp in zip(pairs, stamps, strict=True)
            )

        whole = _PLACE.sub(expanded, text)
        ids = torch.tensor(self.tokenizer.encode(whole, add_special_tokens=False))
        kinds = torch.zeros_like(ids)
        for pad, kind in _PAD.items():
            kinds[ids == self.tokenizer.convert_tokens_to_ids(pad)] = kind
        return Prompt(ids, kinds, pictures)

    def encode(self, question: Question) -> Prompt:
        """A question as the network reads it, with the turn of the model opened behind it."""
        shown: list[Picture | Film] = []
        for part in question.parts:
            if isinstance(part, Video):
                shown.append(Film(self.frame_pairs(part.frames), pair_seconds(part.seconds)))
            elif not isinstance(part, str):
                shown.append(self.picture(part))
        return self.prompt(self.chat(question.parts, system=question.system), shown)

    @torch.inference_mode()
    def answers(self, questions: Sequence[Question], max_new_tokens: int) -> list[str]:
        """The likeliest text behind each question, word by word.

        Args:
            questions: Any number.
            max_new_tokens: Where an answer is cut.
        """
        texts: list[str] = []
        for batch in self._batches([self.encode(question) for question in questions]):
            inputs = self.inputs(batch)
            said = self.network.generate(**inputs, max_new_tokens=max_new_tokens)
            new = said[:, inputs["input_ids"].shape[1] :]
            texts += [str(self.tokenizer.decode(row, skip_special_tokens=True)) for row in new]
        return texts

    def inputs(self, prompts: Sequence[Prompt]) -> dict[str, torch.Tensor]:
        """What transformers' forward takes, padded on the left."""
        longest = max(map(len, prompts))
        rows = [torch.nn.functional.pad(prompt.ids, (longest - len(prompt), 0)) for prompt in prompts]
        kinds = [torch.nn.functional.pad(prompt.kinds, (longest - len(prompt), 0)) for prompt in prompts]
        mask = [torch.arange(longest) >= longest - len(prompt) for prompt in prompts]
        inputs = {
            "input_ids": torch.stack(rows),
            "attention_mask": torch.stack(mask).long(),
            "mm_token_type_ids": torch.stack(kinds),
        }
        pictures = [picture for prompt in prompts for picture in prompt.pictures]
        for kind, name in _PIXELS.items():
            if pixels := [picture.pixels for picture in pictures if picture.kind == kind]:
                inputs[name] = torch.cat(pixels)
        return {name: tensor.to(self.device) for name, tensor in (inputs | _grids(pictures)).items()}

    def positions(self, prompt: Prompt) -> torch.Tensor:
        """(3, n) rope positions of a prompt, as the checkpoint counts them."""
        rope = self.network.model.get_rope_index
        found, _ = rope(prompt.ids[None], prompt.kinds[None], **_grids(prompt.pictures))
        return found[:, 0]

    def require_qwen3(self, purpose: str) -> None:
        """Raises `CheckpointError` of any other kind: only Qwen3-VL writes the times of frames into its prompt."""
        if not isinstance(self.network, Qwen3VLForConditionalGeneration):
            raise CheckpointError(f"{purpose} shows videos to a Qwen3-VL; {self.model_id} is none")

    def _tokens(self, picture: Picture) -> int:
        return self.patcher.tokens(picture.grid)

    def _batches(self, prompts: Sequence[Prompt]) -> Iterator[list[Prompt]]:
        batch: list[Prompt] = []
        for prompt in prompts:
            longest = max(map(len, [*batch, prompt]))
            if batch and (len(batch) + 1) * longest > self.token_budget:
                yield batch
                batch = []
            batch.append(prompt)
        if batch:
            yield batch


def load_pretrained(
    kind: Any, directory: Path, dtype: torch.dtype | None, **options: Any
) -> tuple[Any, PreTrainedTokenizerBase]:
    """A network and its tokenizer, from the files of a checkpoint alone.

    Args:
        kind: transformers' class of the network.
        directory: Where the files are.
        dtype: Precision; as stored if None.
        options: Of ``kind.from_pretrained``.

    Raises:
        CheckpointError: Some weights are missing.
    """
    network, report = kind.from_pretrained(
        directory, dtype=dtype or "auto", local_files_only=True, output_loading_info=True, **options
    )
    # transformers makes up what it does not find.
    if missing := sorted(report["missing_keys"]):
        raise CheckpointError(f"{directory} has no weights for {', '.join(missing[:8])}")
    return network, AutoTokenizer.from_pretrained(directory, local_files_only=True, trust_remote_code=False)


def pair_seconds(seconds: Sequence[float]) -> list[float]:
    """When pairs of frames are shown: halfway between their two; an odd last frame is doubled."""
    both = [*seconds, *seconds[-1:]] if len(seconds) % 2 else list(seconds)
    return [(first + second) / 2 for first, second in zip(both[::2], both[1::2], strict=True)]


def sha256_of(prompt: str) -> str:
    """What a prompt is known by in records."""
    return hashlib.sha256(prompt.encode()).hexdigest()


def _grids(pictures: Sequence[Picture]) -> dict[str, torch.Tensor]:
    grids = {
        name: [(1, *picture.grid) for picture in pictures if picture.kind == kind] for kind, name in _GRIDS.items()
    }
    return {name: torch.tensor(rows) for name, rows in grids.items() if rows}


def _stamps(seconds: Sequence[float]) -> list[str]:
    return [f"<{each:.1f} seconds>" for each in seconds]


def _name(part: Frames | Video) -> str:
    return "video" if isinstance(part, Video) else "image"
