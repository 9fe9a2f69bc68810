"""What schemathesis sends as messages: real ones with anything in their heads, and damaged ones."""

from __future__ import annotations

import numpy as np
import schemathesis
from hypothesis import strategies as st

from robometer_rl.serving.wire import MEDIA_TYPE, encode

ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
TASKS = st.lists(st.sampled_from(["push", "open the drawer", "", "x" * 3000]), min_size=1, max_size=3)
HEADS = st.fixed_dictionaries(
    {},
    optional={
        "tasks": TASKS | ANYTHING,
        "protocol": st.sampled_from(["nested(4)", "uniform(3)", "nested(1)", "nested(99999)", "given"]) | ANYTHING,
        "every": st.integers(-1, 3) | ANYTHING,
        "both_orders": st.booleans() | ANYTHING,
        "seq": st.integers(0, 2) | ANYTHING,
        "indices": st.lists(st.integers(0, 2), max_size=3) | ANYTHING,
        "restore": st.lists(
            st.fixed_dictionaries({"length": st.integers(0, 4), "frames": st.lists(st.integers(0, 3), max_size=3)}),
            max_size=2,
        )
        | ANYTHING,
    },
)
SHAPES = st.sampled_from(
    [(1, 32, 32, 3), (2, 32, 32, 3), (1, 40, 24, 3), (0, 8, 8, 3), (1, 8, 8, 1), (3,), (1, 1, 300, 3)]
)
ARRAYS = st.lists(st.builds(np.zeros, SHAPES, st.sampled_from([np.uint8, np.uint8, np.float32])), max_size=3)
MESSAGES = st.builds(encode, HEADS, ARRAYS)


@st.composite
def damaged(draw: st.DrawFn) -> bytes:
    message = draw(MESSAGES)
    place = draw(st.integers(0, len(message)))
    return message[:place] + draw(st.binary(max_size=20)) + message[place + draw(st.integers(0, 20)) :]


schemathesis.openapi.media_type(MEDIA_TYPE, MESSAGES | MESSAGES | damaged() | st.binary(max_size=64))
