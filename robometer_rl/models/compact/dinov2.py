"""A frozen DINOv2 (arXiv 2304.07193) in the place of EfficientNet-Lite0: for a GPU, and things that ImageNet lacks.

A checkpoint holds its weights, and needs the folder or the Hub that they came from no more.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Final

import torch
from safetensors import SafetensorError
from torch.nn import functional as F

from robometer_rl.documents import brief, parse_json, read_text
from robometer_rl.models.compact.tower import Features, Maps, Tower
from robometer_rl.models.locations import locate
from robometer_rl.ranges import require_counts, require_numbers

__all__ = ["Dinov2Shape", "Dinov2Tower", "load_dinov2"]

_FILES: Final = ("config.json", "preprocessor_config.json", "model.safetensors")
_USUAL_SIDE: Final = 224  # of pictures, or about that: twice the patch has to go into it
_IMAGENET: Final = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
_LARGEST: Final = 4096  # width and layers of a configuration that is believed


@dataclass(frozen=True)
class Dinov2Shape:
    """What a DINOv2 is besides its weights; names are those of transformers' `Dinov2Config`.

    Attributes:
        hidden_size: Width.
        num_hidden_layers: Layers.
        num_attention_heads: Heads of a layer.
        mlp_ratio: Width inside a layer, in parts of the other.
        patch_size: Pixels of a patch's side.
        image_size: Side of the pictures that its table of places is for.
        layer_norm_eps: Of normalisation.
        qkv_bias: Whether attention has biases.
        use_swiglu_ffn: Whether layers are gated inside.
        image_mean: That is subtracted from pixels in [0, 1], by channel.
        image_std: By which they are divided then.
    """

    hidden_size: int
    num_hidden_layers: int
    num_attention_heads: int
    mlp_ratio: int = 4
    patch_size: int = 14
    image_size: int = 518
    layer_norm_eps: float = 1e-6
    qkv_bias: bool = True
    use_swiglu_ffn: bool = False
    image_mean: tuple[float, float, float] = _IMAGENET[0]
    image_std: tuple[float, float, float] = _IMAGENET[1]

    def __post_init__(self) -> None:
        sizes = ("hidden_size", "num_hidden_layers", "num_attention_heads", "mlp_ratio", "patch_size", "image_size")
        require_counts(self, 1, *sizes)
        require_numbers(self, "(0, 1)", "layer_norm_eps")
        if max(getattr(self, name) for name in sizes) > _LARGEST:
            raise ValueError(f"sizes of a DINOv2 are at most {_LARGEST}, got {self}")
        if self.hidden_size % self.num_attention_heads or self.image_size < self.patch_size:
            raise ValueError(f"heads divide the width of a DINOv2, and a patch fits into its pictures; got {self}")
        for name in ("image_mean", "image_std"):
            values = getattr(self, name)
            if len(values) != 3 or not all(isinstance(each, float | int) and 0 < each < 2 for each in values):
                raise ValueError(f"{name} of a DINOv2 is three numbers between 0 and 2, got {brief(values)}")
            object.__setattr__(self, name, tuple(map(float, values)))

    @property
    def usual_resolution(self) -> int:
        """Side of the pictures that it is shown, about 224."""
        return max(1, round(_USUAL_SIDE / (2 * self.patch_size))) * 2 * self.patch_size


class Dinov2Tower(Tower):
    """Patches of two layers, behind the last normalisation.

    Those of a layer at two thirds of the depth are the fine features; those of the last layer, averaged over squares of
    four, are the coarse ones.

    Attributes:
        shape: What it is.
    """

    def __init__(self, shape: Dinov2Shape, resolution: int) -> None:
        if resolution < 2 * shape.patch_size or resolution % (2 * shape.patch_size):
            raise ValueError(
                f"the resolution is a positive multiple of {2 * shape.patch_size} pixels, two patches; got {resolution}"
            )
        maps = Maps(shape.hidden_size, shape.hidden_size, resolution // (2 * shape.patch_size))
        # Here: it takes a second, and most compact models have no use for it.
        from transformers import Dinov2Config, Dinov2Model

        super().__init__(resolution, maps)
        self.shape = shape
        sizes = {name: value for name, value in asdict(shape).items() if not name.startswith("image_")}
        self.network = Dinov2Model(Dinov2Config(**sizes, image_size=shape.image_size))
        self.requires_grad_(False)

    @property
    def identity(self) -> str:
        """See `Tower.identity`."""
        return f"{self.resolution} {self.shape}"

    def forward(self, images: torch.Tensor) -> Features:
        """See `Tower.forward`."""
        pictures = self.scaled(images) / 255.0
        mean, deviation = (
            torch.tensor(values, device=pictures.device, dtype=pictures.dtype)[:, None, None]
            for values in (self.shape.image_mean, self.shape.image_std)
        )
        said = self.network((pictures - mean) / deviation, output_hidden_states=True)
        layers = said.hidden_states  # the first is what goes into the first layer
        fine = self.network.layernorm(layers[-(-2 * self.shape.num_hidden_layers // 3)])
        side = 2 * self.maps.side
        places = [
            patches[:, 1:].transpose(1, 2).unflatten(2, (side, side)) for patches in (fine, said.last_hidden_state)
        ]
        return Features(places[0], F.avg_pool2d(places[1], 2))


def load_dinov2(where: str, resolution: int | None = None) -> Dinov2Tower:
    """Reads a DINOv2 from a folder or the Hub.

    Args:
        where: A folder in transformers' format, or a Hub id with an optional revision, as in ``facebook/dinov2-small``.
        resolution: Side of the pictures that it is shown; about 224 if None.

    Raises:
        UnknownModelError: There is no such folder, and the Hub does not give it.
        ValueError: It is no DINOv2, or a damaged one.
    """
    from transformers import Dinov2Model

    directory = locate(where, _FILES).directory
    try:
        described = parse_json(read_text(directory / "config.json"))
        if not isinstance(described, dict) or described.get("model_type") != "dinov2":
            raise ValueError("its config.json does not say model_type 'dinov2'")
        known = {name: described[name] for name in Dinov2Shape.__dataclass_fields__ if name in described}
        if (directory / "preprocessor_config.json").is_file():
            colours = parse_json(read_text(directory / "preprocessor_config.json"))
            if isinstance(colours, dict):
                known |= {name: colours[name] for name in ("image_mean", "image_std") if name in colours}
        shape = Dinov2Shape(**known)
        tower = Dinov2Tower(shape, resolution or shape.usual_resolution)
        loaded: Any = Dinov2Model.from_pretrained(
            directory, dtype=torch.float32, use_safetensors=True, output_loading_info=True
        )
        network, about = loaded
        if about["missing_keys"]:
            raise ValueError(f"its weights lack {min(about['missing_keys'])}")
        tower.network.load_state_dict(network.state_dict())
    except (OSError, SafetensorError, RuntimeError, TypeError, ValueError) as error:
        said = " ".join(str(error).split())[:300]
        raise ValueError(
            f"{where} is not a DINOv2 in transformers' format, such as facebook/dinov2-small ({said})"
        ) from error
    return tower
