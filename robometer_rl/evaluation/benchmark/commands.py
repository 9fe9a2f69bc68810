"""``robometer-rl benchmark``: models and controls on fixed questions, as a page, a table and a JSON file."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import tyro
from rich.table import Table

from robometer_rl.evaluation.benchmark.asking import (
    JudgedSet,
    ask_everybody,
    manifest,
    manifest_differences,
    mean_of_sets,
)
from robometer_rl.evaluation.benchmark.definitions import Benchmark, Name, benchmark
from robometer_rl.evaluation.benchmark.page import Page, as_html, as_markdown
from robometer_rl.evaluation.benchmark.sets import benchmark_sets
from robometer_rl.evaluation.benchmark.sheets import sheets_of
from robometer_rl.evaluation.published.answers import answerers
from robometer_rl.evaluation.published.judging import main_numbers
from robometer_rl.evaluation.published.questions import Dataset
from robometer_rl.files import write_text
from robometer_rl.models.reward_model import RewardModel
from robometer_rl.provenance import provenance
from robometer_rl.report.terminal import open_console

__all__ = ["SCHEMA_VERSION", "BenchmarkConfig", "run_benchmark", "run_models"]

logger = logging.getLogger(__name__)

SCHEMA_VERSION: Final = 1

_WIDEST = 1000  # columns of a table


@dataclass(frozen=True)
class BenchmarkConfig:
    """Holds models against controls on questions that were fixed beforehand, and writes a page of it.

    ``metaworld`` and ``libero`` record their episodes here; the others are about published data, which is read where
    it lies.

    Attributes:
        name: Which benchmark.
        model: What `load_reward_model` takes; once for each model, as in ``--model mini --model clock``.
        data: Where published data lies: ``rbm:processed_datasets``, ``roboreward:RoboReward``, or a store. The sets of
            a group are looked for where the reference's environment variables say, if nothing is said here.
        limit: A smoke run: only so many tasks of each set.
        controls: Also ask each model about changed episodes, and what sees nothing; five times the questions.
        output: Folder for the page (``index.html``, ``benchmark.md``), ``benchmark.json``, the answers
            (``answers.jsonl``) and recordings, from which an interrupted run goes on; outputs/benchmark/NAME if None.
        workers: Processes that record.
        device: Where to run.
        dtype: Precision; as stored if None.
    """

    name: tyro.conf.Positional[Name]
    model: tyro.conf.UseAppendAction[tuple[str, ...]] = ()
    data: tuple[str, ...] = ()
    limit: int | None = None
    controls: bool = True
    output: Path | None = None
    workers: int = 2
    device: str = "cpu"
    dtype: str | None = None

    def __post_init__(self) -> None:
        if not self.model:
            raise ValueError("got no model; expected one or more, as in --model mini --model clock")
        for name, value in (("limit", self.limit), ("workers", self.workers)):
            if value is not None and value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")
        if self.folder.exists() and not self.folder.is_dir():
            raise ValueError(f"output must be a folder, got the file {self.folder}")

    @property
    def folder(self) -> Path:
        """Where everything goes."""
        return Path("outputs", "benchmark", self.name) if self.output is None else self.output


def run_benchmark(config: BenchmarkConfig) -> list[JudgedSet]:
    """Runs the benchmark and the models that ``config`` names."""
    from robometer_rl.models.loading import load_reward_model

    models = [load_reward_model(name, config.device, config.dtype) for name in config.model]
    return run_models(config, benchmark(config.name), models)


def run_models(config: BenchmarkConfig, asked: Benchmark, models: Sequence[RewardModel]) -> list[JudgedSet]:
    """Makes or reads the episodes, asks everybody, prints the tables and writes the page.

    Args:
        config: How; its ``name`` and ``model`` are not looked at.
        asked: What is asked.
        models: Of whom.

    Returns:
        The sets, in front of those of a group the mean over them.

    Raises:
        ValueError: See `benchmark_sets` and `answerers`.
    """
    config.folder.mkdir(parents=True, exist_ok=True)
    everybody = answerers(models, config.folder / "answers.jsonl", config.controls, show_progress=True)
    began = time.monotonic()
    datasets = benchmark_sets(asked, config.data, config.folder / "recordings", config.limit, config.workers)
    had_episodes = time.monotonic()
    sets = [ask_everybody(asked, dataset, everybody) for dataset in datasets]
    seconds = {"episodes": round(had_episodes - began, 1), "answers": round(time.monotonic() - had_episodes, 1)}
    differences = manifest_differences(asked, sets)
    shown = [mean_of_sets(sets), *sets] if asked.group and len(sets) > 1 else sets
    sources = {each.name: each.model.source for each in everybody if not each.is_control}
    tables = [(each, sheets_of(asked, each, len(sets) == 1, sources)) for each in shown]
    facts = {
        "schema_version": SCHEMA_VERSION,
        "benchmark": asked.name,
        "limit": config.limit,
        "models": [_model(each) for each in models],
        "simulator": _simulator(datasets),
        "manifest": {"frozen": bool(asked.manifest) and not differences, "sha256": manifest(sets)},
        "seconds": seconds,
        "provenance": provenance(),
    }
    page = Page(f"Benchmark: {asked.title}", asked.about, _remarks(asked, config, differences), _origin(facts), tables)
    _write(config.folder, page, {**facts, "sets": [each.as_dict() for each in shown]})
    _print(page)
    logger.info("%s", _summary(config.folder, page))
    return shown


def _model(model: RewardModel) -> dict[str, Any]:
    return {
        "name": model.model_id,
        "source": model.source,
        "revision": model.revision,
        "dtype": model.dtype,
        "device": model.device,
        "protocol": str(model.default_protocol),
        "record": model.record,
        "unanswered": model.unanswered,
    }


def _simulator(datasets: Sequence[Dataset]) -> dict[str, str]:
    """Versions of what the episodes were recorded in, as far as they say."""
    first = datasets[0].episodes[0].metadata
    return {name: str(first[name]) for name in ("metaworld", "libero", "mujoco") if name in first}


def _remarks(asked: Benchmark, config: BenchmarkConfig, differences: Sequence[str]) -> list[str]:
    """What a reader must know of how it was asked."""
    remarks = []
    if config.limit is not None:
        remarks.append(f"A smoke run, limited to {config.limit} of the tasks of each set: its numbers mean nothing.")
    elif not asked.manifest:
        remarks.append(
            "What is asked was never frozen: before you hold these numbers against those of others, hold the hashes in "
            "benchmark.json against theirs."
        )
    elif differences:
        remarks.append(
            "Something else was asked than the benchmark says, by other versions of the simulator or of this package: "
            f"{', '.join(differences)}. Do not hold these numbers against other pages."
        )
    if not config.controls:
        remarks.append("Without controls, so nothing says what these numbers are worth.")
    return remarks


def _origin(facts: Mapping[str, Any]) -> dict[str, str]:
    """Where the numbers come from, in words."""
    origin, seconds = facts["provenance"], facts["seconds"]
    versions = {"python": origin["python"], **origin["packages"], **facts["simulator"]}
    took = f"episodes {seconds['episodes']:.0f} s, answers {seconds['answers']:.0f} s, of this run alone"
    asked = "as the benchmark says" if facts["manifest"]["frozen"] else "see above, or the hashes in benchmark.json"
    return {
        **{
            f"model {each['name']}": f"{each['source']}, revision {each['revision'] or 'unknown'}, {each['dtype']}, "
            f"frame by frame {each['protocol']}, {each['unanswered']} answers that cannot be read"
            for each in facts["models"]
        },
        "episodes and frames": asked,
        "command": origin["command"],
        "date": origin["date"],
        "versions": ", ".join(f"{name} {version}" for name, version in versions.items()),
        "machine": f"{origin['gpu'] or origin['processor']}, {origin['threads']} threads",
        "time": took,
    }


def _write(folder: Path, page: Page, results: Mapping[str, Any]) -> None:
    write_text(folder / "benchmark.json", json.dumps(results, indent=2) + "\n")
    write_text(folder / "benchmark.md", as_markdown(page))
    write_text(folder / "index.html", as_html(page))


def _print(page: Page) -> None:
    for judged, sheets in page.sets:
        for sheet in sheets:
            table = Table(title=f"{judged.name}: {sheet.title}", title_justify="left")
            for column in sheet.columns:
                table.add_column(column, justify="right" if column else "left")
            for row in sheet.rows:
                table.add_row(*row)
            width = max(open_console().width, open_console(width=_WIDEST).measure(table).maximum)
            open_console(width=width).print(table)


def _summary(folder: Path, page: Page) -> str:
    """What was made, how good everybody is, and what to do next."""
    lines = [*page.remarks]
    for judged, _ in page.sets:
        lines += [f"{judged.name}: {name} is {verdict.light}" for name, verdict in judged.verdicts.items()]
        lines += [line for made in judged.judged.values() for line in main_numbers(made)]
    return "\n".join([*lines, f"wrote {folder / 'index.html'}; read each number beside those of the controls"])
