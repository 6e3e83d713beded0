"""Every model of the catalogue, trained small by its own builder on the made-up fleets of its own tests."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from models.base import Fitted, Observations
from pipelines.adapters.exports import make_sample, manifest_sha256, write_export
from pipelines.adapters.signing import Signer

_SAMPLE_ROWS = 12


def _anomaly() -> tuple[Fitted, Observations]:
    from models.anomaly.build import BUILDER
    from models.anomaly.spec import SPEC
    from tests.models.anomaly.test_build import fields, fleet

    train = fleet(1200, 1)
    return BUILDER.fit(train, fleet(600, 2), fields(train), BUILDER.default_params(), 7, SPEC), fleet(40, 3)


def _bandwidth() -> tuple[Fitted, Observations]:
    from models.bandwidth.build import BUILDER
    from models.bandwidth.spec import SPEC
    from tests.models.bandwidth.conftest import fleet, inputs_of

    small = {"rounds": 10, "tree_rows": 1500, "lstm_rows": 500, "lstm_units": 4, "lstm_epochs": 1}
    train = fleet(8, 300, 1)
    return BUILDER.fit(train, fleet(6, 300, 2), inputs_of(train), small, 7, SPEC), fleet(2, 200, 3)


def _cost() -> tuple[Fitted, Observations]:
    from models.cost.build import BUILDER
    from models.cost.spec import SPEC
    from tests.models.cost.conftest import INPUTS, bill, parted, rows_of

    train, valid, holdout = parted(
        rows_of({"calm": bill(220, 1, 40.0), "growing": bill(220, 2, 300.0, growth=0.002)})
    )
    return BUILDER.fit(train, valid, INPUTS, BUILDER.default_params(), 7, SPEC), holdout


def _failure() -> tuple[Fitted, Observations]:
    from models.failure.build import BUILDER
    from models.failure.spec import SPEC
    from tests.models.failure.test_build import INPUTS, observed

    train, valid, fresh = (observed(60_000, 0.05, seed) for seed in (1, 2, 3))
    return BUILDER.fit(train, valid, INPUTS, BUILDER.default_params(), 5, SPEC), fresh


def _performance() -> tuple[Fitted, Observations]:
    from models.performance.build import BUILDER
    from models.performance.spec import SPEC
    from tests.models.performance.test_build import INPUTS, fleet

    params = {"learning_rate": 0.2, "num_leaves": 8, "min_child_samples": 30, "rounds": 15}
    return BUILDER.fit(fleet(1500, 1), fleet(800, 2), INPUTS, params, 5, SPEC), fleet(40, 3)


def _placement() -> tuple[Fitted, Observations]:
    from models.placement.build import BUILDER
    from models.placement.spec import SPEC
    from tests.models.placement.test_build import INPUTS, observed

    train, valid = observed(800, 0, 300, 600, 1), observed(300, 300, 400, 600, 2)
    params = BUILDER.default_params() | {"min_child_samples": 50}
    return BUILDER.fit(train, valid, INPUTS, params, 7, SPEC), observed(40, 400, 500, 600, 3)


def _rightsizing() -> tuple[Fitted, Observations]:
    from models.rightsizing.build import BUILDER
    from models.rightsizing.spec import SPEC
    from tests.models.rightsizing.test_build import INPUTS, fleet

    return BUILDER.fit(fleet(500, 1), fleet(300, 2), INPUTS, BUILDER.default_params(), 5, SPEC), fleet(40, 3)


def _scaling() -> tuple[Fitted, Observations]:
    from models.scaling.build import BUILDER
    from models.scaling.spec import SPEC
    from tests.models.scaling.test_build import INPUTS, observed

    params = {**BUILDER.default_params(), "rounds": 20, "learning_rate": 0.2}
    return BUILDER.fit(observed(3, seed=1), observed(2, seed=2), INPUTS, params, 3, SPEC), observed(1, seed=4)


TRAINED: Mapping[str, Callable[[], tuple[Fitted, Observations]]] = {
    "anomaly": _anomaly,
    "bandwidth": _bandwidth,
    "cost": _cost,
    "failure": _failure,
    "performance": _performance,
    "placement": _placement,
    "rightsizing": _rightsizing,
    "scaling": _scaling,
}


def write_catalogue_export(name: str, folder: Path, signing_key: Path) -> Observations:
    """Train a model, write and sign its export; the rows that it was not trained on."""
    fitted, fresh = TRAINED[name]()
    rows = fresh.rows(np.linspace(0, len(fresh) - 1, _SAMPLE_ROWS).astype(np.intp))
    folder.parent.mkdir(parents=True, exist_ok=True)
    sample = make_sample(fitted.inputs, rows.columns, fitted.answer(rows))
    write_export(folder, fitted.save, model=name, inputs=fitted.inputs, sample=sample, lineage={})
    Signer(signing_key).sign(folder, manifest_sha256(folder))
    return rows
