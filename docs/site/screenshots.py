"""Pictures of each page, from the system that runs: `python -m docs.site.screenshots [--dark]`.

After `make demo`. Written to docs/screenshots as WebP; look at each before it is committed.
"""

from __future__ import annotations

import argparse
import io
import os
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from headrace.airflow_api import AirflowApi
from headrace.credentials import AIRFLOW_USER, credentials
from headrace.status import look, show
from pipelines.settings import Settings, load_settings

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

    from pipelines.adapters.registry import ModelVersion

FOLDER = Path(__file__).parents[1] / "screenshots"
LARGEST = 150_000  # bytes
MODEL = "failure"
_SIZE = {"width": 1360, "height": 860}
_BROWSERS = ("chromium", "chromium-browser", "google-chrome")


@dataclass(frozen=True)
class Shot:
    """One picture: its name, and how the page is brought to what it should show."""

    name: str
    show: Callable[[Page, Settings], None]
    tall: bool = False


def airflow(page: Page, settings: Settings) -> None:
    """The newest successful training, as a graph of its tasks."""
    with AirflowApi(settings.airflow, AIRFLOW_USER, credentials(settings).airflow_password) as api:
        runs = [
            run for run in api.recent_runs(100) if run.dag_id == f"train_{MODEL}" and run.state == "success"
        ]
        address = api.run_page(runs[0].dag_id, runs[0].run_id)
    page.goto(settings.airflow, wait_until="domcontentloaded")
    page.locator("input[type=password]").fill(credentials(settings).airflow_password)
    page.locator("input").first.fill(AIRFLOW_USER)
    page.get_by_role("button", name=re.compile("sign in|log ?in", re.IGNORECASE)).click()
    page.wait_for_url(lambda url: "/auth/login" not in url, wait_until="domcontentloaded")
    page.goto(address, wait_until="domcontentloaded")
    page.get_by_text("evaluate").first.wait_for()
    page.wait_for_timeout(4000)  # the graph is laid out and drawn


def mlflow(page: Page, settings: Settings) -> None:
    """The version in production, with its alias and the verdict as its description."""
    page.goto(f"{settings.tracking}/#/models/{MODEL}/versions/{_production(settings).version}")
    page.get_by_text("Aliases").first.wait_for()
    page.wait_for_timeout(2500)
    assistant = page.get_by_text("MLflow Assistant")
    if assistant.count():
        assistant.locator("xpath=ancestor::*[.//button][1]").locator("button").last.click()
        page.wait_for_timeout(1000)


def report(page: Page, settings: Settings) -> None:
    """The gate's report on the version in production."""
    from pipelines.evaluate.report.publish import fetch

    page.set_content(fetch(MODEL, _production(settings).version, settings, page=True).page)


def _production(settings: Settings) -> ModelVersion:
    from pipelines.adapters.registry import Registry

    with Registry(settings.tracking) as registry:
        version = registry.alias_version(MODEL, "production")
    if version is None:
        raise SystemExit(f"no version of {MODEL} is in production: make demo")
    return version


def server(page: Page, settings: Settings) -> None:
    """What answers, and one prediction with what moved it."""
    page.goto(settings.serving, wait_until="networkidle")
    page.get_by_text(f"Try a prediction of {MODEL}").click()
    page.locator("input[name=entity]").first.fill("m0001")
    page.locator("input[name=at]").first.fill(f"{_newest_rows(settings):%Y-%m-%dT%H:%M:%SZ}")
    page.get_by_role("button", name="Predict for the entity").first.click()
    page.wait_for_load_state("networkidle")


def _newest_rows(settings: Settings) -> datetime:
    """A moment that the online store can answer for: feature rows stand at whole hours, after what they are of."""
    newest = [each.newest for each in look(settings).data.values() if each.newest is not None]
    return max(newest, default=datetime.now(UTC)).replace(minute=0, second=0) + timedelta(hours=1)


def evidently(page: Page, settings: Settings) -> None:
    """The newest report of the model's project."""
    import httpx

    with httpx.Client(base_url=settings.evidently) as http:
        project = next(each["id"] for each in http.get("/api/projects").json() if each["name"] == MODEL)
        newest = max(
            http.get(f"/api/projects/{project}/snapshots").json(), key=lambda report: str(report["timestamp"])
        )
    page.goto(f"{settings.evidently}/projects/{project}/reports/{newest['id']}", wait_until="networkidle")
    page.wait_for_timeout(4000)
    page.get_by_role("columnheader", name="Data Drift").get_by_role(
        "button"
    ).first.click()  # drifted ones first
    page.get_by_text("Drift is detected for").first.scroll_into_view_if_needed()
    page.mouse.wheel(0, 620)
    page.wait_for_timeout(2500)


def status(page: Page, settings: Settings) -> None:
    """`headrace status` as a terminal draws it."""
    from rich.console import Console

    found = look(settings)
    console = Console(record=True, width=118, file=io.StringIO(), force_terminal=True)
    # A password in a picture would be one for ever.
    show(replace(found, login=("admin", "…") if found.login else None), console)
    drawn = console.export_svg(title="headrace status", font_aspect_ratio=0.61)
    drawn = re.sub(r"@font-face \{.*?\}", "", drawn, flags=re.DOTALL)  # fonts from elsewhere
    page.set_content(f'<body style="margin:0;background:transparent">{drawn}</body>')


SHOTS = (
    Shot("airflow", airflow),
    Shot("mlflow", mlflow),
    Shot("report", report),
    Shot("server", server, tall=True),
    Shot("evidently", evidently),
    Shot("status", status, tall=True),
)


def main() -> None:
    """Take those that are named, or all."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(shot.name for shot in SHOTS))
    parser.add_argument("--dark", action="store_true", help="As those see it whose system is dark.")
    parser.add_argument("--out", type=Path, default=FOLDER)
    told = parser.parse_args()
    told.out.mkdir(parents=True, exist_ok=True)
    settings = load_settings()
    with browser() as chromium:
        for shot in SHOTS:
            if told.names and shot.name not in told.names:
                continue
            page = chromium.new_page(
                viewport=_SIZE | ({"height": 300} if shot.tall else {}),
                device_scale_factor=1,
                color_scheme="dark" if told.dark else "light",
            )
            page.set_default_timeout(60_000)
            shot.show(page, settings)
            picture = (
                page.locator("svg").first.screenshot()
                if shot.name == "status"
                else page.screenshot(full_page=shot.tall)
            )
            file = told.out / f"{shot.name}.webp"
            file.write_bytes(compressed(picture))
            print(f"{file}: {file.stat().st_size / 1000:.0f} kB")
            page.close()


@contextmanager
def browser() -> Iterator[Browser]:
    """The machine's own Chromium, which CHROMIUM may name."""
    from playwright.sync_api import sync_playwright

    found = os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, _BROWSERS)), None)
    if found is None:
        raise SystemExit("there is no Chromium on this machine: install one, or name it in CHROMIUM")
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=found)
        yield chromium
        chromium.close()


def compressed(png: bytes) -> bytes:
    """WebP, as good as it may be within the size."""
    from PIL import Image

    picture = Image.open(io.BytesIO(png)).convert("RGB")
    for quality in (90, 80, 70, 60, 45, 30):
        buffer = io.BytesIO()
        picture.save(buffer, "webp", quality=quality, method=6)
        if buffer.tell() <= LARGEST:
            break
    return buffer.getvalue()


if __name__ == "__main__":
    main()
