"""Stands between a job and the registry and the lake, counts every call, and dies at one of them.

A :class:`Crash` is no ``Exception``: nothing in the code under test may catch it, as nothing catches
a SIGKILL. (Killing real processes at the same places: ``tests/integration/test_kill_and_rerun.py``.)
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from pipelines.adapters.lake import Lake
from pipelines.adapters.registry import Registry

CALLS = (
    (Registry, "alias_version"),
    (Registry, "set_alias"),
    (Registry, "delete_alias"),
    (Registry, "version"),
    (Registry, "versions"),
    (Registry, "set_version_tag"),
    (Registry, "delete_version_tag"),
    (Registry, "download"),
    (Lake, "append"),
    (Lake, "scan"),
)


class Crash(BaseException):
    """The process ends here."""


class Counter:
    """How many calls were made, and at which one to die."""

    def __init__(self, at: float, when: str) -> None:
        self.at, self.when, self.calls = at, when, 0

    def wrap(self, method: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(method)
        def counted(*arguments: Any, **options: Any) -> Any:
            self.calls += 1
            mine = self.calls == self.at
            if mine and self.when == "before":
                raise Crash
            result = method(*arguments, **options)
            if mine:
                raise Crash
            return result

        return counted


@contextmanager
def dying(at: float, when: str = "before") -> Iterator[Counter]:
    """Within this, the ``at``-th call (from 1) of any of ``CALLS`` crashes; infinity: none does."""
    counter = Counter(at, when)
    with pytest.MonkeyPatch.context() as patch:
        for owner, name in CALLS:
            patch.setattr(owner, name, counter.wrap(getattr(owner, name)))
        yield counter
