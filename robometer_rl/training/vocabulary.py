"""English robot instructions, from which the tokenizer of a small model is trained.

A published Robometer inherits the vocabulary of its language model. A model made from scratch needs one of its own,
which must hold any text (byte-level) and should spend few tokens on the instructions it will usually be given.
"""

from __future__ import annotations

from itertools import product

__all__ = ["instructions"]

_OBJECTS = """
alphabet soup|apple|baguette|ball|banana|basket|basketball|basketball hoop|bell pepper|bin|block|blue block|blue cup
board|book|bookshelf|bottle|bowl|bread|box|black bowl|bucket|butter|button|cabinet|cabinet door|cable|cake|can|candle
card|carrot|cereal box|chair|charger|cheese|chocolate pudding|cloth|coffee|coffee button|coffee machine|coffee mug
coffee pot|container|cookie box|cord|corn|cream cheese|cube|cup|cupboard|cushion|cutting board|desk|dial|dish
dishwasher|door|door handle|door lock|drawer|drawer handle|egg|eraser|faucet|faucet handle|fork|frying pan|garlic
glass|glove|goal|green block|green bowl|hammer|handle|hole|hook|jar|ketchup|kettle|key|keyboard|knife|knob|ladle|lamp
laptop|laundry|lever|lid|light switch|lock|marker|microwave|microwave door|milk|moka pot|mouse|mug|mushroom|nail|napkin
nut|object|onion|orange|orange juice|oven|oven door|pan|paper|peg|pen|pencil|pepper|phone|pillow|pitcher|plate|plug
pot|potato|puck|purple block|rack|ramekin|red block|red mug|remote|ring|rope|round nut|sauce|salad dressing|salt|screw
screwdriver|shelf|shirt|shoe|sink|soap|soccer ball|sock|soda can|spatula|sponge|spoon|stick|stopper|stove|strawberry
switch|table|tap|teapot|thermos|tissue box|toaster|tomato|tomato sauce|tool|towel|toy|tray|trash|vase|wall
water bottle|whisk|white bowl|window|wine bottle|wine rack|wooden block|wrench|yellow block|yellow cup
"""

_COLOURS = "red|green|blue|yellow|black|white|orange|purple|pink|brown|grey|silver|wooden|metal|plastic|small|large"

_PLACES = """
on the table|on the shelf|in the bin|in the box|in the basket|in the drawer|in the sink|on the plate|on the stove
on top of the cabinet|next to the plate|on the left|on the right|to the left of the bowl|to the right of the mug
into the hole|onto the peg|against the wall|behind the wall|over the wall|at the goal|to the goal|at the target position
on the target|into the goal|into the net|through the hoop|under the table|between the blocks|in front of the plate
at the front|at the back|in the middle|from the top|from the side|with the handle|with the gripper|with the stick
without touching the wall|out of the hole|out of the drawer|all the way|half way|slowly|carefully|upside down
"""

_VERBS = """
approach|assemble|bring|clean up|close|disassemble|drop|empty|fill|flip|fold|grab|grasp|hammer|hand over|hang|hit
hold|insert|kick|knock over|lay down|lift|lift up|lock|move|open|pick up|place|pour|press|press down|pull|pull down
pull out|push|push away|push down|push in|put|put away|put down|raise|reach|reach for|release|remove|retrieve|rotate
scoop|screw|set|shut|slide|slide open|spin|squeeze|stack|sweep|take|take off|take out|throw|tilt|touch|turn|turn off
turn on|twist|unfold|unlock|unplug|unscrew|wipe|wrap
"""

_SENTENCES = """
pick up the {0} and place it {1}
take the {0} and put it {1}
move the {0} so that it is {1}
the robot should put the {0} {1}
put the {0} {1}
bring the gripper to the {0}
slide the {0} until it is {1}
lift the {0} and hold it there
grab the {0} and carry it {1}
"""


def _entries(text: str) -> list[str]:
    return [entry for line in text.strip().splitlines() for entry in line.split("|")]


def instructions() -> list[str]:
    """A few thousand instructions, always the same ones in the same order."""
    objects, verbs, places = _entries(_OBJECTS), _entries(_VERBS), _entries(_PLACES)
    simple = [f"{verb} the {thing}" for verb, thing in product(verbs, objects[::7])]
    simple += [f"{verbs[index % len(verbs)]} the {thing}" for index, thing in enumerate(objects)]
    coloured = [
        f"{verb} the {colour} {thing}" for verb, colour, thing in product(verbs[::9], _entries(_COLOURS), objects[::31])
    ]
    placed = [
        sentence.format(thing, place)
        for index, (thing, place) in enumerate(product(objects, places))
        if index % 11 == 0
        for sentence in (_entries(_SENTENCES)[index % 9],)
    ]
    return [*simple, *coloured, *placed]
