"""Head of point forecasts with intervals: from raw estimator outputs and columns to three numbers.

The forecast is a weighted sum of members. A member is the output of an estimator, decoded into the
target's unit, or a plain column (a naive forecast takes part in the blend like any other). The ends
of the interval come from estimators of quantiles, or from the forecast itself where there are none,
and are moved by offsets that conformal calibration found (:mod:`models.conformal`).

With ``base`` b and ``scale`` s of a row and the transform T, an estimator that outputs r says
``y = s * T^-1(T(b / s) + r)``. For the identity that is ``y = b + s * r``: a correction to the base
in units of the scale. The offsets are added in the same space, ``T(y / s)``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from feature_repo.datasets import Frozen
from models.heads.base import BaseHead, FieldType, OutputField

Array = NDArray[np.float64]
Columns = Mapping[str, NDArray]

# exp(60) is 1e26: above any throughput, cost or latency, and far from overflow after scaling.
_LARGEST_LOGARITHM = 60.0


class Level(Frozen):
    """A number per row that columns say: what to correct, what to scale by, what to bin by."""

    columns: tuple[str, ...] = Field(min_length=1)
    combine: Literal["sum", "mean", "max"] = "sum"
    floor: float | None = Field(None, description="Smallest value; also that of a row without any value.")

    def of(self, columns: Columns) -> Array:
        """Shape (n,). Missing values are passed over; a row of none but missing has the floor, or 0."""
        values = np.stack([np.asarray(columns[name], dtype=np.float64) for name in self.columns])
        present = np.isfinite(values)
        none = ~present.any(axis=0)
        match self.combine:
            case "sum":
                level = np.where(present, values, 0.0).sum(axis=0)
            case "mean":
                level = np.where(present, values, 0.0).sum(axis=0) / np.maximum(present.sum(axis=0), 1)
            case "max":
                level = np.where(present, values, -np.inf).max(axis=0)
        floor = 0.0 if self.floor is None else self.floor
        level = np.where(none, floor, level)
        return level if self.floor is None else np.maximum(level, floor)


class Encoding(Frozen):
    """How a target became the number that an estimator learns, and the way back."""

    transform: Literal["identity", "log1p"] = "identity"
    base: Level | None = Field(None, description="The estimator corrects this; None: it says the whole.")
    scale: Level | None = Field(None, description="Positive unit of the row; None: 1.")
    unit: float = Field(1.0, gt=0, description="Unit of all rows; the row's own is multiplied by it.")

    @model_validator(mode="after")
    def _scale_is_positive(self) -> Self:
        if self.scale is not None and not (self.scale.floor is not None and self.scale.floor > 0):
            raise ValueError(
                f"scale: floor must be positive, or a row could be divided by 0; got {self.scale.floor}"
            )
        return self

    def encode(self, target: Array, columns: Columns) -> Array:
        """What the estimator has to learn. ``target`` may be beyond -scale only without log1p."""
        return self.score(target, columns) - self._origin(columns, len(target))

    def decode(self, raw: Array, columns: Columns) -> Array:
        """The target that a raw output stands for; shape (n,), finite for finite input."""
        return self.unscore(raw + self._origin(columns, len(raw)), columns)

    def score(self, target: Array, columns: Columns) -> Array:
        """``T(target / scale)``, the space in which offsets are added."""
        scaled = target / self._unit(columns, len(target))
        return np.log1p(np.maximum(scaled, 0.0)) if self.transform == "log1p" else scaled

    def unscore(self, score: Array, columns: Columns) -> Array:
        """The inverse of :meth:`score`."""
        if self.transform == "log1p":
            score = np.expm1(np.minimum(score, _LARGEST_LOGARITHM))
        return score * self._unit(columns, len(score))

    def _unit(self, columns: Columns, rows: int) -> Array:
        return self.unit * (np.ones(rows) if self.scale is None else self.scale.of(columns))

    def _origin(self, columns: Columns, rows: int) -> Array:
        return np.zeros(rows) if self.base is None else self.score(self.base.of(columns), columns)


class Member(Frozen):
    """One part of a weighted sum."""

    estimator: str | None = Field(None, description="Its raw output, decoded.")
    output: int = Field(0, ge=0, description="Which of the outputs, where the estimator has several.")
    level: Level | None = Field(None, description="Instead of an estimator: columns, taken as they are.")
    weight: float = 1.0
    encoding: Encoding | None = Field(None, description="Of this estimator; None: the head's.")

    @model_validator(mode="after")
    def _is_one_or_the_other(self) -> Self:
        if (self.estimator is None) == (self.level is None):
            raise ValueError("a member is either an estimator or a level")
        return self


class Offset(Frozen):
    """How far conformal calibration moved the ends outwards (negative: inwards), per bin."""

    lower: float
    upper: float


class Bins(Frozen):
    """Which offset holds for a row: the number of edges that lie at or below its level."""

    by: Level
    edges: tuple[float, ...] = ()

    @model_validator(mode="after")
    def _edges_rise(self) -> Self:
        if any(left >= right for left, right in zip(self.edges, self.edges[1:], strict=False)):
            raise ValueError(f"edges must rise: {self.edges}")
        return self

    def of(self, columns: Columns) -> NDArray[np.intp]:
        """Number of each row's bin, shape (n,), from 0 to ``len(edges)``."""
        return np.searchsorted(np.asarray(self.edges), self.by.of(columns), side="right")


class IntervalHead(BaseHead):
    """Forecast, lower and upper; always ``lower <= forecast <= upper``."""

    kind: Literal["interval"] = "interval"
    forecast: tuple[Member, ...] = Field(min_length=1)
    lower: tuple[Member, ...] = Field((), description="Quantile of the lower end; none: the forecast.")
    upper: tuple[Member, ...] = Field((), description="Quantile of the upper end; none: the forecast.")
    encoding: Encoding = Encoding()
    bins: Bins | None = None
    offsets: tuple[Offset, ...] = Field((Offset(lower=0.0, upper=0.0),), description="One a bin.")
    minimum: float | None = Field(0.0, description="No answer lies below; None: no such bound.")
    maximum: float | None = None
    coverage: float = Field(0.8, gt=0, lt=1, description="Nominal share of truths within the interval.")
    unit: str = ""

    @model_validator(mode="after")
    def _one_offset_a_bin(self) -> Self:
        expected = 1 if self.bins is None else len(self.bins.edges) + 1
        if len(self.offsets) != expected:
            raise ValueError(f"{expected} bins need as many offsets, got {len(self.offsets)}")
        if self.minimum is not None and self.maximum is not None and self.minimum > self.maximum:
            raise ValueError(f"minimum {self.minimum} lies above maximum {self.maximum}")
        return self

    def outputs(self) -> tuple[OutputField, ...]:
        return tuple(
            OutputField(name=name, type=FieldType.DOUBLE, unit=self.unit, description=description)
            for name, description in (
                ("forecast", "Expected value."),
                ("lower", f"Lower end of the {self.coverage:.0%} interval."),
                ("upper", f"Upper end of the {self.coverage:.0%} interval."),
            )
        )

    def explained(self, estimator: str) -> dict[str, int]:
        places = [member.output for member in self.forecast if member.estimator == estimator]
        return {f"forecast_{place}" if len(places) > 1 else "forecast": place for place in places}

    def answer(self, columns: Columns, raw: Mapping[str, NDArray]) -> dict[str, NDArray]:
        """The outputs, each of shape (n,).

        Args:
            columns: Input columns by name, at least those that the levels name.
            raw: Raw outputs by estimator, shape (n,) or (n, k).
        """
        forecast, lower, upper = self.uncalibrated(columns, raw)
        bins = np.zeros(len(forecast), dtype=np.intp) if self.bins is None else self.bins.of(columns)
        down = np.asarray([offset.lower for offset in self.offsets])[bins]
        up = np.asarray([offset.upper for offset in self.offsets])[bins]
        score, unscore = self.encoding.score, self.encoding.unscore
        lower = unscore(score(lower, columns) - down, columns)
        upper = unscore(score(upper, columns) + up, columns)
        lowest = -np.inf if self.minimum is None else self.minimum
        highest = np.inf if self.maximum is None else self.maximum
        # Clipped first, mended last: clipping keeps the order of the three.
        forecast = np.clip(forecast, lowest, highest)
        return {
            "forecast": forecast,
            "lower": np.minimum(np.clip(lower, lowest, highest), forecast),
            "upper": np.maximum(np.clip(upper, lowest, highest), forecast),
        }

    def uncalibrated(self, columns: Columns, raw: Mapping[str, NDArray]) -> tuple[Array, Array, Array]:
        """Forecast and ends before offsets and bounds, the ends never on the forecast's wrong side."""
        forecast = self._blend(self.forecast, columns, raw)
        lower = self._blend(self.lower, columns, raw) if self.lower else forecast
        upper = self._blend(self.upper, columns, raw) if self.upper else forecast
        return forecast, np.minimum(lower, forecast), np.maximum(upper, forecast)

    def _blend(self, members: tuple[Member, ...], columns: Columns, raw: Mapping[str, NDArray]) -> Array:
        parts = [member.weight * self._value(member, columns, raw) for member in members]
        total: Array = np.sum(parts, axis=0)
        return total

    def _value(self, member: Member, columns: Columns, raw: Mapping[str, NDArray]) -> Array:
        if member.level is not None:
            return member.level.of(columns)
        assert member.estimator is not None
        output = np.asarray(raw[member.estimator], dtype=np.float64)
        encoding = member.encoding or self.encoding
        return encoding.decode(output if output.ndim == 1 else output[:, member.output], columns)
