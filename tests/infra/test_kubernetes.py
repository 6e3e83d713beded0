"""Kubernetes: what kustomize renders fits the schemas, is confined, and has the settings that its programs ask for."""

import json
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from headrace.processes import program
from pipelines.settings import PREFIX, load_settings

pytestmark = pytest.mark.integration  # tools of seconds

HERE = Path(__file__).parents[2] / "infra" / "kubernetes"
TEMPLATES = sorted((HERE / "pod-templates").glob("*.yaml"))
STAGES = {"data", "snapshot", "tune", "train", "evaluate"}


@pytest.fixture(scope="module")
def objects():
    kubectl = shutil.which("kubectl")
    if kubectl is None:
        pytest.skip("kubectl, which has kustomize in it, is not installed")
    done = subprocess.run([kubectl, "kustomize", str(HERE)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return list(yaml.safe_load_all(done.stdout))


def _pods(objects):
    for each in objects:
        if each["kind"] in {"Deployment", "StatefulSet"}:
            yield each["metadata"]["name"], each["spec"]["template"]["spec"]


def _valid(each):
    kubernetes_validate = pytest.importorskip("kubernetes_validate")
    kubernetes_validate.validate(each, "1.34", strict=True)


def test_every_object_fits_its_schema(objects):
    for each in objects:
        _valid(each)
    with pytest.raises(Exception, match="replica"):
        _valid(objects_with_a_slip(objects))


def objects_with_a_slip(objects):
    slip = json.loads(json.dumps(next(each for each in objects if each["kind"] == "Deployment")))
    slip["spec"]["replica"] = slip["spec"].pop("replicas")
    return slip


def test_pod_templates_fit_their_schema_and_differ_in_name_and_resources_alone():
    assert {path.stem for path in TEMPLATES} == STAGES
    seen = []
    for path in TEMPLATES:
        pod = yaml.safe_load(path.read_text())
        _valid(pod)
        assert pod["metadata"]["name"] == f"headrace-{path.stem}"
        (container,) = pod["spec"]["containers"]
        assert container["name"] == "base", "Airflow looks for the container by this name"
        assert container.pop("resources")["limits"]["memory"]
        pod["metadata"].pop("name")
        pod["metadata"]["labels"].pop("headrace/stage")
        seen.append(pod)
    assert all(pod == seen[0] for pod in seen)


def test_every_pod_is_confined(objects):
    pods = [*_pods(objects), *((path.stem, yaml.safe_load(path.read_text())["spec"]) for path in TEMPLATES)]
    assert len(pods) == 4 + len(STAGES)
    for name, pod in pods:
        assert pod["securityContext"]["runAsNonRoot"], name
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}, name
        assert pod["automountServiceAccountToken"] is False, name
        for container in [*pod.get("initContainers", []), *pod["containers"]]:
            security = container["securityContext"]
            assert security["readOnlyRootFilesystem"], name
            assert security["allowPrivilegeEscalation"] is False, name
            assert security["capabilities"] == {"drop": ["ALL"]}, name
            assert container["resources"]["requests"]["cpu"], name
            assert container["resources"]["limits"]["memory"], name
            assert container["image"].rpartition(":")[2] == "0.1.0", name


def test_what_serves_has_probes_a_budget_and_grows(objects):
    kinds = {(each["kind"], each["metadata"]["name"]) for each in objects}
    for name in ("serving", "mlflow"):
        for kind in (
            "PodDisruptionBudget",
            "HorizontalPodAutoscaler",
            "NetworkPolicy",
            "ServiceAccount",
            "Service",
        ):
            assert (kind, name) in kinds
        main = next(pod for pod_name, pod in _pods(objects) if pod_name == name)["containers"][0]
        assert {"startupProbe", "readinessProbe", "livenessProbe"} <= set(main)


def test_every_reference_is_to_something_that_is_there(objects):
    by_kind = {(each["kind"], each["metadata"]["name"]) for each in objects}
    labels = [
        each["spec"]["template"]["metadata"]["labels"]
        for each in objects
        if each["kind"] in {"Deployment", "StatefulSet"}
    ]
    for each in objects:
        if each["kind"] == "Service":
            selector = each["spec"]["selector"].items()
            assert any(selector <= label.items() for label in labels), each["metadata"]["name"]
        if each["kind"] == "HorizontalPodAutoscaler":
            target = each["spec"]["scaleTargetRef"]
            assert (target["kind"], target["name"]) in by_kind
    for name, pod in _pods(objects):
        assert ("ServiceAccount", pod["serviceAccountName"]) in by_kind, name
        volumes = {volume["name"] for volume in pod["volumes"]} | {"spool"}
        for container in [*pod.get("initContainers", []), *pod["containers"]]:
            assert {mount["name"] for mount in container["volumeMounts"]} <= volumes, name
            for source in container["envFrom"]:
                assert ("ConfigMap", source["configMapRef"]["name"]) in by_kind, name


def test_every_setting_is_known_and_every_program_is_there(objects, tmp_path):
    shared = next(each["data"] for each in objects if each["metadata"]["name"] == "headrace-settings")
    for _, pod in _pods(objects):
        for container in [*pod.get("initContainers", []), *pod["containers"]]:
            own = {item["name"]: item.get("value", "x") for item in container.get("env", [])}
            settings = load_settings({**shared, **own}, home=tmp_path)
            assert program(settings, container["args"][1]).command
    values = yaml.safe_load((HERE / "airflow-values.yaml").read_text())
    settings = load_settings(
        {**shared, **{item["name"]: item["value"] for item in values["env"]}},
        home=tmp_path,
        airflow_database_url="postgresql://database/airflow",
    )
    assert settings.airflow_executor == values["executor"] == "KubernetesExecutor"
    # The chart's own variables are Airflow's; none of ours is misspelt among them.
    assert f"{PREFIX}AIRFLOW_POD_TEMPLATES" in {item["name"] for item in values["env"]}


def test_the_shared_templates_are_those_that_the_policy_names(tmp_path, monkeypatch):
    """Airflow calls the policy for each task that it parses; here as it does."""
    pytest.importorskip("airflow")
    from types import SimpleNamespace

    from dags import policy

    monkeypatch.setenv(f"{PREFIX}HOME", str(tmp_path))
    monkeypatch.setenv(f"{PREFIX}AIRFLOW_POD_TEMPLATES", str(HERE / "pod-templates"))
    policy._folder.cache_clear()
    try:
        chosen = {}
        for name in ("ingest", "features", "tune", "train", "promote"):
            task = SimpleNamespace(task_id=name, executor_config={})
            policy.task_policy(task)
            chosen[name] = Path(task.executor_config.get("pod_template_file", "none")).stem
        assert chosen == {
            "ingest": "data",
            "features": "data",
            "tune": "tune",
            "train": "train",
            "promote": "none",
        }
    finally:
        policy._folder.cache_clear()
