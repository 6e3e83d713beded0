"""How this machine's own tools reach the server: its address, their key, whom they trust."""

from __future__ import annotations

import ssl
from typing import TYPE_CHECKING
from urllib.parse import urlsplit, urlunsplit

import httpx

from pipelines.errors import SettingsError
from pipelines.settings import LOOPBACK

if TYPE_CHECKING:
    from pipelines.settings import Settings


def client(settings: Settings, timeout_seconds: float = 90.0, *, admin: bool = False) -> httpx.Client:
    """A client of the server that the settings name.

    Args:
        admin: Of the port for metrics, load and unload, where there is one.

    Raises:
        SettingsError: ``serving_tls_authority`` cannot be read.
    """
    url = address(settings, admin=admin)
    key = settings.serving_api_key
    return httpx.Client(
        base_url=url,
        timeout=httpx.Timeout(timeout_seconds, connect=3.0),
        # A proxy of the environment is not for this machine.
        trust_env=urlsplit(url).hostname not in LOOPBACK,
        headers={"Authorization": f"Bearer {key.get_secret_value()}"} if key is not None else {},
        verify=trusted(settings),
    )


def address(settings: Settings, *, admin: bool = False) -> str:
    """Where the server answers; where a port of its own is set, that of its administration."""
    if not admin or not settings.serving_admin_port:
        return settings.serving
    scheme = urlsplit(settings.serving).scheme
    host = settings.serving_admin_host
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    netloc = f"[{host}]" if ":" in host else host
    return urlunsplit((scheme, f"{netloc}:{settings.serving_admin_port}", "", "", ""))


def trusted(settings: Settings) -> ssl.SSLContext | bool:
    """Whose certificates count, as ``httpx.Client(verify=…)`` takes it.

    Raises:
        SettingsError: as :func:`client`.
    """
    path = settings.serving_tls_authority
    if path is None:
        return True
    try:
        return ssl.create_default_context(cafile=path)
    except OSError as error:  # an ssl.SSLError is one
        raise SettingsError(
            f"HEADRACE_SERVING_TLS_AUTHORITY={path}: {error}; a PEM file is wanted"
        ) from error
