"""What an address stands for: one server, several that share the work, or a server of the reference."""

from __future__ import annotations

from typing import Final

from robometer_rl.models.reward_model import RewardModel
from robometer_rl.serving.client import RemoteRewardModel
from robometer_rl.serving.connection import Connection, Refusal
from robometer_rl.serving.group import ServerGroup
from robometer_rl.serving.reference_client import ReferenceServerModel

__all__ = ["load"]

_NO_ROUTE: Final = (404, 410)
_FIRST_TIMEOUT: Final = 15.0
_FIRST_PATIENCE: Final = 3.0  # seconds; both for the first question
_PATIENCE_WITH_ONE: Final = 2.0  # seconds, where others can answer instead


def load(where: str, timeout: float = 600.0, patience: float = 60.0) -> RewardModel:
    """The model that a server serves.

    Args:
        where: Its address, ``http://HOST:PORT``; ``http://:TOKEN@HOST:PORT`` if it asks for a token, or the environment
            variable ROBOMETER_RL_TOKEN. Of the reference's evaluation server, too. Several addresses with commas
            between them are servers of one model that share the work, also that of one that is away, see
            `robometer_rl.serving.group`.
        timeout: Seconds to wait for an answer.
        patience: Seconds that an outage may last before it is raised.

    Raises:
        ServerError: It cannot be reached, or does not say within seconds what it serves.
        UnknownModelError: Not an address.
    """
    if "," in where:
        members = [load(address, timeout, min(patience, _PATIENCE_WITH_ONE)) for address in where.split(",")]
        return ServerGroup(members, patience)
    connection = Connection(where, timeout, patience)
    try:
        # Any server says at once what it serves: a wrong address is found out in seconds, not after an outage's.
        first = Connection(where, min(timeout, _FIRST_TIMEOUT), min(patience, _FIRST_PATIENCE))
        about = first.ask("GET", "/v1/model").content
    except Refusal as error:
        if error.status not in _NO_ROUTE:
            raise
        return ReferenceServerModel(connection)
    return RemoteRewardModel(connection, about)
