"""Who may pass: one check for every transport, before anything of a request is read."""

from __future__ import annotations

import logging
import re

from pipelines.errors import SettingsError
from pipelines.settings import LOOPBACK, Settings
from serving.errors import ForbiddenError, UnauthenticatedError
from serving.keys import Key, KeyRing, Scope
from serving.limits import RateLimits

_SCHEME = "bearer "
_OF_MODEL = re.compile(r"/v2/models/([^/]+)(?:/.*)?")
_TRY = re.compile(r"/models/([^/]+)/try")
_LABELS = re.compile(r"/models/([^/]+)/labels")
#: Answered without a key: probes of load balancers, and the API's description, which names no model.
OPEN = frozenset({"/v2/health/live", "/v2/health/ready", "/docs", "/openapi.json"})
#: Signed by MLflow itself.
_SIGNED = "/webhooks/"
_STATIC = "/static-offline-docs/"
_REPOSITORY = "/v2/repository/models/"

_ADMIN = ("/metrics", _SIGNED, _REPOSITORY)
#: Where a request's scope holds the caller's :class:`Key`; absent where no keys are asked for.
KEY = "headrace.key"

log = logging.getLogger(__name__)


def is_admin(path: str) -> bool:
    """Whether a path belongs to the administration: metrics, webhooks, load and unload."""
    return path.startswith(_ADMIN)


class Access:
    """Holds callers against their API keys."""

    def __init__(self, ring: KeyRing, limits: RateLimits) -> None:
        self._ring = ring
        self._limits = limits

    @classmethod
    def of(cls, settings: Settings, limits: RateLimits) -> Access | None:
        """By the settings; None where no caller needs a key.

        Raises:
            SettingsError: keys are needed, and there is none.
        """
        if not settings.serving_needs_keys:
            if settings.bind_host not in LOOPBACK:
                log.warning(
                    "HEADRACE_SERVING_KEYS=off: whoever reaches %s may ask for predictions",
                    settings.bind_host,
                )
            return None
        ring = KeyRing(settings.serving_key_file)
        if not len(ring):
            raise SettingsError(
                f"callers of a server on {settings.bind_host} need API keys, and {settings.serving_key_file} has none "
                "that counts: make one with `headrace keys new NAME`; or listen on loopback only "
                "(HEADRACE_BIND_HOST=127.0.0.1); or, where something else keeps the door, set HEADRACE_SERVING_KEYS=off"
            )
        return cls(ring, limits)

    def predict(self, authorization: str, model: str) -> Key:
        """Let a request for a prediction pass, and count it.

        Args:
            authorization: The header, or the metadata, of this name.

        Raises:
            UnauthenticatedError: it holds no key that counts.
            ForbiddenError: the key is for other models.
            RateLimitedError: the key sent too many requests.
        """
        key = self.allow(authorization, Scope.PREDICT, model)
        self._limits.take(key)
        return key

    def allow(self, authorization: str, scope: Scope, model: str | None = None) -> Key:
        """Let a request pass.

        Raises:
            UnauthenticatedError, ForbiddenError: as :meth:`predict`.
        """
        key = self.identify(authorization)
        if not key.may(scope, model):
            what = f"of model {model[:80]!r}" if model is not None else "of the server"
            raise ForbiddenError(
                f"the API key {key.id} ({key.name}) has the scopes {', '.join(key.scopes)} for models "
                f"{', '.join(key.models)}; {scope} {what} is wanted"
            )
        return key

    def identify(self, authorization: str) -> Key:
        """The caller's key, whatever it may.

        Raises:
            UnauthenticatedError: there is none that counts.
        """
        if authorization[: len(_SCHEME)].lower() != _SCHEME:
            raise UnauthenticatedError("an API key is wanted: Authorization: Bearer hr_…")
        return self._ring.find(authorization[len(_SCHEME) :].strip())

    def page(self, path: str, authorization: str) -> Key | None:
        """Let a request for anything but a prediction pass.

        Returns:
            The caller's key; None where there is none, and none is needed.

        Raises:
            UnauthenticatedError, ForbiddenError: as :meth:`predict`.
        """
        if path in OPEN or path.startswith((_SIGNED, _STATIC)):
            try:
                return self.identify(authorization) if authorization else None
            except UnauthenticatedError:
                return None
        if path.startswith(_REPOSITORY):
            return self.allow(authorization, Scope.ADMIN)
        if found := _OF_MODEL.fullmatch(path):
            return self.allow(authorization, Scope.PREDICT, found[1])
        if found := _TRY.fullmatch(path):
            return self.predict(authorization, found[1])
        if found := _LABELS.fullmatch(path):
            key = self.allow(authorization, Scope.LABEL, found[1])
            self._limits.take(key)
            return key
        if path.startswith("/v2"):
            return self.identify(authorization)
        return self.allow(authorization, Scope.OBSERVE)
