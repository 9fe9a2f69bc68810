"""Our loop over the decoder's layers against transformers' own, and cached prefixes against none."""

from __future__ import annotations

import pytest
import torch
from transformers.models.qwen3_vl.modeling_qwen3_vl import Qwen3VLTextModel

from robometer_rl.models.robometer.checkpoint import load_checkpoint
from robometer_rl.models.robometer.decoder import Prefix, UnsupportedAttentionError, decode, decode_chosen
from tests.golden import CHECKPOINT, tiny


def decoder() -> Qwen3VLTextModel:
    return tiny().network.model.language_model


def rows(batch: int, length: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Embeddings, positions, deepstack features and where these go."""
    generator = torch.Generator().manual_seed(seed)
    embeddings = torch.randn((batch, length, 64), generator=generator)
    positions = torch.arange(length).expand(3, batch, length)
    visual = torch.tensor([row * length + place for row in range(batch) for place in (1, 2)])
    deepstack = torch.randn((2, len(visual), 64), generator=generator)
    return embeddings, positions, deepstack, visual


@torch.inference_mode()
def test_outputs_are_those_of_transformers() -> None:
    embeddings, positions, deepstack, visual = rows(3, 7)
    mask = torch.zeros((3, 7), dtype=torch.bool)
    mask.view(-1)[visual] = True
    expected = decoder()(
        inputs_embeds=embeddings,
        position_ids=positions,
        visual_pos_masks=mask,
        deepstack_visual_embeds=list(deepstack),
        use_cache=False,
    )
    hidden, layers = decode(decoder(), embeddings, positions, deepstack, visual)
    torch.testing.assert_close(hidden, expected.last_hidden_state, rtol=0, atol=1e-4)
    assert layers == []


@torch.inference_mode()
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_new_tokens_behind_cached_ones_are_the_end_of_the_whole(attention: str) -> None:
    """Three rows: one sees all of cache 0, one a part of it, one all of cache 1."""
    model = load_checkpoint(CHECKPOINT, attn_implementation=attention).network.model.language_model
    embeddings, positions, deepstack, visual = rows(2, 6)
    _, layers = decode(model, embeddings, positions, deepstack, visual, keep=True)
    new, _, new_deepstack, _ = rows(3, 4, seed=1)
    caches, seen = [0, 0, 1], [6, 3, 6]
    visible = torch.arange(6) < torch.tensor(seen)[:, None]
    places = torch.stack([torch.arange(4) + start for start in seen]).expand(3, -1, -1)
    new_visual = torch.tensor([1, 2, 5, 6, 9, 10])
    hidden, _ = decode(
        model, new, places, new_deepstack, new_visual, Prefix(layers, visible, torch.tensor(caches)), keep=True
    )
    for row, (cache, length) in enumerate(zip(caches, seen, strict=True)):
        whole = torch.cat([embeddings[cache, :length], new[row]])[None]
        features = torch.cat([deepstack[:, 2 * cache : 2 * cache + 2], new_deepstack[:, 2 * row : 2 * row + 2]], dim=1)
        where = torch.tensor([1, 2, length + 1, length + 2])
        expected, _ = decode(model, whole, torch.arange(length + 4).expand(3, 1, -1), features, where)
        torch.testing.assert_close(hidden[row], expected[0, length:], rtol=0, atol=1e-4)


@torch.inference_mode()
def test_padding_on_the_right_changes_nothing_before_it() -> None:
    embeddings, positions, deepstack, visual = rows(2, 8)
    hidden, _ = decode(decoder(), embeddings, positions, deepstack, visual)
    torch.manual_seed(0)
    embeddings[:, 5:] = torch.randn(2, 3, 64)
    changed, _ = decode(decoder(), embeddings, positions, deepstack, visual)
    torch.testing.assert_close(changed[:, :5], hidden[:, :5], rtol=0, atol=1e-4)


@pytest.mark.parametrize("case", ["sdpa", "eager", "checkpointing", "other layers"])
def test_outputs_of_chosen_tokens_are_those_of_all(case: str) -> None:
    """Gradients, too, and where the last layer cannot be asked for some of its tokens."""
    network = load_checkpoint(CHECKPOINT, attn_implementation="eager" if case == "eager" else "sdpa").network
    model = network.model.language_model.train()
    if case == "checkpointing":
        network.model.activation_checkpointing_enable()
    if case == "other layers":
        model.layers[-1] = _Wrapped(model.layers[-1])
    embeddings, positions, deepstack, visual = rows(3, 9)
    chosen = torch.tensor([[0, 4, 8], [3, 7, 0], [5, 6, 8]])
    weights = torch.randn((3, 3, 64), generator=torch.Generator().manual_seed(1))
    outputs, gradients = [], []
    for few in (True, False):
        given = embeddings.clone().requires_grad_()
        if few:
            hidden = decode_chosen(model, given, positions, deepstack, visual, chosen)
        else:
            hidden = decode(model, given, positions, deepstack, visual)[0].gather(
                1, chosen[..., None].expand(-1, -1, 64)
            )
        model.zero_grad()
        (hidden * weights).sum().backward()
        outputs.append(hidden.detach())
        gradients.append({"embeddings": given.grad} | {name: each.grad for name, each in model.named_parameters()})
    torch.testing.assert_close(*outputs, rtol=0, atol=1e-4)
    for name, expected in gradients[1].items():
        torch.testing.assert_close(gradients[0][name], expected, rtol=1e-3, atol=1e-4, msg=name)


class _Wrapped(torch.nn.Module):
    """A layer of another class."""

    def __init__(self, layer: torch.nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, *args: object, **kwargs: object) -> object:
        return self.layer(*args, **kwargs)


def test_an_attention_that_takes_no_masks_cannot_share_prefixes() -> None:
    model = load_checkpoint(CHECKPOINT).network.model.language_model
    model.config._attn_implementation = "flash_attention_2"
    embeddings, positions, deepstack, visual = rows(1, 4)
    prefix = Prefix([], torch.ones((1, 2), dtype=torch.bool), torch.tensor([0]))
    with pytest.raises(UnsupportedAttentionError, match=r"flash_attention_2.*'sdpa' or 'eager'"):
        decode(model, embeddings, positions, deepstack, visual, prefix)
