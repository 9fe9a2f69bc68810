"""What a program imports from other people's packages: what starting it costs, without a clock."""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import packages_distributions

# What every start may cost: arrays, pictures, videos, command lines and environments.
LIGHT = frozenset({"PIL", "av", "farama_notifications", "gymnasium", "imageio", "numpy", "typing_extensions", "yaml"})
LIGHT |= {"docstring_parser", "rich", "typeguard", "tyro"}

_REPORT = """
import sys
print("imported:", *{name.partition(".")[0] for name in sys.modules})
"""


def imports_of(program: str) -> tuple[set[str], str]:
    """Packages that a program has imported when it ends, without this library, and what it prints."""
    command = [sys.executable, "-c", program + _REPORT]
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    printed, _, names = output.rpartition("imported:")
    others = {
        name
        for name, homes in packages_distributions().items()
        if not set(homes) & {"robometer-rl", "setuptools"}  # setuptools' hook runs at every start
    }
    return set(names.split()) & others, printed
