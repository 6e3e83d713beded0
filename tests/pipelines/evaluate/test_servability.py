"""The real server, in a process of its own, on exports of every runtime; and what it must refuse."""

import os
import signal
import subprocess
import sys
import time
from datetime import timedelta

import httpx
import psutil
import pytest

from models.base import builder_of
from models.manifest import MANIFEST_FILE, SAMPLE_FILE, Manifest, Sample
from models.specs import Budgets
from pipelines.adapters import exports
from pipelines.adapters.signing import Signer
from pipelines.evaluate import candidate_server, servability
from pipelines.evaluate.checks import CheckKind
from pipelines.references import Outcome
from pipelines.settings import load_settings
from serving.single import as_version

pytestmark = pytest.mark.integration

# A machine that runs tests is no place to measure latencies in.
PATIENT = Budgets(latency=timedelta(seconds=5))


@pytest.fixture
def export(make_export, tmp_path):
    return make_export(tmp_path / "export")


@pytest.fixture(scope="module")
def running(make_export, tmp_path_factory, signing_key, trusted_keys):
    """A server with a good export, and the export: for questions that leave both as they are."""
    folder = tmp_path_factory.mktemp("running")
    export = make_export(folder / "export")
    settings = load_settings({}, home=folder / "home", signing_key=signing_key, trusted_keys=trusted_keys)
    with candidate_server.served(export, as_version(export), settings) as server:
        yield server, export


def signed(folder, settings):
    (folder / "manifest.sig").unlink(missing_ok=True)
    Signer.of(settings).sign(folder, exports.manifest_sha256(folder))
    return folder


def sample_of(export):
    return Sample.model_validate_json((export / SAMPLE_FILE).read_bytes())


def manifest_of(export):
    return Manifest.model_validate_json((export / MANIFEST_FILE).read_bytes())


def check(export, settings, native=None, budgets=PATIENT):
    native = sample_of(export) if native is None else native
    return servability.check(export, as_version(export), native, budgets, settings)


def outcomes(checks):
    return {check.name.partition(",")[0]: check.outcome for check in checks}


def servers(export):
    """Processes that serve it still."""
    return [child for child in psutil.Process().children(recursive=True) if str(export) in child.cmdline()]


def test_a_good_export_passes_and_every_budget_has_a_figure(export, settings):
    checks = check(export, settings)

    assert {each.outcome for each in checks} == {Outcome.PASS}, [each.sentence() for each in checks]
    assert {each.kind for each in checks} == {CheckKind.SERVABILITY}
    latency, memory, size = checks[-3:]
    assert 0 < latency.figure < 5000
    assert 0 < memory.figure < 200
    assert size.figure == pytest.approx(sum(file.stat().st_size for file in export.iterdir()) / 2**20)
    assert servers(export) == []


def test_what_it_exceeds_fails_and_what_training_did_not_leave_is_no_evidence(export, settings):
    tight = Budgets(latency=timedelta(microseconds=1), size_mb=1e-6)

    checks = servability.check(export, as_version(export), None, tight, settings)

    found = outcomes(checks)
    assert found["latency of one row"] is Outcome.FAIL
    assert found["size"] is Outcome.FAIL
    assert found["memory"] is Outcome.PASS
    (lacking,) = [each for each in checks if each.outcome is Outcome.INSUFFICIENT]
    assert lacking.figure is None
    assert "holdout" in lacking.name


def test_answers_other_than_the_trained_model_s_fail_and_name_row_and_output(running):
    server, export = running
    stored, manifest = sample_of(export), manifest_of(export)
    changed = [dict(prediction) for prediction in stored.predictions]
    changed[1]["probability"] += 0.25
    other = stored.model_copy(update={"predictions": tuple(changed)})

    theirs = servability.reproduces("holdout rows", manifest, other, server)
    ours = servability.reproduces("holdout rows", manifest, stored, server)

    assert (theirs.outcome, ours.outcome) == (Outcome.FAIL, Outcome.PASS)
    assert theirs.figure == pytest.approx(0.25)
    assert "row 1, probability" in theirs.detail


def test_it_answers_like_any_version(running):
    """The metadata of the protocol says what an ordinary server says of a version."""
    server, export = running

    said = server.client.get("/v2/models/tiny").json()
    refused = server.client.post("/v2/models/tiny/infer", json={"inputs": []})

    assert said["versions"] == ["1"]
    assert said["parameters"]["manifest_sha256"] == exports.manifest_sha256(export)
    assert refused.status_code == httpx.codes.BAD_REQUEST


def test_a_changed_file_is_refused_with_the_server_s_own_words(export, settings):
    version = as_version(export)
    model = next(file for file in export.iterdir() if file.suffix == ".txt")
    model.write_text(model.read_text().replace("leaf_value=", "leaf_value=1", 1))

    (found,) = servability.check(export, version, sample_of(export), Budgets(), settings)

    assert found.outcome is Outcome.FAIL
    assert "was changed" in found.detail, found.detail
    assert servers(export) == []


def test_an_export_that_nobody_trusted_signed_is_refused(make_export, tmp_path, settings):
    stranger = load_settings({}, home=tmp_path / "stranger")
    Signer.of(settings)
    export = signed(make_export(tmp_path / "export"), stranger)

    (found,) = check(export, settings)

    assert found.outcome is Outcome.FAIL
    assert "trusted" in found.detail


def test_a_server_that_cannot_start_fails_the_check(export, settings):
    version = as_version(export)
    manifest = export / MANIFEST_FILE
    manifest.write_text(manifest.read_text().replace('"format": 2', '"format": 99'))

    (found,) = servability.check(export, version, sample_of(export), Budgets(), settings)

    assert found.outcome is Outcome.FAIL
    assert "format" in found.detail


def test_a_server_that_dies_while_it_is_asked_fails_the_check(export, settings, monkeypatch):
    ask = candidate_server.Served.infer

    def dying(self, manifest, rows, *wire):
        if len(rows) == 1:
            self.process.kill()
            self.process.wait()
        return ask(self, manifest, rows, *wire)

    monkeypatch.setattr(candidate_server.Served, "infer", dying)

    (found,) = check(export, settings)

    assert found.outcome is Outcome.FAIL
    assert "stopped answering" in found.detail
    assert "The end of its log" in found.detail


def test_one_export_is_served_to_this_machine_only(export, settings):
    command = [sys.executable, "-m", "serving.single", "--export", str(export), "--host", "0.0.0.0"]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)

    assert ended.returncode != 0
    assert "loopback" in ended.stderr


def test_the_server_ends_with_the_process_that_asked_for_it(export, tmp_path):
    """Also where that one is killed, and cannot end anything."""
    announce = tmp_path / "announce.json"
    reading, writing = os.pipe()
    command = [
        *(sys.executable, "-m", "serving.single", "--export", str(export)),
        *("--announce", str(announce), "--until-input-ends"),
    ]
    environment = {**os.environ, "HEADRACE_HOME": str(tmp_path / "home"), "HEADRACE_PREDICTION_LOG": "false"}
    with subprocess.Popen(command, stdin=reading, env=environment) as process:
        os.close(reading)
        for _ in range(600):
            if announce.exists():
                break
            time.sleep(0.1)
        assert process.poll() is None
        os.close(writing)
        # uvicorn finishes what is under way, then ends by the signal itself.
        assert process.wait(timeout=60) in {0, -signal.SIGTERM}


def exported(folder, spec, fields, train, valid, holdout):
    """A model of the catalogue, trained on few rows; its export, and native answers on later rows."""
    fitted = builder_of(spec).fit(train, valid, fields, builder_of(spec).default_params(), 7, spec)

    def sample(part, rows=8):
        answers = fitted.answer(part)
        return exports.make_sample(
            fitted.inputs,
            {name: values[:rows] for name, values in part.columns.items()},
            {name: values[:rows] for name, values in answers.items()},
        )

    exports.write_export(
        folder, fitted.save, model=spec.name, inputs=fitted.inputs, sample=sample(valid), lineage={}
    )
    return sample(holdout)


def test_networks_and_trees_as_onnx_with_names_in_their_answers(tmp_path, settings):
    pytest.importorskip("tensorflow")
    from models.anomaly.spec import SPEC
    from tests.models.anomaly.test_build import fields, fleet

    train = fleet(1500, 1)
    native = exported(
        tmp_path / "export", SPEC, fields(train), train, fleet(900, 2), fleet(50, 3, strange=True)
    )
    assert {estimator.runtime for estimator in manifest_of(tmp_path / "export").estimators} == {"onnx"}

    checks = check(signed(tmp_path / "export", settings), settings, native=native)

    assert {each.outcome for each in checks} == {Outcome.PASS}, [each.sentence() for each in checks]


def test_several_estimators_of_lightgbm_behind_one_head(tmp_path, settings):
    from models.cost.spec import SPEC
    from tests.models.cost.conftest import INPUTS, bill, parted, rows_of

    train, valid, holdout = parted(rows_of({"calm": bill(220, 1, 40.0), "rough": bill(220, 3, 120.0)}))
    native = exported(tmp_path / "export", SPEC, INPUTS, train, valid, holdout)
    assert len(manifest_of(tmp_path / "export").estimators) > 1

    checks = check(signed(tmp_path / "export", settings), settings, native=native)

    assert {each.outcome for each in checks} == {Outcome.PASS}, [each.sentence() for each in checks]
