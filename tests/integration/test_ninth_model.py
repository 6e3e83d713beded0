"""The model that docs/add-a-model.md adds is one folder and one line, and goes all the way."""

from __future__ import annotations

import re
import sys
from datetime import UTC, datetime, timedelta
from importlib import import_module, invalidate_caches
from pathlib import Path

import numpy as np
import pytest

import models
from models import catalogue
from pipelines.adapters import exports
from pipelines.adapters.registry import Registry
from pipelines.chain import run_chain
from pipelines.references import Window

pytestmark = pytest.mark.integration

PAGE = Path(__file__).parents[2] / "docs" / "add-a-model.md"
END = datetime(2026, 3, 1, tzinfo=UTC)


@pytest.fixture
def ninth(tmp_path, monkeypatch):
    """The page's files below a folder of their own, and the page's line in the catalogue."""
    for name, code in re.findall(r"```python\n# (models/\S+)\n(.*?)```", PAGE.read_text("utf-8"), re.DOTALL):
        file = tmp_path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(code, "utf-8")
    monkeypatch.setattr(models, "__path__", [*models.__path__, str(tmp_path / "models")])
    invalidate_caches()
    spec = import_module("models.temperature.spec").SPEC
    monkeypatch.setitem(catalogue.CATALOGUE, spec.name, spec)
    yield spec
    for name in [name for name in sys.modules if name.startswith("models.temperature")]:
        del sys.modules[name]


def test_the_model_of_the_page_goes_from_raw_telemetry_to_production(
    ninth, settings, mlflow_server, tmp_path
):
    configured = settings.model_copy(update={"tracking_url": mlflow_server})
    window = Window(start=END - timedelta(days=12), end=END)
    told = []
    promotion = run_chain(
        "temperature", "simulated", window, configured, "test", report=lambda *line: told.append(line)
    )
    assert promotion.moved, promotion.reason
    with Registry(mlflow_server) as registry:
        version = registry.alias_version("temperature", "production")
        registry.download(version, tmp_path / "download")
    predictor = exports.load_export(
        exports.find_export(tmp_path / "download"), version.tags[exports.MANIFEST_TAG]
    )
    assert [field.name for field in predictor.manifest.outputs] == ["forecast", "lower", "upper"]
    columns = {
        field.name: np.array([None], dtype=object) if field.categories else np.array([np.nan])
        for field in predictor.manifest.inputs
    }
    hot = columns | {"temperature_c__last": np.array([70.0])}
    answers = predictor.predict(hot)
    assert 50 < answers["forecast"][0] < 90
    assert answers["lower"][0] < answers["forecast"][0] < answers["upper"][0]
    assert any("wape: pass" in detail for stage, _, detail in told if stage == "evaluate")
