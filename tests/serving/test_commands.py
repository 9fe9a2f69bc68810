"""The command: what it refuses before anything is loaded, and what it says."""

from __future__ import annotations

import signal
import socket
from pathlib import Path

import pytest

from robometer_rl.cli import main
from robometer_rl.serving.commands import ServeConfig, listening, read_tokens, serve
from tests.fixed_models import PixelModel
from tests.golden import CHECKPOINT
from tests.serving.servers import start


def test_others_need_a_token_unless_it_is_said_that_they_do_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("ROBOMETER_RL_TOKEN", raising=False)
    for host in ("127.0.0.1", "localhost", "::1"):
        assert read_tokens(ServeConfig(host=host)) == ()
    for host in ("0.0.0.0", "::", "10.0.0.3", "gpu-box"):
        with pytest.raises(ValueError, match="--no-token"):
            read_tokens(ServeConfig(host=host))
        assert read_tokens(ServeConfig(host=host, no_token=True)) == ()
    file = tmp_path / "token"
    file.write_text(" secret\n")
    assert read_tokens(ServeConfig(host="0.0.0.0", token_file=file)) == ("secret",)
    file.write_text("secret\n\n of another \nsecret\n")
    assert read_tokens(ServeConfig(host="0.0.0.0", token_file=file)) == ("secret", "of another")
    monkeypatch.setenv("ROBOMETER_RL_TOKEN", "other")
    assert read_tokens(ServeConfig(token_file=file)) == ("secret", "of another")
    assert read_tokens(ServeConfig()) == ("other",)
    file.write_text(" ")
    with pytest.raises(ValueError, match="is empty"):
        read_tokens(ServeConfig(token_file=file))
    with pytest.raises(OSError):
        read_tokens(ServeConfig(token_file=tmp_path / "absent"))


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_what_is_accepted_sends_small_packets_at_once(host: str) -> None:
    """An answer that waits for the acknowledgement of its first packet is 40 ms late; asyncio looks at the protocol."""
    with listening(host, 0) as listener, socket.create_connection(listener.getsockname()[:2]):
        accepted, _ = listener.accept()
        with accepted:
            assert accepted.proto == socket.IPPROTO_TCP


def test_a_port_that_is_taken_is_said_before_a_model_is_loaded(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        assert main(["serve", "--port", port, "--model", "no/such/model"]) == 2
    assert "choose another --port" in capsys.readouterr().err


def test_a_model_that_cannot_be_loaded_ends_the_program(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["serve", "--port", "0", "--model", "no-such-model"]) == 2
    said = capsys.readouterr()
    assert "unknown model" in said.err
    assert "serving" not in said.out


@pytest.mark.parametrize("option", [{"port": 70_000}, {"lease_s": 0.0}, {"stream_memory_gb": -1.0}])
def test_options_that_make_no_sense_are_refused(option: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(option))):
        ServeConfig(**option)  # pyright: ignore[reportArgumentType]


def test_a_thread_of_the_model_that_ends_ends_the_server(monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that accepts requests and answers none would be worse than none."""

    def fail(*_: object) -> None:
        raise ZeroDivisionError("a bug")

    monkeypatch.setattr("robometer_rl.serving.slots.StreamTable.sweep", fail)
    with pytest.raises(ZeroDivisionError, match="a bug"):
        serve(ServeConfig(port=0), PixelModel)


def test_ctrl_c_ends_it_in_order() -> None:
    process = start("--model", str(CHECKPOINT), "--port", "0")
    process.process.send_signal(signal.SIGINT)
    output, _ = process.process.communicate()
    assert (process.process.returncode, "stopped" in output) == (0, True)
