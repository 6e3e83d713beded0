"""rightsizing: how will this machine's load behave, and which size should it run on?"""

from datetime import timedelta

from models.specs import Backtest, Bound, Decision, Gate, ModelSpec, Split, Stability, Tuning
from models.targets import Aggregate, ValuesAhead

WEEK = timedelta(days=7)
#: Of the following week: what its demand, and the rule of its class, are made from.
AGGREGATES: tuple[Aggregate, ...] = ("mean", "std", "p50", "p95", "p99", "daily", "trend")

SPEC = ModelSpec(
    name="rightsizing",
    question="How will this machine's load behave next week, and which size should it run on?",
    datasets=("telemetry", "machines"),
    grid="weekly",
    inputs=("*",),
    target=ValuesAhead(
        dataset="telemetry",
        columns=("cpu_percent", "memory_percent"),
        ahead=WEEK,
        width=WEEK,
        aggregates=AGGREGATES,
    ),
    task=Decision(max_risk=0.25),
    gate=Gate(
        bounds={
            "short_share": Bound(maximum=0.15),
            "risk_error": Bound(maximum=0.08),
            "class_calibration_error": Bound(maximum=0.2),
        },
        # Parted by machines, each with its whole time: they are what varies independently.
        compared_over="entity",
        stability=Stability(max_change=0.1, max_change_missing=0.5),
    ),
    # Two weeks around each observation leave no room for three spans of time within the usual window.
    split=Split(by="entity", valid_share=0.2, holdout_entities_share=0.35),
    tuning=Tuning(trials=6, timeout=timedelta(seconds=60)),
    backtest=Backtest(folds=3, by="entity"),
    observe_every=timedelta(days=1),
    schedule="0 9 * * 1",
)
