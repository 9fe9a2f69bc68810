from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import tyro

from robometer_rl.cli import main
from robometer_rl.studio.commands import ServeConfig, UiConfig


def test_the_embedded_model_is_asked_where_nothing_else_is_said() -> None:
    assert UiConfig().models().names == ("mini",)
    assert UiConfig(server="http://:secret@robots:8000").models().names == ("http://robots:8000",)
    both = UiConfig(server="http://robots:8000", model=("mini",)).models()
    assert both.names == ("http://robots:8000", "mini")


def test_others_reach_it_only_if_that_is_said() -> None:
    with pytest.raises(ValueError, match="--public"):
        UiConfig(host="0.0.0.0")
    assert UiConfig(host="0.0.0.0", public=True).host == "0.0.0.0"


@pytest.mark.parametrize("wrong", [{"port": 70_000}, {"upload_mb": 0}])
def test_wrong_numbers_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        UiConfig(**wrong)


def test_places_may_be_given_as_on_a_command_line(tmp_path: Path) -> None:
    read = tyro.cli(UiConfig, args=["--data", str(tmp_path), str(tmp_path / "a"), "--model", "mini", "clock"])
    assert read.data == (tmp_path, tmp_path / "a")
    assert read.model == ("mini", "clock")


def test_a_server_has_the_studio_only_if_that_is_said(tmp_path: Path) -> None:
    words = ["--ui", "--data", str(tmp_path), "--no-token", "--limits.body", "1000"]
    read = tyro.cli(ServeConfig, args=words)
    assert (read.ui, read.data, read.no_token, read.limits.body) == (True, (tmp_path,), True, 1000)
    with pytest.raises(ValueError, match="say --ui, too"):
        ServeConfig(data=(tmp_path,))
    with pytest.raises(ValueError, match="put a proxy in front"):
        ServeConfig(ui=True, ssl_certfile=tmp_path / "certificate")
    with pytest.raises(ValueError, match="port"):
        ServeConfig(port=70_000)


def test_data_that_is_not_there_is_said_before_a_model_is_loaded(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("gradio")
    pytest.importorskip("prometheus_client")
    words = ["--ui", "--data", str(tmp_path / "absent"), "--port", "0", "--model", "no-such-model"]
    assert main(["serve", *words]) == 2
    assert "there is nothing at" in capsys.readouterr().err
