"""Pickles that name other things than a buffer consists of, or are damaged, are not opened."""

from __future__ import annotations

import builtins
import io
import os
import pickle
import subprocess
from contextlib import suppress
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from hypothesis import given, settings
from hypothesis import strategies as st
from stable_baselines3.common import buffers
from stable_baselines3.common.save_util import save_to_pkl

from robometer_rl.data.reading import SourceError
from robometer_rl.formats.buffer_files import load_buffer
from robometer_rl.formats.dataset import DatasetOptions
from robometer_rl.formats.sb3 import BufferDataset
from robometer_rl.wrappers.sb3.replay_buffer import LabelledReplayBuffer

IMAGE = spaces.Box(0, 255, (8, 8, 3), np.uint8)
DICT = spaces.Dict({"front": IMAGE, "state": spaces.Box(-np.inf, np.inf, (2,))})
ACTIONS = (spaces.Box(-1, 1, (2,)), spaces.Discrete(3), spaces.MultiDiscrete([2, 3]), spaces.MultiBinary(3))


def made(kind: type = buffers.ReplayBuffer, space: spaces.Space = IMAGE, action: spaces.Space = ACTIONS[0], **options):
    action.sample()  # its random generator is saved with it
    buffer = kind(20, space, action, device="cpu", **options)
    buffer.rewards[:] = np.arange(20)[:, None]
    buffer.pos = 5
    return buffer


def saved(path: Path, content: object, protocol: int = pickle.HIGHEST_PROTOCOL) -> Path:
    path.write_bytes(pickle.dumps(content, protocol))
    return path


@pytest.mark.parametrize("protocol", [3, 4, 5])
@pytest.mark.parametrize(
    "buffer",
    [
        *(made(action=action) for action in ACTIONS),
        made(optimize_memory_usage=True, handle_timeout_termination=False),
        made(buffers.DictReplayBuffer, DICT),
        made(buffers.NStepReplayBuffer),
        made(LabelledReplayBuffer),
    ],
    ids=lambda buffer: f"{type(buffer).__name__}-{buffer.action_space}",
)
def test_what_stable_baselines_saves_is_opened(tmp_path, buffer, protocol):
    vars(buffer)["robometer"] = {
        "rewards": buffer.rewards,
        "metadata": {"x": np.float32(3)},
        "o": np.array([None, "x"]),
    }
    save_to_pkl(tmp_path / "sb3.pkl", buffer)
    for path in (tmp_path / "sb3.pkl", saved(tmp_path / "other.pkl", buffer, protocol)):
        found = load_buffer(path)
        assert type(found) is type(buffer)
        assert found.action_space == buffer.action_space
        np.testing.assert_array_equal(found.rewards, buffer.rewards)
        assert found.robometer["metadata"]["x"] == 3
        assert found.robometer["o"].tolist() == [None, "x"]
        found.rewards[:] = 1  # may be written to


class Call:
    """Pickled as a call of a function."""

    def __init__(self, function, *arguments):
        self.function, self.arguments = function, arguments

    def __reduce__(self):
        return self.function, self.arguments


MARK = "code-ran"


@pytest.mark.parametrize(
    "evil",
    [
        Call(os.mkdir, MARK),
        Call(os.system, f"mkdir {MARK}"),
        Call(builtins.exec, f"import os; os.mkdir({MARK!r})"),
        Call(builtins.eval, f"__import__('os').mkdir({MARK!r})"),
        Call(builtins.getattr, {}, "get"),
        Call(subprocess.run, ["mkdir", MARK]),
        Call(io.open, MARK, "w"),
        # Within packages that a buffer has to do with:
        Call(np.save, MARK, np.zeros(3)),
        Call(np.memmap, MARK, "u1", "w+", 0, (10,)),
        Call(np.load, MARK),
        Call(np.fromfile, "/etc/passwd"),
        Call(torch.load, MARK),
        Call(torch.save, {}, MARK),
        Call(gym.make, "CartPole-v1"),
        Call(save_to_pkl, MARK, 3),
        Call(np.vectorize, os.mkdir),
        Call(np.testing._private.utils.runstring, f"import os; os.mkdir({MARK!r})", {}),
    ],
    ids=lambda evil: f"{evil.function.__module__}.{evil.function.__qualname__}",
)
@pytest.mark.parametrize("hidden", [False, True])
def test_code_that_a_pickle_names_is_not_run(tmp_path, monkeypatch, evil, hidden):
    monkeypatch.chdir(tmp_path)
    buffer = made()
    vars(buffer)["extra"] = evil
    with pytest.raises(SourceError, match=r"buffer\.pkl is not opened, because it names .*trust-pickle"):
        load_buffer(saved(tmp_path / "buffer.pkl", buffer if hidden else evil))
    assert os.listdir(tmp_path) == ["buffer.pkl"]


def test_a_trusted_file_may_name_anything(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    buffer = made()
    vars(buffer)["extra"] = Call(os.mkdir, MARK)
    found = load_buffer(saved(tmp_path / "buffer.pkl", buffer), trusted=True)
    assert (tmp_path / MARK).is_dir()
    assert len(found.rewards) == 20


@pytest.mark.parametrize(
    "program",
    [
        # numpy.dtype("O") changed so that an array of it takes bytes for pointers
        b"\x80\x04cnumpy\ndtype\n(V\x4f8\nI00\nI01\ntR(I3\nV|\nNNNI-1\nI-1\nI0\ntb.",
        # numpy.ndarray((1,), "O", bytes)
        b"\x80\x04cnumpy\nndarray\n((I1\ntV\x4f\nB\x08\x00\x00\x00AAAAAAAAtR.",
        # an array of objects around bytes
        b"\x80\x04cnumpy._core.numeric\n_frombuffer\n(B\x08\x00\x00\x00AAAAAAAAcnumpy\ndtype\n(V\x4f\ntR(I1\ntVC\ntR.",
        # attributes of a class
        b"\x80\x04cstable_baselines3.common.buffers\nReplayBuffer\n(N}V\x61dd\nI1\nstb.",
        # a name within a name
        b"\x80\x04V\x73table_baselines3.common.buffers\nVReplayBuffer.__init__.__globals__\n\x93.",
        b"\x80\x04cstable_baselines3.common.buffers\npsutil\n.",
        b"cos\nsystem\n(V\x6dkdir code-ran\ntR.",
        b"(V\x6dkdir code-ran\nios\nsystem\n.",
    ],
)
def test_programs_that_no_pickler_writes_are_refused(tmp_path, monkeypatch, program):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "buffer.pkl").write_bytes(program)
    with pytest.raises(SourceError, match="buffer"):
        load_buffer(tmp_path / "buffer.pkl")
    assert os.listdir(tmp_path) == ["buffer.pkl"]
    assert "add" not in vars(buffers.ReplayBuffer) or callable(buffers.ReplayBuffer.add)


def whole() -> bytes:
    """The same bytes in every run: the generators of spaces are saved with a buffer."""
    parts = spaces.Box(0, 255, IMAGE.shape, np.uint8), spaces.Discrete(2)
    for part in parts:
        part.seed(0)
    return pickle.dumps(made(space=parts[0], action=parts[1]), pickle.HIGHEST_PROTOCOL)


WHOLE = whole()


@given(st.lists(st.tuples(st.integers(0, len(WHOLE) - 1), st.integers(0, 255)), max_size=8), st.integers(0, len(WHOLE)))
@settings(max_examples=200)
def test_damage_is_an_error_in_words(tmp_path_factory, changes, length):
    content = bytearray(WHOLE)
    for place, value in changes:
        content[place] = value
    path = tmp_path_factory.getbasetemp() / "damaged.pkl"
    path.write_bytes(content[: length if length % 2 else None])
    with suppress(SourceError):
        BufferDataset(load_buffer(path), DatasetOptions(path, tasks=("open the drawer",)))


@pytest.mark.parametrize(("whole", "damaged"), [(b"\x8c\x03cpu", b"\x8c\x03cpx"), (b"\x8c\x04full", b"\x8c\x04fall")])
def test_values_that_libraries_refuse_are_errors_in_words(tmp_path, whole, damaged):
    assert WHOLE.count(whole) == 1
    path = tmp_path / "buffer.pkl"
    path.write_bytes(WHOLE.replace(whole, damaged))
    with pytest.raises(SourceError, match=r"buffer\.pkl"):
        BufferDataset(load_buffer(path), DatasetOptions(path, tasks=("x",)))


@pytest.mark.parametrize("content", [b"", b"not a pickle", pickle.dumps({"rewards": 1}), pickle.dumps(None)])
def test_what_is_no_buffer_is_refused(tmp_path, content):
    path = tmp_path / "buffer.pkl"
    path.write_bytes(content)
    with pytest.raises(SourceError, match=r"buffer\.pkl"):
        BufferDataset(load_buffer(path), DatasetOptions(path, tasks=("x",)))


@pytest.mark.parametrize(
    "change",
    [
        {"rewards": np.zeros((3, 1))},
        {"observations": {}},
        {"pos": 1000},
        {"pos": 2.5},
        {"full": None},
        {"robometer": 3},
        {"next_observations": None},
    ],
    ids=lambda change: next(iter(change)),
)
def test_a_buffer_whose_arrays_do_not_fit_each_other_is_refused(tmp_path, change):
    buffer = made()
    vars(buffer).update(change)
    with pytest.raises(SourceError, match=r"damaged|robometer"):
        BufferDataset(load_buffer(saved(tmp_path / "x.pkl", buffer)), DatasetOptions(tmp_path / "x.pkl", tasks=("x",)))
