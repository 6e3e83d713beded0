"""Head of detectors: how abnormal a machine behaves, how badly, and which metrics are to blame.

Profiles say what is usual of each machine, and one of the whole fleet speaks for machines that
training did not see. The rules of :mod:`models.anomaly.signals` turn a row and a profile into
contributions by metric; the strongest of them, beside what an isolation forest says of the row,
are the row's strength. Strength over the machine's own alarm level is what severities are cut from.

All state is data; profiles hold ``k * k`` weights each for ``k`` metrics.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from feature_repo.datasets import Frozen
from models.anomaly.signals import (
    SIGNALS,
    Array,
    Measured,
    Side,
    Usual,
    combined,
    compressed,
    measure,
    signals,
    stacked,
    strongest,
)
from models.heads.base import BaseHead, FieldType, OutputField

SEVERITIES = ("normal", "low", "medium", "high", "critical")
#: From here on a row is abnormal; the levels of the others are relative to this one's.
ALARM = SEVERITIES.index("medium")
BLAMED = 3
RECONSTRUCTION = "reconstruction"

Numbers = tuple[float, ...]
Columns = Mapping[str, NDArray]


class SideProfile(Frozen):
    """One side of a level: see :class:`models.anomaly.signals.Side`."""

    centre: Numbers
    scale: Numbers
    mean: Numbers
    weights: tuple[Numbers, ...]

    @cached_property
    def side(self) -> Side:
        return Side(*(np.asarray(value) for value in (self.centre, self.scale, self.mean, self.weights)))


class Profile(Frozen):
    """What is usual of one machine, by metric where a tuple."""

    static: SideProfile
    trailing: SideProfile
    spread_centre: Numbers
    spread_scale: Numbers
    movement_centre: Numbers
    movement_scale: Numbers
    units: dict[str, Numbers] = Field(description="By signal: how far one normal row in a hundred gets.")
    forest_centre: float = Field(0.0, description="Usual answer of the forest; low answers are abnormal.")
    forest_unit: float = Field(1.0, gt=0)
    alarm_level: float = Field(1.0, gt=0, description="Strength from which on a row is abnormal.")

    @model_validator(mode="after")
    def _shapes_fit(self) -> Self:
        sizes = {
            len(self.spread_centre),
            len(self.spread_scale),
            len(self.movement_centre),
            len(self.movement_scale),
        }
        sizes |= {len(numbers) for numbers in self.units.values()}
        for side in (self.static, self.trailing):
            sizes |= {len(side.centre), len(side.scale), len(side.mean), len(side.weights)}
            sizes |= {len(row) for row in side.weights}
        if len(sizes) != 1:
            raise ValueError(f"a profile is of one number of metrics, not of {sorted(sizes)}")
        if missing := set(SIGNALS) - set(self.units):
            raise ValueError(f"units lack {sorted(missing)}")
        return self

    @cached_property
    def usual(self) -> Usual:
        return Usual(
            static=self.static.side,
            trailing=self.trailing.side,
            spread=(np.asarray(self.spread_centre), np.asarray(self.spread_scale)),
            movement=(np.asarray(self.movement_centre), np.asarray(self.movement_scale)),
        )

    @cached_property
    def unit_arrays(self) -> dict[str, Array]:
        return {name: np.asarray(numbers) for name, numbers in self.units.items()}


class SeverityHead(BaseHead):
    """Score, severity, alarm, and the metrics to blame."""

    kind: Literal["severity"] = "severity"
    metrics: tuple[str, ...] = Field(min_length=1)
    lags: int = Field(ge=1, description="Inputs `<metric>__lag_0` and following, per metric.")
    level_steps: int = Field(ge=1, description="How many of the lags the level is the mean of.")
    reference: str | None = Field(
        None, description="Suffix of the inputs that hold the mean of the last hours."
    )
    resolution: Numbers = Field(description="What is too small to matter, by metric.")
    key: str | None = Field(None, description="Input that names the machine; None: one profile for all.")
    keys: tuple[str, ...] = Field((), description="Machines with a profile of their own.")
    profiles: tuple[Profile, ...] = Field(description="One for each key.")
    fleet: Profile = Field(description="For machines that training did not see.")
    weights: dict[str, float] = Field(description="By sign; see signals.combined.")
    strongest: int = Field(10, ge=1, description="How many metrics make up the strength of a row.")
    autoencoder: str | None = Field(None, description="Estimator of residuals by metric, shape (n, k).")
    forest: str | None = Field(None, description="Estimator of the isolation forest's answer, shape (n,).")
    forest_weight: float = Field(0.0, ge=0)
    levels: tuple[float, float, float, float] = Field(
        description="Where low, medium, high and critical begin, in alarm levels; medium begins at 1."
    )

    @model_validator(mode="after")
    def _parts_fit(self) -> Self:
        if len(self.keys) != len(self.profiles):
            raise ValueError(f"{len(self.keys)} keys, but {len(self.profiles)} profiles")
        if len(set(self.keys)) != len(self.keys):
            raise ValueError("keys name a machine twice")
        for profile in (*self.profiles, self.fleet):
            if len(profile.spread_centre) != len(self.metrics):
                raise ValueError(
                    f"a profile is of {len(profile.spread_centre)} metrics, not of {len(self.metrics)}"
                )
        signs = {"distance", "structure", "spread", "movement"} | (
            {RECONSTRUCTION} if self.autoencoder else set()
        )
        if set(self.weights) != signs or not sum(self.weights.values()) > 0:
            raise ValueError(f"weights must name {sorted(signs)}, and not all be 0: {self.weights}")
        if (
            list(self.levels) != sorted(set(self.levels))
            or self.levels[0] <= 0
            or self.levels[ALARM - 1] != 1.0
        ):
            raise ValueError(f"levels must be positive and rise, and medium must begin at 1: {self.levels}")
        return self

    def outputs(self) -> tuple[OutputField, ...]:
        numbers = [
            ("score", FieldType.DOUBLE, "How abnormal, from 0 to 1; 0.5 is the machine's alarm level."),
            ("severity", FieldType.STRING, "normal, low, medium, high or critical."),
            ("abnormal", FieldType.BOOLEAN, "Whether the severity is medium or worse."),
        ]
        blamed = [
            (f"blame_{place}", FieldType.STRING, f"Metric number {place} of those to blame; empty: none.")
            for place in range(1, BLAMED + 1)
        ]
        shares = [
            (
                f"blame_share_{place}",
                FieldType.DOUBLE,
                f"Its share of all contributions, 0 to 1 (blame_{place}).",
            )
            for place in range(1, BLAMED + 1)
        ]
        return tuple(
            OutputField(name=name, type=kind, description=text)
            for name, kind, text in (*numbers, *blamed, *shares)
        )

    def answer(self, columns: Columns, raw: Mapping[str, NDArray]) -> dict[str, NDArray]:
        """The outputs, each of shape (n,).

        Args:
            columns: Lags and references; absent ones count as missing, and missing values as usual.
            raw: Residuals of the autoencoder, shape (n, k), and answers of the forest, shape (n,).
        """
        profile = self.profile_of(columns)
        contributions = self.contributions(columns, raw)
        strength = self.strength(contributions, raw, profile)
        everyone = (*self.profiles, self.fleet)
        level = strength / np.asarray([each.alarm_level for each in everyone])[profile]
        grade = np.searchsorted(np.asarray(self.levels), level, side="right")
        severity = np.asarray(SEVERITIES, dtype=object)[grade]
        answers = {"score": level / (1 + level), "severity": severity, "abnormal": grade >= ALARM}
        return answers | self._blame(contributions)

    def contributions(self, columns: Columns, raw: Mapping[str, NDArray]) -> Array:
        """How much each metric adds to the row's abnormality, in the order of ``metrics``; shape (n, k)."""
        told = self.measured(columns)
        profile = self.profile_of(columns)
        extra = {}
        if self.autoencoder is not None:
            residual = np.asarray(raw[self.autoencoder], dtype=np.float64)
            extra[RECONSTRUCTION] = residual.reshape(len(profile), -1)
        result = np.empty(told.level.shape)
        for number in np.unique(profile):
            rows = profile == number
            each = (*self.profiles, self.fleet)[number]
            seen = signals(told.rows(rows), each.usual) | {
                name: values[rows] for name, values in extra.items()
            }
            result[rows] = combined(seen, each.unit_arrays, self.weights)
        return result

    def measured(self, columns: Columns) -> Measured:
        """What the rows say of each metric."""
        rows = len(next(iter(columns.values())))
        names = [lag_name(metric, step) for metric in self.metrics for step in range(self.lags)]
        lags = stacked(columns, names, rows).reshape(rows, len(self.metrics), self.lags)
        if self.reference is None:
            # Without last hours to look back on both sides are the same.
            reference = np.zeros((rows, len(self.metrics)))
        else:
            reference = stacked(columns, [f"{metric}__{self.reference}" for metric in self.metrics], rows)
        return measure(lags, reference, self.level_steps, np.asarray(self.resolution))

    def profile_of(self, columns: Columns) -> NDArray[np.intp]:
        """Number of each row's profile, shape (n,); ``len(keys)`` is the fleet's."""
        rows = len(next(iter(columns.values())))
        if self.key is None or self.key not in columns:
            return np.full(rows, len(self.keys), dtype=np.intp)
        number = {key: index for index, key in enumerate(self.keys)}
        return np.array([number.get(value, len(self.keys)) for value in columns[self.key]], dtype=np.intp)

    def strength(self, contributions: Array, raw: Mapping[str, NDArray], profile: NDArray[np.intp]) -> Array:
        """One figure a row before the machine's alarm level, shape (n,)."""
        strength = strongest(contributions, self.strongest)
        if self.forest is None or self.forest_weight == 0:
            return strength
        everyone = (*self.profiles, self.fleet)
        centre = np.asarray([each.forest_centre for each in everyone])[profile]
        unit = np.asarray([each.forest_unit for each in everyone])[profile]
        isolated = np.maximum(centre - np.asarray(raw[self.forest], dtype=np.float64).reshape(-1), 0.0) / unit
        return (strength + self.forest_weight * compressed(isolated)) / (1 + self.forest_weight)

    def margin(self, answers: Mapping[str, NDArray]) -> NDArray[np.float64]:
        """Distance of the score to the nearest cut, or of two neighbouring shares of blame, if that is less."""
        cuts = np.asarray([level / (1 + level) for level in self.levels])
        nearest = np.abs(answers["score"][:, None] - cuts).min(axis=1)
        for place in range(1, min(BLAMED, len(self.metrics))):
            gap = answers[f"blame_share_{place}"] - answers[f"blame_share_{place + 1}"]
            nearest = np.minimum(nearest, gap)
        return np.asarray(nearest)

    def _blame(self, contributions: Array) -> dict[str, NDArray]:
        order = np.argsort(-contributions, axis=1, kind="stable")
        total = np.maximum(contributions.sum(axis=1), np.finfo(float).tiny)
        names = np.asarray((*self.metrics, ""), dtype=object)
        rows, blamed, shares = len(contributions), {}, {}
        for place in range(BLAMED):
            if place < len(self.metrics):
                chosen = order[:, place]
                share = contributions[np.arange(rows), chosen] / total
            else:
                chosen, share = np.full(rows, len(self.metrics)), np.zeros(rows)
            blamed[f"blame_{place + 1}"] = np.where(share > 0, names[chosen], "").astype(object)
            shares[f"blame_share_{place + 1}"] = share
        return blamed | shares


def lag_name(metric: str, step: int) -> str:
    """Input that holds a metric's value some steps ago."""
    return f"{metric}__lag_{step}"
