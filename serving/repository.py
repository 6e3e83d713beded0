"""The model repository of the Open Inference Protocol: what is loaded follows the registry, whoever asks."""

from __future__ import annotations

import hmac
from collections.abc import Callable
from typing import NamedTuple

from pydantic import SecretStr

from pipelines.adapters.registry import ALIAS_PRODUCTION
from pipelines.errors import InvalidRequestError
from pipelines.settings import LOOPBACK
from serving.errors import ForbiddenError
from serving.follower import Follower, Pointer
from serving.versions import VersionTable


class IndexRow(NamedTuple):
    """A version that serves, or should. ``state`` is READY or UNAVAILABLE; ``reason`` says why not ready."""

    name: str
    version: str
    state: str
    reason: str


class Repository:
    """Index, load and unload.

    Args:
        admin_token: Lets callers load and unload; without one, callers from this machine may.
        wake_others: Lets the other processes of this server look at the registry too.
    """

    def __init__(
        self,
        table: VersionTable,
        follower: Follower,
        admin_token: SecretStr | None,
        wake_others: Callable[[], None] = lambda: None,
    ) -> None:
        self._table = table
        self._follower = follower
        self._admin_token = admin_token
        self._wake_others = wake_others

    def index(self, *, only_ready: bool = False) -> list[IndexRow]:
        """What is loaded, and what should be."""
        rows = [
            IndexRow(
                pointer.name,
                state.serving or state.wanted or "",
                "READY" if state.serving else "UNAVAILABLE",
                state.failure or "",
            )
            for pointer, state in sorted(self._follower.status().pointers.items())
        ]
        # Two aliases may name one version.
        distinct = {(row.name, row.version): row for row in reversed(rows)}
        return [row for row in reversed(distinct.values()) if not only_ready or row.state == "READY"]

    def load(self, name: str) -> str:
        """Look at the registry now; the version that answers then.

        Raises:
            InvalidRequestError: the registry names none, or it cannot be served.
        """
        self._wake_others()
        self._follower.look()
        self._follower.settle()
        state = self._follower.status().pointers.get(Pointer(name, ALIAS_PRODUCTION))
        if state is None:
            raise InvalidRequestError(
                f"the registry gives no version of {name[:80]!r} the alias {ALIAS_PRODUCTION}: what is loaded is what "
                "it names; give a version the alias there"
            )
        if state.serving is None or state.serving != state.wanted:
            raise InvalidRequestError(
                f"version {state.wanted} of {name} is not served: {state.failure or 'it is still being loaded'}"
            )
        return state.serving

    def unload(self, name: str) -> None:
        """Nothing, where the registry has withdrawn the model already.

        Raises:
            InvalidRequestError: its aliases name versions of it.
        """
        self._wake_others()
        self._follower.look()
        if name in self._table.live():
            raise InvalidRequestError(
                f"{name[:80]!r} stays loaded while the registry's aliases name versions of it: remove them there, and "
                "every replica unloads it"
            )

    def admit(self, host: str | None, token: str, header: str) -> None:
        """Let administrators pass.

        Args:
            host: Address of the caller, without port.
            header: What carries the token, for the message.

        Raises:
            ForbiddenError: the caller is none.
        """
        if self._admin_token is None:
            if host in LOOPBACK | {"testclient"}:
                return
            raise ForbiddenError(
                "without HEADRACE_SERVING_ADMIN_TOKEN only callers from the server's own machine may do this"
            )
        if not hmac.compare_digest(token.encode(), self._admin_token.get_secret_value().encode()):
            raise ForbiddenError(f"{header} with HEADRACE_SERVING_ADMIN_TOKEN is wanted")
