"""One running system for all tests that need no settings of their own, and a browser.

``system``: a home and ports of its own; the first test that takes it starts it by ``headrace demo`` or ``up``.
``browser``: headless Chromium: Debian's, or the one that CHROMIUM names; without one the test is skipped, and says so.
"""

import os
import shutil

import pytest

from tests.e2e.homes import Home, free_ports

CHROMIUM = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")
PORTS = ("AIRFLOW", "MLFLOW", "SERVING", "SERVING_GRPC", "EVIDENTLY")


@pytest.fixture(scope="session")
def system(tmp_path_factory):
    running = Home(tmp_path_factory.mktemp("home"), free_ports(PORTS))
    yield running
    running.headrace("down", check=False)


@pytest.fixture(scope="module")
def browser():
    if CHROMIUM is None:
        pytest.skip("no chromium: apt-get install chromium, or name one by CHROMIUM")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()
