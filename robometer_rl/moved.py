"""Where modules of version 0.1 live now: their old names can be imported for one version, with a warning."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Sequence
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import spec_from_loader
from types import ModuleType
from typing import Final

__all__ = ["MOVED", "install"]

MOVED: Final = {
    "data.clip_targets": "training.clip_targets",
    "data.collate": "training.collate",
    "data.collect": "collecting.collect",
    "data.commands": "formats.commands",
    "data.cutoffs": "data.targets",
    "data.formats": "formats.table",
    "data.importing": "formats.importing",
    "data.sampling": "training.sampling",
    "data.sources": "formats",
    "data.sources.agibot": "formats.agibot",
    "data.sources.cameras": "formats.conventions",
    "data.sources.encoded_images": "video.images",
    "data.sources.extras": "extras",
    "data.sources.hdf5": "formats.hdf5.demonstrations",
    "data.sources.jsonl": "formats.jsonl",
    "data.sources.lerobot": "formats.lerobot.reader",
    "data.sources.lerobot_frames": "formats.lerobot.reader",
    "data.sources.lerobot_layout": "formats.lerobot.layout",
    "data.sources.libero_env": "envs.libero",
    "data.sources.libero_hdf5": "formats.hdf5.reader",
    "data.sources.libero_policies": "collecting.libero_policies",
    "data.sources.libero_scene": "collecting.libero_scene",
    "data.sources.libero_skills": "collecting.libero_skills",
    "data.sources.metaworld": "envs.metaworld",
    "data.sources.metaworld_policies": "collecting.metaworld_policies",
    "data.sources.metaworld_skills": "collecting.metaworld_skills",
    "data.sources.minari": "formats.minari.reader",
    "data.sources.minari_hdf5": "formats.minari.layout",
    "data.sources.naming": "formats.trajectories",
    "data.sources.orientation": "video.lazy",
    "data.sources.outcomes": "formats.trajectories",
    "data.sources.reading": "data.reading",
    "data.sources.rlds": "formats.rlds",
    "data.sources.robomimic_hdf5": "formats.hdf5.reader",
    "data.sources.roboreward": "formats.roboreward",
    "data.sources.rollouts": "collecting.rollouts",
    "data.sources.simulators": "collecting.simulators",
    "data.sources.stored": "formats.store",
    "data.sources.timed_video": "video.decoding",
    "data.sources.video_frames": "data.video_frames",
    "data.sources.videos": "formats.videos",
    "data.target_config": "data.targets",
    "data.thinning": "data.subsampling",
    "evaluation.conditions": "evaluation.scoring",
    "evaluation.honesty": "evaluation.reward_hacking",
    "evaluation.perturbations": "evaluation.scoring",
    "evaluation.results": "evaluation.evaluate",
    "models.robometer.features": "models.robometer.feature_cache",
    "models.robometer.packed": "models.robometer.nested_pass",
    "models.robometer.prefix": "models.robometer.kv_cache",
    "models.robometer.repeated": "models.robometer.protocol_pass",
    "relabeling.dataset": "formats.dataset",
    "relabeling.decoding": "relabeling.batches",
    "relabeling.destinations": "formats.dataset",
    "relabeling.formats": "formats.table",
    "relabeling.hdf5": "formats.hdf5.detection",
    "relabeling.lerobot": "formats.lerobot.reader",
    "relabeling.lerobot_columns": "formats.lerobot.labels",
    "relabeling.lerobot_copy": "formats.lerobot.labels",
    "relabeling.lerobot_writers": "formats.lerobot.labels",
    "relabeling.metadata": "formats.dataset",
    "relabeling.minari": "formats.minari.reader",
    "relabeling.npz": "formats.npz",
    "relabeling.packs": "relabeling.batches",
    "relabeling.sb3": "relabeling.buffers",
    "relabeling.verify": "relabeling.engine",
    "relabeling.videos": "formats.videos",
    "report.canvas": "report.figures",
    "report.figure": "report.figures",
    "report.histogram": "report.figures",
    "training.adaptation": "training.trainable",
    "training.card": "training.publish",
    "training.distributed": "training.pipeline",
    "training.grounding": "training.objective",
    "training.legacy": "training.objective",
    "training.processes": "training.pipeline",
    "training.scratch": "training.from_scratch",
    "training.shape": "training.config",
    "training.tokenizer": "training.from_scratch",
    "training.vocabulary": "training.from_scratch",
    "wrappers.asynchronous": "wrappers.sb3.asynchronous",
    "wrappers.compatibility": "wrappers.sb3.check",
    "wrappers.labelled_buffer": "wrappers.sb3.replay_buffer",
    "wrappers.libero": "envs.libero",
    "wrappers.moments": "wrappers.observation_reader",
    "wrappers.monitoring": "wrappers.sb3.callback",
}
"""Old name to new name, both inside the package ``robometer_rl``."""


class _Moved(MetaPathFinder, Loader):
    """Imports a module under its old name: the same module, once, so that classes and state are not doubled."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        package, _, name = fullname.partition(".")
        return spec_from_loader(fullname, self) if package == __package__ and name in MOVED else None

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        name = f"{__package__}.{MOVED[spec.name.partition('.')[2]]}"
        # The level of whoever wrote the import: the machinery's own frames are not counted.
        warnings.warn(
            f"{spec.name} is now {name}; the old name goes with version 0.3", DeprecationWarning, stacklevel=2
        )
        module = import_module(name)
        spec.loader_state = module.__spec__
        return module

    def exec_module(self, module: ModuleType) -> None:
        # The machinery has just written the old name's spec into the module, which stays what it is.
        spec = module.__spec__
        assert spec is not None
        module.__spec__ = spec.loader_state


def install() -> None:
    """Makes the old names importable; a second call changes nothing."""
    if not any(isinstance(finder, _Moved) for finder in sys.meta_path):
        # In front: an old package has the path of a new one, in which a module of the old name may be another.
        sys.meta_path.insert(0, _Moved())
