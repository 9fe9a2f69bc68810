"""The page that shows results of ``robometer-rl evaluate`` side by side."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from robometer_rl.documents import DocumentError, parse_json, read_text
from robometer_rl.evaluation.evaluate import SCHEMA_VERSION
from robometer_rl.evaluation.published.commands import SCHEMA_VERSION as PUBLISHED_VERSION
from robometer_rl.evaluation.published.judging import FOLDERS, Row
from robometer_rl.evaluation.published.matrices import Matrix, draw_matrix
from robometer_rl.evaluation.published.page import published_tables
from robometer_rl.extras import require
from robometer_rl.report.markup import html
from robometer_rl.report.page import data_table, definitions, figure, picture_address
from robometer_rl.studio.material import Material
from robometer_rl.studio.parts import Update, done, guarded, markup

__all__ = ["read_results", "results_page", "side_by_side", "unlike"]

_SUFFIXES: Final = (".json",)
_CONTROLS: Final = ("_clock", "_single_frame", "_still")
_LIGHTS: Final = {"green": "yes", "yellow": "maybe", "red": "bad"}
_FACTS: Final = ("model", "revision", "protocol", "every", "success_threshold", "data_sources", "splits", "excluded")


def results_page(material: Material) -> None:
    """Lays the page out, in the context of the application that is being built."""
    gr = require("gradio", "ui")
    with gr.Row(equal_height=False):
        with gr.Column(scale=1, min_width=300):
            uploads = gr.File(
                label="Results, as robometer-rl evaluate writes them",
                file_types=list(_SUFFIXES),
                file_count="multiple",
                elem_id="results-upload",
                height=120,
            )
            named = gr.Dropdown(
                material.listed(_SUFFIXES),
                label="Results, from the data",
                multiselect=True,
                elem_id="results-named",
                visible=bool(material.places),
            )
            start = gr.Button("Show", variant="primary", elem_id="results-start")
        with gr.Column(scale=3, min_width=320):
            line = markup(done("Choose the results of one or several models, and press Show."), elem_id="results-line")
            shown = markup(elem_id="results-shown")

    def show(uploaded: Sequence[str] | None, names: Sequence[str] | None) -> Iterator[Update]:
        uploaded, names = uploaded or (), names or ()
        paths = material.paths(uploaded, names)
        called = unlike([*(path.name for path in paths[: len(uploaded)]), *names])
        if not paths:
            raise ValueError("no results are chosen; upload a JSON file that robometer-rl evaluate has written")
        results = {name: read_results(path) for name, path in zip(called, paths, strict=True)}
        said = "1 result." if len(results) == 1 else f"{len(results)} results side by side."
        yield {line: done(said), shown: side_by_side(results)}

    start.click(guarded(line, show), [uploads, named], [line, shown], show_progress="hidden")


def unlike(names: Sequence[str]) -> list[str]:
    """Names with a number behind those that have been there before: many results are called ``evaluation.json``."""
    found: list[str] = []
    for name in names:
        count = sum(each == name or each.startswith(f"{name} (") for each in found)
        found.append(name if not count else f"{name} ({count + 1})")
    return found


def read_results(path: Path) -> dict[str, Any]:
    """The JSON file of ``robometer-rl evaluate``, or of one of the reference's evaluations that it makes.

    Raises:
        ValueError: It is something else.
        OSError: It cannot be read.
    """
    try:
        results = parse_json(read_text(path))
    except DocumentError as error:
        raise ValueError(f"{path.name}: {error}") from error
    if not isinstance(results, dict) or "model" not in results or not (_is_own(results) or _is_published(results)):
        raise ValueError(
            f"{path.name} is no result of robometer-rl evaluate: it has no 'model' with 'metrics' or 'evaluations'"
        )
    expected = SCHEMA_VERSION if _is_own(results) else PUBLISHED_VERSION
    if (version := results.get("schema_version")) != expected:
        raise ValueError(f"{path.name} has the version {version}; this release reads {expected}")
    return results


def _is_own(results: Mapping[str, Any]) -> bool:
    return isinstance(results.get("metrics"), dict)


def _is_published(results: Mapping[str, Any]) -> bool:
    return isinstance(results.get("evaluations"), list)


def side_by_side(results: Mapping[str, Mapping[str, Any]]) -> str:
    """Verdicts, metrics and controls of several evaluations, a column each.

    Args:
        results: By the name of the file, see `read_results`.

    Returns:
        Markup; every text in it is escaped.

    Raises:
        ValueError: Something in a file is not what its name says.
    """
    own = {name: each for name, each in results.items() if _is_own(each)}
    published = {name: each for name, each in results.items() if not _is_own(each)}
    return "\n".join([*([_own(own)] if own else []), *_published(published)])


def _own(results: Mapping[str, Mapping[str, Any]]) -> str:
    columns = [f"{each['model']} ({name})" for name, each in results.items()]
    verdicts = "".join(_verdict(column, each) for column, each in zip(columns, results.values(), strict=True))
    names = dict.fromkeys(name for each in results.values() for name in each["metrics"])
    own = [name for name in names if not name.endswith(_CONTROLS)]
    controls = [name for name in names if name.endswith(_CONTROLS)]
    parts = [f"<div class='studio-verdicts'>{verdicts}</div>", "<h3>Metrics</h3>", _table(columns, own, results)]
    if controls:
        about = (
            "A clock knows how long the episode is; the model sees each frame alone, or the first one over and over."
        )
        parts += ["<h3>Controls</h3>", f"<p class='studio-line'>{about}</p>", _table(columns, controls, results)]
    return "\n".join(parts)


def _published(results: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """The same evaluation of the same set in one table: models, then controls, and a matrix of each model."""
    groups: dict[tuple[str, str], dict[str, Mapping[str, Any]]] = {}
    for name, each in results.items():
        for found in each["evaluations"]:
            if not isinstance(found, Mapping) or found.get("kind") not in FOLDERS:
                raise ValueError(
                    f"{name} has an evaluation of no kind that is known; expected one of {sorted(FOLDERS)}"
                )
            groups.setdefault((str(found["kind"]), str(found.get("set"))), {})[name] = found
    return [_evaluation(kind, place, found) for (kind, place), found in groups.items()]


def _evaluation(kind: Any, place: str, found: Mapping[str, Mapping[str, Any]]) -> str:
    many = len(found) > 1
    rows: dict[str, Row] = {}
    pictures, asked = [], []
    for name, each in found.items():
        for row in map(Row.from_dict, _listed(name, each, "rows")):
            titled = replace(row, name=f"{row.name} ({name})") if many and not row.is_control else row
            rows[str(titled)] = titled  # controls that say the same everywhere are shown once
        manifest = each.get("manifest") or {}
        asked.append((name, each.get("frame_rule"), manifest.get("questions"), str(manifest.get("sha256"))[:16]))
        if each.get("matrix") is not None:
            matrix = Matrix.from_dict(each["matrix"])
            pictures.append(figure(picture_address(draw_matrix(matrix, f"{name}: {place}")), matrix.about))
    ordered = sorted(rows.values(), key=lambda row: row.is_control)
    lines = [f"{name}: {rule}, {count} questions, {digest}" for name, rule, count, digest in asked]
    if len({each[1:] for each in asked}) > 1:
        lines.append("They were not asked about the same frames: their numbers cannot be compared.")
    return "\n".join(
        [
            f"<h3>{html(kind)} on {html(place)}</h3>",
            *(f"<p class='studio-line'>{html(line)}</p>" for line in lines),
            *published_tables(kind, ordered),
            f"<div class='studio-pictures'>{''.join(pictures)}</div>",
        ]
    )


def _listed(name: str, found: Mapping[str, Any], key: str) -> list[Any]:
    if not isinstance(found.get(key), list) or not found[key]:
        raise ValueError(f"{name} has no {key!r} in its evaluation {found.get('kind')!r}")
    return found[key]


def _table(columns: Sequence[str], names: Sequence[str], results: Mapping[str, Mapping[str, Any]]) -> str:
    rows = [(name, *(_cell(each["metrics"].get(name)) for each in results.values())) for name in names]
    return data_table(("Metric (95 % interval, n)", *columns), [row for row in rows if any(row[1:])])


def _cell(estimate: Any) -> str:
    if not isinstance(estimate, Mapping) or estimate.get("value") is None:
        return ""
    low, high = estimate.get("low"), estimate.get("high")
    interval = "" if low is None or high is None else f" ({low:.3f} to {high:.3f})"
    return f"{estimate['value']:.3f}{interval}, {estimate.get('count')}"


def _verdict(title: str, results: Mapping[str, Any]) -> str:
    verdict = results.get("verdict") or {}
    light = verdict.get("light", "")
    sentences = "".join(f"<li>{html(str(each))}</li>" for each in verdict.get("sentences", ()))
    facts = {name: _said(results[name]) for name in _FACTS if results.get(name) not in (None, [], "")}
    pill = f"<span class='pill {_LIGHTS.get(light, '')}'>{html(light or 'no verdict')}</span>"
    return (
        f"<section class='card studio-verdict'><h3>{html(title)} {pill}</h3><ul>{sentences}</ul>"
        f"<details><summary>How it was measured</summary><dl>{definitions(facts)}</dl></details></section>"
    )


def _said(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)
