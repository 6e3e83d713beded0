"""Real telemetry, where this machine has it."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipelines.settings import load_settings


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder of the public data sets; skips where HEADRACE_SHARED_DATA names none."""
    folder = load_settings().shared_data
    if folder is None:
        pytest.skip("HEADRACE_SHARED_DATA is not set: no real telemetry here")
    return folder
