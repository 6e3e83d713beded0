"""The loop, on the running system: the world changes, and `headrace demo-drift` follows until a new version answers.

Shares the system of ``test_whole_system.py``; the version that ``headrace demo`` trained is put into production first.
Where TEST_DEMO_DRIFT is set: how the simulated days fall is another matter each day.
"""

import json
import os

import pytest

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.timeout(1800),
    pytest.mark.skipif(
        "TEST_DEMO_DRIFT" not in os.environ,
        reason="takes minutes, in a world that differs by the day: set TEST_DEMO_DRIFT",
    ),
]


@pytest.fixture(scope="module")
def told(system):
    """What the story printed, and what serves at its end; in production before was version 1."""
    from pipelines.adapters.registry import ALIAS_PRODUCTION

    system.headrace("demo")
    with system.registry() as registry:
        registry.set_alias("failure", ALIAS_PRODUCTION, "1")
    return system.headrace("demo-drift")


def test_a_new_version_is_in_production_and_answers(system, told):
    pointers = json.loads(system.headrace("status", "--json").stdout)["models"]["failure"]
    assert pointers["production"] != "1"
    assert pointers["serving"] == pointers["production"]
    assert pointers["previous"] == "1"


def test_no_request_failed(told):
    [line] = [line for line in told.stdout.splitlines() if " requests: " in line]
    assert line.endswith("; 0 failed.")


def test_monitoring_named_what_changed_and_the_request_ended_with_the_promotion(system, told):
    seen = json.loads(system.headrace("monitor", "failure", "--json").stdout)
    drifted = {finding["column"] for check in seen["checks"] for finding in check["drifted"]}
    assert any(column.startswith("temperature_c") for column in drifted), drifted
    assert any(check["alarm"] for check in seen["checks"])
    asked = seen["requests"][-1]
    assert asked["state"] == "closed"
    assert asked["rows"][-1]["outcome"] == "promoted"


def test_the_plot_is_there(system, told):
    assert (system.home / "reports" / "demo-drift.png").read_bytes().startswith(b"\x89PNG")


def test_what_has_changed_and_was_learned_is_not_shown_again(system, told):
    again = system.headrace("demo-drift", check=False)
    assert again.returncode == 1
    assert "has changed before" in again.stderr
