"""Trees in ONNX answer as scikit-learn and LightGBM do, on the same inputs."""

from __future__ import annotations

from pathlib import Path

import lightgbm as lgb
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from sklearn.ensemble import RandomForestRegressor

from models.encoding import estimator_matrix
from models.manifest import Estimator, FieldType, InputField
from models.tree_graph import Ratio, TreeInputs, booster_trees, forest_trees, round_down, write_graph
from pipelines.adapters.runtimes.onnx import OnnxRuntime

INPUTS = TreeInputs(
    columns=("load", "hour"),
    ratios=(Ratio("relative", ("load", "cores"), ("usual", "asked"), floor=0.5),),
    stand_ins={"asked": "cores"},
    fills={"load": 3.0, "hour": 12.0, "usual": 4.0},
)
FIELDS = tuple(InputField(name=name, type=FieldType.DOUBLE, required=False) for name in INPUTS.sources)


def columns(rows: int, seed: int) -> dict[str, np.ndarray]:
    random = np.random.default_rng(seed)
    found = {
        "load": random.gamma(2.0, 3.0, rows),
        "hour": random.integers(0, 24, rows).astype(float),
        "cores": random.choice([2.0, 4.0, 8.0], rows),
        "usual": random.gamma(2.0, 2.0, rows),
        "asked": random.choice([2.0, 4.0, np.nan], rows),
    }
    for name in ("load", "usual", "hour"):
        found[name][random.random(rows) < 0.1] = np.nan
    return found


def exported(folder: Path, trees: list, targets: int, given_columns: dict[str, np.ndarray]) -> np.ndarray:
    write_graph(INPUTS, trees, targets, folder / "trees.onnx")
    estimator = Estimator(name="trees", runtime="onnx", file="trees.onnx", inputs=INPUTS.sources)
    return OnnxRuntime(estimator, folder).raw(estimator_matrix(given_columns, FIELDS, estimator))


def test_a_forest_of_several_targets(tmp_path: Path):
    seen, fresh = columns(600, 1), columns(4000, 2)
    matrix = INPUTS.matrix(seen)
    targets = np.stack([matrix[:, 2] > 1, matrix[:, 0], np.sin(matrix[:, 1])], axis=1).astype(float)
    forest = RandomForestRegressor(12, min_samples_leaf=3, random_state=0).fit(matrix, targets)
    answer = exported(tmp_path, forest_trees(forest), 3, fresh)
    np.testing.assert_allclose(answer, forest.predict(INPUTS.matrix(fresh)), atol=1e-5)


def test_boosters_side_by_side(tmp_path: Path):
    seen, fresh = columns(800, 3), columns(4000, 4)
    matrix = INPUTS.matrix(seen).astype(np.float64)
    boosters = [
        lgb.train(
            {"objective": "l2", "verbosity": -1, "num_threads": 1, "use_missing": False},
            lgb.Dataset(matrix, target),
            20,
        )
        for target in (matrix[:, 2], -matrix[:, 0])
    ]
    trees = [tree for place, booster in enumerate(boosters) for tree in booster_trees(booster, place)]
    asked = INPUTS.matrix(fresh).astype(np.float64)
    expected = np.stack([booster.predict(asked) for booster in boosters], axis=1)
    np.testing.assert_allclose(exported(tmp_path, trees, 2, fresh), expected, atol=1e-5)


def test_a_split_by_category_is_refused():
    random = np.random.default_rng(0)
    codes = random.integers(0, 6, 500).astype(float)
    data = lgb.Dataset(codes[:, None], np.isin(codes, [1, 4]).astype(float), categorical_feature=[0])
    booster = lgb.train({"verbosity": -1, "num_threads": 1, "min_data_per_group": 1}, data, 3)
    with pytest.raises(ValueError, match="'=='"):
        booster_trees(booster)


def test_missing_values_have_their_stand_in_or_fill():
    nothing = {name: np.array([np.nan]) for name in INPUTS.sources}
    nothing["cores"] = np.array([8.0])
    load, hour, relative = INPUTS.matrix(nothing)[0]
    assert (load, hour) == (3.0, 12.0)
    assert relative == pytest.approx(3.0 * 8.0 / (4.0 * 8.0))


def test_an_absent_optional_column_counts_as_missing():
    given_columns = columns(50, 5)
    lacking = {name: values for name, values in given_columns.items() if name != "asked"}
    none = given_columns | {"asked": np.full(50, np.nan)}
    np.testing.assert_array_equal(INPUTS.matrix(lacking), INPUTS.matrix(none))


@given(
    threshold=st.floats(-1e30, 1e30, allow_nan=False),
    values=arrays(np.float32, 8, elements=st.floats(-(2.0**100), 2.0**100, width=32, allow_nan=False)),
)
def test_a_rounded_threshold_parts_single_precision_values_as_before(threshold, values):
    rounded = round_down(np.array([threshold]))[0]
    np.testing.assert_array_equal(values <= rounded, values.astype(np.float64) <= threshold)
