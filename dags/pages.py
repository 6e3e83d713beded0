"""Addresses of pages that stand beside Airflow's own."""

from __future__ import annotations

from urllib.parse import quote

from pipelines.settings import load_settings

#: Where Airflow's own server shows files of the home (``dags/plugins/headrace_pages.py``).
PREFIX = "/headrace"


def data_docs_page(source: str, dataset: str | None = None) -> str:
    """Data Docs of one data set, or the list of a source's."""
    path = "/".join(quote(part, safe="") for part in (source, dataset) if part)
    return f"{load_settings().airflow}{PREFIX}/data-docs/{path}/{'index.html' if dataset else ''}"


def server_page(registered_name: str) -> str:
    """A model on the server's page."""
    return f"{load_settings().serving}/#model-{quote(registered_name, safe='')}"
