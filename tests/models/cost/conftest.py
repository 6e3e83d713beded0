"""Made-up bills: a few projects with a week, a trend and a spike, as rows that ask for each day ahead."""

from __future__ import annotations

from datetime import date, timedelta

import numpy as np
import pytest

from models.base import Observations
from models.cost.origins import origins_of
from models.manifest import FieldType, InputField

LAGS = 56
STEPS = 30
START = date(2024, 9, 1)
CALENDAR = ("weekday_sin", "weekday_cos", "day_of_month", "days_to_month_end", "month")
NAMES = (*(f"cost_usd__lag_{number}" for number in range(LAGS)), *CALENDAR, "steps_ahead")
INPUTS = tuple(InputField(name=name, type=FieldType.DOUBLE, required=name == "steps_ahead") for name in NAMES)


def bill(days: int, seed: int, level: float, growth: float = 0.0, noise: float = 0.05) -> np.ndarray:
    """Daily costs: quieter at weekends, growing by a share a day."""
    random = np.random.default_rng(seed)
    weekday = (np.arange(days) + START.weekday()) % 7
    week = np.where(weekday >= 5, 0.8, 1.0)
    return level * week * np.exp(growth * np.arange(days) + noise * random.normal(size=days))


def rows_of(costs: dict[str, np.ndarray]) -> Observations:
    """Every day but the first two weeks is an origin; those whose month is not over are left out."""
    columns: dict[str, list[float]] = {name: [] for name in NAMES}
    truth, entity, when = [], [], []
    for name, cost in costs.items():
        for origin in range(14, len(cost) - STEPS):
            at = START + timedelta(days=origin)
            angle = 2 * np.pi * at.weekday() / 7
            month_end = (at.replace(day=28) + timedelta(days=4)).replace(day=1) - timedelta(days=1)
            said = (np.sin(angle), np.cos(angle), at.day, (month_end - at).days, at.month)
            for step in range(1, STEPS + 1):
                for number in range(LAGS):
                    known = origin - 1 - number
                    columns[f"cost_usd__lag_{number}"].append(cost[known] if known >= 0 else np.nan)
                for told, value in zip(CALENDAR, said, strict=True):
                    columns[told].append(float(value))
                columns["steps_ahead"].append(float(step))
                truth.append(cost[origin + step - 1])
                entity.append(name)
                when.append(np.datetime64(at, "us"))
    return Observations(
        columns={name: np.array(values) for name, values in columns.items()},
        targets={"cost_usd": np.array(truth)},
        weight=np.ones(len(truth)),
        entity=np.array(entity, dtype=object),
        time=np.array(when),
    )


def parted(rows: Observations) -> tuple[Observations, Observations, Observations]:
    """Train, valid and holdout by time, a horizon apart."""
    first, last, month = rows.time.min(), rows.time.max(), np.timedelta64(STEPS, "D")
    valid_from, holdout_from = first + (last - first) * 0.55, first + (last - first) * 0.8
    return (
        rows.rows(rows.time + month <= valid_from),
        rows.rows((rows.time >= valid_from) & (rows.time + month <= holdout_from)),
        rows.rows(rows.time >= holdout_from),
    )


@pytest.fixture(scope="session")
def rows() -> Observations:
    """Three projects over 220 days, one of them growing."""
    return rows_of(
        {
            "calm": bill(220, 1, 40.0),
            "growing": bill(220, 2, 300.0, growth=0.002),
            "rough": bill(220, 3, 120.0, noise=0.15),
        }
    )


@pytest.fixture(scope="session")
def parts(rows: Observations) -> tuple[Observations, Observations, Observations]:
    return parted(rows)


def totals(part: Observations, values: np.ndarray) -> np.ndarray:
    """Sum of each origin's 30 days."""
    return origins_of(part).of(values).sum(axis=1)
