"""The trees with their signals as one ONNX graph: plain inputs in, quantiles out."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from models.bandwidth.signals import OnNodes, Wiring, signals
from models.tree_graph import OPSET, TREES_OPSET, TreeInputs, booster_trees, write_graph

if TYPE_CHECKING:
    import lightgbm as lgb


def write_trees(boosters: Sequence[lgb.Booster], wiring: Wiring, file: Path) -> None:
    """Write a graph from ``wiring.of_trees`` (float32, NaN for missing) to one output a booster."""
    import onnx
    from onnx import TensorProto, compose, helper

    do = OnNodes()
    columns = {name: do.column(place) for place, name in enumerate(wiring.of_trees)}
    made = signals(columns, wiring, do).values
    do.nodes.append(helper.make_node("Concat", list(made.values()), ["signals"], axis=1))
    graph = helper.make_graph(
        do.nodes,
        "signals",
        [helper.make_tensor_value_info("inputs", TensorProto.FLOAT, [None, len(columns)])],
        [helper.make_tensor_value_info("signals", TensorProto.FLOAT, [None, len(made)])],
        do.constants,
    )
    opsets = [helper.make_opsetid("", OPSET), helper.make_opsetid("ai.onnx.ml", TREES_OPSET)]
    before = helper.make_model(graph, opset_imports=opsets, ir_version=8)
    trees = [tree for target, booster in enumerate(boosters) for tree in booster_trees(booster, target)]
    with TemporaryDirectory() as folder:
        part = Path(folder, "trees.onnx")
        write_graph(TreeInputs(columns=tuple(made)), trees, len(boosters), part)
        after = compose.add_prefix(onnx.load(str(part)), "trees/")
    merged = compose.merge_models(before, after, io_map=[("signals", "trees/columns")])
    onnx.checker.check_model(merged)
    onnx.save(merged, str(file))
