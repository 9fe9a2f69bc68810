"""The loop from end to end: a made-up world, a small image network and few steps, and the embedded model."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import pytest

from robometer_rl import load_reward_model
from robometer_rl.adapting.adapt import adapt
from robometer_rl.adapting.config import AdaptConfig
from robometer_rl.cli import main
from robometer_rl.data.store import TrajectoryStore
from robometer_rl.hardening import harden as module
from robometer_rl.hardening.config import HardenConfig
from robometer_rl.hardening.harden import Round, harden
from robometer_rl.models.reward_model import UnsupportedByModelError
from tests.adapting.recordings import TASK, recording, recordings, store_of, tower

pytest.importorskip("stable_baselines3")

WORLD = "tests.hardening.world:make"


@pytest.fixture(scope="module")
def adapted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with recordings and a compact model of them."""
    folder = tmp_path_factory.mktemp("adapted")
    store_of(folder / "store", recordings(6))
    adapt(AdaptConfig(folder / "store", folder / "run", steps=5, minutes=60.0, device="cpu"), tower())
    return folder


def config(adapted: Path, output: Path, **fields: object) -> HardenConfig:
    given = {
        "model": str(adapted / "run" / "checkpoint"), "env": WORLD, "store": adapted / "store", "output": output,
        "task": TASK, "rounds": 1, "decisions": 30, "distance": "info/missing", "steps": 4, "keep": 2, "pays": 1e-9,
        "mode": "level",
    }  # fmt: skip
    return HardenConfig(**{**given, **fields})  # pyright: ignore[reportArgumentType]


def test_agents_and_the_model_take_turns(adapted: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = TrajectoryStore.open(adapted / "store").ids()
    asked = config(adapted, tmp_path / "hard")
    words = shlex.split(module._command(asked))[1:]
    assert main(words) == 0
    printed = capsys.readouterr().out
    assert "verdict: failures still pay; by level" in printed
    assert "--rounds 3" in printed, "what is typed to go on"
    assert TrajectoryStore.open(adapted / "store").ids() == before
    record = json.loads((tmp_path / "hard" / "hardening.json").read_text())
    first, second = (Round.from_dict(each) for each in record["rounds"])
    assert (first.model, Path(second.model)) == (asked.model, tmp_path / "hard" / "round-1" / "model" / "checkpoint")
    load_reward_model(second.model)
    assert list(first.farming) == ["delta", "level"], "a compact model does not say how sure it is"
    # Every whole episode is recorded, with a seed of its own, of another agent in each round.
    agents = [list(TrajectoryStore.open(tmp_path / "hard" / f"round-{number}" / "episodes")) for number in (0, 1)]
    assert [len(each) for each in agents] == [first.episodes, second.episodes] == [3, 3]
    assert [each.seed for each in agents[0]] == [10_000_000, 10_000_001, 10_000_002]
    assert not {each.seed for each in agents[0]} & {each.seed for each in agents[1]}
    assert all(each.success is not None and each.distance is not None for each in agents[0])
    learned = TrajectoryStore.open(tmp_path / "hard" / "recordings")
    assert set(learned.ids()) == set(first.lessons)
    assert {each.data_source for each in learned} == {"harden-0"}
    trained = json.loads((tmp_path / "hard" / "round-1" / "model" / "verdict.json").read_text())
    assert trained["steps"] == 4
    assert {*trained["episodes"]["training"], *trained["episodes"]["held_out"]} > set(first.lessons)
    assert "agent_level_1" in (tmp_path / "hard" / "page" / "index.html").read_text()
    # The same again does nothing again.
    stamps = {path: path.stat().st_mtime_ns for path in (tmp_path / "hard").glob("round-*/round.json")}
    again = harden(asked)
    assert {path: path.stat().st_mtime_ns for path in stamps} == stamps
    assert again.rounds == (first, second)


def test_a_model_whose_failures_do_not_pay_is_left_alone(adapted: Path, tmp_path: Path) -> None:
    found = harden(config(adapted, tmp_path / "hard", pays=1.0, rounds=3))
    assert (len(found.rounds), found.holds, found.best.number) == (1, True, 0)
    assert not (tmp_path / "hard" / "round-1").exists()


@pytest.mark.parametrize("part", ["train_agent", "teach"])
def test_an_interruption_keeps_what_is_finished(
    part: str, adapted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = config(adapted, tmp_path / "hard")
    usual, calls = getattr(module, part), []

    def interrupted(*given: object) -> object:
        calls.append(given)
        if part == "teach" or len(calls) == 2:
            usual(*given)
            raise KeyboardInterrupt
        return usual(*given)

    monkeypatch.setattr(module, part, interrupted)
    assert main(shlex.split(module._command(asked))[1:]) == 130
    assert "the same command goes on from there" in " ".join(capsys.readouterr().err.split())
    stamp = (tmp_path / "hard" / "round-0" / "round.json").stat().st_mtime_ns
    assert not (tmp_path / "hard" / "round-1" / "round.json").exists()
    monkeypatch.setattr(module, part, usual)
    found = harden(asked)
    assert [each.episodes for each in found.rounds] == [3, 3], "an agent that was interrupted begins again"
    assert (tmp_path / "hard" / "round-0" / "round.json").stat().st_mtime_ns == stamp


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"env": "Nothing-v7"}, "'Nothing-v7' is not registered"),
        ({"model": "clock"}, "family 'control', which nothing here trains"),
        ({"task": "open the drawer"}, "holds no success of the task 'open the drawer'"),
        ({"store": Path("nowhere")}, "there is no store"),
        ({"confidence": 0.7}, "needs a distribution over progress"),
        ({"distance": "missing"}, "missing"),
    ],
)
def test_what_fails_before_it_begins_leaves_nothing_that_refuses_the_next(
    fields: dict, message: str, adapted: Path, tmp_path: Path
) -> None:
    with pytest.raises((ValueError, UnsupportedByModelError), match=message):
        harden(config(adapted, tmp_path / "hard", **fields))
    assert not (tmp_path / "hard").exists()


def test_another_run_is_not_gone_on_with(adapted: Path, tmp_path: Path) -> None:
    harden(config(adapted, tmp_path / "hard", rounds=0))
    with pytest.raises(ValueError, match="holds a run with another decisions, mode; choose another output"):
        harden(config(adapted, tmp_path / "hard", mode="delta", decisions=31))


def test_episodes_that_do_not_end_are_an_error(adapted: Path, tmp_path: Path) -> None:
    endless = config(adapted, tmp_path / "hard", env_options='{"steps": 1000}', decisions=5)
    with pytest.raises(ValueError, match=r"no episode of tests\.hardening\.world:make has ended within 10 decisions"):
        harden(endless)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"rounds": -1}, "rounds"),
        ({"decisions": 0}, "decisions"),
        ({"pays": 0.0}, "pays"),
        ({"mode": "success"}, "mode must be 'delta' or 'level'"),
        ({"confidence": 1.5}, "confidence"),
        ({"env_options": "[]"}, "object|dictionary|mapping"),
        ({"task": " "}, "task|instruction"),
        ({"seed": 1000}, "seed must be from 0 to 999"),
        ({"steps": 0}, "steps"),
    ],
)
def test_options_have_limits(fields: dict, message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        config(tmp_path, tmp_path / "hard", **fields)


@pytest.mark.slow
def test_a_robometer_is_fine_tuned_and_then_its_adapter(tmp_path: Path) -> None:
    store_of(
        tmp_path / "store",
        [recording(kind, 100 * n + s) for n, kind in enumerate(("expert", "half")) for s in range(6)],
    )
    asked = config(tmp_path, tmp_path / "hard", model="mini", rounds=2, mode="level", steps=2)
    found = harden(asked)
    assert list(found.rounds[0].farming) == ["delta", "level", "confident delta", "confident level"]
    for each in found.rounds[1:]:
        described = json.loads((Path(each.model) / "adapter_config.json").read_text())
        assert described["base_model_name_or_path"] == "mini"
