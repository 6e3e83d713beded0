"""Isolation forests (Liu, Ting and Zhou, 2008) as one tree ensemble in ONNX (training side).

The anomaly of a row is ``2 ** (-E / c)``: E is the mean over the trees of how deep its leaf lies, c the mean depth in a
random search tree of as many rows. A leaf's depth is a number that the leaf can hold, so that the forest is a sum of
trees and one power. skl2onnx writes each tree as an operator of its own with the path beside it, which takes
much longer for a row.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from models.tree_graph import TREES_OPSET, Tree, tree_attributes

if TYPE_CHECKING:
    from sklearn.ensemble import IsolationForest
    from sklearn.tree import ExtraTreeRegressor

SCORES = "scores"


def isolation_graph(forest: IsolationForest, inputs: str, opset: int) -> Any:
    """An ONNX model whose output ``scores``, shape (n, 1), is the forest's ``decision_function``.

    Args:
        forest: Of all features: ``max_features=1.0``.
        inputs: Name of the input, float32 of shape (n, features).

    Raises:
        ValueError: its trees see some of the features only.
    """
    import onnx
    from onnx import TensorProto, helper

    if forest.max_features != 1.0:
        raise ValueError(
            f"max_features is {forest.max_features}, only forests of all features (1.0) are written"
        )
    depth_unit = float(len(forest.estimators_) * average_depth(np.array([forest.max_samples_]))[0])
    constants = [
        helper.make_tensor(name, TensorProto.FLOAT, [], [value])
        for name, value in (("unit", -depth_unit), ("two", 2.0), ("offset", -float(forest.offset_)))
    ]
    nodes = [
        helper.make_node(
            "TreeEnsembleRegressor",
            [inputs],
            ["depths"],
            domain="ai.onnx.ml",
            n_targets=1,
            aggregate_function="SUM",
            post_transform="NONE",
            **tree_attributes([_depths(member) for member in forest.estimators_]),
        ),
        helper.make_node("Div", ["depths", "unit"], ["exponent"]),
        helper.make_node("Pow", ["two", "exponent"], ["anomaly"]),
        helper.make_node("Sub", ["offset", "anomaly"], [SCORES]),
    ]
    graph = helper.make_graph(
        nodes,
        "isolation",
        [helper.make_tensor_value_info(inputs, TensorProto.FLOAT, [None, forest.n_features_in_])],
        [helper.make_tensor_value_info(SCORES, TensorProto.FLOAT, [None, 1])],
        constants,
    )
    opsets = [helper.make_opsetid("", opset), helper.make_opsetid("ai.onnx.ml", TREES_OPSET)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=8)
    onnx.checker.check_model(model)
    return model


def average_depth(rows: NDArray[np.integer[Any]]) -> NDArray[np.float64]:
    """Mean depth at which a search in a random tree of so many rows fails (equation 1 of the paper)."""
    count = np.asarray(rows, dtype=np.float64)
    many = np.maximum(count, 3.0)
    depth = 2.0 * (np.log(many - 1.0) + np.euler_gamma) - 2.0 * (many - 1.0) / many
    return np.where(count <= 1, 0.0, np.where(count <= 2, 1.0, depth))


def _depths(member: ExtraTreeRegressor) -> Tree:
    """A tree whose leaves say how deep they lie, with what isolating their rows would add."""
    nodes = member.tree_
    depth = np.zeros(nodes.node_count)
    for place in range(nodes.node_count):  # a parent comes before its children
        for child in (nodes.children_left[place], nodes.children_right[place]):
            if child >= 0:
                depth[child] = depth[place] + 1
    value = depth + average_depth(nodes.n_node_samples)
    return Tree(
        feature=np.where(nodes.children_left < 0, -1, nodes.feature).astype(np.int64),
        threshold=nodes.threshold,
        left=nodes.children_left.astype(np.int64),
        right=nodes.children_right.astype(np.int64),
        value=value[:, None],
        cover=nodes.weighted_n_node_samples,
    )
