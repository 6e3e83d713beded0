"""Does the registered version still say what it takes and what it answers?"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from models.manifest import Manifest
from pipelines.evaluate.checks import Check, CheckKind
from pipelines.references import Outcome

_COMMON: dict[str, Any] = {
    "name": "signature of the registered version",
    "kind": CheckKind.CONTRACT,
    "wanted": "the inputs and outputs of the manifest, by name and type",
    "question": "Will MLflow and the server refuse malformed requests? Without a signature nothing is enforced.",
    "remedy": "Train the version again: a signature cannot be added to what is registered",
}


def signature_check(signature: Mapping[str, str] | None, manifest: Manifest) -> Check:
    """Hold the signature that MLflow stores with the model against the export's manifest.

    Args:
        signature: ``inputs`` and ``outputs`` as in the file ``MLmodel``: lists of columns in JSON.
    """
    wanted = {
        "inputs": {field.name: field.type.value for field in manifest.inputs},
        "outputs": {field.name: field.type.value for field in manifest.outputs},
    }
    found = {side: _columns(signature, side) for side in wanted}
    wrong = [_difference(side, found[side], wanted[side]) for side in wanted if found[side] != wanted[side]]
    columns = sum(len(names) for names in wanted.values())
    if not wrong:
        return Check(**_COMMON, outcome=Outcome.PASS, figure=columns, n=columns)
    return Check(
        **_COMMON,
        outcome=Outcome.FAIL,
        figure=None,
        n=columns,
        detail="MLflow holds no signature of it" if not signature else "; ".join(wrong),
    )


def _columns(signature: Mapping[str, str] | None, side: str) -> dict[str, str] | None:
    if not signature or not signature.get(side):
        return None
    return {column["name"]: column["type"] for column in json.loads(signature[side])}


def _difference(side: str, found: dict[str, str] | None, wanted: dict[str, str]) -> str:
    if found is None:
        return f"the signature has no {side}"
    if missing := sorted(set(wanted) - set(found)):
        return f"the signature lacks the {side} {missing[:3]}"
    if extra := sorted(set(found) - set(wanted)):
        return f"the signature names {side} that the manifest has not: {extra[:3]}"
    other = sorted(name for name in wanted if found[name] != wanted[name])
    return f"the signature gives other types to the {side} {other[:3]}"
