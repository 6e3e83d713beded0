"""The libraries that predict and verify, imported before the first model needs them, and without their luxuries.

``import lightgbm`` brings scikit-learn, pandas and their own libraries where these are installed:
3 s and 130 MB of each process, for an interface that the server does not use. The library of signatures
brings the clients of clouds that keep keys.
"""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path

from models.manifest import MANIFEST_FILE

_LIBRARIES = {"lightgbm": "lightgbm", "onnx": "onnxruntime"}
# What LightGBM takes if it is there: `lightgbm.compat`.
_COMPANIONS = ("sklearn", "pandas", "matplotlib", "graphviz", "dask", "distributed", "cffi", "pyarrow")
_VERIFIER, _CLOUDS = "securesystemslib.signer", ("boto3", "botocore")

log = logging.getLogger(__name__)


def import_for(cache: Path) -> None:
    """Import what the cached versions need, and LightGBM in any case: whoever imports it first decides how."""
    wanted = {"lightgbm", *_runtimes(cache)}
    for runtime in sorted(wanted & _LIBRARIES.keys()):
        _import(_LIBRARIES[runtime], without=_COMPANIONS)
    _import(_VERIFIER, without=_CLOUDS)


def _import(name: str, without: tuple[str, ...]) -> None:
    with _absent(*without):
        try:
            import_module(name)
        except ImportError as error:  # the version that needs it will say so, and not be served
            log.warning("%s cannot be imported: %s", name, error)


def _runtimes(cache: Path) -> set[str]:
    found = set()
    for path in cache.glob(f"*/*/{MANIFEST_FILE}"):
        try:
            manifest = json.loads(path.read_bytes())
            found |= {str(estimator["runtime"]) for estimator in manifest["estimators"]}
        except (OSError, ValueError, KeyError, TypeError):
            continue  # whether it is served, its verification decides
    return found


@contextmanager
def _absent(*names: str) -> Iterator[None]:
    """Let imports of these fail, as if they were not installed; those that are imported already stay."""
    hidden = [name for name in names if name not in sys.modules]
    for name in hidden:
        sys.modules[name] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        for name in hidden:
            if sys.modules.get(name) is None:
                sys.modules.pop(name, None)
