"""As ``sitecustomize`` of a process and its forks: writes down when it was busy with imports.

A line ``begin end name`` (Unix time) for each import statement of a millisecond and more, those within it not
counted again, in ``$IMPORT_TIMES/<pid>``.
"""

import builtins
import importlib
import os
import threading
import time
from typing import Any

FOLDER = os.environ.get("IMPORT_TIMES", "")
SHORTEST_SECONDS = 0.001

_inside = threading.local()


def _watched(plain: Any) -> Any:
    def timed(name: str, *arguments: Any, **named: Any) -> Any:
        if getattr(_inside, "yes", False):
            return plain(name, *arguments, **named)
        _inside.yes = True
        began = time.time()
        try:
            return plain(name, *arguments, **named)
        finally:
            _inside.yes = False
            ended = time.time()
            if ended - began >= SHORTEST_SECONDS:
                with open(f"{FOLDER}/{os.getpid()}", "a", encoding="utf-8") as file:
                    file.write(f"{began} {ended} {name}\n")

    return timed


if FOLDER and __name__ == "sitecustomize":
    builtins.__import__ = _watched(builtins.__import__)
    importlib.import_module = _watched(importlib.import_module)
