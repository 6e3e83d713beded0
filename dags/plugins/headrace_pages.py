"""Airflow's pages lead on: MLflow, the server and Evidently in its menu, and Data Docs below its own address.

Airflow finds this file by ``AIRFLOW__CORE__PLUGINS_FOLDER``. Every Airflow process reads it, so it imports nothing
of the web until a page is asked for.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar
from urllib.parse import quote

from airflow.plugins_manager import AirflowPlugin

from dags.pages import PREFIX
from pipelines.settings import Settings, load_settings

if TYPE_CHECKING:
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import Response

# The files hold values of other people's telemetry: their scripts are kept from Airflow's cookie and API.
_HEADERS = {
    "Content-Security-Policy": "sandbox allow-scripts allow-popups allow-popups-to-escape-sandbox",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "private, no-cache",
}
_STYLE = """
:root { color-scheme: light dark; --ground: #f6f7f9; --sheet: #fff; --ink: #16202c; --line: #dde2e8; --link: #0b5cad; }
@media (prefers-color-scheme: dark) {
  :root { --ground: #0e1319; --sheet: #161d26; --ink: #e3e9f0; --line: #2a3440; --link: #7fb8f5; }
}
body { font: 16px/1.5 system-ui, sans-serif; margin: 0; background: var(--ground); color: var(--ink); }
main { max-width: 46rem; margin: 2.5rem auto; padding: 1.2rem 1.6rem; background: var(--sheet); border-radius: 12px;
  border: 1px solid var(--line); }
h1 { font-size: 1.25rem; margin: 0 0 .8rem; }
ul { list-style: none; margin: 0; padding: 0; }
li { border-top: 1px solid var(--line); padding: .55rem 0; }
a { color: var(--link); }
"""


class Pages:
    """Files of the home for people that are logged in to Airflow: ``/data-docs/<source>/<data set>/index.html``."""

    def __init__(self) -> None:
        self._app: Starlette | None = None

    async def __call__(
        self,
        scope: MutableMapping[str, Any],
        receive: Callable[[], Awaitable[MutableMapping[str, Any]]],
        send: Callable[[MutableMapping[str, Any]], Awaitable[None]],
    ) -> None:
        if self._app is None:
            self._app = _application(load_settings().home / "data_docs")
        await self._app(scope, receive, send)


def _application(folder: Path) -> Starlette:
    from starlette.applications import Starlette
    from starlette.responses import FileResponse, HTMLResponse, RedirectResponse
    from starlette.routing import Route

    async def docs(request: Request) -> Response:
        if not await _logged_in(request):
            return RedirectResponse(f"/auth/login?next={quote(str(request.url), safe='')}")
        path = _inside(folder, request.path_params["path"])
        if path is None:
            return HTMLResponse(_listing(folder, "Nothing is here. There is:"), 404, _HEADERS)
        if path.is_file():
            return FileResponse(path, headers=_HEADERS)
        if (path / "index.html").is_file():
            return RedirectResponse(f"{request.url.path.rstrip('/')}/index.html")
        return HTMLResponse(
            _listing(path, "Data Docs: what was expected of the rows, and what came"), 200, _HEADERS
        )

    return Starlette(routes=[Route("/data-docs/{path:path}", docs)])


async def _logged_in(request: Request) -> bool:
    from airflow.api_fastapi.auth.managers.base_auth_manager import COOKIE_NAME_JWT_TOKEN
    from airflow.api_fastapi.core_api.security import resolve_user_from_token
    from starlette.exceptions import HTTPException

    try:
        await resolve_user_from_token(request.cookies.get(COOKIE_NAME_JWT_TOKEN))
    except HTTPException:
        return False
    return True


def _inside(folder: Path, path: str) -> Path | None:
    """What a path names; None: nothing, or something that is elsewhere."""
    found = (folder / path).resolve()
    return found if found.is_relative_to(folder.resolve()) and found.exists() else None


def _listing(folder: Path, heading: str) -> str:
    names = sorted(each.name for each in folder.iterdir() if each.is_dir()) if folder.is_dir() else []
    items = "".join(f'<li><a href="{quote(name, safe="")}/">{escape(name)}</a></li>' for name in names)
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>Data Docs</title><style>{_STYLE}</style>'
        f"</head><body><main><h1>{escape(heading)}</h1><ul>{items or '<li>Nothing was validated yet.</li>'}</ul></main>"
        "</body></html>"
    )


def _views(settings: Settings) -> list[dict[str, str]]:
    places = {
        "MLflow": settings.tracking,
        "Server": settings.serving,
        "Drift reports": settings.evidently,
        "Data Docs": f"{settings.airflow}{PREFIX}/data-docs/",
    }
    return [
        {"name": name, "href": address, "destination": "nav", "category": "Headrace"}
        for name, address in places.items()
        if address
    ]


class HeadracePages(AirflowPlugin):
    """Read by Airflow."""

    name = "headrace_pages"
    fastapi_apps: ClassVar[list[dict[str, Any]]] = [
        {"app": Pages(), "url_prefix": PREFIX, "name": "headrace"}
    ]
    external_views: ClassVar[list[dict[str, str]]] = _views(load_settings())
