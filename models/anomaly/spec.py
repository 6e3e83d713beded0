"""anomaly: is this machine behaving abnormally now, how badly, and which metrics are to blame?"""

from datetime import timedelta

from models.specs import Backtest, Bound, Detection, Gate, ModelSpec, Parity, Slice, Split, Tuning
from models.targets import Unlabelled

SPEC = ModelSpec(
    name="anomaly",
    question="Is this machine behaving abnormally now, how badly, and which metrics are to blame?",
    datasets=("telemetry", "events"),
    grid="watch",
    inputs=("*__lag_*", "*__mean_*"),
    # What is usual differs between machines more than the strange differs from the usual.
    entity_input="machine",
    # Nothing is learned of failures: that machines misbehave before they fail is how detection is judged.
    target=Unlabelled(dataset="events", column="kind", value="failure", before=timedelta(hours=12)),
    task=Detection(max_false_positive_rate=0.01),
    gate=Gate(
        bounds={
            "average_precision": Bound(minimum=0.05),
            "alarm_false_positive_rate": Bound(maximum=0.03),
        },
        # A detector that takes the night for abnormal shows here, with labels or without.
        parities=(
            Parity(
                groups=Slice(by="hour", edges=(6, 18), required=False), metric="alarm_share", maximum=0.05
            ),
        ),
    ),
    split=Split(by="time"),
    tuning=Tuning(trials=4, timeout=timedelta(seconds=45)),
    backtest=Backtest(folds=0),
    observe_every=timedelta(hours=1),
)
