"""performance: what latency and throughput at this load on this size, and what of the service level?"""

from datetime import timedelta

from models.specs import Backtest, Bound, Forecast, Gate, ModelSpec, Slice, Split, Tuning
from models.targets import ValuesAhead

STEP = timedelta(minutes=5)
#: Far enough for the load to have become another: what a load does is not learned where it hardly moves.
GAP = timedelta(hours=6)

SPEC = ModelSpec(
    name="performance",
    question="Which latency and throughput are to be expected at this load on this size, and does the service level hold?",
    datasets=("telemetry", "machines"),
    grid="hourly",
    inputs=(
        "cpu_percent__*",
        "memory_percent__last",
        "requests_per_second__*",
        "latency_p50_ms__*",
        "latency_p95_ms__*",
        "error_percent__*",
        "disk_latency_ms__*",
        "cpu_cores",
        "memory_gib",
    ),
    given={"load_rps": "requests_per_second"},
    target=ValuesAhead(
        dataset="telemetry",
        columns=("latency_p95_ms", "latency_p50_ms", "error_percent"),
        ahead=GAP,
        width=STEP,
    ),
    task=Forecast(
        target="latency_p95_ms",
        output="latency_p95_ms",
        coverage=0.8,
        naive="latency_p95_ms__last",
        seasonal_naive="latency_p95_ms__mean_24h",
    ),
    gate=Gate(
        bounds={
            "wape": Bound(maximum=0.15),
            "coverage_error": Bound(maximum=0.06),
            "slo_calibration_error": Bound(maximum=0.03),
        },
        slices=(Slice(by="hour", edges=(12,)),),
    ),
    split=Split(rows_kept=0.4),
    tuning=Tuning(trials=4, timeout=timedelta(seconds=60)),
    backtest=Backtest(folds=2, by="entity"),
    observe_every=timedelta(hours=1),
    schedule="0 7 * * 1",
)
