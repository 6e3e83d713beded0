"""Contributions are Shapley values: those of LightGBM, and those that a sum over all orders gives."""

from __future__ import annotations

from itertools import permutations
from pathlib import Path

import lightgbm as lgb
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.ensemble import RandomForestRegressor

from models.encoding import estimator_matrix
from models.manifest import FieldType, InputField
from models.tree_graph import Ratio, Tree, TreeInputs, booster_trees, forest_trees, save_trees
from models.tree_shap import TreePaths
from pipelines.adapters.runtimes.onnx import OnnxRuntime
from pipelines.errors import ArtifactError

NAMES = ("a", "b", "c")


def rows(count: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(count, len(NAMES))).astype(np.float32)


def boosted(seed: int, rounds: int = 12, leaves: int = 8) -> lgb.Booster:
    x = rows(400, seed).astype(np.float64)
    target = x[:, 0] * x[:, 1] + np.sin(3 * x[:, 2]) + 5.0
    options = {"num_leaves": leaves, "min_child_samples": 5, "verbosity": -1, "num_threads": 1}
    return lgb.train(options, lgb.Dataset(x, target), rounds)


def forest(seed: int) -> RandomForestRegressor:
    x = rows(200, seed)
    targets = np.stack([x[:, 0] * x[:, 1], x[:, 2] > 0], axis=1)
    return RandomForestRegressor(4, min_samples_leaf=5, random_state=seed).fit(x, targets)


def expectation(tree: Tree, row: np.ndarray, known: frozenset[int], node: int = 0) -> np.ndarray:
    """What a tree says of a row of which some features are known."""
    feature = int(tree.feature[node])
    if feature < 0:
        return tree.value[node]
    left, right = int(tree.left[node]), int(tree.right[node])
    if feature in known:
        return expectation(tree, row, known, left if row[feature] <= tree.threshold[node] else right)
    share = tree.cover[left] / tree.cover[node]
    return share * expectation(tree, row, known, left) + (1 - share) * expectation(tree, row, known, right)


def brute_force(trees: list[Tree], row: np.ndarray) -> np.ndarray:
    """Mean gain of each feature over all orders of getting to know them, shape (k, m + 1)."""
    orders = list(permutations(range(len(row))))
    told = [
        np.mean(
            [
                np.sum(
                    [
                        expectation(tree, row, frozenset(order[: order.index(feature) + 1]))
                        - expectation(tree, row, frozenset(order[: order.index(feature)]))
                        for tree in trees
                    ],
                    axis=0,
                )
                for order in orders
            ],
            axis=0,
        )
        for feature in range(len(row))
    ]
    base = np.sum([expectation(tree, row, frozenset()) for tree in trees], axis=0)
    return np.stack([*told, base], axis=1)


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 1000), leaves=st.integers(2, 31))
def test_those_of_a_booster_are_lightgbms(seed: int, leaves: int) -> None:
    booster, fresh = boosted(seed, leaves=leaves), rows(5, seed + 1)
    told = TreePaths.of(booster_trees(booster), NAMES, 1).contributions(fresh)
    expected = booster.predict(fresh.astype(np.float64), pred_contrib=True)
    np.testing.assert_allclose(told.values[:, 0], expected, atol=1e-6)


@settings(max_examples=5, deadline=None)
@given(seed=st.integers(0, 1000))
def test_those_of_a_forest_of_two_targets_are_a_mean_over_all_orders(seed: int) -> None:
    trees = forest_trees(forest(seed))
    told = TreePaths.of(trees, NAMES, 2).contributions(rows(2, seed + 1))
    for row, values in zip(rows(2, seed + 1), told.values, strict=True):
        np.testing.assert_allclose(values, brute_force(trees, row), atol=1e-6)


def test_an_export_explains_its_own_answers(tmp_path: Path) -> None:
    inputs = TreeInputs(columns=("a", "b"), ratios=(Ratio("a over b", ("a",), ("b",), floor=0.5),))
    fields = tuple(InputField(name=name, type=FieldType.DOUBLE) for name in inputs.sources)
    columns = dict(zip(("a", "b"), rows(300, 5).T.astype(np.float64), strict=False))
    first, second = (
        lgb.train(
            {"num_leaves": 9, "min_child_samples": 5, "verbosity": -1, "num_threads": 1},
            lgb.Dataset(inputs.matrix(columns).astype(np.float64), target),
            20,
        )
        for target in (columns["a"] / (1 + columns["b"] ** 2), columns["b"] ** 2)
    )
    estimator = save_trees(
        "trees", inputs, [*booster_trees(first, 0), *booster_trees(second, 1)], 2, tmp_path
    )
    runtime = OnnxRuntime(estimator, tmp_path)
    matrix = estimator_matrix({name: values[:7] for name, values in columns.items()}, fields, estimator)
    told = runtime.contributions(matrix)
    assert told is not None
    assert told.names == ("a", "b", "a over b")
    np.testing.assert_allclose(told.values.sum(axis=2), runtime.raw(matrix), atol=1e-5)


def test_ways_are_the_same_after_a_trip_to_disk_and_the_same_bytes_again(tmp_path: Path) -> None:
    paths = TreePaths.of(forest_trees(forest(1)), NAMES, 2)
    paths.save(tmp_path / "one.npz")
    paths.save(tmp_path / "two.npz")
    assert (tmp_path / "one.npz").read_bytes() == (tmp_path / "two.npz").read_bytes()
    fresh = rows(3, 2)
    stored = TreePaths.load(tmp_path / "one.npz").contributions(fresh)
    np.testing.assert_array_equal(stored.values, paths.contributions(fresh).values)
    assert stored.names == NAMES


def test_a_file_that_holds_no_ways_is_refused(tmp_path: Path) -> None:
    inputs = TreeInputs(columns=NAMES)
    estimator = save_trees("trees", inputs, booster_trees(boosted(1)), 1, tmp_path)
    (tmp_path / "trees.paths.npz").write_bytes(b"nonsense")
    with pytest.raises(ArtifactError, match="does not hold the ways of trees"):
        OnnxRuntime(estimator, tmp_path)
