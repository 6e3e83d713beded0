"""Errors that become an answer of their own. All others are ours, and answer 500."""

from __future__ import annotations

from pipelines.errors import HeadraceError, InvalidRequestError


class MalformedRequestError(InvalidRequestError):
    """The body is not JSON, or not of the shape that the endpoint takes."""


class TooLargeError(InvalidRequestError):
    """The body, or the batch, is larger than the settings allow."""


class UnsupportedMediaError(MalformedRequestError):
    """A body of a kind that is not taken here."""


class SlowClientError(MalformedRequestError):
    """The body did not come in time."""


class BusyError(HeadraceError):
    """Too much is under way already; the same request may be answered a little later."""


class ForbiddenError(HeadraceError):
    """Only administrators, or holders of another key, may ask for this."""


class UnauthenticatedError(HeadraceError):
    """No API key that counts came with the request."""


class RateLimitedError(HeadraceError):
    """The key sent too many requests; ``seconds`` is how long to wait."""

    def __init__(self, message: str, seconds: float) -> None:
        super().__init__(message)
        self.seconds = seconds


class ModelNotFoundError(HeadraceError):
    """No such model or version is loaded."""


class EntityNotFoundError(InvalidRequestError):
    """The online store knows no such entity."""


class FeaturesUnavailableError(HeadraceError):
    """The online store cannot be asked. ``installed`` is False where its library is missing."""

    def __init__(self, message: str, *, installed: bool = True) -> None:
        super().__init__(message)
        self.installed = installed


def kind_of(error: Exception) -> str:
    """The kind of an error as metrics name it: ``invalid_request``, ``too_large``, …; ``internal`` is our own."""
    if not isinstance(error, HeadraceError):
        return "internal"
    return _KINDS.get(type(error), "internal")


_KINDS: dict[type[HeadraceError], str] = {
    InvalidRequestError: "invalid_request",
    MalformedRequestError: "malformed",
    TooLargeError: "too_large",
    UnsupportedMediaError: "unsupported_media",
    SlowClientError: "slow_client",
    BusyError: "busy",
    ForbiddenError: "forbidden",
    UnauthenticatedError: "unauthenticated",
    RateLimitedError: "rate_limited",
    ModelNotFoundError: "model_not_found",
    EntityNotFoundError: "entity_not_found",
    FeaturesUnavailableError: "features_unavailable",
}
