"""What the processes of one run agree on: who writes, and who waits for it.

A run that was not started by ``accelerate launch`` or ``torchrun`` is one process, which writes and never waits.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from accelerate import PartialState

__all__ = ["is_main_process", "main_process_first", "wait_for_everyone"]


def is_main_process() -> bool:
    """Whether this process is the one that writes files."""
    return _state().is_main_process


def wait_for_everyone() -> None:
    """Returns when all processes have come here."""
    _state().wait_for_everyone()


def main_process_first() -> AbstractContextManager[None]:
    """The main process runs the block before the others do, which then find what it wrote."""
    return _state().main_process_first()


def _state() -> PartialState:
    # Here, because accelerate belongs to an extra that only training needs.
    from accelerate import PartialState

    return PartialState(cpu=not torch.cuda.is_available())
