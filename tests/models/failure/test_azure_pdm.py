"""The whole chain on public data: from files to a promoted version."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipelines.adapters.registry import Registry
from pipelines.chain import run_chain
from pipelines.references import Window
from pipelines.settings import load_settings
from pipelines.sources.profile import load_profile


@pytest.mark.integration
def test_the_chain_promotes_a_model_that_beats_the_published_baseline(
    shared_data: Path, tmp_path: Path, mlflow_server: str
):
    settings = load_settings({}, home=tmp_path / "home", shared_data=shared_data, tracking_url=mlflow_server)
    profile = load_profile("azure_pdm")
    assert profile.window_start is not None
    assert profile.window_end is not None
    window = Window(start=profile.window_start, end=profile.window_end)
    promotion = run_chain("failure", "azure_pdm", window, settings, actor="test", trials=2)
    assert promotion.moved
    with Registry(mlflow_server) as registry:
        version = registry.alias_version(promotion.registered_name, "production")
        assert version is not None
        assert version.run_id is not None
        run = registry.run(version.run_id)
    assert run is not None
    assert run.metrics["holdout_average_precision"] >= 0.98
    assert run.metrics["holdout_recall"] >= 0.957
