"""An InternVL that runs here, on plain transformers, and how the published InternVL 2 becomes one.

The first InternVLs (VLAC is one) are published with code of their own, around an InternLM2 and its sentencepiece model.
transformers' InternVL has the same arithmetic with a Llama in that place: `convert` renames the weights, takes apart
what InternLM2 keeps in one matrix, and writes the tokenizer in the form that needs no code.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from tokenizers import AddedToken, Tokenizer, decoders, normalizers
from tokenizers.models import BPE
from transformers import (
    GenerationConfig,
    InternVLConfig,
    InternVLForConditionalGeneration,
    LlamaConfig,
    PreTrainedTokenizerBase,
)

from robometer_rl.documents import parse_object, read_text
from robometer_rl.extras import require
from robometer_rl.files import check_regular, new_directory
from robometer_rl.models.baselines.vlm import Question, load_pretrained
from robometer_rl.models.devices import precision, usable_device
from robometer_rl.models.locations import locate
from robometer_rl.models.robometer.config import CheckpointError, blamed_on
from robometer_rl.models.robometer.prompts import TURN_END, TURN_START, check_prompt_task
from robometer_rl.models.robometer.weights import State, check_coverage, read_weights

__all__ = ["LocalInternVL", "convert", "weighed"]

BEGIN: Final = "<s>"
IMAGE: Final = "<img>"
IMAGE_END: Final = "</img>"
CONTEXT: Final = "<IMG_CONTEXT>"
"""What stands for one cell of a picture; each picture has as many as the network makes of it."""
FILES: Final = ("*.safetensors", "*.json", "tokenizer.model")
"""What is wanted of a published checkpoint on the Hub."""

_MEAN: Final = (0.485, 0.456, 0.406)  # of ImageNet
_STD: Final = (0.229, 0.224, 0.225)
_RIVALS: Final = 10  # of a number, that are weighed with it
_LEAST: Final = 0.1  # of the likeliest token's probability, to be weighed
_BATCH: Final = 8  # questions per pass

Frames = NDArray[np.uint8]
Rivals = Sequence[tuple[str, float]]


class LocalInternVL:
    """A loaded InternVL; an `Engine` of `robometer_rl.models.baselines.prompted`.

    Args:
        network: The weights.
        tokenizer: Its tokenizer.
        model_id: Name recorded in outputs.
        revision: Commit on the Hub, if known.
    """

    def __init__(
        self,
        network: InternVLForConditionalGeneration,
        tokenizer: PreTrainedTokenizerBase,
        model_id: str,
        revision: str | None = None,
    ) -> None:
        self.network: Any = network.eval().requires_grad_(False)
        self.tokenizer: Any = tokenizer
        self.model_id, self.revision = model_id, revision
        self.device: torch.device = network.device
        self.dtype = str(network.dtype).removeprefix("torch.")
        vocabulary: dict[str, int] = self.tokenizer.get_vocab()
        if missing := [token for token in (BEGIN, TURN_START, TURN_END, CONTEXT) if token not in vocabulary]:
            raise CheckpointError(
                f"{model_id} has no tokens {', '.join(missing)}: it is no InternVL that was converted"
            )
        self._end = vocabulary[TURN_END]
        network.generation_config = GenerationConfig(do_sample=False, eos_token_id=self._end, pad_token_id=self._end)
        self.reserved = frozenset(self.tokenizer.get_added_vocab()) | {BEGIN, IMAGE, IMAGE_END, CONTEXT}

    @classmethod
    def load(cls, where: str, device: str | torch.device = "cpu", dtype: str | None = None) -> LocalInternVL:
        """Reads a converted model from a directory or the Hub.

        Args:
            where: A checkpoint directory that `convert` has written, or a Hub id of one.
            device: Where to run.
            dtype: Precision; as stored if None.

        Raises:
            CheckpointError: The checkpoint is incomplete, of another kind, or not converted.
            UnknownModelError: The name means nothing here.
        """
        target = usable_device(device)
        kind = precision(dtype, target)
        found = locate(where, FILES)
        directory = found.directory
        with blamed_on(directory):
            model_type = parse_object(read_text(directory / "config.json")).get("model_type")
            if model_type != "internvl":
                raise CheckpointError(
                    f"{directory} holds a {model_type!r}, not an InternVL of transformers; the published VLAC is made "
                    f"one by: robometer-rl convert vlac {where} OUTPUT"
                )
            network, tokenizer = load_pretrained(InternVLForConditionalGeneration, directory, kind)
        return cls(network.to(target), tokenizer, found.model_id, found.revision)

    def check_task(self, task: str) -> str:
        """Returns ``task``; raises `TaskError` if it is empty or spells out a token that the model reserves."""
        return check_prompt_task(task, self.reserved)

    def prompt(self, question: Question) -> torch.Tensor:
        """(n,) token ids of a question, with the turn of the model opened behind it."""
        picture = IMAGE + self.network.config.image_seq_length * CONTEXT + IMAGE_END + "\n"
        asked = "".join(part if isinstance(part, str) else picture for part in question.parts)
        system = "" if question.system is None else f"{TURN_START}system\n{question.system}{TURN_END}\n"
        text = f"{BEGIN}{system}{TURN_START}user\n{asked}{TURN_END}\n{TURN_START}assistant\n"
        return torch.tensor(self.tokenizer.encode(text, add_special_tokens=False))

    def inputs(self, questions: Sequence[Question]) -> dict[str, torch.Tensor]:
        """What transformers' forward takes, padded on the left; pictures have the size that the network looks at."""
        rows = [self.prompt(question) for question in questions]
        longest = max(map(len, rows))
        pictures = [part for question in questions for part in question.parts if isinstance(part, np.ndarray)]
        pixels = torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).float() / 255
        mean, std = torch.tensor(_MEAN)[:, None, None], torch.tensor(_STD)[:, None, None]
        inputs = {
            "input_ids": torch.stack(
                [torch.nn.functional.pad(row, (longest - len(row), 0), value=self._end) for row in rows]
            ),
            "attention_mask": torch.stack([torch.arange(longest) >= longest - len(row) for row in rows]).long(),
            "pixel_values": (pixels - mean) / std,
        }
        return {name: tensor.to(self.device) for name, tensor in inputs.items()}

    @torch.inference_mode()
    def answers(self, questions: Sequence[Question], max_new_tokens: int) -> list[str]:
        """The likeliest text behind each question, in which a number counts as the mean of its rivals; see `weighed`.

        Args:
            questions: Any number.
            max_new_tokens: Where an answer is cut.
        """
        texts: list[str] = []
        for start in range(0, len(questions), _BATCH):
            inputs = self.inputs(questions[start : start + _BATCH])
            said = self.network.generate(
                **inputs, max_new_tokens=max_new_tokens, output_logits=True, return_dict_in_generate=True
            )
            new = said.sequences[:, inputs["input_ids"].shape[1] :]
            for row, ids in enumerate(new.tolist()):
                ids = ids[: ids.index(self._end)] if self._end in ids else ids
                texts.append(weighed([self._rivals(said.logits[at][row], token) for at, token in enumerate(ids)]))
        return texts

    def _rivals(self, logits: torch.Tensor, said: int) -> list[tuple[str, float]]:
        probabilities, ids = logits.float().softmax(-1).topk(min(_RIVALS, len(logits)))
        likely = dict(zip(ids.tolist(), probabilities.tolist(), strict=True))
        order = [said, *(token for token in likely if token != said)]
        return [(str(self.tokenizer.decode([token])), likely[token]) for token in order]


def weighed(tokens: Sequence[Rivals]) -> str:
    """A text in which the one token that is a number stands for its likely rivals: their mean, by probability.

    That is how VLAC's authors read an answer. Where a number is spelled in several tokens there is no such mean, and
    the text is what was said. (The authors' code puts the means side by side, which is no number.)

    Args:
        tokens: Of each token of the answer, what was said and its likeliest rivals, with their probabilities.

    Examples:
        >>> weighed([[("+", 0.9)], [("35", 0.5), ("30", 0.3), ("40", 0.15), ("x", 0.04)]])
        '+34.2'
        >>> weighed([[("3", 0.6), ("4", 0.4)], [("5", 1.0)]])
        '35'
    """
    said = [rivals[0][0] for rivals in tokens]
    numbers = [place for place, text in enumerate(said) if _is_number(text)]
    if len(numbers) == 1:
        rivals = tokens[numbers[0]]
        least = _LEAST * max(probability for _, probability in rivals)
        likely = [(float(text), each) for text, each in rivals if _is_number(text) and each > least]
        mean = np.average([number for number, _ in likely], weights=[each for _, each in likely])
        said[numbers[0]] = f"{mean:.1f}"
    return "".join(said)


def _is_number(text: str) -> bool:
    return text.strip().isdecimal()


def convert(where: str, output: Path, about: str) -> None:
    """Writes a published InternVL 2 as one that transformers runs without code from the Hub.

    Args:
        where: The directory of the published checkpoint, or its Hub id.
        output: The new directory.
        about: Text of its ``README.md``.

    Raises:
        CheckpointError: The checkpoint is incomplete or of another kind; the message names what.
        FileExistsError: ``output`` exists.
        ImportError: Without protobuf (extra ``vlac``) the tokenizer cannot be read.
    """
    directory = locate(where, FILES).directory
    with blamed_on(directory):
        published = parse_object(read_text(directory / "config.json"))
        names, tokenizer = _tokenizer(directory)
        config = _config(published, names.index(CONTEXT))
        with torch.device("meta"):
            network = InternVLForConditionalGeneration(config)
        state = dict(_renamed(read_weights(directory), config))
        check_coverage(network.state_dict(), state, directory)
        network.load_state_dict(state, assign=True)
    with new_directory(output) as folder:
        network.save_pretrained(folder)
        tokenizer.save(str(folder / "tokenizer.json"))
        settings = {
            "tokenizer_class": "PreTrainedTokenizerFast", "bos_token": BEGIN, "eos_token": TURN_END,
            "clean_up_tokenization_spaces": False,
        }  # fmt: skip
        (folder / "tokenizer_config.json").write_text(json.dumps(settings, indent=1))
        (folder / "README.md").write_text(about)


def _config(published: Mapping[str, Any], image_token: int) -> InternVLConfig:
    """The shape of the network in transformers' words."""
    text, vision = published.get("llm_config", {}), published.get("vision_config", {})
    kind = (text.get("architectures") or ["unknown"])[0]
    if kind != "InternLM2ForCausalLM":
        raise CheckpointError(f"its language model is a {kind}; only InternLM2ForCausalLM can be converted")
    if published.get("ps_version", "v2") != "v2" or vision.get("qk_normalization"):
        raise CheckpointError("it is an InternVL before version 2, or a large one: its tower is of another kind")
    return InternVLConfig(
        vision_config={
            "hidden_size": vision["hidden_size"],
            "num_hidden_layers": vision["num_hidden_layers"],
            "num_attention_heads": vision["num_attention_heads"],
            "intermediate_size": vision["intermediate_size"],
            "image_size": vision["image_size"],
            "patch_size": vision["patch_size"],
            "attention_bias": vision["qkv_bias"],
            "norm_type": vision.get("norm_type", "layer_norm"),
            "layer_norm_eps": vision.get("layer_norm_eps", 1e-6),
        },
        text_config=LlamaConfig(
            vocab_size=text["vocab_size"],
            hidden_size=text["hidden_size"],
            intermediate_size=text["intermediate_size"],
            num_hidden_layers=text["num_hidden_layers"],
            num_attention_heads=text["num_attention_heads"],
            num_key_value_heads=text["num_key_value_heads"],
            max_position_embeddings=text["max_position_embeddings"],
            rms_norm_eps=text["rms_norm_eps"],
            attention_bias=text.get("bias", False),
            # Its scaling changes nothing within the length that it was trained on, of which questions are a part.
            rope_parameters={"rope_type": "default", "rope_theta": text.get("rope_theta", 10000)},
            tie_word_embeddings=False,
        ).to_dict(),
        image_token_id=image_token,
        image_seq_length=int((vision["image_size"] / vision["patch_size"] * published["downsample_ratio"]) ** 2),
        downsample_ratio=published["downsample_ratio"],
        vision_feature_layer=published.get("select_layer", -1),
        tie_word_embeddings=False,
    )


_TEXT: Final = {
    "attention.wo": "self_attn.o_proj",
    "feed_forward.w1": "mlp.gate_proj",
    "feed_forward.w3": "mlp.up_proj",
    "feed_forward.w2": "mlp.down_proj",
    "attention_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
}
_VISION: Final = {
    "attn.proj": "attention.projection_layer",
    "norm1": "layernorm_before",
    "norm2": "layernorm_after",
    "mlp.fc1": "mlp.fc1",
    "mlp.fc2": "mlp.fc2",
}
_OTHERS: Final = {
    "language_model.model.tok_embeddings.weight": "model.language_model.embed_tokens.weight",
    "language_model.model.norm.weight": "model.language_model.norm.weight",
    "language_model.output.weight": "lm_head.weight",
    "vision_model.embeddings.class_embedding": "model.vision_tower.embeddings.cls_token",
    "vision_model.embeddings.position_embedding": "model.vision_tower.embeddings.position_embeddings",
    "vision_model.embeddings.patch_embedding.weight": (
        "model.vision_tower.embeddings.patch_embeddings.projection.weight"
    ),
    "vision_model.embeddings.patch_embedding.bias": "model.vision_tower.embeddings.patch_embeddings.projection.bias",
}
_PROJECTOR: Final = {"0": "layer_norm", "1": "linear_1", "3": "linear_2"}


def _renamed(weights: State, config: InternVLConfig) -> Iterator[tuple[str, torch.Tensor]]:
    """Published weights under transformers' names."""
    for name, tensor in weights.items():
        words = name.split(".")
        if name in _OTHERS:
            yield _OTHERS[name], tensor
        elif words[0] == "mlp1":
            yield f"model.multi_modal_projector.{_PROJECTOR[words[1]]}.{words[2]}", tensor
        elif name.startswith("language_model.model.layers."):
            part, end = ".".join(words[4:-1]), words[-1]
            place = f"model.language_model.layers.{words[3]}"
            if part == "attention.wqkv":
                parts = _grouped(tensor, config.text_config)
                yield from ((f"{place}.self_attn.{each}_proj.{end}", rows) for each, rows in parts.items())
            elif part in _TEXT:
                yield f"{place}.{_TEXT[part]}.{end}", tensor
        elif name.startswith("vision_model.encoder.layers."):
            part, end = ".".join(words[4:-1]), words[-1]
            place = f"model.vision_tower.encoder.layer.{words[3]}"
            if part == "attn.qkv":
                for each, rows in zip("qkv", tensor.chunk(3), strict=True):
                    yield f"{place}.attention.{each}_proj.{end}", rows.clone()
            elif end in ("ls1", "ls2"):
                yield f"{place}.lambda_{end[-1]}", tensor
            elif part in _VISION:
                yield f"{place}.{_VISION[part]}.{end}", tensor
        else:
            yield name, tensor


def _grouped(joint: torch.Tensor, config: Any) -> dict[str, torch.Tensor]:
    """Takes InternLM2's one matrix apart: for every head of keys its queries, then the key, then the value."""
    heads = config.num_key_value_heads
    queries = config.num_attention_heads // heads
    size = config.hidden_size // config.num_attention_heads
    rows = joint.unflatten(0, (heads, queries + 2, size))
    found = {"q": rows[:, :queries], "k": rows[:, queries], "v": rows[:, queries + 1]}
    return {name: part.reshape(-1, *joint.shape[1:]).clone() for name, part in found.items()}


def _tokenizer(directory: Path) -> tuple[list[str], Tokenizer]:
    """A tokenizer that cuts texts as the sentencepiece model of a checkpoint does, with the tokens added to it.

    Returns:
        The names of all tokens by number, and the tokenizer.
    """
    require("google.protobuf", "vlac")
    from transformers.convert_slow_tokenizer import generate_merges, import_protobuf

    messages: Any = import_protobuf()
    proto = messages.ModelProto()
    path = directory / "tokenizer.model"
    check_regular(path)
    proto.ParseFromString(path.read_bytes())
    names = [piece.piece for piece in proto.pieces]
    normal = {piece.piece: piece.score for piece in proto.pieces if piece.type == 1}
    added = _added(directory)
    for number, token in sorted(added.items()):  # some take the places of pieces that were kept free for them
        if number > len(names):
            raise CheckpointError(f"token {token!r} is number {number}, of {len(names)}")
        names[number : number + 1] = [token]
    numbers = {name: number for number, name in enumerate(names)}
    merges = generate_merges({name: numbers[name] for name in normal if name in numbers}, list(normal.items()))
    tokenizer = Tokenizer(
        BPE(numbers, merges, unk_token=proto.trainer_spec.unk_piece, fuse_unk=True, byte_fallback=True)
    )
    rules = proto.normalizer_spec
    if rules.remove_extra_whitespaces:
        raise CheckpointError("its sentencepiece model drops spaces, which is not converted")
    steps: list[Any] = [normalizers.Prepend("▁")] if rules.add_dummy_prefix else []
    if rules.precompiled_charsmap:
        steps.insert(0, normalizers.Precompiled(rules.precompiled_charsmap))
    tokenizer.normalizer = normalizers.Sequence([*steps, normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    own = [piece.piece for piece in proto.pieces if piece.type in (3, 4) and piece.piece in numbers]
    tokenizer.add_special_tokens([AddedToken(token, normalized=False) for token in [*own, *added.values()]])
    return names, tokenizer


def _added(directory: Path) -> dict[int, str]:
    settings = parse_object(read_text(directory / "tokenizer_config.json")).get("added_tokens_decoder", {})
    return {int(number): str(each["content"]) for number, each in settings.items()}
