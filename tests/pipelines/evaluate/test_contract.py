"""A signature that vanished is refused: nothing would be enforced."""

import json
from types import SimpleNamespace

import pytest

from models.manifest import FieldType, InputField, OutputField
from pipelines.evaluate.contract import signature_check
from pipelines.references import Outcome

MANIFEST = SimpleNamespace(
    inputs=(InputField(name="heat", type=FieldType.DOUBLE), InputField(name="zone", type=FieldType.STRING)),
    outputs=(OutputField(name="alarm", type=FieldType.BOOLEAN),),
)


def signature(inputs=(("heat", "double"), ("zone", "string")), outputs=(("alarm", "boolean"),)):
    return {
        side: json.dumps([{"name": name, "type": kind, "required": True} for name, kind in columns])
        for side, columns in (("inputs", inputs), ("outputs", outputs))
    }


def test_the_signature_of_the_manifest_passes():
    assert signature_check(signature(), MANIFEST).outcome is Outcome.PASS


@pytest.mark.parametrize(
    ("found", "why"),
    [
        (None, "MLflow holds no signature of it"),
        ({}, "MLflow holds no signature of it"),
        ({"inputs": signature()["inputs"]}, "the signature has no outputs"),
        (signature(inputs=(("heat", "double"),)), "lacks the inputs ['zone']"),
        (signature(inputs=(("heat", "float"), ("zone", "string"))), "other types to the inputs ['heat']"),
        (
            signature(outputs=(("alarm", "boolean"), ("more", "double"))),
            "names outputs that the manifest has not: ['more']",
        ),
    ],
)
def test_any_other_is_refused_with_the_reason(found, why):
    check = signature_check(found, MANIFEST)
    assert check.outcome is Outcome.FAIL
    assert why in check.sentence()
    assert "Train the version again" in check.sentence()
