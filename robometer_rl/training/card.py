"""Model cards: what was trained on what, how it measures, and under which licence."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

import yaml

from robometer_rl.models.locations import is_hub_id
from robometer_rl.report.markup import markdown, markdown_code

if TYPE_CHECKING:
    from robometer_rl.models.robometer.inference import Robometer

__all__ = ["CARD_FILE", "model_card"]

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
    sections = [
        f"---\n{yaml.safe_dump(_metadata(license, record), sort_keys=False)}---",
        f"# {markdown(name.rpartition('/')[2])}",
        "A Robometer: it looks at the frames of a robot's episode and an instruction, and says how far the task has "
        "come and whether it is done.",
        f"```python\nfrom robometer_rl import load_reward_model\n\nmodel = load_reward_model({_literal(name)})\n```",
        _facts(model),
        "## Data and training\n\n" + (_training(record) if record else "Not recorded."),
        "## Results\n\n" + (_results(evaluation) if evaluation else "Not measured."),
        "## Limits\n\nOn other tasks, cameras and robots than those of its data its numbers mean nothing until they "
        "are measured: `robometer-rl evaluate` measures them on a store of recordings.",
        f"## Licence\n\n{markdown(license)}",
    ]
    return "\n\n".join(sections) + "\n"


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
    return _table(("", ""), list(facts.items()))


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
        _table(("Data source", "Tasks", "Frames", "Episodes"), rows),
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
    table = _table(("Metric", "Value", "95 % interval", "n"), rows)
    return "\n\n".join([f"{where} {_READING}", table])


def _counts(episodes: Mapping[str, int]) -> str:
    return ", ".join(f"{number} {markdown(name)}" for name, number in episodes.items())


def _interval(metric: Mapping[str, Any]) -> str:
    return "" if metric["low"] is None else f"{metric['low']:.3f} to {metric['high']:.3f}"


def _table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    lines = [head, ("---",) * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
