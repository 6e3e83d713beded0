"""Small exports, one for each kind of head in the catalogue: real graphs, heads as the models have them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from models.cost.smoothing import Smoothing
from models.encoding import estimator_matrix
from models.heads import (
    ActionHead,
    BaseHead,
    CostHead,
    IntervalHead,
    PlacementHead,
    ProbabilityHead,
    SeverityHead,
    SizingHead,
    SloHead,
)
from models.heads.cost import CostMember, Spread
from models.heads.interval import Encoding, Level, Member, Offset
from models.heads.placement import CANDIDATE_INPUTS
from models.heads.severity import Profile, SideProfile, lag_name
from models.heads.sizing import Amount, Demand
from models.heads.slo import Blend, Machine
from models.manifest import Estimator, FieldType, InputField, ServingParts
from models.rightsizing.choice import load_prices
from models.scaling.policy import ScalingPolicy
from pipelines.adapters.exports import make_sample, manifest_sha256, write_export
from pipelines.adapters.runtimes import to_column
from pipelines.adapters.runtimes.onnx import OnnxRuntime
from pipelines.adapters.signing import Signer

_ROWS = 5
_CATEGORIES = ("a", "b")


@dataclass(frozen=True)
class SmallModel:
    """A head, its inputs, and the width of its estimator's raw answer."""

    head: BaseHead
    inputs: tuple[InputField, ...]
    width: int = 1
    estimator: str = "boosters"

    def columns(self, random: np.random.Generator, rows: int = _ROWS) -> dict[str, NDArray]:
        """Rows as callers could send them; optional inputs are missing now and then."""
        return {field.name: _column(field, random, rows) for field in self.inputs}


def _column(field: InputField, random: np.random.Generator, rows: int) -> NDArray:
    missing = (random.random(rows) < 0.2) & (not field.required)
    if field.type is FieldType.STRING:
        texts = random.choice(np.array(field.categories or ("r1", "r2"), dtype=object), rows)
        return to_column(field, [None if gone else text for text, gone in zip(texts, missing, strict=True)])
    values = random.uniform(field.minimum or 0.0, field.maximum or 100.0, rows)
    values = np.floor(values) + 1 if field.type is FieldType.LONG else values
    return np.where(missing, np.nan, values)


def _numbers(*names: str, required: bool = False) -> tuple[InputField, ...]:
    return tuple(InputField(name=name, type=FieldType.DOUBLE, required=required) for name in names)


_NOW = Level(columns=("load",), floor=1.0)


def _interval(first: int = 0) -> IntervalHead:
    middle, lower, upper = (Member(estimator="boosters", output=first + place) for place in range(3))
    return IntervalHead(
        forecast=(middle,),
        lower=(lower,),
        upper=(upper,),
        encoding=Encoding(base=_NOW, scale=_NOW),
        offsets=(Offset(lower=0.0, upper=0.0),),
    )


def _action() -> SmallModel:
    policy = ScalingPolicy(capacity_per_replica=100.0, target_utilisation=1.0, max_replicas=20)
    head = ActionHead(steps=(_interval(), _interval(3)), now=_NOW, policy=policy)
    return SmallModel(head, _numbers("load", "steps_ahead", "current_load"), 6)


def _cost() -> SmallModel:
    lags = tuple(f"cost_lag_{day}" for day in range(35))
    plain, nothing = Smoothing(level=0.4), Spread(lower=-0.5, upper=0.7)
    head = CostHead(
        lags=lags,
        groups=(7, 14),
        members=(
            CostMember(
                name="trees", smoothings=(plain,), corrected=True, drifts=("boosters",) * 2, weight=1.0
            ),
        ),
        scale_by=(plain,),
        daily=(nothing, nothing),
        total=(nothing, nothing),
    )
    calendar = (
        *_numbers("weekday_sin", "weekday_cos", required=True),
        InputField(name="month", type=FieldType.LONG, minimum=0, maximum=11),
        InputField(name="day_of_month", type=FieldType.LONG, minimum=0, maximum=27),
    )
    return SmallModel(head, _numbers(*lags) + calendar + _numbers("steps_ahead"))


def _placement() -> SmallModel:
    candidate = tuple(
        InputField(name=name, type=kind, required=False) for name, (kind, _) in CANDIDATE_INPUTS.items()
    )
    head = PlacementHead(estimator="boosters", edges_hours=(1.0, 8.0), tail_hours=48.0)
    return SmallModel(head, _numbers("cores__last", "memory_gib__last", required=True) + candidate, 3)


def _probability() -> SmallModel:
    head = ProbabilityHead(estimator="boosters", slope=0.01, intercept=0.1, alarm_threshold=0.5)
    inputs = (
        *_numbers("latency"),
        InputField(name="cores", type=FieldType.LONG, minimum=1, maximum=64),
        InputField(name="zone", type=FieldType.STRING, required=False, categories=_CATEGORIES),
    )
    return SmallModel(head, inputs)


def _severity() -> SmallModel:
    metrics, lags = ("cpu", "disk", "network"), 6
    side = SideProfile(
        centre=(10.0,) * 3, scale=(1.0,) * 3, mean=(0.0,) * 3, weights=tuple(map(tuple, np.eye(3)))
    )
    signals = (
        "static_distance",
        "trailing_distance",
        "static_structure",
        "trailing_structure",
        "spread",
        "movement",
    )
    ones, zeros = (1.0,) * 3, (0.0,) * 3
    profile = Profile(
        static=side,
        trailing=side,
        spread_centre=zeros,
        spread_scale=ones,
        movement_centre=zeros,
        movement_scale=ones,
        units=dict.fromkeys(signals, ones),
    )
    head = SeverityHead(
        metrics=metrics,
        lags=lags,
        level_steps=3,
        reference="mean_8h",
        resolution=ones,
        key="server",
        keys=_CATEGORIES,
        profiles=(profile, profile),
        fleet=profile,
        weights={"distance": 1.0, "structure": 1.0, "spread": 0.5, "movement": 0.5},
        strongest=2,
        forest="boosters",
        forest_weight=0.1,
        levels=(0.5, 1.0, 2.0, 4.0),
    )
    names = [lag_name(metric, step) for metric in metrics for step in range(lags)]
    server = InputField(name="server", type=FieldType.STRING, required=False, categories=_CATEGORIES)
    return SmallModel(
        head, (*_numbers(*names), *_numbers(*(f"{metric}__mean_8h" for metric in metrics)), server)
    )


def _sizing() -> SmallModel:
    levels = (-4.0, -2.0, -1.0, 0.0, 0.5, 2.0)
    cpu = Demand(
        reference=Amount(column="cpu", factor=0.01, of="cpu_cores", largest=100.0),
        floor=0.01,
        capacity=Amount(column="cpu_cores"),
        first=3,
        levels=levels,
    )
    memory = Demand(
        reference=Amount(column="mem_gib"),
        floor=0.02,
        capacity=Amount(column="memory_gib"),
        first=9,
        levels=levels,
    )
    head = SizingHead(
        estimator="boosters",
        classes=("idle", "bursty", "steady"),
        cpu=cpu,
        memory=memory,
        prices=load_prices(),
    )
    return SmallModel(head, _numbers("cpu", "cpu_cores", "mem_gib", "memory_gib"), 15)


def _slo() -> SmallModel:
    head = SloHead(
        machine=Machine(
            cores="cpu_cores",
            memory_gib="memory_gib",
            cpu_percent="cpu",
            load="rps",
            memory_percent="memory",
            tail_latency="p95",
            median_latency="p50",
        ),
        tail_reference=Blend(columns=("p95_last", "p95"), weights=(0.4, 0.6)),
        median_reference=Blend(columns=("p50",), weights=(1.0,)),
        levels=(0.1, 0.25, 0.5, 0.75, 0.9),
        usual=(50.0, 20.0),
        seen_utilisation=70.0,
    )
    of_machine = ("cpu_cores", "memory_gib", "cpu", "rps", "memory", "p95", "p95_last", "p50")
    return SmallModel(head, _numbers(*of_machine, "load_rps", "candidate_cpu_cores", "slo_ms"), 7)


SMALL_MODELS: Mapping[str, SmallModel] = {
    "action": _action(),
    "cost": _cost(),
    "interval": SmallModel(_interval(), _numbers("load", "hour"), 3),
    "placement": _placement(),
    "probability": _probability(),
    "severity": _severity(),
    "sizing": _sizing(),
    "slo": _slo(),
}


def write_small_model(name: str, folder: Path, signing_key: Path | None = None) -> Path:
    """Write, and sign, the export of one."""
    small = SMALL_MODELS[name]
    names = tuple(field.name for field in small.inputs)
    estimator = _estimator(small)

    def save(part: Path) -> ServingParts:
        write_graph(part / estimator.file, len(names), small.width)
        return ServingParts((estimator,), small.head, tolerance=1e-4)

    columns = small.columns(np.random.default_rng(7))
    folder.parent.mkdir(parents=True, exist_ok=True)
    write_graph(folder.parent / estimator.file, len(names), small.width)
    raw = OnnxRuntime(estimator, folder.parent).raw(estimator_matrix(columns, small.inputs, estimator))
    answers = small.head.answer(columns, {small.estimator: raw})
    (folder.parent / estimator.file).unlink()
    sample = make_sample(small.inputs, columns, answers)
    write_export(folder, save, model=name, inputs=small.inputs, sample=sample, lineage={})
    if signing_key is not None:
        Signer(signing_key).sign(folder, manifest_sha256(folder))
    return folder


def _estimator(small: SmallModel) -> Estimator:
    """Asked for the inputs in reverse: the order is part of what is tried."""
    names = tuple(field.name for field in reversed(small.inputs))
    return Estimator(
        name=small.estimator, runtime="onnx", file="net.onnx", inputs=names, fill=(0.5,) * len(names)
    )


def write_graph(path: Path, width: int, outputs: int) -> None:
    """A linear layer and a hyperbolic tangent, with random weights."""
    weights = np.random.default_rng(3).normal(scale=0.01, size=(width, outputs)).astype(np.float32)
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["m"]), helper.make_node("Tanh", ["m"], ["y"])],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", width])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", outputs])],
        [numpy_helper.from_array(weights, "w")],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 15)], ir_version=8), str(path))
