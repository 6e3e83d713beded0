"""`headrace keys`: a key is shown once, listed without its secret, and counts no more when it is revoked."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from headrace.cli import app
from pipelines.errors import SettingsError
from serving.errors import UnauthenticatedError
from serving.keys import KeyRing

RUN = CliRunner()


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HEADRACE_HOME", str(tmp_path))
    return tmp_path / "secrets" / "serving_keys.json"


def keys(*arguments: str) -> str:
    done = RUN.invoke(app, ["keys", *arguments], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.stdout


def test_a_key_from_its_making_to_its_end(path: Path) -> None:
    made = json.loads(
        keys(
            "new",
            "billing",
            "--model",
            "cost",
            "--rate",
            "50",
            "--days",
            "30",
            "--scope",
            "predict",
            "--json",
        )
    )
    assert KeyRing(path).find(made["key"]).models == ("cost",)
    assert (made["requests_per_second"], made["burst"], made["scopes"]) == (50.0, 50, ["predict"])
    (listed,) = json.loads(keys("list", "--json"))
    assert listed["counts"]
    assert made["key"] not in json.dumps(listed)
    assert "sha256" not in listed
    assert "billing" in keys("list")
    keys("revoke", made["id"])
    with pytest.raises(UnauthenticatedError, match="revoked"):
        KeyRing(path).find(made["key"])
    assert not json.loads(keys("list", "--json"))[0]["counts"]


def test_standard_output_is_the_key_alone(path: Path) -> None:
    text = keys("new", "billing").strip()
    assert KeyRing(path).find(text).name == "billing"


@pytest.mark.parametrize(
    "wrong",
    [("--scope", "everything"), ("--rate", "0"), ("--days", "-1"), ("--burst", "3")],
)
def test_wrong_usage_makes_no_key(path: Path, wrong: tuple[str, ...]) -> None:
    done = RUN.invoke(app, ["keys", "new", "billing", *wrong])
    assert done.exit_code == 2
    assert not path.exists()


def test_a_key_that_is_not_there_cannot_be_revoked(path: Path) -> None:
    with pytest.raises(SettingsError, match="headrace keys list"):
        keys("revoke", "00000000")
