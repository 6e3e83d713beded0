"""failure: will this machine fail within the next 24 hours?"""

from models.specs import Backtest, Bound, Classification, Gate, ModelSpec
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
            "calibration_error": Bound(maximum=0.05),
        }
    ),
    backtest=Backtest(folds=3, by="entity"),
)
