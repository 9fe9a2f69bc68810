"""A training as ``accelerate launch`` starts it with the sharded configuration, on CPU through gloo.

accelerate takes no FSDP on CPU, though PyTorch does. So this tells it that the processes are those of GPUs; from there
on everything is what happens on GPUs: accelerate's plugin and its settings from the file, the Trainer, the saves.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from accelerate.state import DistributedType, PartialState
from torch import distributed, nn

from robometer_rl.training.pipeline import is_main_process, train
from robometer_rl.training.recipes import parse_training
from robometer_rl.training.trainer import LogLines, RobometerTrainer

ROOT = Path(__file__).parents[2]
CONFIGURATION = ROOT / "configs" / "accelerate" / "fsdp.yaml"
STOPPED = 3
"""Exit code of a training that was stopped on the way."""


class Stopped(Exception):
    """What ends a training in the middle of a stage."""


def train_sharded(words: Sequence[str], losses: Path, stop_after: int | None = None, precision: str = "bf16") -> int:
    """Trains in two processes that share the weights; returns the exit code.

    Args:
        words: As for ``robometer-rl train``.
        losses: Where to add a line of JSON for every step.
        stop_after: The training is stopped after so many steps.
        precision: As for ``accelerate launch --mixed_precision``.
    """
    command = [
        *(sys.executable, "-m", "accelerate.commands.launch", "--config_file", str(CONFIGURATION)),
        *("--num_processes", "2", "--main_process_port", "0", "--mixed_precision", precision),
        *(__file__, str(losses), json.dumps(stop_after), *words),
    ]
    paths = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    settings = {"ACCELERATE_TORCH_DEVICE": "cpu", "OMP_NUM_THREADS": "1", "PYTHONPATH": paths}
    done = subprocess.run(command, env=os.environ | settings, capture_output=True, text=True)
    if done.returncode and stop_after is None:
        raise AssertionError(done.stderr)
    return done.returncode


@contextmanager
def watched(losses: Path, stop_after: int | None = None) -> Iterator[None]:
    """Trainings inside write down their losses, and have no dropout, of which every process would draw its own."""
    log, step = LogLines.on_log, RobometerTrainer.training_step

    def on_log(self: LogLines, args: Any, state: Any, control: Any, logs: Any = None, **rest: Any) -> None:
        log(self, args, state, control, logs, **rest)
        if is_main_process():
            with losses.open("a") as file:
                file.write(json.dumps({"step": state.global_step} | (logs or {})) + "\n")

    def training_step(self: RobometerTrainer, *args: Any, **rest: Any) -> torch.Tensor:
        if self.state.global_step == stop_after:
            raise Stopped
        return step(self, *args, **rest)

    with (
        mock.patch.object(LogLines, "on_log", on_log),
        mock.patch.object(RobometerTrainer, "training_step", training_step),
        mock.patch.object(nn.Dropout, "forward", lambda _, values: values),
    ):
        yield


def _main() -> None:
    losses, stop_after, *words = sys.argv[1:]
    torch.set_num_threads(1)
    distributed.init_process_group("gloo")
    gpus = ("gloo", DistributedType.MULTI_GPU)
    with (
        mock.patch.object(PartialState, "_prepare_backend", return_value=gpus),
        watched(Path(losses), json.loads(stop_after)),
    ):
        try:
            train(parse_training(words, "robometer-rl train"))
        except Stopped:
            sys.exit(STOPPED)
    distributed.barrier()
    distributed.destroy_process_group()


if __name__ == "__main__":
    _main()
