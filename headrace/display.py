"""What people see: a live table of steps on a terminal, one line per change elsewhere, messages."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Self

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from headrace.doctor import Finding

_COLOURS = {
    "waiting": "dim",
    "starting": "yellow",
    "queued": "yellow",
    "running": "yellow",
    "stopping": "yellow",
    "retrying": "yellow",
    "up": "green",
    "done": "green",
    "success": "green",
    "absent": "dim",
    "skipped": "dim",
    "stopped": "dim",
    "insufficient evidence": "yellow",
    "pass": "green",
    "fine": "green",
    "warn": "yellow",
}
_AT_WORK = {"starting", "running", "queued", "stopping", "retrying"}


def output() -> Console:
    """Standard output: what was asked for."""
    return Console(highlight=False)


def messages() -> Console:
    """Standard error: progress and errors, so that a pipe gets the answer alone."""
    return Console(stderr=True, highlight=False, soft_wrap=True)


def coloured(state: str) -> Text:
    return Text(state, style=_COLOURS.get(state, "red"))


def duration(seconds: float | None) -> str:
    if seconds is None:
        return ""
    if seconds < 60:
        return f"{seconds:.1f} s"
    return f"{int(seconds // 60)} min {int(seconds % 60):02d} s"


def findings_table(findings: list[Finding]) -> Table:
    """What `headrace doctor` found, area by area, with what to do below what is not fine."""
    table = Table(box=None, show_header=False, padding=(0, 2))
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    area = ""
    for each in findings:
        told = Text(each.found)
        if each.mend:
            told.append(f"\n→ {each.mend}", style="bold")
        table.add_row("" if each.area == area else each.area, each.subject, coloured(each.state.value), told)
        area = each.area
    return table


@dataclass
class Step:
    """One line of a board."""

    title: str
    state: str = "waiting"
    detail: str = ""
    seconds: float | None = None  # given, or else measured here
    begun: float | None = None

    def elapsed(self) -> float | None:
        if self.seconds is not None:
            return self.seconds
        return None if self.begun is None else time.monotonic() - self.begun


class Board:
    """Steps with their states and times, kept up to date while work goes on.

    Use as a context manager. On a terminal the table redraws itself; elsewhere each change of
    state is a line of its own, so that a log of it reads well.
    """

    def __init__(self, console: Console, heading: str) -> None:
        self._console = console
        self._heading = heading
        self._steps: dict[str, Step] = {}
        self._live: Live | None = None

    def __enter__(self) -> Self:
        if self._console.is_terminal:
            self._live = Live(get_renderable=self._render, console=self._console, refresh_per_second=8)
            self._live.start()
        else:
            self._console.print(self._heading)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live:
            self._live.stop()

    def add(self, name: str, title: str = "") -> None:
        self._steps.setdefault(name, Step(title or name))

    def set(self, name: str, state: str, detail: str = "", seconds: float | None = None) -> None:
        """Change a step. Without ``seconds`` its time is measured from its first working state to its last."""
        self.add(name)
        step = self._steps[name]
        changed = (step.state, step.detail) != (state, detail)
        if state in _AT_WORK and step.begun is None:
            step.begun = time.monotonic()
        if seconds is not None:
            step.seconds = seconds
        elif state in _AT_WORK:
            step.seconds = None
        elif step.begun is not None and step.seconds is None:
            step.seconds = time.monotonic() - step.begun
        step.state, step.detail = state, detail
        if changed and self._live is None:
            took = f" {duration(step.seconds)}" if step.seconds is not None else ""
            text = f"  {step.title}: {state}{took}"
            self._console.print(f"{text}  {detail}" if detail else text, markup=False)

    def steps(self) -> list[Step]:
        return list(self._steps.values())

    def _render(self) -> RenderableType:
        table = Table(box=None, show_header=False, padding=(0, 2, 0, 2))
        for step in self._steps.values():
            table.add_row(
                step.title,
                coloured(step.state),
                Text(duration(step.elapsed()), justify="right"),
                Text(step.detail, style="dim", overflow="fold"),
            )
        return Group(Text(self._heading), table)


def poll(condition: Callable[[], bool], seconds: float, every: float = 0.2) -> bool:
    """Whether the condition became true in time."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(every)
    return True
