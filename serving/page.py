"""The page at ``/``: what serves, at one look. Plain HTML, no script, nothing from elsewhere."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from html import escape

from serving.dataplane import Readiness
from serving.versions import LoadedVersion

_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 60rem; padding: 0 1rem; color: #222 }
table { border-collapse: collapse; width: 100% } th, td { text-align: left; padding: .4rem .8rem .4rem 0; border-bottom: 1px solid #ddd; vertical-align: top }
code { font-size: .9em } .bad { color: #a00 } .good { color: #060 }
@media (prefers-color-scheme: dark) { body { background: #181818; color: #ddd } a { color: #8bf } .bad { color: #f88 } .good { color: #8d8 } th, td { border-color: #444 } }
"""


def overview(
    readiness: Readiness,
    live: Mapping[str, Mapping[str, LoadedVersion]],
    version_page: Callable[[str, str], str],
    tracking_url: str,
) -> str:
    """The page as HTML.

    Args:
        version_page: Address of a version's page in MLflow, by model and version.
    """
    state = (
        '<p class="good">Ready: each model answers its own sample.</p>'
        if readiness.ready
        else '<p class="bad">Not ready.</p>'
    )
    problems = "".join(
        f'<li class="bad">{escape(text)}</li>' for text in (*readiness.reasons, *readiness.warnings)
    )
    rows = "".join(
        _row(name, alias, version, version_page)
        for name, aliases in live.items()
        for alias, version in aliases.items()
    )
    table = (
        f"<table><tr><th>Model</th><th>Alias</th><th>Version</th><th>Manifest</th><th>Try</th></tr>{rows}</table>"
        if rows
        else "<p>No version is loaded.</p>"
    )
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8"><title>Headrace</title>'
        f'<meta name="viewport" content="width=device-width"><link rel="icon" href="data:,"><style>{_STYLE}</style></head><body>'
        f"<h1>Headrace</h1>{state}{f'<ul>{problems}</ul>' if problems else ''}{table}"
        '<p><a href="/docs">API</a> · <a href="/v2/health/ready">Readiness</a> · <a href="/metrics">Metrics</a> · '
        f'<a href="{escape(tracking_url)}">MLflow</a></p></body></html>'
    )


def _row(name: str, alias: str, version: LoadedVersion, version_page: Callable[[str, str], str]) -> str:
    page = escape(version_page(name, version.version))
    return (
        f"<tr><td>{escape(name)}</td><td>{escape(alias)}</td>"
        f'<td><a href="{page}">{escape(version.version)}</a></td>'
        f"<td><code>{escape(version.manifest_sha256[:12])}</code></td>"
        f"<td><code>POST /models/{escape(name)}/predict</code></td></tr>"
    )
