"""The site builds with strict links, reaches nothing else, and its reference leaves nothing out."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
import typer.main

from docs.site.pages import page_of, relinked
from headrace.cli import app
from models.catalogue import CATALOGUE
from pipelines.settings import PREFIX, Settings
from pipelines.sources.profile import load_profile

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def site():
    """Folder of the pages, and of the HTML."""
    subprocess.run([sys.executable, "-m", "docs.site"], cwd=ROOT, check=True)
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "-f", "build/mkdocs.yml"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return ROOT / "build" / "docs", ROOT / "build" / "site"


@pytest.mark.integration
def test_the_reference_names_each_setting_command_dag_and_metric(site):
    pages = {path.stem: path.read_text("utf-8") for path in (site[0] / "reference").glob("*.md")}
    for name in Settings.model_fields:
        assert f"`{PREFIX}{name.upper()}`" in pages["settings"]
    for words in leaves(typer.main.get_command(app), "headrace"):
        assert f"## `{words}`" in pages["cli"]
    source = load_profile("simulated")
    names = [f"{kind}_{model}" for kind in ("train", "monitor", "rollout") for model in CATALOGUE]
    for name in [*names, *(f"ingest_{dataset.name}" for dataset in source.datasets), "features_simulated"]:
        assert f"`{name}`" in pages["dags"]
    for file in (ROOT / "dags").glob("*.py"):
        for name in re.findall(r'dag_id="([a-z_]+)"', file.read_text("utf-8")):
            assert f"`{name}`" in pages["dags"]
    for file in (ROOT / "serving").rglob("*.py"):
        for name in re.findall(
            r'(?:Counter|Gauge|Histogram)\w*\(\s*"(headrace_\w+)"', file.read_text("utf-8")
        ):
            assert f"`{name}" in pages["metrics"]
    for path in (
        "/models/{name}/predict",
        "/models/{name}/invocations",
        "/v2/models/{name}/infer",
        "/metrics",
    ):
        assert f"{path}`" in pages["api"]


@pytest.mark.integration
def test_no_page_fetches_anything_from_elsewhere(site):
    fetched = re.compile(r"<(?:script|img|iframe|link)[^>]*?(?:src|href)=[\"']?(?:https?:)?//[^\"' >]+")
    found = {
        (str(page.relative_to(site[1])), hit)
        for page in site[1].rglob("*.html")
        for hit in fetched.findall(page.read_text("utf-8"))
    }
    assert not found


def leaves(command, words):
    if not hasattr(command, "list_commands"):
        yield words
        return
    for name in command.commands:
        yield from leaves(command.commands[name], f"{words} {name}")


def test_links_follow_their_files_and_code_is_left_alone():
    places = {"a.md": "b.md", "../dags": None}
    text = "[one](a.md) and [`two`](../dags) and `[x](a.md)`\n```sh\n[three](a.md)\n```\n![p](a.md)"
    assert relinked(text, lambda target: places[target]) == (
        "[one](b.md) and `two` and `[x](a.md)`\n```sh\n[three](a.md)\n```\n![p](b.md)"
    )


def test_files_have_one_place_in_the_site():
    assert page_of("README.md") == "index.md"
    assert page_of("docs/gates.md") == "gates.md"
    assert page_of("docs/runbooks/restore.md") == "runbooks/restore.md"
    assert page_of("models/failure/README.md") == "models/failure.md"
    assert page_of("notebooks/try_an_estimator.ipynb") == "notebooks/try_an_estimator.md"
    assert page_of("docs/README.md") == "documents.md"
    assert page_of("pipelines/chain.py") is None
