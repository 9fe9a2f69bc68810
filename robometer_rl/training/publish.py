"""A checkpoint with a model card, put on the Hub as one commit."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import tyro
import yaml
from rich.table import Table

from robometer_rl.documents import parse_json, read_text
from robometer_rl.files import inside
from robometer_rl.models.locations import CHECKPOINT_FILES, hub_errors, is_compact, is_hub_id
from robometer_rl.provenance import read_record
from robometer_rl.report.markup import markdown, markdown_code, markdown_table
from robometer_rl.report.terminal import open_console

__all__ = ["CARD_FILE", "PublishConfig", "PublishError", "Release", "compact_card", "model_card", "prepare", "publish"]

if TYPE_CHECKING:
    from robometer_rl.models.compact.inference import CompactModel
    from robometer_rl.models.reward_model import RewardModel
    from robometer_rl.models.robometer.inference import Robometer

CARD_FILE: Final = "README.md"

_READING = (
    "An expert's true progress never falls in time, so a clock correlates with it by construction: read `voc_pearson` "
    "beside `voc_pearson_clock` (t / T), `voc_pearson_single_frame` (each frame alone) and `voc_pearson_still` (the "
    "first frame over and over)."
)


def model_card(
    name: str,
    license: str,
    model: Robometer,
    record: Mapping[str, Any] | None,
    evaluation: Mapping[str, Any] | None,
) -> str:
    """Writes a model card in Markdown, with the Hub's metadata in front.

    Names that come from the data or from files are shown as they are and cannot add markup to the card.

    Args:
        name: On the Hub.
        license: As the Hub abbreviates it.
        model: The model itself.
        record: Of its training, see `robometer_rl.training.record`; None if it is not known.
        evaluation: What ``robometer-rl evaluate`` wrote; None if it was not measured.
    """
    return _card(
        name,
        license,
        _metadata(license, record),
        "A Robometer: it looks at the frames of a robot's episode and an instruction, and says how far the task has "
        "come and whether it is done.",
        name,
        _facts(model),
        "## Data and training\n\n" + (_training(record) if record else "Not recorded."),
        "## Results\n\n" + (_results(evaluation) if evaluation else "Not measured."),
    )


def compact_card(name: str, license: str, model: CompactModel, evaluation: Mapping[str, Any] | None) -> str:
    """The same for a compact model (`robometer_rl.models.compact`), with the verdict that its training ended with."""
    frozen = "EfficientNet-Lite0 with weights from ImageNet"
    if model.checkpoint.config.dinov2 is not None:
        frozen = "a DINOv2"
    return _card(
        name,
        license,
        _metadata(license, None),
        "A compact reward model of one environment: it looks at the frames of an episode and an instruction, and says "
        f"how far the task has come and whether it is done. Its frozen image network is {frozen}.",
        f"compact:{name}",
        _compact_facts(model),
        *_compact_training(model.checkpoint.config.trained),
        *(["## Results\n\n" + _results(evaluation)] if evaluation else []),
    )


def _card(name: str, license: str, metadata: Mapping[str, Any], what: str, loaded_as: str, *sections: str) -> str:
    parts = [
        f"---\n{yaml.safe_dump(metadata, sort_keys=False)}---",
        f"# {markdown(name.rpartition('/')[2])}",
        what,
        f"```python\nfrom robometer_rl import load_reward_model\n\n"
        f"model = load_reward_model({_literal(loaded_as)})\n```",
        *sections,
        "## Limits\n\nOn other tasks, cameras and robots than those of its data its numbers mean nothing until they "
        "are measured: `robometer-rl evaluate` measures them on a store of recordings.",
        f"## Licence\n\n{markdown(license)}",
    ]
    return "\n\n".join(parts) + "\n"


def _compact_facts(model: CompactModel) -> str:
    config = model.checkpoint.config
    size = sum(
        parameter.numel()
        for part in (model.checkpoint.tower, model.checkpoint.network)
        for parameter in part.parameters()
    )
    facts = {
        "Parameters": f"{size / 1e6:.1f} M, the image network's included",
        "Instructions": "; ".join(markdown(task) for task in config.tasks),
        "Frames": f"{config.resolution} x {config.resolution}; default protocol {markdown_code(config.protocol)}",
        "Success threshold": "not calibrated" if config.success_threshold is None else f"{config.success_threshold}",
    }
    return markdown_table(("", ""), list(facts.items()))


def _compact_training(trained: Mapping[str, Any]) -> list[str]:
    """What `robometer-rl adapt` has noted in the checkpoint."""
    if not trained:
        return ["## Data and training\n\nNot recorded."]
    verdict = trained["verdict"]
    data = markdown_table(("", ""), [(markdown(name), markdown(value)) for name, value in trained["data"].items()])
    kinds = markdown_table(
        ("Outcome", "Episodes", "Final progress", "True"),
        [
            (markdown(each["name"]), str(each["episodes"]), f"{each['final']:.2f}", _known(each["true_final"]))
            for each in verdict["outcomes"]
        ],
    )
    checks = markdown_table(
        ("Check", "Found", "Expected", "Met"),
        [
            (
                markdown(each["name"]),
                _known(each["value"]),
                markdown(each["expected"]),
                "yes" if each["passed"] else "no",
            )
            for each in verdict["checks"]
        ],
    )
    reasons = "".join(f"\n- {markdown(reason)}" for reason in verdict["reasons"])
    return [
        f"## Data and training\n\n{data}\n\n{trained['steps']} steps of `robometer-rl adapt`.",
        f"## Verdict: {markdown(verdict['verdict'])}\n\nOn {verdict['held_out']} episodes that it was not trained on."
        f"{reasons}\n\n{kinds}\n\n{checks}",
    ]


def _known(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"


def _metadata(license: str, record: Mapping[str, Any] | None) -> dict[str, Any]:
    metadata: dict[str, Any] = {
        "license": license,
        "library_name": "robometer_rl",
        "pipeline_tag": "robotics",
        "tags": ["robometer", "reward-model", "reinforcement-learning"],
    }
    start = record["start"] if record else None
    return metadata | ({"base_model": start} if start and is_hub_id(start) else {})


def _facts(model: Robometer) -> str:
    config = model.checkpoint.config
    size = sum(parameter.numel() for parameter in model.network.parameters())
    facts = {
        "Parameters": f"{size / 1e6:.1f} M",
        "Frames": f"at most {config.max_frames}; default protocol {markdown_code(str(model.default_protocol))}",
        "Progress": f"{config.progress_bins} bins" if config.discrete else config.progress_type,
        "Success threshold": "not calibrated" if model.success_threshold is None else f"{model.success_threshold}",
        "Precision": model.dtype,
    }
    if config.tiled:
        facts["Pictures"] = "several cameras in one, laid out by `robometer_rl.tiles`"
    return markdown_table(("", ""), list(facts.items()))


def _literal(name: str) -> str:
    """A string of Python that can stand on any page."""
    return json.dumps(name).replace("<", "\\u003c")


def _training(record: Mapping[str, Any]) -> str:
    rows = [
        (markdown(source), str(facts["tasks"]), str(facts["frames"]), _counts(facts["episodes"]))
        for source, facts in record["data"].items()
    ]
    options = record["options"]
    stages = [f"{options[name]['steps']} steps, {name}" for name in ("pretraining", "frozen", "joint")]
    lines = [
        markdown_table(("Data source", "Tasks", "Frames", "Episodes"), rows),
        f"Started from {markdown(record['start'] or 'random weights')}; {'; '.join(stages)}; seed {options['seed']}. "
        "`training.json` has all options, versions and times.",
    ]
    if options["lora"]["rank"]:
        part = markdown(options["lora"]["part"].replace("_", " "))
        lines.append(f"LoRA of rank {options['lora']['rank']} on the {part}.")
    return "\n\n".join(lines)


def _results(evaluation: Mapping[str, Any]) -> str:
    rows = [
        (markdown_code(name), f"{metric['value']:.3f}", _interval(metric), str(metric["count"]))
        for name, metric in evaluation["metrics"].items()
        if metric["value"] is not None
    ]
    where = (
        f"Dense scores under {markdown_code(evaluation['protocol'])}, every {evaluation['every']} recorded frames, of "
        f"{_counts(evaluation['episodes'])}."
    )
    table = markdown_table(("Metric", "Value", "95 % interval", "n"), rows)
    return "\n\n".join([f"{where} {_READING}", table])


def _counts(episodes: Mapping[str, int]) -> str:
    return ", ".join(f"{number} {markdown(name)}" for name, number in episodes.items())


def _interval(metric: Mapping[str, Any]) -> str:
    return "" if metric["low"] is None else f"{metric['low']:.3f} to {metric['high']:.3f}"


_LEFT_OUT: Final = ("trainer_state.json",)  # what going on with a training needs, and nobody else


class PublishError(ValueError):
    """A checkpoint that others could not load, or a name that the Hub does not take; the message says what to do."""


@dataclass(frozen=True)
class PublishConfig:
    """Pushes a checkpoint with a model card to the Hub, after loading it and predicting once.

    A README.md in the checkpoint's directory is taken as the card; otherwise one is written from the record of the
    training and from the evaluation.

    Attributes:
        checkpoint: Directory of the checkpoint.
        repo_id: Name on the Hub, as in ``you/robometer-kitchen``; it is made if there is none.
        evaluation: JSON file that ``robometer-rl evaluate`` wrote, for the card.
        license: Licence of the weights, as the Hub abbreviates it; it has to agree with that of the start checkpoint.
        private: Let only yourself see a repository that is made.
        message: Of the commit.
        dry_run: Check everything, list what would be pushed, show the card, and push nothing.
    """

    checkpoint: tyro.conf.Positional[Path]
    repo_id: tyro.conf.Positional[str]
    evaluation: Path | None = None
    license: str = "mit"
    private: bool = False
    message: str = "Publish a reward model"
    dry_run: bool = False


@dataclass(frozen=True)
class Release:
    """What is pushed.

    Attributes:
        files: Path inside the repository to content: a file's place, or the bytes of one that is not on disk.
    """

    files: Mapping[str, Path | bytes]

    def sizes(self) -> dict[str, int]:
        """Bytes of each file."""
        return {
            name: len(content) if isinstance(content, bytes) else content.stat().st_size
            for name, content in self.files.items()
        }

    def table(self, title: str) -> Table:
        """Files and sizes for the terminal."""
        table = Table(title=title, title_justify="left")
        table.add_column("file")
        table.add_column("size", justify="right")
        for name, size in self.sizes().items():
            table.add_row(name, _readable(size))
        table.add_section()
        table.add_row("total", _readable(sum(self.sizes().values())))
        return table


def publish(config: PublishConfig) -> None:
    """Checks a checkpoint and pushes it, or only says what would be pushed.

    Raises:
        PublishError: See `prepare`.
        CheckpointError: The directory does not load.
        HubError: The Hub cannot be reached or refuses.
    """
    release = prepare(config)
    console = open_console()
    console.print(release.table(f"{config.repo_id}, license {config.license}"))
    if config.dry_run:
        console.print(_text(release.files[CARD_FILE]), markup=False, highlight=False)
        console.print("Dry run: it loads and predicts; nothing was pushed.")
        return
    console.print(f"Pushed: {_push(config, release)}", soft_wrap=True)


def prepare(config: PublishConfig) -> Release:
    """Loads the checkpoint as others will, lets it predict once, and puts together what is pushed.

    Raises:
        PublishError: A name that is not OWNER/NAME, a directory that others could not load, or an evaluation that is
            none.
        CheckpointError: The directory does not load; `CompactCheckpointError` of a compact model.
        OutsideError: A file of it is a link out of it.
    """
    if not is_hub_id(config.repo_id):
        raise PublishError(f"got the name {config.repo_id!r}; expected OWNER/NAME as on the Hub")
    if not config.checkpoint.is_dir():
        raise PublishError(f"there is no checkpoint directory {config.checkpoint}")
    paths = sorted({path for pattern in CHECKPOINT_FILES for path in config.checkpoint.glob(pattern)})
    card = config.checkpoint / CARD_FILE
    for path in (*paths, card):  # a link in a checkpoint that came from somewhere would be pushed as what it leads to
        inside(config.checkpoint, path.name)
    files: dict[str, Path | bytes] = {path.name: path for path in paths if path.name not in _LEFT_OUT}
    model = _loaded_compact(config.checkpoint) if is_compact(config.checkpoint) else _loaded(config.checkpoint)
    files[CARD_FILE] = card if card.is_file() else _written_card(config, model).encode()
    return Release(files)


def _written_card(config: PublishConfig, model: CompactModel | Robometer) -> str:
    from robometer_rl.models.robometer.inference import Robometer

    evaluation = None if config.evaluation is None else _evaluation(config.evaluation)
    if isinstance(model, Robometer):
        return model_card(config.repo_id, config.license, model, read_record(config.checkpoint), evaluation)
    try:
        return compact_card(config.repo_id, config.license, model, evaluation)
    # Whatever is missing or of another type: it comes from a file.
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        raise PublishError(
            f"what {config.checkpoint} notes of its training is not what robometer-rl adapt writes ({error!r}); put a "
            f"{CARD_FILE} of your own into it"
        ) from error


def _loaded_compact(directory: Path) -> CompactModel:
    from robometer_rl.models.compact.checkpoint import load_compact
    from robometer_rl.models.compact.inference import CompactModel

    model = CompactModel(load_compact(directory), str(directory), directory.name)
    _require_prediction(model)
    return model


def _require_prediction(model: RewardModel) -> None:
    """Raises if an output is not a number."""
    import numpy as np

    from robometer_rl.frames import Clip

    model.predict([Clip(np.zeros((2, 64, 64, 3), np.uint8), "open the drawer")])


def _loaded(directory: Path) -> Robometer:
    from robometer_rl.models.robometer.adapters import adapter_of
    from robometer_rl.models.robometer.checkpoint import SETTINGS_FILE, load_checkpoint
    from robometer_rl.models.robometer.inference import Robometer
    from robometer_rl.models.robometer.processing import PREPROCESSOR_FILE

    for name in (SETTINGS_FILE, PREPROCESSOR_FILE):
        if not (directory / name).is_file():
            raise PublishError(f"{directory} has no {name} of its own; load it and save it with save_checkpoint first")
    checkpoint = load_checkpoint(directory)
    adapter = adapter_of(checkpoint.network)
    base = None if adapter is None else adapter.lora.base_model_name_or_path
    if base is not None and Path(base).exists():
        raise PublishError(
            f"the adapter in {directory} refers to its base by the directory {base}, which nobody else has; publish "
            "the base and train from its name on the Hub, or save the adapter with base_model_name_or_path=None"
        )
    model = Robometer(checkpoint, str(directory), directory.name)
    _require_prediction(model)
    return model


def _evaluation(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise PublishError(f"there is no evaluation at {path}; make one with robometer-rl evaluate")
    content = parse_json(read_text(path))
    try:
        _results(content)
    # Whatever is missing or of another type: it comes from a file.
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        raise PublishError(f"{path} is not what robometer-rl evaluate writes ({error!r}); measure once more") from error
    return content


def _push(config: PublishConfig, release: Release) -> str:
    from huggingface_hub import CommitOperationAdd, HfApi

    hub = HfApi()
    with hub_errors(f"upload the model {config.repo_id}"):
        hub.create_repo(config.repo_id, private=config.private, exist_ok=True)
        operations = [CommitOperationAdd(name, content) for name, content in release.files.items()]
        return hub.create_commit(config.repo_id, operations, commit_message=config.message).commit_url


def _text(content: Path | bytes) -> str:
    return content.decode() if isinstance(content, bytes) else content.read_text()


def _readable(size: float) -> str:
    """As the Hub shows sizes, in decimal units."""
    for unit in ("B", "kB", "MB"):
        if size < 1000:
            return f"{size:.4g} {unit}"
        size /= 1000
    return f"{size:.4g} GB"
