"""What each of several processes does in tests of distributed training."""

from __future__ import annotations

import json
import os
from pathlib import Path

import torch
from torch import distributed, nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.multiprocessing.spawn import spawn
from transformers.models.qwen3_vl.modeling_qwen3_vl import Qwen3VLTextDecoderLayer

from robometer_rl.models.robometer.checkpoint import Checkpoint, save_checkpoint
from robometer_rl.training.bucketing import TokenCounts
from robometer_rl.training.collate import Collator, PixelSource
from robometer_rl.training.config import LossWeights, StageConfig, TrainConfig
from robometer_rl.training.episodes import make_episodes
from robometer_rl.training.objective import Objective, count_targets
from robometer_rl.training.pipeline import train
from robometer_rl.training.sampling import Sampler, SamplingConfig
from robometer_rl.training.trainable import choose_trainable
from robometer_rl.training.trainer import StageData, run_stage, training_arguments
from tests.data.episodes import make_episodes_of_two_tasks
from tests.training.tiny import make_tiny

PROCESSES = 2
SHARDED_LAYERS = (Qwen3VLTextDecoderLayer,)


def launch(directory: Path, config: TrainConfig) -> None:
    """Trains in two processes as ``accelerate launch`` would start them, on CPU: a stage, a run, and sharded steps."""
    # Held while they run, so that no other program takes the port between its choice and its use.
    store = distributed.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)  # pyright: ignore[reportPrivateImportUsage]
    spawn(_start, (str(store.port), directory, config), nprocs=PROCESSES)


def _start(rank: int, port: str, directory: Path, config: TrainConfig) -> None:
    addresses = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "ACCELERATE_USE_CPU": "true"}
    # As under torchrun: the first process finds the store instead of opening one.
    addresses |= {"TORCHELASTIC_USE_AGENT_STORE": "True", "TORCHELASTIC_RESTART_COUNT": "0"}
    os.environ.update(addresses | {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(PROCESSES)})
    torch.set_num_threads(1)
    train_stage(directory, batch_size=2)
    train(config)
    sharded_steps(directory, rank)
    distributed.barrier()
    distributed.destroy_process_group()


def _material() -> tuple[Checkpoint, Sampler, Collator, TokenCounts]:
    trajectories = make_episodes_of_two_tasks(2)
    checkpoint = make_tiny()
    for head in ("progress_head", "success_head", "preference_head"):
        dropout = checkpoint.network.get_submodule(f"{head}.3")
        assert isinstance(dropout, nn.Dropout)
        dropout.p = 0.0  # every process would draw its own
    return (
        checkpoint,
        Sampler(make_episodes(trajectories), SamplingConfig(max_frames=4, pair_fraction=0.3)),
        Collator(checkpoint.processor, PixelSource(trajectories, augment=False, seed=0)),
        TokenCounts(checkpoint.processor, trajectories),
    )


def train_stage(directory: Path, batch_size: int) -> None:
    """Trains everything for three steps and leaves saves and the result in ``directory``."""
    checkpoint, sampler, collator, tokens = _material()
    stage = StageConfig(steps=3, batch_size=batch_size, accumulate=2, vision_learning_rate=1e-3)
    arguments = training_arguments(
        directory / "saves",
        stage.steps,
        stage.batch_size,
        1e-3,
        0.0,
        0.0,
        stage.accumulate,
        seed=0,
        use_cpu=True,
        save_steps=2,
        logging_steps=1,
    )
    run_stage(checkpoint, StageData(sampler, collator, tokens, 0), stage, LossWeights(), arguments)
    if arguments.should_save:
        save_checkpoint(directory / "final", checkpoint)


def losses(directory: Path) -> list[dict[str, float]]:
    """Logged losses of `train_stage` and their parts, step by step."""
    history = json.loads((directory / "saves" / "checkpoint-3" / "trainer_state.json").read_text())["log_history"]
    names = ("loss", "progress", "success", "preference", "grounding", "preference_accuracy", "grad_norm")
    return [{name: entry[name] for name in names if name in entry} for entry in history]


def sharded_steps(directory: Path, rank: int | None) -> None:
    """Takes three steps and leaves their losses and the gathered checkpoint in ``directory``.

    Args:
        directory: For the results.
        rank: Of this process, whose share of the weights and of the batch it has; None for one process that has all.
    """
    checkpoint, sampler, collator, _ = _material()
    choose_trainable(checkpoint.network, vision=True, preference=True)
    torch.manual_seed(0)
    objective = Objective(checkpoint, LossWeights(), len(sampler.tasks))
    shares = [collator([sampler.sample(0, place) for place in part])["batch"] for part in (range(3), range(3, 6))]
    counts = count_targets(shares)
    if rank is not None:
        mesh = init_device_mesh("cpu", (PROCESSES,))
        for module in objective.modules():
            if isinstance(module, SHARDED_LAYERS):
                fully_shard(module, mesh=mesh)
        fully_shard(objective, mesh=mesh)
    optimizer = torch.optim.AdamW([weight for weight in objective.parameters() if weight.requires_grad], lr=1e-2)
    totals = []
    for _ in range(3):
        optimizer.zero_grad()
        total = torch.zeros(())
        for share in shares if rank is None else [shares[rank]]:
            loss = objective(share, num_items_in_batch=counts)["loss"]
            # Processes average their gradients, and the counts are those of all of them.
            (loss if rank is None else PROCESSES * loss).backward()
            total += loss.detach()
        optimizer.step()
        if rank is not None:
            distributed.all_reduce(total)
        totals.append(total.item())
    options = StateDictOptions(full_state_dict=True, cpu_offload=True)
    state = dict(objective.state_dict() if rank is None else get_model_state_dict(objective, options=options))
    if not rank:
        network = {
            key.removeprefix("network."): value
            for key, value in state.items()
            if key.startswith("network.") and isinstance(value, torch.Tensor)
        }
        save_checkpoint(directory / "gathered", checkpoint, network)
        (directory / "gathered.json").write_text(json.dumps(totals))
