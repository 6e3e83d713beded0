"""A model's monitoring as one HTML page, whole in itself: what was seen, what came of it, whether it was worth it.

``$HEADRACE_HOME/reports/monitor/<registered name>.html``, replaced after each check and each training. It loads
nothing from anywhere, so that it can be mailed, archived or served as a file.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

from pipelines.adapters.lake import Lake
from pipelines.monitor import checks, requests
from pipelines.monitor.records import Check, Request
from pipelines.monitor.worth import Off, Worth, off, worth
from pipelines.pages import template

if TYPE_CHECKING:
    import jinja2

    from models.specs import Bound
    from pipelines.settings import Settings

#: Newest checks and requests that are listed; figures are of all.
SHOWN = 40
WIDTH, HEIGHT = 760, 180
_LEFT, _RIGHT, _TOP, _BOTTOM = 44, 8, 10, 22


@dataclass(frozen=True)
class Chart:
    """A metric over checks, in the pixels of an SVG.

    Attributes:
        realised, estimated: Polylines, each of ``x,y`` pairs; empty: never known.
        floor: Height of the bound; None: it has none.
        alarms: Places on the time axis.
        ticks: Heights with their words.
        first, last: Days at the ends.
    """

    metric: str
    realised: str
    estimated: str
    dots: tuple[tuple[float, float, str], ...]
    floor: float | None
    alarms: tuple[float, ...]
    ticks: tuple[tuple[float, str], ...]
    first: str
    last: str


def path_of(settings: Settings, registered_name: str) -> Path:
    return settings.home / "reports" / "monitor" / f"{quote(registered_name, safe='')}.html"


def write(registered_name: str, settings: Settings) -> Path:
    """Replace the model's page."""
    from models.catalogue import find
    from pipelines.sources.profile import load_profile

    lake = Lake.of(settings)
    seen, asked = checks.read(lake, registered_name), requests.read(lake, registered_name)
    bounds: Mapping[str, Bound] = {}
    if seen:
        spec = load_profile(settings.source).spec_of(find(seen[-1].model))
        bounds = spec.monitor.floors or spec.gate.bounds
    path = path_of(settings, registered_name)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(f".{os.getpid()}.part")
    part.write_text(render(registered_name, seen, asked, bounds), "utf-8")
    part.replace(path)
    return path


def render(
    registered_name: str, seen: Sequence[Check], asked: Sequence[Request], bounds: Mapping[str, Bound]
) -> str:
    """The page's HTML; checks by the end of their windows, requests by number."""
    return _template().render(
        name=registered_name,
        newest=seen[-1] if seen else None,
        checks=list(reversed(seen))[:SHOWN],
        requests=list(reversed(asked))[:SHOWN],
        facts=facts(worth(seen, asked), {name: each for name, each in off(seen).items() if name in bounds}),
        charts=[found for metric, bound in bounds.items() if (found := chart(seen, metric, bound))],
        width=WIDTH,
        height=HEIGHT,
        left=_LEFT,
        right=WIDTH - _RIGHT,
        bottom=HEIGHT - _BOTTOM,
        top=_TOP,
    )


def facts(figures: Worth, estimates: Mapping[str, Off]) -> list[tuple[str, str, str]]:
    """What is said in large letters: its name, the figure, and what it counts."""
    hours = figures.to_champion
    return [
        (
            "Alarm precision",
            _share(figures.alarm_precision),
            f"{figures.confirmed} of {figures.judged} alarms that labels could judge; {figures.alarms} in all",
        ),
        (
            "Retrain yield",
            _share(figures.retrain_yield),
            f"{figures.promoted} of {figures.trainings} trainings brought a new champion; {figures.training_hours:.1f} h in all",
        ),
        (
            "From change to new champion",
            f"{hours.total_seconds() / 3600:.1f} h" if hours is not None else "none yet",
            "median of the trainings that brought one",
        ),
        *(
            (
                f"Estimated {metric.replace('_', ' ')}",
                f"± {each.absolute:.3g}",
                f"off on average, {each.bias:+.3g} in the mean; {each.checks} checks that labels caught up with",
            )
            for metric, each in estimates.items()
        ),
    ]


def chart(seen: Sequence[Check], metric: str, bound: Bound) -> Chart | None:
    """None where nobody ever knew this metric."""
    known = [(check, check.realised.values.get(metric), check.estimated.values.get(metric)) for check in seen]
    values = [value for _, *pair in known for value in pair if value is not None]
    if not values:
        return None
    floor = bound.minimum if bound.minimum is not None else bound.maximum
    low, high = min([*values, *([] if floor is None else [floor])]), max([*values, floor or values[0]])
    room = (high - low) * 0.1 or abs(high) * 0.1 or 1.0
    low, high = low - room, high + room
    first, last = seen[0].window.end, seen[-1].window.end
    span = (last - first).total_seconds() or 1.0

    def x(check: Check) -> float:
        return round(_LEFT + (check.window.end - first).total_seconds() / span * (WIDTH - _LEFT - _RIGHT), 1)

    def y(value: float) -> float:
        return round(_TOP + (high - value) / (high - low) * (HEIGHT - _TOP - _BOTTOM), 1)

    return Chart(
        metric=metric.replace("_", " "),
        realised=" ".join(f"{x(check)},{y(value)}" for check, value, _ in known if value is not None),
        estimated=" ".join(f"{x(check)},{y(value)}" for check, _, value in known if value is not None),
        dots=tuple(
            (x(check), y(value), f"{check.window.end:%Y-%m-%d}: {value:.3g}")
            for check, value, _ in known
            if value is not None
        ),
        floor=None if floor is None else y(floor),
        alarms=tuple(x(check) for check in seen if check.alarm),
        ticks=tuple((y(value), f"{value:.3g}") for value in (low + room, (low + high) / 2, high - room)),
        first=f"{first:%Y-%m-%d}",
        last=f"{last:%Y-%m-%d}",
    )


def _share(figure: float | None) -> str:
    return f"{figure:.0%}" if figure is not None else "none yet"


@lru_cache(maxsize=1)
def _template() -> jinja2.Template:
    return template(Path(__file__).with_name("page.html"))
