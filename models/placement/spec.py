"""placement: on which candidate host should this virtual machine run?"""

from datetime import timedelta

from models.specs import Backtest, Bound, Decision, Gate, ModelSpec, Tuning
from models.targets import UntilEvent

SPEC = ModelSpec(
    name="placement",
    question="On which of these hosts should this virtual machine run, how long will it live, and why there?",
    datasets=("vm_requests", "vm_events"),
    grid="vms",
    inputs=("*__last", "hour_sin", "hour_cos", "is_weekend"),
    target=UntilEvent(dataset="vm_events", column="kind", value="deleted", cap=timedelta(days=30)),
    task=Decision(),
    gate=Gate(
        bounds={
            "violations": Bound(maximum=0.0),
            "stranded_to_random": Bound(maximum=0.5),
            # On clusters of a few dozen hosts lifetimes save little, and luck is some per cent.
            "host_hours_to_best_fit": Bound(maximum=1.03),
            "coverage": Bound(minimum=0.65),
        },
        min_rows=500,
        min_clusters=500,
    ),
    tuning=Tuning(trials=8, timeout=timedelta(seconds=80)),
    backtest=Backtest(folds=2, by="time"),
    observe_every=None,
    schedule="0 8 * * 1",
)
