"""Addresses as clients need them, made from addresses as people write them."""

from __future__ import annotations

LOOPBACK = frozenset({"127.0.0.1", "localhost", "::1"})


def with_driver(url: str) -> str:
    """A database's URL with the driver that is installed; SQLAlchemy 2.1 would take psycopg 3 for PostgreSQL."""
    for scheme in ("postgresql://", "postgres://"):
        if url.startswith(scheme):
            return f"postgresql+psycopg2://{url.removeprefix(scheme)}"
    return url


def reachable(host: str) -> str:
    """The address by which this machine reaches a server bound to ``host``."""
    return "127.0.0.1" if host in {"0.0.0.0", "::", "localhost"} else host
