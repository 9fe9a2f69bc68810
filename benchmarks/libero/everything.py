"""All LIBERO benchmarks one after the other, with any model; goes on where it was stopped.

    python -m benchmarks.libero.everything
    python -m benchmarks.libero.everything --model robometer/Robometer-4B
    python -m benchmarks.libero.everything --smoke      # minutes: the smallest sizes

Several hours on two cores, most of them for online learning. What each benchmark measures is said in its own file:
reward_quality.py, policy_ranking.py and online_rl.py, in this order.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import tyro

from benchmarks import policy_ranking as any_policy_ranking
from benchmarks.libero import online_rl, policy_ranking, reward_quality
from robometer_rl.collecting.collect import EpisodeCounts


@dataclass(frozen=True)
class Args:
    """Options.

    Attributes:
        model: Whatever ``load_reward_model`` takes.
        smoke: Run everything at its smallest size, to see that it works.
        workers: Processes at the same time.
        reward_quality: Options of reward_quality.py; the model and the workers are set here.
        policy_ranking: Likewise.
        online_rl: Likewise.
    """

    model: str = "mini"
    smoke: bool = False
    workers: int = 2
    reward_quality: reward_quality.Args = field(default_factory=reward_quality.Args)
    policy_ranking: policy_ranking.Args = field(default_factory=policy_ranking.Args)
    online_rl: online_rl.Args = field(default_factory=online_rl.Args)


def smallest(args: Args) -> Args:
    """What takes minutes."""
    runs = Path("outputs/libero/smoke")
    counts = EpisodeCounts(1, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0)
    return replace(
        args,
        reward_quality=replace(
            args.reward_quality, tasks=("libero_90-28",), episodes=counts, size=64, pairs=1, store=runs / "recordings",
            output=runs / "reward_quality", name="libero_reward_quality_smoke",
        ),
        policy_ranking=replace(
            args.policy_ranking, tasks=("libero_90-28",), policies=2, episodes=1, size=64, runs=runs / "policy_ranking",
            name="libero_policy_ranking_smoke",
        ),
        online_rl=replace(
            args.online_rl, seeds=(0,), steps=80, evaluate_every=40, evaluation_episodes=(1, 1), max_steps=20, size=64,
            runs=runs / "online_rl", name="libero_online_rl_smoke",
        ),
    )  # fmt: skip


def main(args: Args) -> dict[str, Any]:
    """Everything."""
    sized = smallest(args) if args.smoke else args
    common: dict[str, Any] = {"model": args.model, "workers": args.workers}
    return {
        "reward_quality": reward_quality.main(replace(sized.reward_quality, **common)),
        "policy_ranking": any_policy_ranking.main(replace(sized.policy_ranking, **common)),
        "online_rl": online_rl.main(replace(sized.online_rl, **common)),
    }


if __name__ == "__main__":
    main(tyro.cli(Args, description=__doc__))
