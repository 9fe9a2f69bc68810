"""Relabelling through a server that is killed again and again gives the labels of an unbroken run."""

from __future__ import annotations

import random
import shutil
import threading
from pathlib import Path

import pytest

from robometer_rl.models.loading import load_reward_model
from robometer_rl.relabeling.engine import Labeller
from tests.fixed_models import PixelModel
from tests.library import ROOT
from tests.relabeling.killing import PACK_TOKENS, copied
from tests.relabeling.kinds import KINDS, content, make
from tests.serving.servers import Process, start

FAMILY = """
from tests.fixed_models import PixelModel

def load(where):
    return PixelModel()
"""


def relabel_while_the_server_dies(tmp_path: Path, kills: int, episodes: int) -> None:
    (tmp_path / "pixel_family.py").write_text(FAMILY)
    environment = {"PYTHONPATH": f"{ROOT}:{tmp_path}"}
    dataset = make("npz", tmp_path / "original", episodes)
    unbroken, through = copied(dataset, tmp_path / "unbroken"), copied(dataset, tmp_path / "through")
    KINDS["npz"].run(unbroken, Labeller(PixelModel(), pack_tokens=PACK_TOKENS), verify=True)
    servers: list[Process] = [start("--model", "pixel_family:x", "--port", "0", environment=environment)]
    port = servers[0].url.rpartition(":")[2]
    model = load_reward_model(servers[0].url, patience=600.0)
    done, chance = threading.Event(), random.Random(0)

    def kill() -> None:
        for _ in range(kills):
            done.wait(chance.uniform(0.0, 0.1))
            servers[-1].kill()
            servers.append(start("--model", "pixel_family:x", "--port", port, environment=environment))

    killing = threading.Thread(target=kill)
    killing.start()
    rounds = 0
    while killing.is_alive() or not rounds:
        shutil.rmtree(tmp_path / "through")
        through = copied(dataset, tmp_path / "through")
        KINDS["npz"].run(through, Labeller(model, pack_tokens=PACK_TOKENS), verify=True)
        assert content(through) == content(unbroken)
        rounds += 1
    done.set()
    killing.join()
    assert servers[-1].stop()[0] == 0


def test_a_server_that_is_killed_changes_no_label(tmp_path: Path) -> None:
    relabel_while_the_server_dies(tmp_path, kills=1, episodes=5)


@pytest.mark.slow
def test_a_server_that_is_killed_twenty_times_changes_no_label(tmp_path: Path) -> None:
    relabel_while_the_server_dies(tmp_path, kills=20, episodes=25)
