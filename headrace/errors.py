"""Exit codes of the command, and the errors that have one of their own."""

from __future__ import annotations

from enum import IntEnum

from pipelines.errors import HeadraceError, ProcessError


class Exit(IntEnum):
    """What the shell sees."""

    FINE = 0
    FAILED = 1
    USAGE = 2
    NOT_RUNNING = 3


class NotRunningError(ProcessError):
    """A process that the command needs is not running, or cannot be reached."""


def exit_code(error: HeadraceError) -> Exit:
    """The code for an error that ended a command."""
    from pipelines.adapters.registry import RegistryUnreachableError  # brings httpx, which help does not need

    unreachable = isinstance(error, NotRunningError | RegistryUnreachableError)
    return Exit.NOT_RUNNING if unreachable else Exit.FAILED
