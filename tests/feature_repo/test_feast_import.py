"""Feast is imported without typeguard's rewriting, and typeguard is left as it was."""

from __future__ import annotations

import subprocess
import sys

import pytest

_PROBE = """
import typeguard
before = typeguard.typechecked
import feature_repo.online_store
import feast
assert typeguard.typechecked is before
print("TypeCheckMemo" in feast.Entity.__init__.__code__.co_names)
"""


@pytest.mark.integration  # a process of its own
def test_feast_is_not_rewritten_and_typeguard_is_left_as_it_was() -> None:
    told = subprocess.run([sys.executable, "-c", _PROBE], capture_output=True, text=True, check=True)
    assert told.stdout.strip() == "False"
