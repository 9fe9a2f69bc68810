"""Policy ranking on LIBERO: see benchmarks/policy_ranking.py.

python -m benchmarks.libero.policy_ranking
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import tyro

from benchmarks import policy_ranking


@dataclass(frozen=True)
class Args(policy_ranking.Args):
    """As in benchmarks/policy_ranking.py, on one task of each suite that scripts can solve.

    Half as many episodes, since an episode costs five times as much to act out and draw.
    """

    tasks: tuple[str, ...] = ("libero_90-28", "libero_object-0", "libero_spatial-2")
    episodes: int = 10
    runs: Path = Path("outputs/libero/policy_ranking")
    name: str = "libero_policy_ranking"


if __name__ == "__main__":
    policy_ranking.main(tyro.cli(Args, description=__doc__))
