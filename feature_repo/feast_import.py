"""Imports Feast in a quarter of the time: import this before anything of Feast.

Feast decorates its classes with ``typeguard.typechecked``, which parses and compiles each decorated
module anew at import, once per method: 4 to 8 of the 5 to 10 seconds that ``import feast`` takes. The
decorator is meant to do nothing in production and stands aside under ``python -O``; here it stands
aside for Feast alone. Our calls into Feast are checked by mypy and by tests instead.
"""

from __future__ import annotations

from typing import Any

import typeguard


def _leave_alone(target: Any = None, **_: Any) -> Any:
    return (lambda decorated: decorated) if target is None else target


_typechecked = typeguard.typechecked
typeguard.typechecked = _leave_alone
try:
    import feast
finally:
    typeguard.typechecked = _typechecked

__all__ = ["feast"]
