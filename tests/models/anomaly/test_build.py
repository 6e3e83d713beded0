"""A small fleet through the builder: what it finds, whom it blames, and that the export says the same."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from models.anomaly.build import BUILDER, AnomalyModel, Layout
from models.anomaly.spec import SPEC
from models.base import Observations
from models.encoding import estimator_matrix
from models.manifest import FieldType, InputField
from pipelines.adapters.runtimes.onnx import OnnxRuntime

pytestmark = pytest.mark.integration  # trains: seconds

MACHINES = ("a", "b", "c")
METRICS = ("cpu", "disk", "memory", "network")
LAGS = 6


def fleet(rows: int, seed: int, strange: bool = False) -> Observations:
    """Machines at levels of their own; of strange rows every tenth has a disk that is not itself."""
    random = np.random.default_rng(seed)
    machine = np.arange(rows) % len(MACHINES)
    level = 40.0 * (1 + machine[:, None]) + np.arange(len(METRICS)) * 5
    load = random.normal(size=(rows, 1, LAGS)) + random.normal(size=(rows, 1, 1)) * 2
    values = level[:, :, None] + load + 0.5 * random.normal(size=(rows, len(METRICS), LAGS))
    label = np.zeros(rows)
    if strange:
        label[::10] = 1
        values[::10, 1] += 15
    columns: dict[str, NDArray] = {"machine": np.array(MACHINES, dtype=object)[machine]}
    for place, metric in enumerate(METRICS):
        columns |= {f"{metric}__lag_{step}": values[:, place, step] for step in range(LAGS)}
        columns[f"{metric}__mean_1h"] = values[:, place].mean(axis=1)
        columns[f"{metric}__mean_8h"] = level[:, place]
    time = np.datetime64("2026-01-01T00:00:00", "us") + np.arange(rows) * np.timedelta64(5, "m")
    return Observations(columns, {"abnormal": label}, np.ones(rows), columns["machine"], time)


def fields(observations: Observations) -> tuple[InputField, ...]:
    numbers = [name for name in observations.columns if name != "machine"]
    return (
        *(InputField(name=name, type=FieldType.DOUBLE, required=False) for name in numbers),
        InputField(name="machine", type=FieldType.STRING, required=False, categories=MACHINES),
    )


@pytest.fixture(scope="module")
def model() -> AnomalyModel:
    pytest.importorskip("tensorflow")
    train, valid = fleet(3000, 1), fleet(1500, 2)
    return BUILDER.fit(train, valid, fields(train), BUILDER.default_params(), 7, SPEC)


def test_it_finds_strange_rows_and_blames_the_strange_metric(model: AnomalyModel) -> None:
    holdout = fleet(1500, 3, strange=True)

    answers = model.answer(holdout)

    strange = holdout.targets["abnormal"] == 1
    assert np.mean(answers["abnormal"][strange]) > 0.9
    assert np.mean(answers["abnormal"][~strange]) < 0.02
    assert np.mean(answers["blame_1"][strange] == "disk") > 0.9
    assert BUILDER.task(SPEC).metrics(holdout, answers)["average_precision"] > 0.95


def test_shares_of_importance_add_up(model: AnomalyModel) -> None:
    shares = model.importance()

    assert set(shares) == {field.name for field in model.inputs}
    assert sum(shares.values()) == pytest.approx(1.0)


def test_it_takes_the_longest_mean_and_no_other(model: AnomalyModel) -> None:
    names = {field.name for field in model.inputs}

    assert "cpu__mean_8h" in names
    assert "cpu__mean_1h" not in names


def test_the_export_answers_as_the_native_model(model: AnomalyModel, tmp_path: Path) -> None:
    rows = fleet(600, 4, strange=True)
    rows.columns["machine"][:3] = ["unseen", None, "a"]
    rows.columns["cpu__lag_1"][5:9] = np.nan
    rows.columns["disk__mean_8h"][9:12] = np.nan
    for step in range(LAGS):
        rows.columns[f"memory__lag_{step}"][12:15] = np.nan

    parts = model.save(tmp_path)
    raw = {
        each.name: OnnxRuntime(each, tmp_path).raw(estimator_matrix(rows.columns, model.inputs, each))
        for each in parts.estimators
    }

    native = model.raw(rows)
    for name, values in raw.items():
        assert np.max(np.abs(values - native[name])) < 1e-3, name
    served, answered = parts.head.answer(rows.columns, raw), model.answer(rows)
    assert np.max(np.abs(served["score"] - answered["score"])) < parts.tolerance
    assert np.mean(served["severity"] == answered["severity"]) > 0.995


def test_a_layout_needs_lags() -> None:
    with pytest.raises(ValueError, match="lag_0"):
        Layout.of((InputField(name="cpu__mean_8h", type=FieldType.DOUBLE),))
