"""How many replicas a load ahead needs, and what to do about it now. Pure: NumPy and pydantic only.

The policy plans for a load between the forecast and the upper end of its interval, and asks for as
many replicas as carry it at the target utilisation. It scales out at once where that is more than
there are. It scales in only where fewer would do even with the hysteresis on top, so that a load
that sways about a step is not chased. Between two actions lies a cooldown, which only an overload
that is there already may break, and only outwards.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from math import erf, sqrt
from statistics import NormalDist
from typing import Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from feature_repo.datasets import Frozen

Array = NDArray[np.float64]
Counts = NDArray[np.int64]

#: Loads are sums and means of floats: a load of just n replicas must not need n + 1 by a rounding.
_ROUNDING = 1e-9
_erf = np.vectorize(erf, otypes=[np.float64])


class Action(StrEnum):
    """What to do now; ``fast``: by more than ``fast_share`` of the replicas at once."""

    SCALE_OUT_FAST = "scale_out_fast"
    SCALE_OUT = "scale_out"
    HOLD = "hold"
    SCALE_IN = "scale_in"
    SCALE_IN_FAST = "scale_in_fast"


class ScalingPolicy(Frozen):
    """The rules, as data. Loads and capacities share one unit, whatever it is."""

    capacity_per_replica: float = Field(gt=0, description="Load that one replica bears, fully used.")
    min_replicas: int = Field(1, ge=0)
    max_replicas: int = Field(100, ge=1)
    target_utilisation: float = Field(
        0.95, gt=0, le=1, description="Share of its capacity that a replica is planned to use."
    )
    headroom: float = Field(
        1.0, ge=0, description="How far from the forecast (0) to the interval's upper end (1) to plan for."
    )
    hysteresis: float = Field(
        0.02, ge=0, description="Scale in only where this share more of load would fit as well."
    )
    cooldown_out_minutes: float = Field(0.0, ge=0, description="Between an action and scaling out.")
    cooldown_in_minutes: float = Field(5.0, ge=0, description="Between an action and scaling in.")
    overload_utilisation: float | None = Field(
        1.0, gt=0, description="From this use of the replicas on the cooldown is broken; None: never."
    )
    largest_scale_in: float = Field(
        0.5, gt=0, le=1, description="Share of the replicas that one action removes at most."
    )
    fast_share: float = Field(0.25, gt=0, description="A change by a larger share of the replicas is fast.")

    @model_validator(mode="after")
    def _bounds_rise(self) -> Self:
        if self.min_replicas > self.max_replicas:
            raise ValueError(f"min_replicas {self.min_replicas} exceeds max_replicas {self.max_replicas}")
        return self


@dataclass(frozen=True)
class Outlook:
    """What is known of the load, each of shape (n,) and in the unit of the capacity.

    Attributes:
        now: The load that is there.
        forecast: Expected largest load from now to the time that is planned for.
        lower: Lower end of its interval, at most the forecast.
        upper: Upper end of its interval, at least the forecast.
        coverage: Nominal share of loads within the interval.
    """

    now: Array
    forecast: Array
    lower: Array
    upper: Array
    coverage: float


@dataclass(frozen=True)
class Situation:
    """What the caller says of each row, shape (n,); NaN: not said.

    Attributes:
        replicas: Asked for at present, starting ones included. Not said: what the present load needs.
        minutes_since_action: Since replicas were last added or removed. Not said: long ago.
        capacity_per_replica, min_replicas, max_replicas: Instead of the policy's own.
    """

    replicas: Array
    minutes_since_action: Array
    capacity_per_replica: Array
    min_replicas: Array
    max_replicas: Array

    @classmethod
    def of(cls, columns: Mapping[str, NDArray], rows: int) -> Situation:
        """From the columns of the names in ``SITUATION``; an absent one is not said."""
        unsaid = np.full(rows, np.nan)
        return cls(*(np.asarray(columns.get(name, unsaid), dtype=np.float64) for name in SITUATION))


#: Inputs that callers may give, in the order of the fields of Situation.
SITUATION = (
    "current_replicas",
    "minutes_since_action",
    "capacity_per_replica",
    "min_replicas",
    "max_replicas",
)


@dataclass(frozen=True)
class Decisions:
    """One decision a row, shape (n,) each.

    Attributes:
        action: Values of :class:`Action`, an object array of str.
        desired_replicas: Always within the bounds of the row.
        confidence: Probability, by the forecast's interval, that the load ahead bears the action
            out: that it needs more replicas than there are (scale out), or no more than are
            asked for (hold, scale in).
    """

    action: NDArray
    desired_replicas: Counts
    confidence: Array


def decide(policy: ScalingPolicy, outlook: Outlook, situation: Situation) -> Decisions:
    """What to do now in each row; see :func:`desired_replicas` for what always holds."""
    usable = _usable(policy, situation)
    current = _current(outlook, situation, usable)
    desired = desired_replicas(policy, outlook, situation)
    return Decisions(
        action=_named(desired - current, current, policy.fast_share),
        desired_replicas=desired,
        confidence=_confidence(outlook, desired, current, usable),
    )


def desired_replicas(policy: ScalingPolicy, outlook: Outlook, situation: Situation) -> Counts:
    """How many replicas to ask for now, shape (n,).

    The count lies within the bounds always, does not fall where a load rises, and equals the
    present replicas within the cooldown, unless these are out of bounds or overloaded.
    """
    usable = _usable(policy, situation)
    lowest, highest = _bounds(policy, situation)
    current = _current(outlook, situation, usable)
    idle = np.where(np.isfinite(situation.minutes_since_action), situation.minutes_since_action, np.inf)

    spread = np.maximum(outlook.upper - outlook.forecast, 0.0)
    planned = np.maximum(outlook.now, outlook.forecast + policy.headroom * spread)
    needed = _replicas_for(planned, usable)
    needed_with_more = _replicas_for(planned * (1 + policy.hysteresis), usable)
    floor = np.ceil(current * (1 - policy.largest_scale_in) - _ROUNDING)
    fewer = np.minimum(np.maximum(needed_with_more, floor), current)
    wanted = np.where(needed > current, needed, fewer)

    overloaded = np.zeros(len(current), dtype=np.bool_)
    if policy.overload_utilisation is not None:
        bears = current * usable / policy.target_utilisation
        overloaded = outlook.now > bears * policy.overload_utilisation
    may_grow = (idle >= policy.cooldown_out_minutes) | overloaded
    may_shrink = idle >= policy.cooldown_in_minutes
    allowed = np.where(wanted > current, may_grow, may_shrink)
    return np.clip(np.where(allowed, wanted, current), lowest, highest).astype(np.int64)


def _usable(policy: ScalingPolicy, situation: Situation) -> Array:
    """Load that one replica is planned to bear."""
    said = situation.capacity_per_replica
    capacity = np.where(np.isfinite(said) & (said > 0), said, policy.capacity_per_replica)
    return capacity * policy.target_utilisation


def _current(outlook: Outlook, situation: Situation, usable: Array) -> Array:
    """Replicas as the caller says, or what the present load needs."""
    said = np.isfinite(situation.replicas)
    replicas = np.round(np.maximum(np.where(said, situation.replicas, 0.0), 0.0))
    return np.where(said, replicas, _replicas_for(outlook.now, usable))


def _bounds(policy: ScalingPolicy, situation: Situation) -> tuple[Array, Array]:
    """Fewest and most replicas of each row. Of bounds that contradict each other, the upper one holds."""
    low = np.where(np.isfinite(situation.min_replicas), situation.min_replicas, policy.min_replicas)
    high = np.where(np.isfinite(situation.max_replicas), situation.max_replicas, policy.max_replicas)
    highest = np.floor(np.maximum(high, 0.0))
    return np.minimum(np.ceil(np.maximum(low, 0.0)), highest), highest


def _replicas_for(load: Array, usable: Array) -> Array:
    return np.ceil(np.maximum(load, 0.0) / usable - _ROUNDING)


def _named(change: NDArray, current: Array, fast_share: float) -> NDArray:
    fast = np.abs(change) > fast_share * np.maximum(current, 1.0)
    names = np.select(
        [(change > 0) & fast, change > 0, (change < 0) & fast, change < 0],
        [Action.SCALE_OUT_FAST, Action.SCALE_OUT, Action.SCALE_IN_FAST, Action.SCALE_IN],
        default=Action.HOLD,
    )
    return np.array([str(name) for name in names], dtype=object)


def _confidence(outlook: Outlook, desired: NDArray, current: Array, usable: Array) -> Array:
    out = desired > current
    fits = _probability_below(np.where(out, current, desired) * usable, outlook)
    confidence: Array = np.where(out, 1.0 - fits, fits)
    return confidence


def _probability_below(load: Array, outlook: Outlook) -> Array:
    """P(load ahead <= load) by a normal distribution of two halves (Fechner, 1897) with the interval's ends."""
    tail = NormalDist().inv_cdf((1 + outlook.coverage) / 2)
    tiny = 1e-9 * np.maximum(np.abs(outlook.forecast), 1.0)
    below = np.maximum(outlook.forecast - outlook.lower, tiny) / tail
    above = np.maximum(outlook.upper - outlook.forecast, tiny) / tail
    away = load - outlook.forecast
    below_load: Array = 0.5 * (1 + _erf(away / np.where(away < 0, below, above) / sqrt(2)))
    return np.clip(below_load, 0.0, 1.0)
