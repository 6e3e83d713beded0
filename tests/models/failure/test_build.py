"""The builder's probabilities: calibrated where labels are rare, thinned, or parted without an error."""

from __future__ import annotations

import numpy as np
import pytest

from models.base import Observations
from models.failure.build import BUILDER
from models.failure.spec import SPEC
from models.manifest import FieldType, InputField

pytestmark = pytest.mark.integration  # trains: seconds

INPUTS = (InputField(name="load", type=FieldType.DOUBLE, required=False),)


def observed(rows: int, kept: float, seed: int) -> Observations:
    """Failures at about 1 in 1,000, more often where the load is high; negatives thinned to ``kept``."""
    random = np.random.default_rng(seed)
    load = random.normal(size=rows)
    label = (random.random(rows) < 1 / (1 + np.exp(8 - 1.5 * load))).astype(np.float64)
    chosen = (label == 1) | (random.random(rows) < kept)
    return Observations(
        columns={"load": load[chosen]},
        targets={"event": label[chosen]},
        weight=np.where(label[chosen] == 1, 1.0, 1 / kept),
        entity=np.arange(chosen.sum()).astype(str),
    )


@pytest.mark.parametrize("kept", [1.0, 0.05])
def test_probabilities_are_those_of_all_rows_however_many_negatives_were_kept(kept):
    train, valid, fresh = (observed(300_000, kept, seed) for seed in (1, 2, 3))
    fitted = BUILDER.fit(train, valid, INPUTS, BUILDER.default_params(), 5, SPEC)
    for part, tolerance in ((valid, 0.02), (fresh, 0.25)):
        predicted = float(np.average(fitted.answer(part)["probability"], weights=part.weight))
        assert predicted == pytest.approx(
            float(np.average(part.targets["event"], weights=part.weight)), rel=tolerance
        )


def test_classes_that_are_parted_without_an_error_do_not_make_certainties():
    load = np.arange(2000.0) % 10
    part = Observations(
        {"load": load}, {"event": (load == 9).astype(np.float64)}, np.ones(2000), load.astype(str)
    )
    fitted = BUILDER.fit(part, part, INPUTS, BUILDER.default_params(), 5, SPEC)
    probability = fitted.answer(part)["probability"]
    assert probability.min() > 1e-5
    assert probability.max() < 1 - 1e-4
    assert np.all((probability > 0.5) == (part.targets["event"] == 1))
