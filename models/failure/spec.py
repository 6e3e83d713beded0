"""failure: will this machine fail within the next 24 hours?"""

from models.specs import Backtest, Bound, Classification, Gate, ModelSpec, Parity, Slice
from models.targets import EventWithin

SPEC = ModelSpec(
    name="failure",
    question="Will this machine fail within the next 24 hours?",
    datasets=("telemetry", "events", "machines"),
    target=EventWithin(dataset="events", column="kind", value="failure"),
    task=Classification(max_false_positive_rate=0.01),
    gate=Gate(
        bounds={
            "recall": Bound(minimum=0.4),
            "average_precision": Bound(minimum=0.5),
            "calibration_error": Bound(maximum=0.05, confident=True),
        },
        # Outcomes are few: on a third of the day a loss below a tenth cannot be told from chance.
        slices=(Slice(by="hour", edges=(6, 18), margin=0.1, required=False),),
        parities=(
            Parity(groups=Slice(by="hour", edges=(6, 18)), metric="alarm_false_positive_rate", maximum=0.05),
        ),
    ),
    backtest=Backtest(folds=3, by="entity"),
)
