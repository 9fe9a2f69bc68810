"""How likely a vision-language model finds one token: the base of models that read a probability instead of a text.

Questions about one clip begin with the same frames. What they have in common goes through the decoder once, and each
question then costs the tokens that are its own, all of them in one pass behind the shared keys and values::

    longest question   user  pair 1  pair 2  pair 3          |  text
    question about 5   ....  ......  ......  (sees these)    |  frame 5 doubled, text
    question about 4   ....  ......  ......                  |  text
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from robometer_rl.models.baselines.vlm import LocalVLM, Picture, Prompt
from robometer_rl.models.robometer.decoder import KeyValues, Prefix, decode, require_masks
from robometer_rl.models.robometer.patches import PatchedFrames
from robometer_rl.models.robometer.tokens import Segment, pad
from robometer_rl.models.robometer.vision import encode_frames

__all__ = ["last_token_log_probabilities"]


@dataclass(frozen=True, eq=False)
class _Laid:
    """A question as rows of what the decoder is given, without its last token, which is only scored.

    Attributes:
        ids: (n,).
        positions: (3, n).
        shown: (n,) which of the encoded pictures a token belongs to; -1 for text.
        scored: The last token.
    """

    ids: torch.Tensor
    positions: torch.Tensor
    shown: torch.Tensor
    scored: int

    def shared_with(self, other: _Laid) -> int:
        """Tokens at the beginning that both have in common."""
        length = min(len(self.ids), len(other.ids))
        same = (self.ids[:length] == other.ids[:length]) & (self.shown[:length] == other.shown[:length])
        return int(same.long().cumprod(0).sum())


@torch.inference_mode()
def last_token_log_probabilities(vlm: LocalVLM, prompts: Sequence[Prompt]) -> NDArray[np.float64]:
    """Log-probability of the last token of each prompt, given everything before it.

    Args:
        vlm: A Qwen3-VL.
        prompts: About one clip; pictures that are the same object are encoded once, and what prompts have in common
            is computed once.

    Returns:
        (len(prompts),) natural logarithms.
    """
    require_masks(vlm.network.model.language_model)
    features, numbers = _encode(vlm, prompts)
    laid = [_lay(vlm, prompt, numbers) for prompt in prompts]
    chain = max(laid, key=lambda each: len(each.ids))
    shared = [each.shared_with(chain) for each in laid]
    # Each keeps a token of its own, whose output is read.
    shared = [min(common, len(each.ids) - 1) for common, each in zip(shared, laid, strict=True)]
    longest = max((common for each, common in zip(laid, shared, strict=True) if each is not chain), default=0)
    shared = [min(common, longest) for common in shared]
    layers: KeyValues = []
    if longest:
        _, layers = _decode(vlm, [chain], [range(longest)], features, None, keep=True)
    found = np.zeros(len(laid))
    for rows in _batches(laid, shared, vlm.token_budget):
        own = [range(shared[row], len(laid[row].ids)) for row in rows]
        prefix = _prefix(layers, [shared[row] for row in rows], vlm.device) if layers else None
        hidden, _ = _decode(vlm, [laid[row] for row in rows], own, features, prefix, keep=False)
        last = hidden[torch.arange(len(rows)), torch.tensor([len(each) - 1 for each in own])]
        logits = vlm.network.lm_head(last).float().log_softmax(dim=-1).cpu()
        found[rows] = [float(logits[place, laid[row].scored]) for place, row in enumerate(rows)]
    return found


def _encode(vlm: LocalVLM, prompts: Sequence[Prompt]) -> tuple[list[torch.Tensor], dict[int, int]]:
    """Vision features of every picture, and their numbers by the identity of the picture."""
    pictures = {id(picture): picture for prompt in prompts for picture in prompt.pictures}
    features = [torch.empty(0)] * len(pictures)
    by_grid: dict[tuple[int, int], list[tuple[int, Picture]]] = {}
    for number, picture in enumerate(pictures.values()):
        by_grid.setdefault(picture.grid, []).append((number, picture))
    for grid, members in by_grid.items():
        pixels = torch.stack([picture.pixels for _, picture in members])
        encoded = encode_frames(vlm.network.model.visual, PatchedFrames(pixels, grid))
        for (number, _), feature in zip(members, encoded, strict=True):
            features[number] = feature
    return features, {key: number for number, key in enumerate(pictures)}


def _lay(vlm: LocalVLM, prompt: Prompt, numbers: dict[int, int]) -> _Laid:
    shown = torch.full_like(prompt.ids, -1)
    owners = [numbers[id(picture)] for picture in prompt.pictures]
    sizes = [vlm.patcher.tokens(picture.grid) for picture in prompt.pictures]
    shown[prompt.kinds > 0] = torch.tensor(owners).repeat_interleave(torch.tensor(sizes))
    return _Laid(prompt.ids[:-1], vlm.positions(prompt)[:, :-1], shown[:-1], int(prompt.ids[-1]))


def _prefix(layers: KeyValues, lengths: list[int], device: torch.device) -> Prefix:
    """The shared tokens as each row sees them."""
    places = torch.arange(layers[0][0].shape[2], device=device)
    visible = places < torch.tensor(lengths, device=device)[:, None]
    return Prefix(layers, visible, torch.zeros(len(lengths), dtype=torch.long, device=device))


def _decode(
    vlm: LocalVLM,
    laid: Sequence[_Laid],
    own: Sequence[range],
    features: Sequence[torch.Tensor],
    prefix: Prefix | None,
    keep: bool,
) -> tuple[torch.Tensor, KeyValues]:
    """Runs a part of each question, padded on the right, through the decoder."""
    parts = [slice(each.start, each.stop) for each in own]
    segments = [Segment(each.ids[part], each.positions[:, part], 0) for each, part in zip(laid, parts, strict=True)]
    batch = pad(segments, pad_id=0)
    shown = torch.full_like(batch.ids, -1)
    for row, (each, part) in enumerate(zip(laid, parts, strict=True)):
        shown[row, : len(each.shown[part])] = each.shown[part]
    decoder, device = vlm.network.model.language_model, vlm.device
    embeddings = decoder.embed_tokens(batch.ids.to(device))
    rows = (shown >= 0).flatten().nonzero().squeeze(-1).to(device)
    # Text stands between any two pictures, so each of them is a run of its number.
    order = [number for number in torch.unique_consecutive(shown).tolist() if number >= 0]
    deepstack = embeddings.new_zeros(0)
    if order:
        visual = torch.cat([features[number] for number in order], dim=1)
        embeddings = embeddings.flatten(0, 1).index_copy(0, rows, visual[0].to(embeddings.dtype)).view_as(embeddings)
        deepstack = visual[1:]
    return decode(decoder, embeddings, batch.positions.to(device), deepstack, rows, prefix, keep)


def _batches(laid: Sequence[_Laid], shared: Sequence[int], budget: int) -> Iterator[list[int]]:
    """Questions whose own tokens go through the decoder together."""
    batch: list[int] = []
    own = [len(each.ids) - common for each, common in zip(laid, shared, strict=True)]
    for row in range(len(laid)):
        longest = max(own[other] for other in [*batch, row])
        if batch and (len(batch) + 1) * longest > budget:
            yield batch
            batch = []
        batch.append(row)
    if batch:
        yield batch
