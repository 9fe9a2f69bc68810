"""What a training needs of each GPU, found out without one: all is done but the numbers.

Episodes are opened, samples are drawn and batches are made of them as in training. The network is built on the meta
device, where tensors have shapes and no content, and the longest of the first batches goes through it, forwards and
backwards, while the memory that its tensors would take is written down.
"""

from __future__ import annotations

import shlex
import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import torch
from rich.table import Table
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.weak import WeakIdKeyDictionary
from transformers import AttentionInterface
from transformers.models.qwen3_vl.modeling_qwen3_vl import Qwen3VLTextDecoderLayer

from robometer_rl.data.trajectory import Trajectory
from robometer_rl.models.locations import TOKENIZER_FILES, locate
from robometer_rl.models.robometer.checkpoint import Checkpoint, load_checkpoint
from robometer_rl.models.robometer.patches import PatchedFrames
from robometer_rl.models.robometer.processing import EncodedFrames, RobometerInputs
from robometer_rl.report.terminal import open_console
from robometer_rl.training.bucketing import TokenCounts
from robometer_rl.training.collate import Collator, FrameSource, PixelSource
from robometer_rl.training.config import StageConfig, TrainConfig
from robometer_rl.training.from_scratch import instructions_with, make_checkpoint
from robometer_rl.training.language_model import is_language_model, start_on_meta
from robometer_rl.training.pipeline import make_sampler, select_trajectories, split_episodes, train
from robometer_rl.training.recipes import Training
from robometer_rl.training.samples import ClipSample, PairSample, Sample
from robometer_rl.training.trainable import attach_lora, choose_trainable, require_trainable, training_precision
from robometer_rl.training.trainer import StageData

__all__ = ["DryRun", "MemoryUse", "dry_run", "run_training"]

_BATCHES: Final = 64
"""How many are drawn to find a long one."""

_META: Final = torch.device("meta")

_ATTENTION: Final = "dry_run"


@dataclass(frozen=True)
class MemoryUse:
    """Bytes that one GPU of several needs.

    Attributes:
        gpus: How many share the training.
        weights: In the precision in which they are kept.
        gradients: Of those that are trained.
        optimizer: AdamW's two averages of each gradient.
        copies: Weights, and gradients of them, that are whole for a while, where GPUs share the weights; elsewhere
            the copies that layers compute with, if not in float32.
        activations: What a forward pass keeps for the backward pass, and what both take at their height.
    """

    gpus: int
    weights: int
    gradients: int
    optimizer: int
    copies: int
    activations: int

    @property
    def total(self) -> int:
        """All of them."""
        return self.weights + self.gradients + self.optimizer + self.copies + self.activations


@dataclass(frozen=True)
class DryRun:
    """What a training would be.

    Attributes:
        stage: The one that takes most memory, ``frozen`` or ``joint``.
        parameters: Of each part of the network.
        trained: Those of them that are trained.
        samples: In a step, in all processes of the largest number of GPUs asked about.
        rows: Prompts of the longest batch of a process, padded, and tokens of each: clips, then pairs.
        uses: Of one GPU, for each number of GPUs.
    """

    stage: str
    parameters: Mapping[str, int]
    trained: Mapping[str, int]
    samples: int
    rows: Sequence[tuple[int, int]]
    uses: Sequence[MemoryUse]


def run_training(command: Training) -> Path | None:
    """Trains, or says what a training would need.

    Returns:
        The directory of the finished checkpoint; None after a dry run.
    """
    if not command.dry_run:
        return train(command.config)
    _show(dry_run(command.config, command.gpus), command.config)
    return None


def dry_run(config: TrainConfig, gpus: Sequence[int] = (1, 8)) -> DryRun:
    """Finds out what a training needs of each GPU; nothing is written.

    Weights, gradients and the optimizer's state are counted. What stands in memory while a batch is computed is an
    estimate: kernels take more, allocators too, and losses are left out; the attention of a vision tower that is
    trained takes less than is counted.

    Args:
        config: What is to be trained. Of a start that is a language model on the Hub, weights are not downloaded.
        gpus: Numbers of GPUs. Several share the weights as in ``configs/accelerate/fsdp.yaml``, unless a LoRA is
            trained, of which each has all.

    Raises:
        ValueError: Less than one GPU; otherwise see `robometer_rl.training.pipeline.train`.
    """
    if not gpus or min(gpus) < 1:
        raise ValueError(f"gpus must be numbers of GPUs from 1, got {tuple(gpus)}")
    opened = select_trajectories(config)
    kept, _ = split_episodes(opened.trajectories, config.validation_fraction, config.seed)
    sampler, _ = make_sampler(config, opened, kept)
    checkpoint = _start(config, kept)
    network = checkpoint.network
    name, stage = ("joint", config.joint) if config.joint.steps else ("frozen", config.frozen)
    dtype = torch.bfloat16 if config.bf16 else torch.float32
    source: FrameSource = PixelSource(kept, config.augment, config.seed)
    if name == "frozen":
        source = _UnknownFeatures(checkpoint, kept, dtype)
    batch = _longest(stage, StageData(sampler, _same, TokenCounts(checkpoint.processor, kept), 0), config.seed)
    choose_trainable(network, stage.vision_learning_rate is not None, config.sampling.pair_fraction > 0)
    with training_precision(network, config.bf16):
        parameters, trained = _count(network, lambda _: True), _count(network, lambda weight: weight.requires_grad)
        kept_bytes = sum(weight.nbytes for weight in network.parameters())
        sizes = _Sizes(kept_bytes, sum(trained.values()), _copies_alone(network, dtype), _copies_shared(network, dtype))
    collated = Collator(checkpoint.processor, source)(batch)["batch"]
    inputs = [each for each in (collated.clips, collated.pairs) if each is not None]
    activations = _activations(checkpoint, stage, inputs, dtype)
    return DryRun(
        name,
        parameters,
        trained,
        stage.batch_size * stage.accumulate * max(gpus),
        [(each.input_ids.shape[0], each.input_ids.shape[1]) for each in inputs],
        [sizes.on(number, activations, shared=number > 1 and not config.lora.rank) for number in gpus],
    )


@dataclass(frozen=True)
class _Sizes:
    """Bytes of weights, the number of those that are trained, and bytes of copies without and with sharing."""

    weights: int
    trained: int
    alone: int
    shared: int

    def on(self, gpus: int, activations: int, shared: bool) -> MemoryUse:
        parts = gpus if shared else 1
        single = torch.float32.itemsize * self.trained
        copies = self.shared if shared else self.alone
        return MemoryUse(gpus, self.weights // parts, single // parts, 2 * single // parts, copies, activations)


def _count(network: nn.Module, wanted: Callable[[Tensor], bool]) -> dict[str, int]:
    """Numbers of parameters by part of the network."""
    counts = {"language model": 0, "vision tower": 0, "heads": 0}
    for name, weight in network.named_parameters():
        part = "vision tower" if ".visual." in name else "language model" if name.startswith("model.") else "heads"
        counts[part] += weight.numel() if wanted(weight) else 0
    return counts


def _copies_alone(network: nn.Module, dtype: torch.dtype) -> int:
    """What autocast keeps of the weights that are trained until the backward pass is over: one copy of each matrix."""
    matrices = (each.weight for each in network.modules() if isinstance(each, nn.Linear))
    return sum(dtype.itemsize * each.numel() for each in matrices if each.requires_grad and each.dtype != dtype)


def _copies_shared(network: nn.Module, dtype: torch.dtype) -> int:
    """What is whole at the height of a backward pass where GPUs share the weights.

    All that is in no decoder layer, two of the layers (one that computes, one that is fetched), and the gradients of
    the larger of both: as they are computed, and in float32 as they are added up.
    """
    layers = [each for each in network.modules() if isinstance(each, Qwen3VLTextDecoderLayer)]
    layer = max(sum(weight.numel() for weight in each.parameters()) for each in layers)
    inside = {id(weight) for each in layers for weight in each.parameters()}
    outside = [weight for weight in network.parameters() if id(weight) not in inside]
    gradients = max(layer, sum(weight.numel() for weight in outside if weight.requires_grad))
    whole = sum(weight.numel() for weight in outside) + 2 * layer
    return dtype.itemsize * whole + (dtype.itemsize + torch.float32.itemsize) * gradients


def _start(config: TrainConfig, trajectories: Sequence[Trajectory]) -> Checkpoint:
    """The network that is trained first, on the meta device."""
    if config.start is None:
        texts = instructions_with(trajectories)
        checkpoint = make_checkpoint(config.shape, texts, config.seed, config.sampling.max_frames)
        checkpoint.network.to(_META)
        return checkpoint
    described = locate(config.start, (*TOKENIZER_FILES, "*.yaml")).directory
    if is_language_model(described):
        checkpoint = start_on_meta(described, config.start, config.sampling.max_frames)
    else:
        checkpoint = load_checkpoint(locate(config.start).directory, _META)
    require_trainable(checkpoint.network)
    if config.lora.rank:
        attach_lora(checkpoint, config.lora, None, config.seed)
    return checkpoint


def _longest(stage: StageConfig, data: StageData, seed: int) -> list[Sample]:
    """The batch with most tokens of the first ones of a stage, in one process."""
    batches = min(_BATCHES, stage.steps * stage.accumulate)
    total = stage.steps * stage.accumulate * stage.batch_size
    drawn = data.samples(stage, total, seed)
    made = [
        [drawn[number * stage.batch_size + place] for place in range(stage.batch_size)] for number in range(batches)
    ]
    return max(made, key=lambda batch: _padded(batch, data.tokens))


def _padded(batch: Sequence[Sample], tokens: TokenCounts) -> int:
    """Tokens of a batch, in which clips and pairs are padded apart from each other."""
    kinds = ([tokens(sample) for sample in batch if isinstance(sample, kind)] for kind in (ClipSample, PairSample))
    return sum(len(lengths) * max(lengths) for lengths in kinds if lengths)


def _same(samples: Sequence[Sample]) -> dict[str, Any]:
    """No batch is made of what is only counted."""
    return {"batch": samples}


class _UnknownFeatures:
    """What a frozen tower would make of frames: its size."""

    def __init__(self, checkpoint: Checkpoint, trajectories: Sequence[Trajectory], dtype: torch.dtype) -> None:
        model = checkpoint.network.model
        self._patcher, self._trajectories, self._dtype = checkpoint.processor.patcher, trajectories, dtype
        self._levels = 1 + len(model.visual.deepstack_visual_indexes)
        self._hidden = model.language_model.config.hidden_size

    def frames(self, sample: ClipSample) -> EncodedFrames:
        """See `robometer_rl.training.collate.FrameSource.frames`."""
        grid = self._patcher.grid(*self._trajectories[sample.episode].size)
        shape = (self._levels, self._patcher.tokens(grid), self._hidden)
        return EncodedFrames([torch.empty(shape, dtype=self._dtype, device=_META)] * len(sample), grid)


def _activations(
    checkpoint: Checkpoint, stage: StageConfig, inputs: Sequence[RobometerInputs], dtype: torch.dtype
) -> int:
    """Most bytes that stand at once while batches go through the network, forwards and backwards."""
    network = checkpoint.network.to(dtype).train()
    network.backbone.restore_buffers(network.model, _META)
    if stage.gradient_checkpointing:
        network.model.activation_checkpointing_enable()
    for weight in network.parameters():
        if weight.requires_grad:  # gradients are counted already
            weight.register_post_accumulate_grad_hook(_forget_gradient)
    AttentionInterface.register(_ATTENTION, _flash_attention)
    network.model.set_attn_implementation(_ATTENTION)
    live = _LiveMemory(network.parameters())
    placed = [_without_content(each) for each in inputs]
    with live:
        outputs = [network(each) for each in placed]
        values = [value for output in outputs for value in (output.progress, output.success, output.preference)]
        torch.stack([value.float().sum() for value in values if value is not None]).sum().backward()
    return live.most


def _forget_gradient(weight: Tensor) -> None:
    weight.grad = None


def _without_content(inputs: RobometerInputs) -> RobometerInputs:
    """Inputs on the meta device but for the tokens' ids, which say where things are read."""
    tokens = replace(inputs.tokens, positions=inputs.tokens.positions.to(_META))
    frames = inputs.frames and [PatchedFrames(part.pixels.to(_META), part.grid) for part in inputs.frames]
    return replace(inputs, tokens=tokens, frames=frames)


class _LiveMemory(TorchDispatchMode):
    """Counts the bytes of tensors that are made while it is on.

    Args:
        weights: What is there already; operations give back views of it.

    Attributes:
        most: The largest number of bytes that stood at once.
    """

    def __init__(self, weights: Iterable[Tensor]) -> None:
        super().__init__()
        self.most = 0
        self._now = 0
        self._known = WeakIdKeyDictionary()
        for weight in weights:
            self._known[weight.untyped_storage()] = True

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        made = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(made):
            if isinstance(tensor, Tensor) and tensor.device == _META:
                self._add(tensor.untyped_storage())
        return made

    def _add(self, storage: torch.UntypedStorage) -> None:
        if storage not in self._known:
            self._known[storage] = True
            self._now += storage.nbytes()
            self.most = max(self.most, self._now)
            weakref.finalize(storage, self._free, storage.nbytes())

    def _free(self, size: int) -> None:
        self._now -= size


def _flash_attention(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, *_: Any, **__: Any
) -> tuple[Tensor, None]:
    """Attention as GPUs compute it, which keeps no matrix of all tokens by all tokens; PyTorch's would on this device.

    See `transformers.AttentionInterface`.
    """
    groups = query.shape[1] // key.shape[1]
    key, value = (each.repeat_interleave(groups, dim=1) for each in (key, value))
    attended = torch.ops.aten._scaled_dot_product_flash_attention(query, key, value, 0.0, True)[0]
    return attended.transpose(1, 2).contiguous(), None


def _show(found: DryRun, config: TrainConfig) -> None:
    console = open_console()
    parts = Table(
        "part", "parameters (M)", "trained (M)", title=f"{config.start or 'a new network'}, stage {found.stage}"
    )
    for name, count in found.parameters.items():
        parts.add_row(name, f"{count / 1e6:.2f}", f"{found.trained[name] / 1e6:.2f}")
    console.print(parts)
    memory = Table("GB on each of", *(f"{use.gpus} GPU{'s' * (use.gpus > 1)}" for use in found.uses))
    for name in ("weights", "gradients", "optimizer", "copies", "activations", "total"):
        memory.add_row(name, *(f"{getattr(use, name) / 1e9:.2f}" for use in found.uses))
    console.print(memory)
    prompts = " and ".join(f"{rows} prompts of {length} tokens" for rows, length in found.rows)
    most = max(use.gpus for use in found.uses)
    console.print(
        f"the longest of the first batches of a process is {prompts}; a step on {most} GPUs has "
        f"{found.samples} samples. Kernels and allocators take more than is counted here: leave a tenth of a GPU free.",
        soft_wrap=True,
    )
    data = " ".join(shlex.quote(str(place)) for place in config.data)
    command = f"robometer-rl train RECIPE --data {data} --output {shlex.quote(str(config.output))} ..."
    console.print(f"nothing was trained; next, without --dry-run: {command}", soft_wrap=True)
