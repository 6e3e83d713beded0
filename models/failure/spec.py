"""failure: will this machine fail within the next 24 hours?"""

from models.specs import Label, ModelSpec, Thresholds

SPEC = ModelSpec(
    name="failure",
    question="Will this machine fail within the next 24 hours?",
    datasets=("telemetry", "events", "machines"),
    label=Label(dataset="events", column="kind", value="failure"),
    thresholds=Thresholds(min_recall=0.4, min_average_precision=0.5),
)
