from __future__ import annotations

import numpy as np
import pytest

from robometer_rl.data.reading import SourceError
from robometer_rl.formats.outcomes import outcome_of

DONE = np.array([False, True])
UNDONE = np.zeros(2, bool)


@pytest.mark.parametrize(
    ("noted", "stated", "quality", "kept"),
    [
        (DONE, None, "successful", DONE),
        (UNDONE, None, "failure", UNDONE),
        (DONE, "successful", "successful", DONE),
        (DONE, "failure", "failure", None),
        (UNDONE, "successful", "successful", None),
        (UNDONE, "failure", "failure", UNDONE),
        (DONE, "suboptimal", "suboptimal", DONE),
        (None, "failure", "failure", None),
    ],
)
def test_what_is_stated_wins(noted, stated, quality, kept):
    assert outcome_of(noted, stated, "unknown") == (quality, kept)


def test_what_nobody_knows_is_asked_for():
    with pytest.raises(SourceError, match="say it"):
        outcome_of(None, None, "say it")
