"""bandwidth: how much will this machine send and receive 15 minutes from now?"""

from datetime import timedelta

from models.specs import Backtest, Bound, Forecast, Gate, ModelSpec, Slice, Split, Tuning
from models.targets import ValuesAhead

SPEC = ModelSpec(
    name="bandwidth",
    question="How much will this machine send and receive 15 minutes from now, and between which bounds?",
    datasets=("telemetry",),
    grid="recent",
    inputs=(
        "cpu_*__lag_*",
        "cpu_*__mean_*",
        "memory_*__lag_*",
        "disk_*__lag_*",
        "network_*__lag_*",
        "network_*__mean_*",
        "network_*__std_*",
    ),
    target=ValuesAhead(
        dataset="telemetry",
        columns=("network_in_mbps", "network_out_mbps"),
        ahead=timedelta(minutes=15),
        width=timedelta(minutes=5),
        total="throughput",
    ),
    task=Forecast(target="throughput", coverage=0.8),
    gate=Gate(
        bounds={
            "wape_over_naive": Bound(maximum=0.98),
            "median_ape": Bound(maximum=0.25),
            "coverage_error": Bound(maximum=0.05),
        },
        block=timedelta(days=1),
        slices=(Slice(by="hour", edges=(6, 18)),),
    ),
    split=Split(by="entity_and_time"),
    tuning=Tuning(trials=4, timeout=timedelta(seconds=40)),
    backtest=Backtest(folds=0),
    observe_every=timedelta(minutes=30),
    schedule="0 4 * * 1",
)
