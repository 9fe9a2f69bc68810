"""The files for a GPU server say what the program takes, counts and answers; nothing is built."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import tyro
import yaml

from robometer_rl.serving.commands import ServeConfig, read_tokens
from robometer_rl.serving.metrics import Metrics
from tests.fixed_models import PixelModel
from tests.library import ROOT

DEPLOY = ROOT / "deploy"
DOCKERFILE = (DEPLOY / "Dockerfile").read_text()


def instruction(name: str) -> list[str]:
    """The words of an instruction in exec form."""
    (found,) = re.findall(rf"^{name} (\[.*\])$", DOCKERFILE, re.MULTILINE)
    return json.loads(found)


def counted() -> set[str]:
    """Names of all metrics, as Prometheus knows them."""
    metrics = Metrics()
    metrics.note_model(PixelModel())
    text = metrics.text().decode()
    return set(re.findall(r"^# TYPE (robometer_\w+)", text, re.MULTILINE))


def test_the_image_starts_the_server_with_options_that_exist(tmp_path: Path) -> None:
    program, command, *words = [*instruction("ENTRYPOINT"), *instruction("CMD")]
    assert (program, command) == ("robometer-rl", "serve")
    config = tyro.cli(ServeConfig, args=words)
    assert (config.host, config.port, config.device) == ("0.0.0.0", 8000, "cuda")
    assert config.token_file == Path("/run/secrets/token")
    (tmp_path / "token").write_text("secret")
    words[words.index("/run/secrets/token")] = str(tmp_path / "token")
    assert read_tokens(tyro.cli(ServeConfig, args=words)) == ("secret",)


def test_what_the_image_copies_is_there_and_is_let_through() -> None:
    ignored = (ROOT / ".dockerignore").read_text().splitlines()
    copied = [shlex.split(line)[1:-1] for line in DOCKERFILE.splitlines() if line.startswith("COPY ")]
    for name in (name for names in copied for name in names):
        assert (ROOT / name).exists()
        assert f"!{name}" in ignored
    assert "USER 1000" in DOCKERFILE


def test_the_image_has_no_habit_that_a_linter_knows() -> None:
    done = subprocess.run([tool("hadolint"), DEPLOY / "Dockerfile"], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "")


def test_compose_reads_what_is_written_for_it() -> None:
    command = [tool("check-jsonschema"), "--builtin-schema", "vendor.compose-spec", DEPLOY / "compose.yaml"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def tool(name: str) -> Path:
    """A program that is installed beside this Python (extra ``dev``)."""
    return Path(sys.executable).parent / name


def test_compose_names_files_services_and_secrets_that_are_there() -> None:
    compose: dict[str, Any] = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
    build = compose["services"]["reward"]["build"]
    assert (DEPLOY / build["context"] / build["dockerfile"]).resolve() == DEPLOY / "Dockerfile"
    for service in compose["services"].values():
        assert set(service.get("secrets", [])) <= set(compose["secrets"])
        for volume in service.get("volumes", []):
            source = volume.split(":")[0]
            assert source in compose["volumes"] or (DEPLOY / source).is_file()
    (scraped,) = yaml.safe_load((DEPLOY / "prometheus.yaml").read_text())["scrape_configs"]
    assert scraped["static_configs"] == [{"targets": ["reward:8000"]}]
    assert scraped["authorization"]["credentials_file"] == "/run/secrets/token"
    (source,) = yaml.safe_load((DEPLOY / "grafana-sources.yaml").read_text())["datasources"]
    panels = json.loads((DEPLOY / "grafana.json").read_text())["panels"]
    assert {panel["datasource"]["uid"] for panel in panels} == {source["uid"]}


def test_the_dashboard_and_the_page_know_the_metrics_that_there_are() -> None:
    names = counted()
    suffixes = ("_total", "_bucket", "_sum", "_count")
    panels = json.loads((DEPLOY / "grafana.json").read_text())["panels"]
    shown = {
        name for panel in panels for target in panel["targets"] for name in re.findall(r"robometer_\w+", target["expr"])
    }
    described = set(re.findall(r"`(robometer_\w+)", (ROOT / "docs" / "serving.md").read_text()))
    for name in shown | described:
        base = next((name.removesuffix(suffix) for suffix in suffixes if name.endswith(suffix)), name)
        assert {name, base} & names, name


def test_the_page_explains_every_type_of_error() -> None:
    page = (ROOT / "docs" / "serving.md").read_text()
    kinds = set()
    for path in (ROOT / "robometer_rl" / "serving").glob("*.py"):
        kinds |= set(re.findall(r"Problem\(\s*\d{3},\s*\"(\w+)\"", path.read_text()))
    assert len(kinds) > 15
    # Nobody who has gone reads an answer.
    assert {kind for kind in kinds - {"client_gone"} if f"`{kind}`" not in page} == set()
