from __future__ import annotations

import torch

from robometer_rl.models.compact.familiarity import Familiarity
from robometer_rl.models.compact.tower import COARSE, FINE


def test_what_was_seen_is_familiar_and_other_things_are_not() -> None:
    generator = torch.Generator().manual_seed(0)
    spread = torch.rand(FINE + COARSE, generator=generator)
    seen = 3.0 + spread * torch.randn(200, FINE + COARSE, generator=generator)
    known, other = seen[:150], 3.0 + 10 * spread * torch.randn(20, FINE + COARSE, generator=generator)
    familiarity = Familiarity()
    familiarity.fit(known, seen[150:])
    assert float(familiarity(seen).max()) < 1.0
    assert float(familiarity(other).min()) > 1.0


def test_nothing_is_strange_to_a_model_that_was_never_trained() -> None:
    assert Familiarity()(torch.randn(3, FINE + COARSE)).tolist() == [0.0, 0.0, 0.0]


def test_pictures_that_never_change_can_be_known() -> None:
    familiarity = Familiarity()
    familiarity.fit(torch.ones(5, FINE + COARSE), torch.ones(2, FINE + COARSE))
    assert familiarity(torch.ones(1, FINE + COARSE)).isfinite().all()
    assert float(familiarity(torch.zeros(1, FINE + COARSE))) > 1.0
