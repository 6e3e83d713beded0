"""Buckets and least rights, against an S3 server that enforces policies."""

import json
import subprocess
import sys

import boto3
import httpx
import pytest
from botocore.exceptions import ClientError

from headrace.buckets import NONCURRENT_DAYS, buckets, policies, set_up
from headrace.secrets_cli import COMPONENTS
from pipelines.adapters.object_store import client_of
from pipelines.errors import SettingsError
from pipelines.settings import load_settings
from tests.services import s3

pytestmark = pytest.mark.integration

LAKE, ARTIFACTS = "s3://headrace-lake/lake", "s3://headrace-artifacts/mlflow"


@pytest.fixture(scope="module")
def settings(tmp_path_factory):
    with s3() as endpoint:
        yield load_settings(
            {},
            home=tmp_path_factory.mktemp("home"),
            lake_url=LAKE,
            mlflow_artifacts_url=ARTIFACTS,
            s3_endpoint_url=endpoint,
            s3_access_key_id="root",
            s3_secret_access_key="root",
        )


def _client(settings, service, keys=("root", "root")):
    return boto3.client(
        service,
        endpoint_url=settings.s3_endpoint_url,
        region_name="us-east-1",
        aws_access_key_id=keys[0],
        aws_secret_access_key=keys[1],
    )


@pytest.fixture(scope="module")
def as_component(settings):
    """``as_component(name)``: an S3 client of a user with the component's policy, which the server enforces."""
    set_up(settings, client_of(settings))
    iam = _client(settings, "iam")
    keys = {}
    for name, policy in policies(settings).items():
        iam.create_user(UserName=name)
        iam.put_user_policy(UserName=name, PolicyName=name, PolicyDocument=json.dumps(policy))
        made = iam.create_access_key(UserName=name)["AccessKey"]
        keys[name] = made["AccessKeyId"], made["SecretAccessKey"]
    root = _client(settings, "s3")
    for bucket, key in (
        ("headrace-lake", "lake/raw/x/part"),
        ("headrace-lake", "lake/predictions/failure/part"),
        ("headrace-artifacts", "mlflow/1/model"),
    ):
        root.put_object(Bucket=bucket, Key=key, Body=b"there")
    httpx.post(f"{settings.s3_endpoint_url}/moto-api/reset-auth", content=b"0").raise_for_status()
    yield lambda name: _client(settings, "s3", keys[name])
    httpx.post(f"{settings.s3_endpoint_url}/moto-api/reset-auth", content=b"1000000000")


def _may(call, **arguments):
    try:
        call(**arguments)
    except ClientError as error:
        if error.response["Error"]["Code"] != "AccessDenied":
            raise
        return False
    return True


# component, then whether it may: read raw, write raw, write predictions, read an artifact, write an artifact
RIGHTS = {
    "pipeline": (True, True, True, False, False),
    "mlflow": (False, False, False, True, True),
    "serving": (False, False, True, False, False),
    "exporter": (True, False, False, False, False),
    "backup": (True, False, False, True, False),
}


def test_each_component_may_what_it_needs_and_no_more(as_component):
    assert set(RIGHTS) == set(COMPONENTS)
    for name, rights in RIGHTS.items():
        client = as_component(name)
        found = (
            _may(client.get_object, Bucket="headrace-lake", Key="lake/raw/x/part"),
            _may(client.put_object, Bucket="headrace-lake", Key="lake/raw/x/other", Body=b""),
            _may(client.put_object, Bucket="headrace-lake", Key="lake/predictions/failure/other", Body=b""),
            _may(client.get_object, Bucket="headrace-artifacts", Key="mlflow/1/model"),
            _may(client.put_object, Bucket="headrace-artifacts", Key="mlflow/1/other", Body=b""),
        )
        assert found == rights, name
        assert not _may(client.put_object, Bucket="headrace-lake", Key="elsewhere", Body=b""), name


def test_what_is_overwritten_can_be_brought_back_for_a_while(settings, as_component):
    assert buckets(settings) == ["headrace-artifacts", "headrace-lake"]
    as_component("pipeline").put_object(Bucket="headrace-lake", Key="lake/raw/x/part", Body=b"newer")
    versions = as_component("backup").list_object_versions(Bucket="headrace-lake", Prefix="lake/raw/x/part")
    old = next(each for each in versions["Versions"] if not each["IsLatest"])
    body = (
        as_component("backup")
        .get_object(Bucket="headrace-lake", Key="lake/raw/x/part", VersionId=old["VersionId"])["Body"]
        .read()
    )
    assert body == b"there"


def test_rules_end_what_is_old_and_encryption_is_on(settings, as_component):
    httpx.post(f"{settings.s3_endpoint_url}/moto-api/reset-auth", content=b"1000000000")
    root = _client(settings, "s3")
    for bucket in buckets(settings):
        assert root.get_bucket_versioning(Bucket=bucket)["Status"] == "Enabled"
        rules = {rule["ID"]: rule for rule in root.get_bucket_lifecycle_configuration(Bucket=bucket)["Rules"]}
        old = rules["headrace-old-versions"]["NoncurrentVersionExpiration"]
        assert old["NoncurrentDays"] == NONCURRENT_DAYS
        assert rules["headrace-broken-uploads"]["AbortIncompleteMultipartUpload"]["DaysAfterInitiation"] == 7
        (rule,) = root.get_bucket_encryption(Bucket=bucket)["ServerSideEncryptionConfiguration"]["Rules"]
        assert rule["ApplyServerSideEncryptionByDefault"]["SSEAlgorithm"] == "AES256"
    set_up(settings, client_of(settings))  # again: changes nothing
    assert root.list_objects_v2(Bucket="headrace-lake")["KeyCount"] >= 2


def test_policies_are_printed_for_who_keeps_users_elsewhere(settings):
    done = subprocess.run(
        [sys.executable, "-m", "headrace.buckets", "--policies"],
        env={
            "HEADRACE_HOME": str(settings.home),
            "HEADRACE_LAKE_URL": LAKE,
            "HEADRACE_MLFLOW_ARTIFACTS_URL": ARTIFACTS,
        },
        capture_output=True,
        text=True,
        check=True,
    )
    assert json.loads(done.stdout) == policies(settings)


def test_a_lake_on_disk_has_no_buckets(tmp_path):
    with pytest.raises(SettingsError, match=r"HEADRACE_LAKE_URL is .* s3://bucket/prefix"):
        policies(load_settings({}, home=tmp_path))
