"""Holdouts with known truth, for the tests of this folder."""

from datetime import timedelta

import numpy as np

from models.base import Observations
from models.manifest import FieldType, InputField
from models.specs import Bound, Classification, Forecast, Gate
from models.tasks.classification import ClassificationTask
from models.tasks.forecast import ForecastTask
from pipelines.evaluate.comparison import Answered, Plan
from pipelines.evaluate.leakage import Parts

EVENTS = ClassificationTask(Classification(max_false_positive_rate=0.01), "event")
LOADS = ForecastTask(Forecast(target="load", naive="now"))
EVENT_GATE = Gate(bounds={"average_precision": Bound(minimum=0.2)})
LOAD_GATE = Gate(bounds={"wape": Bound(maximum=0.5)}, block=timedelta(days=1), min_clusters=5)
START = np.datetime64("2026-01-05", "us")  # a Monday
INPUTS = (
    InputField(name="heat", type=FieldType.DOUBLE, required=False),
    InputField(name="zone", type=FieldType.STRING, required=False, categories=("a", "b")),
)


def hours(rows):
    return START + np.arange(rows) * np.timedelta64(1, "h")


def events(seed=1, rows=3000, machines=30, share=0.1, start=0):
    """Rare outcomes of machines, with one input that tells a little of them."""
    random = np.random.default_rng(seed)
    label = (random.uniform(size=rows) < share).astype(np.float64)
    columns = {
        "heat": label + 2 * random.normal(size=rows),
        "zone": np.array(["a", "b"], dtype=object)[random.integers(0, 2, rows)],
    }
    entity = np.array([f"m{number}" for number in np.arange(rows) % machines], dtype=object)
    time = hours(rows) + np.timedelta64(start, "h")
    return Observations(columns, {"event": label}, np.ones(rows), entity, time)


def scored(part, noise, seed=2, name="candidate"):
    """Scores that rank better with less noise, with alarms from a threshold on."""
    random = np.random.default_rng(seed)
    logit = 5.0 * part.targets["event"] - 3.5 + noise * random.normal(size=len(part))
    probability = 1 / (1 + np.exp(-logit))
    return Answered(name, {"probability": probability, "alarm": probability >= 0.5})


def prior(part):
    return Answered("share of positives", {"probability": np.full(len(part), 0.1)})


def loads(rows=1000, seed=4):
    """One service, an hour between rows."""
    random = np.random.default_rng(seed)
    load = 50 + 10 * np.sin(np.arange(rows) / 24) + random.normal(size=rows)
    columns = {"now": np.roll(load, 6)}
    return Observations(columns, {"load": load}, np.ones(rows), np.full(rows, "s", dtype=object), hours(rows))


def forecast(part, error, seed=5, name="candidate"):
    random = np.random.default_rng(seed)
    told = part.targets["load"] + error * random.normal(size=len(part))
    return Answered(name, {"forecast": told, "lower": told - 2 * error, "upper": told + 2 * error})


def parts(by="time", gap=24, **changes):
    """Three parts of events that follow each other with a day between."""
    train, valid = events(11, 1500), events(12, 600, start=1500 + gap)
    holdout = events(13, 3000, start=2100 + 2 * gap)
    made = {"train": train, "valid": valid, "holdout": holdout} | changes
    return Parts(**made, by=by, horizon=timedelta(hours=24))


BY_MACHINE = Plan("entity")
BY_TIME = Plan("time", timedelta(days=1))
