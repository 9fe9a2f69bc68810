"""Reading and writing checkpoint directories.

A full directory holds ``config.yaml`` (settings), ``config.json`` (backbone shape), weights, and the tokenizer and
preprocessor files. The two configuration files are carried through a load and a save, so that a checkpoint that the
reference can read stays one. Other layouts say the same elsewhere:

- the reference's trainer may leave the tokenizer out (the base model's is used) and keeps ``config.yaml`` one directory
  up, for all checkpoints of a run;
- LeRobot's conversions have settings and backbone shape in one ``config.json`` of their own;
- adapters (`adapters`) have neither backbone nor its shape: both are their base's.

docs/checkpoints.md describes them for users.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from robometer_rl.documents import brief, read_text
from robometer_rl.files import new_files, write_text
from robometer_rl.models.locations import TOKENIZER_FILES, UnknownModelError, locate
from robometer_rl.models.robometer.adapters import (
    ADAPTER_CONFIG_FILE,
    Adapter,
    adapter_of,
    attach_adapter,
    check_base,
    peft_section,
    plain_state,
    read_adapter,
    split_adapter,
    write_adapter,
)
from robometer_rl.models.robometer.backbone import BACKBONE_FILE, Backbone, parse_settings, read_backbone
from robometer_rl.models.robometer.config import CheckpointError, RobometerConfig, blamed_on
from robometer_rl.models.robometer.network import RobometerNetwork
from robometer_rl.models.robometer.patches import FramePatcher
from robometer_rl.models.robometer.processing import PREPROCESSOR_FILE, RobometerProcessor
from robometer_rl.models.robometer.quantization import WeightFormat, quantize
from robometer_rl.models.robometer.weights import (
    WEIGHTS_FILE,
    State,
    check_coverage,
    common_precision,
    normalise_keys,
    read_weights,
    require_finite,
    write_file,
)

__all__ = ["Checkpoint", "build_network", "load_checkpoint", "save_checkpoint"]

logger = logging.getLogger(__name__)

SETTINGS_FILE = "config.yaml"
TOKENIZER_FILE = "tokenizer_config.json"


@dataclass
class Checkpoint:
    """What a directory holds.

    Attributes:
        network: In evaluation mode after loading.
        processor: Tokenizer, prompts, preprocessing.
        backbone_json: The text of ``config.json``, written back as it was read.
        weights: The format of quantised weights; None where they are in the network's own precision.
    """

    network: RobometerNetwork
    processor: RobometerProcessor
    backbone_json: str
    weights: WeightFormat | None = None

    @property
    def config(self) -> RobometerConfig:
        """Settings."""
        return self.processor.config

    @property
    def precision(self) -> str:
        """What the model computes in, for the record: ``bfloat16``, or ``bfloat16 (int8 weights)``."""
        dtype = str(self.network.dtype).removeprefix("torch.")
        return dtype if self.weights is None else f"{dtype} ({self.weights} weights)"


@dataclass
class _Files:
    """The content of a directory and of what it refers to, weights still on disk.

    Attributes:
        state: The network's weights, without an adapter's.
        adapter: Its adapter, if it has one.
    """

    config: RobometerConfig
    backbone_json: str
    processor: RobometerProcessor
    state: State
    adapter: Adapter | None


def load_checkpoint(
    directory: Path,
    device: str | torch.device = "cpu",
    dtype: torch.dtype | None = None,
    attn_implementation: str = "sdpa",
    weights: WeightFormat | None = None,
    base_model: str | Path | None = None,
) -> Checkpoint:
    """Loads a checkpoint directory.

    Args:
        directory: In any of the layouts that this module knows.
        device: Where to put the weights.
        dtype: Precision; as stored if None, see `robometer_rl.models.robometer.weights.common_precision`. Adapters take
            that of their base: they are trained in float32.
        attn_implementation: A name that transformers knows; ``sdpa`` and ``eager`` can do everything.
        weights: A format to quantise to, see `quantization`.
        base_model: Where the base model is, instead of where the checkpoint says; see `load_reward_model`.

    Raises:
        CheckpointError: A missing or damaged file, a missing key, a value that does not fit, or weights that are no
            numbers in this precision; the message names it.
    """
    target = torch.device(device)
    files = _read(directory, base_model)
    dtype = dtype or common_precision(files.state, directory)
    with blamed_on(directory):
        network = build_network(files.processor)
    network.model.set_attn_implementation(attn_implementation)
    check_coverage(network.state_dict(), files.state, _weights_of(directory, files.adapter))
    # What is quantised goes to the device only afterwards.
    host = target if weights is None else torch.device("cpu")
    network.load_state_dict(_placed(files.state, host, dtype), strict=True, assign=True)
    with blamed_on(directory / BACKBONE_FILE):
        network.backbone.restore_buffers(network.model, host)
    if files.adapter is not None:
        files.adapter.state = _placed(files.adapter.state, host, dtype)
        attach_adapter(network, files.adapter, directory)
    require_finite(network.state_dict(), directory)
    if weights is not None:
        quantize(network, weights, target)
    return Checkpoint(network.eval(), files.processor, files.backbone_json, weights)


def save_checkpoint(directory: Path, checkpoint: Checkpoint, gathered: State | None = None) -> None:
    """Writes a checkpoint that `load_checkpoint` reads back with bit-equal weights; nothing that it would refuse.

    A network with an adapter whose LoRA states its base (``base_model_name_or_path``) is written as adapter and heads;
    everything else in full.

    Args:
        directory: May not exist yet.
        checkpoint: What to write.
        gathered: The weights, where the network is spread over several processes; it has no adapter then.

    Raises:
        CheckpointError: Quantised weights, weights that are no numbers, anything else that could not be loaded again, a
            backbone that is not the stated base any more, or a directory that holds a checkpoint of the other kind.
    """
    if checkpoint.weights is not None:
        raise CheckpointError(f"{checkpoint.weights} weights are for inference; save the checkpoint they came from")
    adapter = adapter_of(checkpoint.network)
    apart = adapter is not None and adapter.lora.base_model_name_or_path is not None
    other = directory / (WEIGHTS_FILE if apart else ADAPTER_CONFIG_FILE)
    if other.exists():
        raise CheckpointError(f"{directory} holds a checkpoint of another kind ({other.name}); save to an empty one")
    config = checkpoint.config
    state = checkpoint.network.state_dict() if gathered is None else gathered
    require_finite(state, "the network")
    # The settings come last: with them a checkpoint is complete.
    with new_files(directory, last=SETTINGS_FILE) as files:
        if adapter is not None and apart:
            _save_adapter(files, checkpoint.network, adapter)
        else:
            (files / BACKBONE_FILE).write_text(checkpoint.backbone_json)
            if adapter is not None:
                config = config.updated(settings={**config.settings, "peft": peft_section(adapter)})
            write_file(files / WEIGHTS_FILE, state)
        checkpoint.processor.save(files)
        (files / SETTINGS_FILE).write_text(config.to_yaml())
        try:
            # Takes no memory for weights; what a LoRA or the settings may hold is nobody else's to know.
            load_checkpoint(files, "meta")
        except CheckpointError as error:
            raise CheckpointError(f"not saved, because it could not be loaded again: {error}") from error


def write_success_threshold(directory: Path, threshold: float) -> None:
    """Writes a calibrated success threshold into the settings of a checkpoint on disk; weights are not touched.

    Raises:
        CheckpointError: The directory has no settings of its own.
    """
    file = directory / SETTINGS_FILE
    if not file.is_file():
        raise CheckpointError(f"{directory} has no {SETTINGS_FILE} of its own that a threshold could be written into")
    config = _settings(file).updated(success_threshold=threshold)
    write_text(file, config.to_yaml())


def build_network(processor: RobometerProcessor) -> RobometerNetwork:
    """A network without weights (on the meta device) for a processor.

    Raises:
        CheckpointError: The backbone cannot be built, or the tokenizer or the preprocessor is not one for it.
    """
    backbone = processor.backbone
    rows, entries = backbone.vocabulary, len(processor.tokenizer)
    if rows != entries:
        raise CheckpointError(
            f"{BACKBONE_FILE} has a vocabulary of {rows}, the tokenizer has {entries} entries (tokenizer.json, "
            f"{TOKENIZER_FILE}); the embedding of a Robometer is cut to the tokenizer's length"
        )
    special = processor.tokens.special_ids(processor.config.multi_image)
    with blamed_on(BACKBONE_FILE), torch.device("meta"):
        network = RobometerNetwork(backbone, processor.config, special)
    _check_patches(network, processor)
    return network


def _check_patches(network: RobometerNetwork, processor: RobometerProcessor) -> None:
    tower, patcher = network.tower, processor.patcher
    if not isinstance(patcher, FramePatcher):
        return  # its sizes are those of the tower
    read, cut = (tower.patch_size, tower.spatial_merge_size), (patcher.patch_size, patcher.merge_size)
    if read != cut:
        raise CheckpointError(
            f"{BACKBONE_FILE} has patches and merged squares of {read}, {PREPROCESSOR_FILE} of {cut}; frames are to be "
            "cut as the tower reads them"
        )


def _weights_of(directory: Path, adapter: Adapter | None) -> str:
    """Where weights come from and what says what they should be, for errors."""
    names = ", ".join(sorted(path.name for path in directory.glob("*.safetensors")))
    base = f" and the base {adapter.lora.base_model_name_or_path}" if adapter is not None else ""
    return f"{directory} ({names}){base}, which {BACKBONE_FILE} and {SETTINGS_FILE} describe,"


def _read(directory: Path, base_model: str | Path | None) -> _Files:
    """Reads a directory of any layout."""
    if (directory / ADAPTER_CONFIG_FILE).is_file():
        return _read_adapted(directory, base_model)
    file = directory / BACKBONE_FILE
    backbone_json = _text(file)
    with blamed_on(file):
        described = parse_settings(backbone_json)
        is_lerobots = described.get("type") == "robometer" and "vlm_config" in described
        backbone_json = (
            json.dumps(described["vlm_config"], indent=2) if is_lerobots else _relabelled(described) or backbone_json
        )
        config = RobometerConfig.from_lerobot(described) if is_lerobots else None
    if config is None:
        config = _settings(
            _settings_file(directory), f", and its {BACKBONE_FILE} is not that of a Robometer in LeRobot"
        )
    with blamed_on(file):
        backbone = read_backbone(backbone_json)
    processor = _processor(directory, config, backbone, base_model)
    state, adapter = split_adapter(normalise_keys(read_weights(directory)), config.settings, directory / SETTINGS_FILE)
    return _Files(config, backbone_json, processor, state, adapter)


def _read_adapted(directory: Path, base_model: str | Path | None) -> _Files:
    """Reads an adapter's directory, and its base."""
    adapter, heads = read_adapter(directory)
    base_directory = _base_of(adapter, directory, base_model)
    # Looked at first, since it may be the base of itself.
    base = None if (base_directory / ADAPTER_CONFIG_FILE).is_file() else _read(base_directory, None)
    if base is None or base.adapter is not None:
        raise CheckpointError(f"{base_directory}, the base of {directory}, is itself an adapted checkpoint")
    backbone = _backbone(base.state)
    check_base(adapter, backbone, directory)
    config = _settings(_settings_file(directory))
    processor = _processor(directory, config, base.processor.backbone, base_directory)
    return _Files(config, base.backbone_json, processor, backbone | heads, adapter)


def _save_adapter(directory: Path, network: RobometerNetwork, adapter: Adapter) -> None:
    """Writes an adapter and the heads, after making sure that nothing else has changed."""
    state = plain_state(network.state_dict())
    base = _backbone(_read(_base_of(adapter, directory, None), None).state)
    backbone = _backbone(state)
    check_coverage(base, backbone, "the adapted network")
    changed = [
        key for key, tensor in base.items() if not torch.equal(tensor.to(backbone[key].dtype), backbone[key].cpu())
    ]
    if changed:
        raise CheckpointError(
            f"{len(changed)} weights besides the adapter's differ from the base "
            f"{adapter.lora.base_model_name_or_path!r} and would be lost, among them {changed[0]}; freeze them in "
            "training, or save in full with base_model_name_or_path=None"
        )
    heads = {key: tensor for key, tensor in state.items() if key not in backbone}
    write_adapter(directory, adapter, heads, base)


def _base_of(adapter: Adapter, directory: Path, base_model: str | Path | None) -> Path:
    """The directory of an adapter's base."""
    stated, revision = adapter.lora.base_model_name_or_path, adapter.lora.revision
    if base_model is None and not stated:
        raise CheckpointError(f"the adapter in {directory} does not say what its base is; give it as base_model")
    name = base_model or (f"{stated}@{revision}" if revision else str(stated))
    try:
        return locate(name).directory
    except UnknownModelError as error:
        raise CheckpointError(
            f"the base {brief(str(name))} of the adapter in {directory} ({ADAPTER_CONFIG_FILE}) is not to be had: "
            f"{error}"
        ) from error


def _backbone(state: Mapping[str, torch.Tensor]) -> State:
    return {key: tensor for key, tensor in state.items() if key.startswith("model.")}


def _settings_file(directory: Path) -> Path:
    """The reference keeps one ``config.yaml`` for all checkpoints of a run, in the directory above them."""
    own, above = directory / SETTINGS_FILE, directory.absolute().parent / SETTINGS_FILE
    if own.is_file() or not above.is_file():
        return own
    logger.info("%s has no %s, taking the one above it", directory, SETTINGS_FILE)
    return above


def _processor(
    directory: Path, config: RobometerConfig, backbone: Backbone, base_model: str | Path | None
) -> RobometerProcessor:
    """The checkpoint's own tokenizer and preprocessor, else the base model's with the extra tokens added."""
    if (directory / TOKENIZER_FILE).is_file() and (directory / PREPROCESSOR_FILE).is_file():
        return RobometerProcessor.load(directory, config, backbone)
    name = base_model or config.base_model
    logger.info("%s has no tokenizer or preprocessor, taking those of the base model %s", directory, name)
    try:
        base = locate(name, TOKENIZER_FILES).directory
    except UnknownModelError as error:
        raise CheckpointError(
            f"{directory} has no {TOKENIZER_FILE} or no {PREPROCESSOR_FILE}, and its base model's are not to be had; "
            f"give the directory of one that has them as base_model: {error}"
        ) from error
    return RobometerProcessor.load(base, config, backbone, with_extra_tokens=True)


def _relabelled(settings: dict[str, Any]) -> str | None:
    """The ``config.json`` of the reference's LoRA runs as what it is; None for one that needs no correction.

    They call their Qwen3-VL a Qwen2.5-VL, which has no deepstack, and keep everything else.
    """
    vision, text = settings.get("vision_config"), settings.get("text_config")
    if settings.get("model_type") != "qwen2_5_vl" or not isinstance(vision, dict) or not isinstance(text, dict):
        return None
    if "deepstack_visual_indexes" not in vision:
        return None
    text = {**text, "model_type": "qwen3_vl_text"}
    vision = {**vision, "model_type": "qwen3_vl"}
    return json.dumps({**settings, "model_type": "qwen3_vl", "text_config": text, "vision_config": vision}, indent=2)


def _text(path: Path, besides: str = "") -> str:
    if not path.is_file():
        raise CheckpointError(f"{path.parent} is not a Robometer checkpoint: it has no {path.name}{besides}")
    with blamed_on(path):
        return read_text(path)


def _settings(path: Path, besides: str = "") -> RobometerConfig:
    text = _text(path, besides)
    with blamed_on(path):
        return RobometerConfig.from_yaml(text)


def _placed(state: State, device: torch.device, dtype: torch.dtype | None) -> State:
    """Weights where the model runs; each is let go of on disk before the next is read."""
    return {key: state.pop(key).to(device=device, dtype=dtype) for key in list(state)}
