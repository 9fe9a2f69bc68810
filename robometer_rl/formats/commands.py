"""The command line of ``robometer-rl data``: its subcommands, and for ``import`` one more level, the formats.

What a subcommand needs is imported when it is run, so that a reader's libraries are asked for by those who use it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, make_dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

import tyro

from robometer_rl.data.flags import data_name
from robometer_rl.formats.table import EXPORTED, FORMATS, IMPORTED, Reader

__all__ = ["parse_data", "run_data"]

_COMMANDS: Final[Mapping[str, str]] = {
    "inspect": "Counts per task, quality and source, lengths, sizes, and a picture of some trajectories.",
    "verify": "Compare all checksums and list the trajectories that are damaged.",
    "import": "Turn a data set of another format into a store.",
    "export": "Write a store in another format.",
    "pack": "Pack the frame files of a store into a few large ones, for stores of any size and for the Hub.",
    "download": "Download published training and evaluation data, by the name of a group.",
    "push": "Upload a store to the Hugging Face Hub.",
    "pull": "Download a store from the Hugging Face Hub.",
}


@dataclass(frozen=True)
class _Choice:
    """A subcommand without options of its own."""

    name: tyro.conf.Fixed[str]


def parse_data(words: Sequence[str], program: str) -> Callable[[], Any]:
    """What the words after ``robometer-rl data`` ask for.

    Args:
        words: The words.
        program: What to call the program in its help.

    Returns:
        The command, ready to be run.

    Raises:
        SystemExit: Help was asked for, or the words make no sense.
    """
    command = _choose(words, program, _COMMANDS)
    program, words = f"{program} {command}", words[1:]
    if command == "import":
        name = _choose(words, program, {name: FORMATS[name].description for name in IMPORTED})
        return _parse_import(IMPORTED[name], words[1:], f"{program} {name}")
    if command == "export":
        name = _choose(words, program, {name: kind.description for name, kind in EXPORTED.items()})
        kind = EXPORTED[name]
        return partial(kind.write, _parse(kind.config, words[1:], f"{program} {name}"))
    if command in ("inspect", "verify"):
        from robometer_rl.data.inspect import InspectConfig, VerifyConfig, inspect_store, verify

        if command == "inspect":
            return partial(inspect_store, _parse(InspectConfig, words, program))
        return partial(verify, _parse(VerifyConfig, words, program))
    if command == "download":
        from robometer_rl.data.download import DownloadConfig, download

        return partial(download, _parse(DownloadConfig, words, program))
    if command == "pack":
        from robometer_rl.data.pack import PackConfig, pack

        return partial(pack, _parse(PackConfig, words, program))
    from robometer_rl.data.hub import PullConfig, PushConfig, pull, push

    if command == "push":
        return partial(push, _parse(PushConfig, words, program))
    return partial(pull, _parse(PullConfig, words, program))


def run_data(command: Callable[[], Any]) -> None:
    """Runs what `parse_data` returns."""
    command()


def _parse_import(kind: Reader, words: Sequence[str], program: str) -> Callable[[], Any]:
    from robometer_rl.formats.importing import ImportOptions, InPlaceOptions, LabelOptions, import_and_report

    # The reader's own options, its path first, and those of every import behind them.
    both = make_dataclass(
        "Import",
        [
            ("reader", kind.config),
            ("store", InPlaceOptions if kind.in_place else ImportOptions),
            ("people", LabelOptions),
        ],
    )
    given = _parse(both, words, program, (kind.config.__doc__ or "").partition("\n")[0])

    data = data_name(Path(given.reader.path))
    return lambda: import_and_report(kind.read(given.reader), given.store, given.people, data)


def _parse(kind: Any, words: Sequence[str], program: str, description: str | None = None) -> Any:
    """Options; those that must be given are given by position."""
    settings = (tyro.conf.PositionalRequiredArgs, tyro.conf.OmitArgPrefixes)
    return tyro.cli(kind, args=words, prog=program, description=description, config=settings)


def _choose(words: Sequence[str], program: str, choices: Mapping[str, str]) -> str:
    """The first word, which must be one of ``choices``."""
    kinds = tyro.extras.subcommand_type_from_defaults({name: _Choice(name) for name in choices}, dict(choices))
    return tyro.cli(kinds, args=words[:1], prog=program, config=(tyro.conf.OmitSubcommandPrefixes,)).name
