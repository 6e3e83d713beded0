"""Isolation forests as one tree ensemble: the numbers of scikit-learn."""

from __future__ import annotations

import numpy as np
import onnxruntime
import pytest
from sklearn.ensemble import IsolationForest
from sklearn.ensemble._iforest import _average_path_length

from models.isolation import SCORES, average_depth, isolation_graph


def scores(forest: IsolationForest, rows: np.ndarray) -> np.ndarray:
    graph = isolation_graph(forest, "rows", 15).SerializeToString()
    (found,) = onnxruntime.InferenceSession(graph).run([SCORES], {"rows": rows})
    assert found.shape == (len(rows), 1)
    return np.asarray(found[:, 0], dtype=np.float64)


@pytest.mark.parametrize("contamination", ["auto", 0.05])
def test_scores_are_those_of_scikit_learn(contamination: float | str) -> None:
    random = np.random.default_rng(3)
    rows = random.normal(size=(600, 6)).astype(np.float32)
    rows[:, 5] = np.round(rows[:, 5])  # equal values: leaves of several rows
    forest = IsolationForest(n_estimators=20, contamination=contamination, random_state=1).fit(rows)
    asked = np.concatenate([rows[:200], 4 * random.normal(size=(200, 6)).astype(np.float32)])
    np.testing.assert_allclose(scores(forest, asked), forest.decision_function(asked), atol=1e-6)


def test_a_forest_of_some_features_is_refused() -> None:
    rows = np.random.default_rng(3).normal(size=(50, 4)).astype(np.float32)
    forest = IsolationForest(n_estimators=3, max_features=0.5, random_state=1).fit(rows)
    with pytest.raises(ValueError, match=r"max_features is 0\.5"):
        isolation_graph(forest, "rows", 15)


def test_average_depth_is_scikit_learns() -> None:
    rows = np.arange(300)
    np.testing.assert_allclose(average_depth(rows), _average_path_length(rows), rtol=1e-14)
