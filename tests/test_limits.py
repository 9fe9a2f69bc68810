from __future__ import annotations

import pytest

from robometer_rl.limits import MAX_RECORDED_FRAMES, check_packed, check_picture, check_recording, check_room


def test_claims_that_are_possible_pass():
    check_picture(8192, 8192, "it")
    check_recording((MAX_RECORDED_FRAMES, 64, 64, 3), "it")
    check_packed(100_000, 1, "it")
    check_room(1 << 20, "it")


def test_claims_that_are_not_are_refused():
    with pytest.raises(ValueError, match="it claims 8193 x 8192 pixels"):
        check_picture(8192, 8193, "it")
    with pytest.raises(ValueError, match="it claims 16777217 frames"):
        check_recording((MAX_RECORDED_FRAMES + 1, 64, 64, 3), "it")
    with pytest.raises(ValueError, match="100000 x 100000"):
        check_recording((2, 100_000, 100_000, 3), "it")
    with pytest.raises(ValueError, match="claims to unpack to 100001"):
        check_packed(100_001, 0, "it")
    with pytest.raises(ValueError, match="GB of memory here"):
        check_room(1 << 60, "it")
