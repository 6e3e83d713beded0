"""Templates of the HTML pages that stages write for people."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import jinja2


def template(
    path: Path,
    filters: Mapping[str, Callable[..., Any]] | None = None,
    names: Mapping[str, Any] | None = None,
) -> jinja2.Template:
    """The template in this file. What comes from outside is escaped, and a name that nobody gave is an error.

    Args:
        filters: By name, beside Jinja's own.
        names: What each page may use besides what it is rendered with.
    """
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(path.parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= filters or {}
    environment.globals |= names or {}
    return environment.get_template(path.name)
