"""cost: what will this project or service cost on each of the next 30 days?"""

from datetime import timedelta

from models.specs import Backtest, Bound, Forecast, Gate, ModelSpec, Slice, Split, Tuning
from models.targets import ValuesAhead

DAY = timedelta(days=1)
STEPS = 30

SPEC = ModelSpec(
    name="cost",
    question="What will this project or service cost on each of the next 30 days, and in sum?",
    datasets=("billing",),
    grid="billing",
    inputs=("cost_usd__lag_*", "weekday_*", "day_of_month", "days_to_month_end", "month"),
    target=ValuesAhead(
        dataset="billing", columns=("cost_usd",), ahead=DAY, width=DAY, aggregates=("sum",), steps=STEPS
    ),
    task=Forecast(target="cost_usd", naive="cost_usd__lag_0", coverage=0.8),
    gate=Gate(
        bounds={"total_ape_mean": Bound(maximum=0.15), "coverage": Bound(minimum=0.65)},
        # A few projects, each with months of days that resemble their neighbours.
        min_rows=1000,
        min_clusters=8,
        # Forecasts of a month overlap for a month: three months hold three of each project, so that
        # projects and months are what varies, not days.
        compared_over="entity",
        block=timedelta(days=30),
        slices=(Slice(input="steps_ahead", edges=(8, 15), margin=0.02, required=False),),
    ),
    split=Split(valid_share=0.2, holdout_share=0.25),
    tuning=Tuning(trials=6, timeout=timedelta(seconds=60)),
    backtest=Backtest(folds=2),
    observe_every=DAY,
    # Months before the first forecast are read as lags. Two years: a holdout of three months holds too few
    # independent months of a handful of projects to prove a gain over the last week repeated.
    training_window=timedelta(days=730),
    schedule="30 3 * * 1",
)
