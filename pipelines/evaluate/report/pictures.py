"""The task's own figures as pictures inside the page, one for light and one for dark surroundings."""

from __future__ import annotations

import base64
import colorsys
import io
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_DPI = 144
_LIGHTEST, _CHROMATIC_LIGHTNESS = 0.90, 0.63
_GREY_SATURATION = 0.12


@dataclass(frozen=True)
class Picture:
    """One figure, twice, as ``data:`` addresses of PNG files."""

    name: str
    light: str
    dark: str
    width: int
    height: int


def picture(name: str, figure: Figure) -> Picture:
    """Draw a figure on a transparent ground. The figure keeps its dark colours afterwards."""
    width, height = (int(size * 100) for size in figure.get_size_inches())
    figure.patch.set_alpha(0.0)
    for axes in figure.axes:
        axes.patch.set_alpha(0.0)
    light = _png(figure)
    _darken(figure)
    return Picture(name, light, _png(figure), width, height)


def for_dark(colour: Any) -> tuple[float, float, float, float]:
    """A colour that was chosen for white paper, for a dark ground: greys turn over, others get lighter."""
    from matplotlib.colors import to_rgba

    red, green, blue, alpha = to_rgba(colour)
    hue, lightness, saturation = colorsys.rgb_to_hls(red, green, blue)
    if saturation < _GREY_SATURATION:
        return (*colorsys.hls_to_rgb(hue, _LIGHTEST - 0.78 * lightness, saturation), alpha)
    lighter = max(lightness, _CHROMATIC_LIGHTNESS)
    return (*colorsys.hls_to_rgb(hue, lighter, min(saturation, 0.85)), alpha)


def _png(figure: Figure) -> str:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=_DPI)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def _darken(figure: Figure) -> None:
    from matplotlib.collections import Collection
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch
    from matplotlib.text import Text

    for artist in figure.findobj():
        match artist:
            case Text():
                artist.set_color(for_dark(artist.get_color()))
            case Line2D():
                artist.set_color(for_dark(artist.get_color()))
                for part in ("markerfacecolor", "markeredgecolor"):
                    colour = getattr(artist, f"get_{part}")()
                    if not isinstance(colour, str) or colour not in {"none", "auto"}:
                        getattr(artist, f"set_{part}")(for_dark(colour))
            case Patch():
                artist.set_edgecolor(for_dark(artist.get_edgecolor()))
                if artist is not figure.patch and artist not in [axes.patch for axes in figure.axes]:
                    artist.set_facecolor(for_dark(artist.get_facecolor()))
            case Collection() if artist.get_array() is None:
                artist.set_facecolor([for_dark(colour) for colour in artist.get_facecolor()])
                artist.set_edgecolor([for_dark(colour) for colour in artist.get_edgecolor()])
            case _:
                pass
