import base64
import json
import re
import shutil
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import yaml

from robometer_rl.cli import main
from robometer_rl.models.compact.checkpoint import CONFIG_FILE, WEIGHTS_FILE, save_compact
from robometer_rl.models.robometer.checkpoint import load_checkpoint, save_checkpoint
from robometer_rl.models.robometer.config import CheckpointError
from robometer_rl.models.robometer.inference import Robometer
from robometer_rl.provenance import RECORD_FILE, read_record
from robometer_rl.training.config import LoRA, TrainConfig
from robometer_rl.training.publish import PublishConfig, PublishError, model_card, prepare, publish
from robometer_rl.training.record import write_record
from robometer_rl.training.trainable import attach_lora
from tests.data.episodes import make_episodes_of_two_tasks
from tests.golden import CHECKPOINT
from tests.models.compact.tiny import tiny_checkpoint

REPORT = {"provenance": {"command": "robometer-rl train --data /home/me/store", "date": "2026-01-01"}, "seconds": {}}
EVALUATION = {
    "protocol": "uniform(8)",
    "every": 1,
    "episodes": {"expert": 6},
    "metrics": {
        "voc_pearson": {"value": 0.9123, "low": 0.9, "high": 0.95, "count": 6, "undefined": 0},
        "success_best_threshold": {"value": 0.7, "low": None, "high": None, "count": 6, "undefined": 0},
        "voc_pearson_still": {"value": None, "low": None, "high": None, "count": 0, "undefined": 6},
    },
}


@pytest.fixture
def checkpoint(tmp_path):
    directory = tmp_path / "checkpoint"
    save_checkpoint(directory, load_checkpoint(CHECKPOINT))
    config = TrainConfig(data=(Path("/home/me/store"),), output=Path("/home/me/run"))
    write_record(directory, config, make_episodes_of_two_tasks(2), REPORT)
    (directory / "optimizer.pt").write_bytes(b"1234")
    (directory / "trainer_state.json").write_text("{}")
    return directory


def _card(release):
    content = release.files["README.md"]
    return content.decode() if isinstance(content, bytes) else content.read_text()


def test_what_loading_needs_is_pushed_with_the_record_and_a_card(checkpoint, tmp_path):
    (tmp_path / "results.json").write_text(json.dumps(EVALUATION))
    config = PublishConfig(checkpoint, "me/robometer-kitchen", tmp_path / "results.json", license="apache-2.0")
    release = prepare(config)
    assert {"model.safetensors", "config.json", "config.yaml", "tokenizer.json", RECORD_FILE} <= set(release.files)
    assert not {"optimizer.pt", "trainer_state.json"} & set(release.files)
    assert release.sizes()["model.safetensors"] == (checkpoint / "model.safetensors").stat().st_size
    card = _card(release)
    metadata = yaml.safe_load(card.split("---")[1])
    assert (metadata["license"], metadata["library_name"]) == ("apache-2.0", "robometer_rl")
    for part in (
        'load_reward_model("me/robometer-kitchen")',
        "| made-up | 2 | 100 | 4 suboptimal, 4 successful |",
        "| `voc_pearson` | 0.912 | 0.900 to 0.950 | 6 |",
        "| `success_best_threshold` | 0.700 |  | 6 |",
        "`uniform(8)`, every 1 recorded frames, of 6 expert",
        "random weights",
    ):
        assert part in card
    assert "voc_pearson_still` |" not in card, "what is undefined is left out of the table"


def test_names_from_the_data_add_no_markup_to_the_card(checkpoint):
    evil = "<img src=x onerror=alert(1)>|x\n# Heading [a](b) `c`"
    stage = {"steps": 1}
    record = {
        "start": evil,
        "data": {evil: {"tasks": 1, "frames": 2, "episodes": {evil: 1}}},
        "options": {
            "pretraining": stage,
            "frozen": stage,
            "joint": stage,
            "seed": 0,
            "lora": {"rank": 1, "part": evil},
        },
    }
    evaluation = {
        "protocol": evil,
        "every": 1,
        "episodes": {evil: 3},
        "metrics": {evil: {"value": 0.5, "low": None, "high": None, "count": 3}},
    }
    card = model_card(f"you/{evil}", evil, Robometer(load_checkpoint(checkpoint), "it", "it"), record, evaluation)
    body = re.sub("```.*?```", "", card.split("---\n", 2)[2], flags=re.DOTALL)
    assert "<img" not in card.split("---\n", 2)[2]
    assert "\n# Heading" not in body
    assert "[a](b)" not in body
    assert yaml.safe_load(card.split("---\n")[1])["license"] == evil
    for table in (lines for lines in body.split("\n\n") if lines.startswith("|")):
        assert len({re.sub(r"\\.", "", line).count("|") for line in table.splitlines()}) == 1


def test_the_record_does_not_tell_where_things_were(checkpoint):
    text = (checkpoint / RECORD_FILE).read_text()
    assert "/home/me" not in text
    record = read_record(checkpoint)
    assert record["provenance"] == {"date": "2026-01-01"}
    assert record["options"]["frozen"]["steps"] == TrainConfig((Path("data"),), Path("run")).frozen.steps


def test_a_card_written_by_hand_is_kept(checkpoint):
    (checkpoint / "README.md").write_text("# By hand\n")
    assert _card(prepare(PublishConfig(checkpoint, "me/model"))) == "# By hand\n"


def test_what_was_not_recorded_is_said(checkpoint):
    (checkpoint / RECORD_FILE).unlink()
    card = _card(prepare(PublishConfig(checkpoint, "me/model")))
    assert "Not recorded." in card
    assert "Not measured." in card


def test_a_dry_run_lists_files_and_pushes_nothing(checkpoint, capsys):
    assert main(["publish", str(checkpoint), "me/model", "--dry-run"]) == 0
    shown = capsys.readouterr().out
    for part in ("model.safetensors", "README.md", "total", "MB", "# model", "nothing was pushed"):
        assert part in shown


@pytest.mark.parametrize("name", ["model", "me/model@main", "https://hub/me/model", ""])
def test_names_that_the_hub_does_not_take(checkpoint, name):
    with pytest.raises(PublishError, match="OWNER/NAME"):
        prepare(PublishConfig(checkpoint, name))


def test_a_directory_that_others_could_not_load_is_refused(checkpoint, tmp_path):
    with pytest.raises(PublishError, match="no checkpoint directory"):
        prepare(PublishConfig(tmp_path / "nothing", "me/model"))
    (checkpoint / "preprocessor_config.json").unlink()
    with pytest.raises(PublishError, match="no preprocessor_config"):
        prepare(PublishConfig(checkpoint, "me/model"))


def test_broken_weights_are_found_before_anything_is_pushed(checkpoint):
    (checkpoint / "model.safetensors").write_bytes(b"nonsense")
    with pytest.raises(CheckpointError, match="not a readable safetensors"):
        prepare(PublishConfig(checkpoint, "me/model"))


def test_an_adapter_of_a_directory_is_refused_and_one_of_a_name_is_not(checkpoint, tmp_path):
    adapted = load_checkpoint(checkpoint)
    attach_lora(adapted, LoRA(rank=2, targets=("q_proj",)), str(checkpoint), seed=0)
    save_checkpoint(tmp_path / "local", adapted)
    with pytest.raises(PublishError, match="which nobody else has"):
        prepare(PublishConfig(tmp_path / "local", "me/model"))
    mini = load_checkpoint(_mini())
    attach_lora(mini, LoRA(rank=2, targets=("q_proj",)), "mini", seed=0)
    save_checkpoint(tmp_path / "named", mini)
    release = prepare(PublishConfig(tmp_path / "named", "me/model"))
    assert {"adapter_model.safetensors", "adapter_config.json", "custom_heads.safetensors"} <= set(release.files)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "no evaluation at"),
        ("{}", "is not what"),
        ("[1]", "is not what"),
        ('{"metrics": {"voc": 1}, "protocol": "nested(8)", "every": 1, "episodes": {}}', "is not what"),
        ('{"metrics": {}, "protocol": 3, "every": 1, "episodes": {"failure": 2}}', "is not what"),
        ('{"metrics": {}, "protocol": "nested(8)", "every": 1}', "is not what"),
    ],
)
def test_an_evaluation_that_is_none_is_refused(checkpoint, tmp_path, content, message):
    path = tmp_path / "results.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(PublishError, match=message):
        prepare(PublishConfig(checkpoint, "me/model", path))


class _Hub(BaseHTTPRequestHandler):
    """As much of the Hub's interface as a commit of small files uses."""

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.requests.append((self.path, body))
        address = f"http://127.0.0.1:{self.server.server_port}/me/model"
        if self.path.endswith("/preupload/main"):
            files = [{"path": file["path"], "uploadMode": "regular"} for file in json.loads(body)["files"]]
            answer = {"files": [file | {"shouldIgnore": False} for file in files]}
        elif "/commit/" in self.path:
            answer = {"commitOid": "0" * 40, "commitUrl": f"{address}/commit/{'0' * 40}", "success": True}
        else:
            answer = {"url": address, "name": "me/model"}
        content = json.dumps(answer).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format, *args):
        pass


@pytest.fixture
def hub(monkeypatch):
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Hub)
    server.requests = []
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setenv("HF_TOKEN", "hf_test")
    yield server
    server.shutdown()
    server.server_close()


def test_everything_is_pushed_in_one_commit(checkpoint, hub, capsys):
    publish(PublishConfig(checkpoint, "me/model", message="First"))
    (commit,) = [body for path, body in hub.requests if "/commit/" in path]
    header, *operations = [json.loads(line) for line in commit.splitlines()]
    assert header["value"]["summary"] == "First"
    pushed = {entry["value"]["path"]: base64.b64decode(entry["value"]["content"]) for entry in operations}
    assert pushed["model.safetensors"] == (checkpoint / "model.safetensors").read_bytes()
    assert b"# model" in pushed["README.md"]
    assert set(pushed) == set(prepare(PublishConfig(checkpoint, "me/model")).files)
    assert "/me/model/commit/000" in capsys.readouterr().out


def test_pushed_files_make_a_checkpoint(checkpoint, tmp_path):
    there = tmp_path / "downloaded"
    there.mkdir()
    for name, content in prepare(PublishConfig(checkpoint, "me/model")).files.items():
        if isinstance(content, Path):
            shutil.copy(content, there / name)
    assert load_checkpoint(there).config == load_checkpoint(checkpoint).config


def _mini():
    from robometer_rl.models.locations import locate

    return locate("mini").directory


VERDICT = {
    "verdict": "do not use",
    "reasons": ["success above failure is 0.50, expected at least 0.90"],
    "checks": [{"name": "success above failure", "value": 0.5, "expected": "at least 0.90", "passed": False}],
    "outcomes": [{"name": "<b>expert</b>", "episodes": 4, "final": 0.9, "true_final": None, "fires": 1.0}],
    "held_out": 8,
}


@pytest.mark.parametrize("trained", [{}, {"verdict": VERDICT, "data": {"tasks": "a | b"}, "steps": 400}])
def test_a_compact_model_is_published_with_its_verdict(tmp_path, trained):
    save_compact(tmp_path / "checkpoint", tiny_checkpoint().configured(trained=trained))
    (tmp_path / "results.json").write_text(json.dumps(EVALUATION))
    release = prepare(PublishConfig(tmp_path / "checkpoint", "me/reacher", tmp_path / "results.json"))
    assert set(release.files) == {CONFIG_FILE, WEIGHTS_FILE, "README.md"}
    card = _card(release)
    parts = [
        'load_reward_model("compact:me/reacher")',
        "| Instructions | open the drawer; close the drawer |",
        "voc_pearson",
    ]
    if trained:
        parts += [
            "## Verdict: do not use",
            "- success above failure is 0.50",
            "| a \\| b |",
            "| 4 | 0.90 |  |",
            "400 steps",
        ]
    else:
        parts += ["Not recorded."]
    for part in parts:
        assert part in card
    assert "<b>" not in card


def test_a_compact_model_with_strange_notes_takes_a_card_of_ones_own(tmp_path):
    directory = tmp_path / "checkpoint"
    save_compact(directory, tiny_checkpoint().configured(trained={"verdict": "good"}))
    with pytest.raises(
        PublishError, match=r"not what robometer-rl adapt writes .* put a README.md of your own into it"
    ):
        prepare(PublishConfig(directory, "me/reacher"))
    (directory / "README.md").write_text("# Mine")
    assert _card(prepare(PublishConfig(directory, "me/reacher"))) == "# Mine"
