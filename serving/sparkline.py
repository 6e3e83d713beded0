"""A few values as a small line of SVG: no script, no file of its own, readable in the dark and aloud."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

WIDTH, HEIGHT = 240, 44
_PAD = 3


def sparkline(values: Sequence[float | None], title: str, now: str, kind: str = "") -> str:
    """The line with its name, and its newest value in words.

    Args:
        values: Oldest first; None: nothing was measured, and the line has a gap.
        title: What the values are.
        now: The newest value, with its unit.
        kind: Class of the figure, which its colour goes by.
    """
    known = [value for value in values if value is not None]
    top = max(known, default=0.0) or 1.0
    lines = "".join(
        f'<polyline points="{points}"/>' for points in _pieces(values, top) if points.count(",") > 1
    )
    dots = "".join(
        '<circle cx="{}" cy="{}" r="1.6"/>'.format(*points.split(","))
        for points in _pieces(values, top)
        if points.count(",") == 1
    )
    return (
        f'<figure class="spark {escape(kind)}"><figcaption>{escape(title)} <b>{escape(now)}</b></figcaption>'
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(title)}: now {escape(now)}" '
        f'preserveAspectRatio="none"><line x1="0" x2="{WIDTH}" y1="{HEIGHT - _PAD}" y2="{HEIGHT - _PAD}" '
        f'class="base"/>{lines}{dots}</svg></figure>'
    )


def _pieces(values: Sequence[float | None], top: float) -> list[str]:
    """Points of each stretch without a gap, in the coordinates of the picture."""
    step = (WIDTH - 2 * _PAD) / max(1, len(values) - 1)
    pieces: list[list[str]] = [[]]
    for place, value in enumerate(values):
        if value is None:
            pieces.append([])
            continue
        x = _PAD + place * step
        y = HEIGHT - _PAD - (HEIGHT - 2 * _PAD) * value / top
        pieces[-1].append(f"{x:.1f},{y:.1f}")
    return [" ".join(piece) for piece in pieces if piece]
