"""The page of a hardening: the table of its rounds, and of each the failures that most was farmed in."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from robometer_rl.data.trajectory import Trajectory
from robometer_rl.evaluation.page import episode_replay, episode_series
from robometer_rl.evaluation.scoring import ScoredEpisode, Scores
from robometer_rl.hardening.config import HardenConfig
from robometer_rl.models.loading import load_reward_model
from robometer_rl.report.markup import html
from robometer_rl.report.page import data_table
from robometer_rl.report.recordings import Recorded, write_recordings
from robometer_rl.rewards import DEFAULT_REWARD

__all__ = ["write_page"]

_SHOWN = 4  # failures of a round

Failures = tuple[int, str, Sequence[Trajectory]]
"""Number of a round, its model, and the episodes of its agent that were learned from."""


def write_page(
    config: HardenConfig,
    lead: str,
    table: tuple[Sequence[str], Sequence[Sequence[str]]],
    rounds: Sequence[Failures],
    commands: Sequence[str],
) -> str:
    """Writes ``page/index.html`` and its videos.

    Args:
        config: What was asked for.
        lead: The verdict.
        table: Columns and rows.
        rounds: What to show.
        commands: What to type next.

    Returns:
        Where the page is.
    """
    failures = [
        (number, model, [each for each in episodes if each.quality_label != "successful"][:_SHOWN])
        for number, model, episodes in rounds
    ]
    page = write_recordings(
        config.output / "page",
        f"{config.model}, hardened",
        f"{lead}. Below are failures of each round's agent, of those that most was farmed in.",
        (each for one in failures for each in _recordings(*one)),
        {"environment": config.env, "task": config.task, "decisions of an agent": f"{config.decisions}"},
        count=sum(len(episodes) for _, _, episodes in failures),
        sections=[
            f"<h2>Farmed by failures of unseen agents / paid for success</h2>\n{data_table(*table)}",
            "<h2>Next</h2>\n" + "".join(f"<pre class='card'>{html(command)}</pre>" for command in commands),
        ],
        show_progress=True,
    )
    return str(page)


def _recordings(number: int, name: str, episodes: Sequence[Trajectory]) -> Iterator[Recorded]:
    """Episodes of an agent with what the model says that it learned from."""
    if not episodes:
        return
    model = load_reward_model(name)
    said = [model.predict_steps([each.clip()])[0] for each in episodes]
    scored = [ScoredEpisode(each, one.progress, one.success) for each, one in zip(episodes, said, strict=True)]
    scores = Scores(scored, [], DEFAULT_REWARD.threshold(model.success_threshold))
    for each, one in zip(scored, said, strict=True):
        series = episode_series(f"round {number}", each, scores, one.protocol)
        yield episode_replay(each, [series]), {"recording": each.episode.frames}
