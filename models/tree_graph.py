"""Tree ensembles over columns and ratios of columns, as ONNX graphs (training side).

A ratio tells trees in one cut what takes them dozens on its two parts: a machine's load in units of
its usual load, a peak in units of the usual peak. Ratios are worked out within the graph, so that
callers send plain features. All arithmetic before the trees is a few IEEE operations on float32,
the same in NumPy and in any runtime, and thresholds are rounded down to float32, which moves no
float32 value to the other side: native and exported trees take the same way, row for row.

One graph holds any number of trees for several targets (TreeEnsembleRegressor, ai.onnx.ml 3), so
quantiles of one figure, or a class and two distributions, are one model file.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from models.manifest import Estimator
from models.tree_shap import TreePaths

if TYPE_CHECKING:
    import lightgbm as lgb
    from sklearn.ensemble import RandomForestRegressor
    from sklearn.tree import DecisionTreeRegressor

Float32 = NDArray[np.float32]
OPSET, TREES_OPSET = 17, 3
SEEN_OUTPUT = "seen"
_EXACT = 2.0**23  # of this many parts, float32 adds up to 1 exactly
LARGEST = 1e9  # a ratio to next to nothing; beyond any threshold worth learning


@dataclass(frozen=True)
class Ratio:
    """Product of ``over`` by product of ``under``, each factor of ``under`` at least ``floor``."""

    name: str
    over: tuple[str, ...]
    under: tuple[str, ...]
    floor: float = 1e-6


@dataclass(frozen=True)
class TreeInputs:
    """What trees see: columns as they are, then ratios.

    Attributes:
        columns: Columns that the trees take as they are.
        ratios: Derived columns.
        stand_ins: Column to the column that stands in where it is missing.
        fills: Value of a column where it is missing still; 0 for those not named.
    """

    columns: tuple[str, ...]
    ratios: tuple[Ratio, ...] = ()
    stand_ins: Mapping[str, str] = field(default_factory=dict)
    fills: Mapping[str, float] = field(default_factory=dict)

    @property
    def sources(self) -> tuple[str, ...]:
        """Columns that must come in, in the order of the graph's input."""
        parts = [*self.columns, *(name for ratio in self.ratios for name in (*ratio.over, *ratio.under))]
        return tuple(dict.fromkeys([*parts, *self.stand_ins.values()]))

    @property
    def names(self) -> tuple[str, ...]:
        """What the trees' features are called."""
        return (*self.columns, *(ratio.name for ratio in self.ratios))

    @property
    def owners(self) -> tuple[str, ...]:
        """The column that each feature counts for: of a ratio, the first above the line."""
        return (*self.columns, *(ratio.over[0] for ratio in self.ratios))

    def matrix(self, columns: Mapping[str, NDArray]) -> Float32:
        """What the trees see, shape (n, len(names)); float32, finite."""
        rows = len(next(iter(columns.values())))
        values = {
            name: np.asarray(columns.get(name, np.full(rows, np.nan)), dtype=np.float64).astype(np.float32)
            for name in self.sources
        }
        for name, other in self.stand_ins.items():
            values[name] = np.where(np.isnan(values[name]), values[other], values[name])
        for name, found in values.items():
            values[name] = np.where(np.isnan(found), np.float32(self.fills.get(name, 0.0)), found)
        seen = [values[name] for name in self.columns]
        for ratio in self.ratios:
            over, under = (
                _product([values[name] for name in ratio.over]),
                _product([np.maximum(values[name], np.float32(ratio.floor)) for name in ratio.under]),
            )
            seen.append(np.clip(over / under, np.float32(-LARGEST), np.float32(LARGEST)))
        return np.stack(seen, axis=1).astype(np.float32)


def _product(factors: Sequence[Float32]) -> Float32:
    result = factors[0]
    for factor in factors[1:]:
        result = result * factor
    return result


@dataclass(frozen=True)
class Tree:
    """One tree by arrays over its nodes, the root first.

    Attributes:
        feature: Index of the feature that an inner node asks; -1 at a leaf.
        threshold: An inner node goes left where ``value <= threshold``.
        left, right: Indices of the children; -1 at a leaf.
        value: Shape (nodes, k): what a leaf adds to each of k targets.
        cover: Training rows that came to each node.
        first_target: The tree adds to targets ``first_target`` … ``first_target + k - 1``.
    """

    feature: NDArray[np.int64]
    threshold: NDArray[np.float64]
    left: NDArray[np.int64]
    right: NDArray[np.int64]
    value: NDArray[np.float64]
    cover: NDArray[np.float64]
    first_target: int = 0


def forest_trees(forest: RandomForestRegressor, first_target: int = 0) -> list[Tree]:
    """Trees of a forest of one or several targets; their sum is the forest's mean."""
    share = 1.0 / len(forest.estimators_)
    return [_forest_tree(member, share, first_target) for member in forest.estimators_]


def round_leaves(forest: RandomForestRegressor) -> None:
    """Round the leaves of a forest of shares so that its mean is the same number in single and in double precision.

    Each leaf's part of the mean becomes a multiple of 2^-23. Sums of such up to 1 are exact in
    float32, in any order: a runtime that adds trees up as it likes answers with the bits of
    scikit-learn. The mean moves by at most ``trees / 2^24``, and not at all where every tree says 0 or
    1 and their number is a power of two.

    Args:
        forest: Its outcomes are within 0 and 1. Changed in place.
    """
    count = len(forest.estimators_)
    for member in forest.estimators_:
        values = member.tree_.value
        values[...] = np.rint(values / count * _EXACT) / _EXACT * count


def _forest_tree(member: DecisionTreeRegressor, share: float, first_target: int) -> Tree:
    nodes = member.tree_
    return Tree(
        feature=np.where(nodes.children_left < 0, -1, nodes.feature).astype(np.int64),
        threshold=nodes.threshold,
        left=nodes.children_left.astype(np.int64),
        right=nodes.children_right.astype(np.int64),
        value=nodes.value[:, :, 0] * share,
        cover=nodes.weighted_n_node_samples,
        first_target=first_target,
    )


def booster_trees(booster: lgb.Booster, target: int = 0) -> list[Tree]:
    """Trees of a booster of one target, numerical splits only, that saw no missing values.

    Raises:
        ValueError: a split is not of the form ``value <= threshold``.
    """
    return [_booster_tree(info["tree_structure"], target) for info in booster.dump_model()["tree_info"]]


def _booster_tree(root: dict[str, Any], target: int) -> Tree:
    rows: list[tuple[int, float, int, int, float, float]] = []

    def walk(node: dict[str, Any]) -> int:
        place = len(rows)
        # A tree that is one leaf alone has no count.
        rows.append((-1, 0.0, -1, -1, float(node.get("leaf_value", 0.0)), float(node.get("leaf_count", 1))))
        if "split_feature" in node:
            if node["decision_type"] != "<=":
                raise ValueError(f"a split by {node['decision_type']!r} is not exported, only '<='")
            left, right = walk(node["left_child"]), walk(node["right_child"])
            count = float(node["internal_count"])
            rows[place] = (node["split_feature"], float(node["threshold"]), left, right, 0.0, count)
        return place

    walk(root)
    feature, threshold, left, right, value, cover = zip(*rows, strict=True)
    return Tree(
        np.array(feature),
        np.array(threshold, dtype=np.float64),
        np.array(left),
        np.array(right),
        np.array(value, dtype=np.float64)[:, None],
        np.array(cover),
        target,
    )


def save_trees(name: str, inputs: TreeInputs, trees: Sequence[Tree], targets: int, folder: Path) -> Estimator:
    """Write an ensemble as a graph, and the ways to its leaves for explanations."""
    estimator = Estimator(
        name=name, runtime="onnx", file=f"{name}.onnx", inputs=inputs.sources, paths=f"{name}.paths.npz"
    )
    write_graph(inputs, trees, targets, folder / estimator.file)
    TreePaths.of(trees, inputs.names, targets).save(folder / f"{name}.paths.npz")
    return estimator


def write_graph(inputs: TreeInputs, trees: Sequence[Tree], targets: int, file: Path) -> None:
    """Write a graph from ``inputs.sources`` (float32, NaN for missing) to the sums, shape (n, targets).

    Its second output is what the trees see, shape (n, len(inputs.names)), which explanations begin with.
    """
    import onnx
    from onnx import TensorProto, helper

    nodes, constants = _input_nodes(inputs)
    nodes.append(
        helper.make_node(
            "TreeEnsembleRegressor",
            [SEEN_OUTPUT],
            ["sums"],
            domain="ai.onnx.ml",
            n_targets=targets,
            aggregate_function="SUM",
            post_transform="NONE",
            **tree_attributes(trees),
        )
    )
    graph = helper.make_graph(
        nodes,
        "trees",
        [helper.make_tensor_value_info("columns", TensorProto.FLOAT, [None, len(inputs.sources)])],
        [
            helper.make_tensor_value_info("sums", TensorProto.FLOAT, [None, targets]),
            helper.make_tensor_value_info(SEEN_OUTPUT, TensorProto.FLOAT, [None, len(inputs.names)]),
        ],
        constants,
    )
    opsets = [helper.make_opsetid("", OPSET), helper.make_opsetid("ai.onnx.ml", TREES_OPSET)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=8)
    onnx.checker.check_model(model)
    onnx.save(model, str(file))


def _input_nodes(inputs: TreeInputs) -> tuple[list[Any], list[Any]]:
    """Nodes that make ``seen`` of ``columns``, and their constants; step for step :meth:`TreeInputs.matrix`."""
    from onnx import TensorProto, helper

    nodes: list[Any] = []
    constants: list[Any] = []

    def constant(name: str, value: float) -> str:
        constants.append(helper.make_tensor(name, TensorProto.FLOAT, [], [value]))
        return name

    def add(operation: str, operands: list[str], name: str, **attributes: Any) -> str:
        nodes.append(helper.make_node(operation, operands, [name], **attributes))
        return name

    value = {}
    for place, name in enumerate(inputs.sources):
        constants.append(helper.make_tensor(f"{name}:place", TensorProto.INT64, [1], [place]))
        value[name] = add("Gather", ["columns", f"{name}:place"], f"{name}:in", axis=1)
    for name, other in inputs.stand_ins.items():
        lacks = add("IsNaN", [value[name]], f"{name}:lacks")
        value[name] = add("Where", [lacks, value[other], value[name]], f"{name}:stood")
    for name in inputs.sources:
        lacks = add("IsNaN", [value[name]], f"{name}:missing")
        fill = constant(f"{name}:fill", inputs.fills.get(name, 0.0))
        value[name] = add("Where", [lacks, fill, value[name]], f"{name}:filled")
    seen = [value[name] for name in inputs.columns]
    least, most = constant("least", -LARGEST), constant("most", LARGEST)
    for ratio in inputs.ratios:
        floor = constant(f"{ratio.name}:floor", ratio.floor)
        over = value[ratio.over[0]]
        for place, name in enumerate(ratio.over[1:]):
            over = add("Mul", [over, value[name]], f"{ratio.name}:over{place}")
        floored = [
            add("Max", [value[name], floor], f"{ratio.name}:floored{place}")
            for place, name in enumerate(ratio.under)
        ]
        under = floored[0]
        for place, name in enumerate(floored[1:]):
            under = add("Mul", [under, name], f"{ratio.name}:under{place}")
        seen.append(
            add("Clip", [add("Div", [over, under], f"{ratio.name}:ratio"), least, most], f"{ratio.name}:out")
        )
    add("Concat", seen, SEEN_OUTPUT, axis=1)
    return nodes, constants


def tree_attributes(trees: Sequence[Tree]) -> dict[str, list[Any]]:
    """Trees as the attributes of ONNX's TreeEnsembleRegressor."""
    sizes = [len(tree.feature) for tree in trees]
    inner = [tree.feature >= 0 for tree in trees]
    leaf_rows = [np.flatnonzero(~mask) for mask in inner]
    widths = [tree.value.shape[1] for tree in trees]
    return {
        "nodes_treeids": np.repeat(np.arange(len(trees)), sizes).tolist(),
        "nodes_nodeids": np.concatenate([np.arange(size) for size in sizes]).tolist(),
        "nodes_featureids": np.concatenate([np.maximum(tree.feature, 0) for tree in trees]).tolist(),
        "nodes_values": np.concatenate([round_down(tree.threshold) for tree in trees]).tolist(),
        "nodes_modes": ["BRANCH_LEQ" if asks else "LEAF" for mask in inner for asks in mask],
        "nodes_truenodeids": np.concatenate([np.maximum(tree.left, 0) for tree in trees]).tolist(),
        "nodes_falsenodeids": np.concatenate([np.maximum(tree.right, 0) for tree in trees]).tolist(),
        "nodes_missing_value_tracks_true": [0] * sum(sizes),
        "target_treeids": np.repeat(
            np.arange(len(trees)), [len(rows) * width for rows, width in zip(leaf_rows, widths, strict=True)]
        ).tolist(),
        "target_nodeids": np.concatenate(
            [np.repeat(rows, width) for rows, width in zip(leaf_rows, widths, strict=True)]
        ).tolist(),
        "target_ids": np.concatenate(
            [
                np.tile(tree.first_target + np.arange(width), len(rows))
                for tree, rows, width in zip(trees, leaf_rows, widths, strict=True)
            ]
        ).tolist(),
        "target_weights": np.concatenate(
            [tree.value[rows].ravel() for tree, rows in zip(trees, leaf_rows, strict=True)]
        ).tolist(),
    }


def round_down(threshold: NDArray[np.float64]) -> Float32:
    """The largest float32 that is not above each threshold: ``x <= t`` stays as it is for float32 ``x``."""
    near = threshold.astype(np.float32)
    return np.where(near.astype(np.float64) > threshold, np.nextafter(near, np.float32(-np.inf)), near)
