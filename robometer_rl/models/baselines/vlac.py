"""``vlac:WHERE``: VLAC, an InternVL that was trained to say by how much one picture is nearer to a goal than another.

Its published weights are of a kind that transformers runs only with code from the Hub. ``robometer-rl convert vlac``
makes them one that it runs without; or they are asked behind an endpoint, whose server knows that kind.
"""

from __future__ import annotations

import logging
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

import numpy as np
import torch
import tyro
from numpy.typing import NDArray
from PIL import Image

from robometer_rl.files import check_destination
from robometer_rl.models.baselines.endpoint import Endpoint, is_endpoint
from robometer_rl.models.baselines.internvl import LocalInternVL, convert
from robometer_rl.models.baselines.prompted import ChainModel, Engine
from robometer_rl.models.baselines.vlm import Question
from robometer_rl.report.terminal import open_console

__all__ = ["LICENCE", "PROMPT", "SYSTEM", "VLAC", "ConvertConfig", "critic_of", "load", "run_convert"]

logger = logging.getLogger(__name__)

LICENCE: Final = "VLAC's model card allows non-commercial use only (CC-BY-NC-SA-4.0)"

SYSTEM: Final = """\
You are a visual-language assistant designed to interpret spatial and task-related information from images and \
text. Provide precise, context-aware responses and actionable guidance to assist in achieving task objectives."""
PROMPT: Final = """\
Image-1: <image>
Image-2: <image>
Compare two images and evaluate whether the second image is closer to achieving task objectives compared to the \
first image. + score means the second image is closer, - score means the first image is closer
Response the relative progressing of target task follow <score>. The target task is: <task> {TASK} </task> <score>"""
"""What checkpoints were trained with, byte for byte: ``{TASK}`` is the instruction, ``<image>`` stands for pictures."""

_SIDE: Final = 448  # a picture of this size is one tile to the network
_CRITIC: Final = re.compile(r"\s*([+-]?\d+(?:\.\d+)?)\s*%?\s*")

Frames = NDArray[np.uint8]


def critic_of(text: str) -> float | None:
    """The change that an answer names, in [-1, 1]; None if it is no number.

    Examples:
        >>> critic_of("+35"), critic_of("-12.5%"), critic_of("closer")
        (0.35, -0.125, None)
    """
    found = _CRITIC.fullmatch(text)
    return None if found is None else min(max(float(found[1]), -100.0), 100.0) / 100


class VLAC(ChainModel):
    """A VLAC whose comparisons of neighbouring frames are added up; see `RewardModel`.

    Args:
        engine: Who is asked.
        source: What `load_reward_model` was given.
    """

    max_new_tokens = 16

    def __init__(self, engine: Engine, source: str) -> None:
        super().__init__(engine, source, SYSTEM + PROMPT)

    def question(self, start: Frames, before: Frames, after: Frames, task: str) -> Question:
        """Two pictures, squashed to what is one tile to the network."""
        texts = [text.replace("{TASK}", task) for text in PROMPT.split("<image>")]
        return Question((texts[0], _square(before), texts[1], _square(after), texts[2]), SYSTEM)

    def hop(self, text: str) -> float | None:
        """See `critic_of`."""
        return critic_of(text)

    def after(self, progress: float, hop: float) -> float:
        """A change is one of what is left, as its authors have it, also where it is a fall."""
        return progress + (1.0 - progress) * hop


@dataclass(frozen=True)
class ConvertConfig:
    """Makes the published weights of a reward model of others ones that run here, without code from the Hub.

    Attributes:
        kind: Of the model.
        source: The directory of the published checkpoint, or its Hub id: ``InternRobotics/VLAC``.
        output: The new directory.
    """

    kind: tyro.conf.Positional[Literal["vlac"]]
    source: tyro.conf.Positional[str]
    output: tyro.conf.Positional[Path]


def run_convert(config: ConvertConfig) -> None:
    """Runs ``robometer-rl convert``; see `ConvertConfig`.

    Raises:
        CheckpointError: The checkpoint is incomplete or of another kind.
        FileExistsError: The output exists.
    """
    check_destination(config.output)
    about = f"VLAC, converted from {config.source} for transformers' InternVL. {LICENCE}; that holds for these, too.\n"
    convert(config.source, config.output, about)
    console = open_console()
    console.print(f"{LICENCE}.")
    console.print(f"Wrote {config.output}. Next: robometer-rl score VIDEO --task TASK --model vlac:{config.output}")


def load(where: str, device: str | torch.device = "cpu", dtype: str | None = None) -> VLAC:
    """Loads a VLAC; see `robometer_rl.load_reward_model`.

    Args:
        where: What ``robometer-rl convert vlac`` has written, or ``MODEL@https://HOST/v1``, served from
            ``InternRobotics/VLAC`` or ``InternRobotics/VLAC-8b``.
        device: Where weights run.
        dtype: Precision of weights; as stored if None.

    Raises:
        CheckpointError: The checkpoint is incomplete, of another kind, or not converted.
        UnknownModelError: The name means nothing here.
    """
    engine = Endpoint(where) if is_endpoint(where) else LocalInternVL.load(where, device, dtype)
    logger.warning(LICENCE)
    return VLAC(engine, where)


def _square(frame: Frames) -> Frames:
    return np.asarray(Image.fromarray(frame).resize((_SIDE, _SIDE), Image.Resampling.LANCZOS))
