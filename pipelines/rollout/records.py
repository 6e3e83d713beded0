"""What is known of a rollout: where it stands, and what was seen. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from pydantic import Field

from pipelines.references import Reference
from pipelines.rollout.sequential import Interval

#: On the challenger's version, beside the tag that says its traffic: since when, and for which traffic.
SINCE_TAG = "headrace.traffic_since"
#: When its rollout began.
BEGUN_TAG = "headrace.rollout_begun"
#: Why it was withdrawn.
WITHDRAWN_TAG = "headrace.withdrawn"


@dataclass(frozen=True)
class Standing:
    """Where a rollout stands, by the registry.

    Attributes:
        challenger, production: Versions that the aliases name.
        traffic: ``shadow``, a percentage, or empty where the tag names none.
        problem: Why the tag names none.
        since: When the challenger was given this traffic; None: nobody wrote it down, so it begins now.
        begun: When the rollout began; None likewise.
    """

    challenger: str | None
    production: str | None
    traffic: str = ""
    problem: str = ""
    since: datetime | None = None
    begun: datetime | None = None


@dataclass(frozen=True)
class Side:
    """Requests that a version was asked: to answer, or beside the other one's answer.

    Attributes:
        slow: Answers that took longer than the spec allows.
    """

    requests: int = 0
    errors: int = 0
    slow: int = 0

    @property
    def answers(self) -> int:
        return self.requests - self.errors

    def __add__(self, other: Side) -> Side:
        return Side(self.requests + other.requests, self.errors + other.errors, self.slow + other.slow)


@dataclass(frozen=True)
class Evidence:
    """What was seen of both versions since the challenger was given its traffic.

    Attributes:
        servers: How many servers told; 0: none could be asked.
        unreachable: Why not, where one could not.
        quality: Loss of the challenger less that of the champion, where outcomes are known; over the
            whole rollout.
        dropped: Requests that were not mirrored for lack of room.
    """

    champion: Side = Side()
    challenger: Side = Side()
    quality: Interval | None = None
    dropped: int = 0
    servers: int = 0
    unreachable: str = ""


class Step(StrEnum):
    """What is done next."""

    NOTHING = "nothing"  # there is no rollout
    WAIT = "wait"
    ADVANCE = "advance"
    PROMOTE = "promote"
    WITHDRAW = "withdraw"
    FINISH = "finish"  # the challenger is in production already


class RolloutRef(Reference):
    """What a look at a rollout found and did.

    Attributes:
        step: That was taken.
        traffic: After the step.
        over: Whether there is nothing left to do.
        figures: What was seen, for people and scripts.
    """

    registered_name: str
    step: Step
    reason: str
    challenger: str | None
    production: str | None
    traffic: str = ""
    over: bool = False
    figures: dict[str, float | int | str] = Field(default_factory=dict)
