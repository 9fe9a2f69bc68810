"""``vlac:WHERE``: VLAC, an InternVL that was trained to say by how much one picture is nearer to a goal than another.

Its published weights are of a kind that transformers runs only with code from the Hub. Here they are asked behind an
endpoint, whose server knows that kind.
"""

from __future__ import annotations

import logging
import re
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from robometer_rl.documents import brief
from robometer_rl.models.baselines.endpoint import Endpoint, is_endpoint
from robometer_rl.models.baselines.prompted import ChainModel, Engine
from robometer_rl.models.baselines.vlm import Question
from robometer_rl.models.locations import UnknownModelError

__all__ = ["PROMPT", "SYSTEM", "VLAC", "critic_of", "load"]

logger = logging.getLogger(__name__)

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


def load(where: str) -> VLAC:
    """Loads a VLAC; see `robometer_rl.load_reward_model`.

    Args:
        where: ``MODEL@https://HOST/v1``, served from ``InternRobotics/VLAC`` or ``InternRobotics/VLAC-8b``.

    Raises:
        UnknownModelError: No endpoint.
    """
    if not is_endpoint(where):
        raise UnknownModelError(
            f"got {brief(where)}; VLAC runs behind an endpoint only: serve its weights with a server that knows "
            "InternVL 2, and give MODEL@http://HOST/v1"
        )
    logger.warning("VLAC's model card allows non-commercial use only (CC-BY-NC-SA-4.0)")
    return VLAC(Endpoint(where), where)


def _square(frame: Frames) -> Frames:
    return np.asarray(Image.fromarray(frame).resize((_SIDE, _SIDE), Image.Resampling.LANCZOS))
