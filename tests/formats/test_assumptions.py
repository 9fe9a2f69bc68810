from __future__ import annotations

import logging

from robometer_rl.formats.assumptions import Assumptions


def test_an_assumption_is_said_once_and_what_is_stated_is_none(caplog):
    assumed = Assumptions("lift.hdf5")
    with caplog.at_level(logging.INFO, "robometer_rl"):
        assert assumed.orientation("rotate") == "rotate"
        assert caplog.messages == []
        for _ in range(2):
            assert assumed.orientation(None) == "as_stored"
        assert assumed.orientation(None, "flip", "upside down") == "flip"
    assert caplog.messages == [
        "lift.hdf5: pictures are shown as they are stored (the data do not say how they hang); "
        "--orientation says otherwise",
        "lift.hdf5: pictures are shown with their rows in the other order (upside down); --orientation says otherwise",
    ]
