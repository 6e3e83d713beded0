"""The end of `headrace demo-drift`: what the answers were worth once it was known what came, day by day, drawn."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import TYPE_CHECKING

from rich.table import Table
from rich.text import Text

from headrace.demo_traffic import Told

if TYPE_CHECKING:
    from pathlib import Path

    import polars as pl
    from matplotlib.axes import Axes

    from models.specs import ModelSpec
    from pipelines.settings import Settings
    from pipelines.sources.profile import SourceProfile

METRIC = "average_precision"
_BAR = 20  # characters of a full bar
_EIGHTHS = " ▏▎▍▌▋▊▉"


@dataclass(frozen=True)
class Score:
    """What answers of one version were worth.

    Attributes:
        day: Of the hours that were asked about; None: of several.
        rows: Answers whose outcome is known.
        positives: Of these, with a failure within the horizon.
        average_precision: 0 to 1; NaN where nothing failed.
        recall: Share of the failures' hours that had an alarm.
    """

    day: date | None
    version: str
    rows: int
    positives: int
    average_precision: float
    recall: float


@dataclass(frozen=True)
class Ending:
    """Quality over the whole story.

    Attributes:
        days: Of what callers were told, in order.
        instead: What the version before would have said of the days that the new one answered.
        before: All answers before the change.
        lost: Those after it, by the version that did not know it.
        after: Those of the version that learned it; None: there is none.
        stayed: ``instead`` as one.
    """

    days: tuple[Score, ...]
    instead: tuple[Score, ...]
    before: Score
    lost: Score
    after: Score | None
    stayed: Score | None

    @property
    def recovered(self) -> bool:
        """Whether the new version's answers were better than before it came, and than its forerunner's would have been."""
        if self.after is None or self.stayed is None:
            return False
        reached = self.after.average_precision
        return reached > self.lost.average_precision and reached > self.stayed.average_precision


def with_truths(
    told: Sequence[Told], spec: ModelSpec, profile: SourceProfile, until: datetime, settings: Settings
) -> pl.DataFrame:
    """The answers whose outcome is known at ``until``, each with ``day`` and ``target__<name>``.

    Raises:
        LakeError: the table of the outcomes is missing.
    """
    import polars as pl

    from pipelines.monitor.observe import Observed, truths
    from pipelines.references import Window

    answers = pl.DataFrame(
        {
            "entity": [each.entity for each in told],
            "event_time": [each.at for each in told],
            "version": [each.version for each in told],
            "probability": [each.probability for each in told],
            "alarm": [each.alarm for each in told],
        },
        schema_overrides={"event_time": pl.Datetime("us", "UTC")},
    )
    entity = profile.dataset(spec.target.datasets[0]).entity
    asked = Observed(answers.rename({"entity": entity}), entity, (), 1.0)
    window = Window(start=min(each.at for each in told) - timedelta(hours=1), end=until)
    known = truths(spec, profile, asked, window, settings).rename({entity: "entity"})
    # An hour that ends at midnight is the last of its day.
    return known.with_columns(day=(pl.col("event_time") - pl.duration(microseconds=1)).dt.date())


def by_day(known: pl.DataFrame, spec: ModelSpec) -> tuple[Score, ...]:
    """A score per day and version, in order."""
    found = [
        score(rows, spec, day, version) for (day, version), rows in known.group_by("day", "version", maintain_order=True)
    ]  # fmt: skip
    return tuple(sorted(found, key=lambda each: (each.day or date.min, each.version)))


def score(known: pl.DataFrame, spec: ModelSpec, day: date | None = None, version: str = "") -> Score:
    """One score of all these answers."""
    import numpy as np
    import polars as pl

    from models.base import Observations, builder_of
    from models.targets import PREFIX

    targets = {
        name: known[f"{PREFIX}{name}"].cast(pl.Float64).to_numpy().astype(np.float64)
        for name in spec.target.names
    }
    part = Observations({}, targets, np.ones(known.height), known["entity"].to_numpy())
    answers = {"probability": known["probability"].to_numpy(), "alarm": known["alarm"].to_numpy()}
    task = builder_of(spec).task(spec)
    figures: Mapping[str, float] = task.metrics(part, answers) if known.height else {}
    return Score(
        day=day,
        version=version or ", ".join(known["version"].unique().sort()),
        rows=known.height,
        positives=(task.positives(part) or 0) if known.height else 0,
        average_precision=float(figures.get(METRIC, float("nan"))),
        recall=float(figures.get("alarm_recall", float("nan"))),
    )


def ending(known: pl.DataFrame, instead: pl.DataFrame | None, changed_at: datetime, spec: ModelSpec, old: str) -> Ending:  # fmt: skip
    """Put together what came of all answers.

    Args:
        known: From :func:`with_truths`.
        instead: The same of what version ``old`` would have said later; None: it still answers.
    """
    import polars as pl

    past, mine = pl.col("event_time") <= changed_at, pl.col("version") == old
    new = known.filter(~mine)
    return Ending(
        days=by_day(known, spec),
        instead=by_day(instead, spec) if instead is not None else (),
        before=score(known.filter(past), spec, version=old),
        lost=score(known.filter(~past & mine), spec, version=old),
        after=score(new, spec) if new.height else None,
        stayed=score(instead, spec, version=old) if instead is not None else None,
    )


def table(end: Ending, marks: Mapping[date, str]) -> Table:
    """Average precision by day as bars, and the share of the failures' hours that had an alarm.

    Args:
        marks: What happened on a day.
    """
    # Whole on a terminal of 80 columns.
    shown = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    for name in ("day", "version", "average precision", "", "found", ""):
        shown.add_column(name, no_wrap=True)
    old = end.days[0].version if end.days else ""
    for each in end.days:
        shown.add_row(
            f"{each.day}",
            each.version,
            Text(bar(each.average_precision), style="cyan" if each.version == old else "green"),
            _number(each.average_precision),
            _share(each.recall),
            Text(marks.get(each.day, "") if each.day else "", style="yellow"),
        )
    return shown


def bar(share: float) -> str:
    """A share of 0 to 1 as a bar of blocks; nothing where it is not a number."""
    if share != share:
        return ""
    eighths = round(min(max(share, 0.0), 1.0) * _BAR * 8)
    return "█" * (eighths // 8) + (_EIGHTHS[eighths % 8] if eighths % 8 else "")


def draw(end: Ending, lines: Mapping[datetime, str], floor: float | None, file: Path) -> None:
    """Quality over time as a PNG.

    Args:
        lines: Moments with their words.
        floor: Average precision under which monitoring asks for a training.
    """
    from matplotlib.dates import DateFormatter

    from models.plots import BLUE, GREY, ORANGE, axes

    figure, plot = axes(
        "What the answers were worth, once it was known what came", "Day asked about (UTC)", "Average precision",
        height=4.4, width=9.0,
    )  # fmt: skip
    old = end.days[0].version
    _line(plot, (each for each in end.days if each.version == old), BLUE, "o-", f"version {old} answered")
    _line(plot, end.instead, BLUE, "o:", f"version {old}, had it stayed")
    for version in sorted({each.version for each in end.days} - {old}):
        _line(
            plot,
            (each for each in end.days if each.version == version),
            ORANGE,
            "o-",
            f"version {version} answered",
        )
    if floor is not None:
        plot.axhline(floor, color=GREY, linewidth=0.8, linestyle="--", label=f"the gate's floor, {floor:g}")
    for number, (moment, words) in enumerate(sorted(lines.items())):
        place = _place(moment)
        plot.axvline(place, color=GREY, linewidth=1)
        plot.annotate(
            words, (place, 1.06 - 0.06 * (number % 2)), xytext=(4, 0), textcoords="offset points",
            fontsize=8, color=GREY, va="top",
        )  # fmt: skip
    plot.set_ylim(0, 1.08)
    plot.xaxis_date()
    plot.xaxis.set_major_formatter(DateFormatter("%b %d"))  # type: ignore[no-untyped-call]
    plot.legend(frameon=False, loc="center", fontsize=8)
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file)


def _line(plot: Axes, scores: Iterable[Score], colour: str, style: str, label: str) -> None:
    """One line of days; each stands at its noon."""
    shown = [each for each in scores if each.day is not None]
    if not shown:
        return
    noons = [
        _place(datetime(each.day.year, each.day.month, each.day.day, 12, tzinfo=UTC))
        for each in shown
        if each.day
    ]
    plot.plot(noons, [each.average_precision for each in shown], style, color=colour, label=label)


def _place(moment: datetime) -> float:
    """On an axis of dates: days since 1970."""
    return moment.timestamp() / 86_400


def _number(value: float) -> str:
    return "" if value != value else f"{value:.2f}"


def _share(value: float) -> str:
    return "" if value != value else f"{value:.0%}"
