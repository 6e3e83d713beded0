"""Verdicts for tests of the report: checks of every kind, as the gate makes them."""

from datetime import UTC, datetime

from pipelines.evaluate.checks import Check, CheckKind, Verdict
from pipelines.evaluate.report import Evidence, Link
from pipelines.lineage.code import Code, Environment
from pipelines.lineage.record import DagRun, Training
from pipelines.references import CandidateRef, Outcome, SnapshotRef, Window

SHA256 = "6b5f7bf9ceb840a79bcedf2cf3bd88d0113f8804dce0b4e04b9a9b103677ca81"
SNAPSHOT = SnapshotRef(
    model="failure",
    source="simulated",
    sha256=SHA256,
    url=f"/lake/snapshots/simulated/failure/{SHA256}/data.parquet",
    rows={"train": 33900, "valid": 7425, "holdout": 14742},
    positives={"train": 1711, "valid": 574, "holdout": 634},
)
CANDIDATE = CandidateRef(
    model="failure", registered_name="failure", version="7", run_id="844bd629fcce4a9f", snapshot=SNAPSHOT
)


def a_check(kind=CheckKind.THRESHOLD, outcome=Outcome.PASS, name="average precision", **values):
    given = {"figure": 0.412, "wanted": "at least 0.3", "n": 14742, "bound": 0.3} | values
    return Check(name=name, kind=kind, outcome=outcome, **given)


def all_kinds():
    """One row of each kind, most with an interval; two that stand against the candidate."""
    return (
        a_check(CheckKind.EVIDENCE, name="rows in the holdout", figure=14742, wanted="at least 200", bound=200),
        a_check(CheckKind.EVIDENCE, name="positives in the holdout", figure=634, wanted="at least 30", bound=30),
        a_check(CheckKind.LEAKAGE, name="best single input", figure=0.61, wanted="at most 0.95", bound=0.95,
                better="lower", question="Is one input too good to be true?"),
        a_check(question="Does it find failures?"),
        a_check(CheckKind.BASELINE, name="gain in average precision over best single feature", figure=0.213,
                interval=(0.171, 0.256), wanted="lower bound above 0", bound=0.0, units=1200,
                method="Paired bootstrap of whole machines, 1,000 resamples"),
        a_check(CheckKind.CHAMPION, name="gain in average precision over champion version 3", figure=0.0042,
                interval=(-0.0061, 0.0144), wanted="lower bound above -0.01", bound=-0.01, margin=0.01, units=1200,
                p_value=0.0031, method="Paired bootstrap of whole machines, 1,000 resamples",
                question="Non-inferiority: may it be swapped without losing more than the margin?"),
        a_check(CheckKind.OLDER, name="gain on the champion's own holdout", figure=0.002, interval=(-0.008, 0.012),
                wanted="lower bound above -0.01", bound=-0.01, margin=0.01),
        a_check(CheckKind.SLICE, Outcome.FAIL, name="zone eu-west-1: average precision", figure=-0.034,
                interval=(-0.052, -0.016), wanted="lower bound above -0.02", bound=-0.02, margin=0.02, n=3811,
                p_value=0.41, remedy="Look at the rows of this slice; train with more of them, or take it out of the guard",
                detail="Holm-adjusted over 4 slices"),
        a_check(CheckKind.SLICE, name="zone us-east-1: average precision", figure=0.011, interval=(-0.004, 0.026),
                wanted="lower bound above -0.02", bound=-0.02, margin=0.02, n=5120),
        a_check(CheckKind.SLICE, Outcome.INSUFFICIENT, name="service billing: average precision", figure=0.002,
                interval=(-0.11, 0.12), wanted="lower bound above -0.02", bound=-0.02, margin=0.02, n=131,
                remedy="Wait for more rows of this slice", detail="9 positives, 30 are wanted"),
        a_check(CheckKind.CALIBRATION, name="expected calibration error", figure=0.0124, wanted="at most 0.05",
                bound=0.05, better="lower", interval=(0.0101, 0.0163)),
        a_check(CheckKind.BIAS, name="largest difference of recall between zones", figure=0.06, wanted="at most 0.1",
                bound=0.1, better="lower", interval=(0.03, 0.094), blocking=False),
        a_check(CheckKind.STABILITY, name="decisions that flip under 1 % noise", figure=0.0031, wanted="at most 0.02",
                bound=0.02, better="lower"),
        a_check(CheckKind.SERVABILITY, name="latency of one row, p99, ms", figure=6.7, wanted="at most 100",
                bound=100.0, better="lower", n=200),
        a_check(CheckKind.SERVABILITY, name="memory, MiB", figure=7.42, wanted="at most 512", bound=512.0,
                better="lower", n=620),
    )  # fmt: skip


def a_training():
    return Training(
        model="failure",
        registered_name="failure",
        trained_at=datetime(2026, 11, 20, 3, 4, 5, tzinfo=UTC),
        run_id="844bd629fcce4a9f",
        snapshot=SNAPSHOT,
        window=Window.parse("2026-10-09", "2026-11-20"),
        grid=None,
        tables={"features/simulated/telemetry_windows": 1, "clean/simulated/events": 1},
        features={"cpu_percent__mean_3h": "telemetry_windows", "restarts_24h": "events_history", "load": ""},
        study="failure-0905b9e5a19f0ebd",
        params={"learning_rate": 0.08, "num_leaves": 31},
        seed=20260101,
        code=Code(
            version="0.1.0",
            commit="70379216c20f" + "0" * 28,
            dirty=False,
            source_sha256="e9" * 32,
            locks={"requirements.lock": "82" * 32},
        ),
        environment=Environment(
            python="3.11.7",
            system="Linux 6.1",
            machine="x86_64",
            cpus=2,
            threads={},
            packages={"numpy": "2.4.6"},
        ),
        dag_run=DagRun(dag_id="train_failure", run_id="scheduled__2026-11-20T03:00:00+00:00"),
    )


def some_evidence(checks=None, **changes):
    verdict = Verdict(
        checks=all_kinds() if checks is None else tuple(checks), notes=("Coverage: it has no interval.",)
    )
    given = {
        "candidate": CANDIDATE,
        "champion": "3",
        "verdict": verdict,
        "figures": {
            "candidate": {"average_precision": 0.412, "alarm_recall": 0.31, "log_loss": 0.1503},
            "version 3": {"average_precision": 0.4078, "alarm_recall": 0.302, "log_loss": 0.1511},
            "share of positives": {"average_precision": 0.043},
        },
        "judged_at": datetime(2026, 11, 20, 3, 9, tzinfo=UTC),
        "question": "Will this machine fail within 24 hours?",
        "training": a_training(),
        "links": (Link("Version 7 in MLflow", "http://127.0.0.1:5000/#/models/failure/versions/7"),),
    }
    return Evidence(**(given | changes))
