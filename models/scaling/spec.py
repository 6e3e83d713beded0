"""scaling: how much load comes in the next half hour, and how many replicas should be there for it?"""

from datetime import timedelta

from models.specs import Backtest, Bound, Forecast, Gate, ModelSpec, Slice, Split, Tuning
from models.targets import ValuesAhead

SPEC = ModelSpec(
    name="scaling",
    question="How much load comes in the next 30 minutes, and how many replicas should be there for it?",
    datasets=("telemetry",),
    grid="recent",
    inputs=("requests_per_second__[!d]*", "hour_*", "weekday_*", "is_weekend"),
    target=ValuesAhead(
        dataset="telemetry",
        columns=("requests_per_second",),
        ahead=timedelta(minutes=10),
        width=timedelta(minutes=5),
        steps=3,
    ),
    task=Forecast(target="requests_per_second", naive="requests_per_second__lag_0"),
    gate=Gate(
        bounds={"wape": Bound(maximum=0.5), "coverage_error": Bound(maximum=0.1, confident=True)},
        slices=(Slice(by="hour", edges=(12,)),),
    ),
    split=Split(rows_kept=0.5),
    tuning=Tuning(trials=5, timeout=timedelta(seconds=45)),
    backtest=Backtest(folds=2),
    schedule="0 6 * * 1",
)
