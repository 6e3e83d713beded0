"""``python -m headrace.buckets``: buckets, their rules, and a user with the least rights for each component.

Speaks the S3 protocol for the buckets and MinIO's own administration for users and policies. Another
S3 (AWS, Ceph) has users of its own making: ``--policies`` prints what to give them. Run it again after
any change: it sets what it finds otherwise, and removes nothing.
"""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from headrace.secrets_cli import COMPONENTS
from pipelines.adapters.object_store import ensure_bucket
from pipelines.errors import HeadraceError, SettingsError

if TYPE_CHECKING:
    from minio import Minio

    from pipelines.settings import Settings

NONCURRENT_DAYS = 30
"""For so long what was overwritten or removed can be brought back: a restore goes back this far at most."""

_UPLOAD_DAYS = 7
_READ = ("s3:GetObject", "s3:GetObjectVersion")
_WRITE = ("s3:PutObject", "s3:DeleteObject", "s3:AbortMultipartUpload", "s3:ListMultipartUploadParts")
_SPOOLED = ("predictions", "predictions_index", "labels")  # what a server's spool becomes in the lake

log = logging.getLogger(__name__)


def policies(settings: Settings) -> dict[str, dict[str, Any]]:
    """By component, what its user may: documents of the form that S3 and MinIO have in common.

    ``pipeline``: the lake. ``mlflow``: the artifacts, and alone these. ``serving``: adds predictions and labels
    to the lake and reads no more of it than those. ``exporter``: reads the lake. ``backup``: reads all,
    older versions too.
    """
    lake, prefix = _place(settings.lake, "HEADRACE_LAKE_URL")
    artifacts, below = _place(settings.mlflow_artifacts, "HEADRACE_MLFLOW_ARTIFACTS_URL")
    whole, kept = f"{prefix}/*".lstrip("/"), f"{below}/*".lstrip("/")
    spooled = [f"{prefix}/{name}/*".lstrip("/") for name in _SPOOLED]
    granted: dict[str, list[dict[str, Any]]] = {
        "pipeline": [_objects(lake, [whole], *_READ, *_WRITE), _list(lake, [whole])],
        "mlflow": [_objects(artifacts, [kept], *_READ, *_WRITE), _list(artifacts, [kept])],
        "serving": [_objects(lake, spooled, *_READ, *_WRITE), _list(lake, spooled)],
        "exporter": [_objects(lake, [whole], *_READ), _list(lake, [whole])],
        "backup": [
            statement
            for bucket, objects in ((lake, whole), (artifacts, kept))
            for statement in (
                _objects(bucket, [objects], *_READ),
                _list(bucket, [objects], "s3:ListBucketVersions"),
            )
        ],
    }
    return {name: {"Version": "2012-10-17", "Statement": granted[name]} for name in COMPONENTS}


def set_up(settings: Settings, client: Minio) -> None:
    """Buckets with versions, rules for what is old, and encryption where the server offers it."""
    from minio.commonconfig import ENABLED, Filter
    from minio.error import S3Error
    from minio.lifecycleconfig import (
        AbortIncompleteMultipartUpload,
        Expiration,
        LifecycleConfig,
        NoncurrentVersionExpiration,
        Rule,
    )
    from minio.sseconfig import Rule as Encryption
    from minio.sseconfig import SSEConfig
    from minio.versioningconfig import VersioningConfig

    rules = LifecycleConfig(
        [
            Rule(
                ENABLED,
                rule_filter=Filter(prefix=""),
                rule_id="headrace-old-versions",
                noncurrent_version_expiration=NoncurrentVersionExpiration(noncurrent_days=NONCURRENT_DAYS),
                expiration=Expiration(expired_object_delete_marker=True),
            ),
            Rule(
                ENABLED,
                rule_filter=Filter(prefix=""),
                rule_id="headrace-broken-uploads",
                abort_incomplete_multipart_upload=AbortIncompleteMultipartUpload(
                    days_after_initiation=_UPLOAD_DAYS
                ),
            ),
        ]
    )
    for bucket in buckets(settings):
        made = ensure_bucket(settings, bucket)
        client.set_bucket_versioning(bucket, VersioningConfig(ENABLED))
        client.set_bucket_lifecycle(bucket, rules)
        try:
            client.set_bucket_encryption(bucket, SSEConfig(Encryption.new_sse_s3_rule()))
            encrypted = "encrypted"
        except S3Error as error:
            # MinIO offers it where it has a KMS; without one the disks must be encrypted.
            encrypted = f"not encrypted by the server ({error.code})"
        log.info(
            "%s: %s, versions kept for %d days, %s",
            bucket,
            "made" if made else "was there",
            NONCURRENT_DAYS,
            encrypted,
        )


def buckets(settings: Settings) -> list[str]:
    """The bucket of the lake, and that of the artifacts."""
    places = (
        _place(settings.lake, "HEADRACE_LAKE_URL"),
        _place(settings.mlflow_artifacts, "HEADRACE_MLFLOW_ARTIFACTS_URL"),
    )
    return sorted({bucket for bucket, _ in places})


def add_users(settings: Settings, admin: Any) -> None:
    """Each component's user with its policy, in MinIO; its keys are files in the folder of secrets."""
    for component, policy in policies(settings).items():
        name = f"headrace-{component}"
        admin.policy_add(name, policy=policy)
        admin.user_add(
            _secret(settings, component, "access_key_id"), _secret(settings, component, "secret_access_key")
        )
        admin.policy_set(name, user=_secret(settings, component, "access_key_id"))
        log.info("user %s may what its policy says", name)


def _secret(settings: Settings, component: str, what: str) -> str:
    path = settings.secrets / f"s3_{component}_{what}"
    try:
        return path.read_text("utf-8").strip()
    except OSError as error:
        raise SettingsError(
            f"{path} cannot be read: {error.strerror}; `headrace secrets` makes it"
        ) from error


def _place(url: str, setting: str) -> tuple[str, str]:
    parts = urlsplit(url)
    if parts.scheme != "s3":
        raise SettingsError(f"{setting} is {url!r}: buckets are made for s3://bucket/prefix")
    return parts.netloc, parts.path.strip("/")


def _objects(bucket: str, prefixes: list[str], *actions: str) -> dict[str, Any]:
    return {
        "Effect": "Allow",
        "Action": list(actions),
        "Resource": [f"arn:aws:s3:::{bucket}/{prefix}" for prefix in prefixes],
    }


def _list(bucket: str, prefixes: list[str], *more: str) -> dict[str, Any]:
    condition: Mapping[str, Any] = {"StringLike": {"s3:prefix": prefixes}}
    return {
        "Effect": "Allow",
        "Action": ["s3:ListBucket", *more],
        "Resource": [f"arn:aws:s3:::{bucket}"],
        "Condition": condition,
    }


def main(arguments: list[str]) -> None:
    """Set everything up, or print the policies."""
    from minio import MinioAdmin
    from minio.credentials import StaticProvider

    from pipelines.adapters.object_store import client_of
    from pipelines.settings import load_settings

    settings = load_settings()
    if arguments == ["--policies"]:
        print(json.dumps(policies(settings), indent=2))
        return
    logging.basicConfig(level=settings.log_level, stream=sys.stderr, format="%(message)s")
    set_up(settings, client_of(settings))
    endpoint = urlsplit(settings.s3_endpoint_url or "")
    secret = settings.s3_secret_access_key
    provider = StaticProvider(settings.s3_access_key_id or "", secret.get_secret_value() if secret else "")
    add_users(
        settings,
        MinioAdmin(endpoint=endpoint.netloc, credentials=provider, secure=endpoint.scheme == "https"),
    )


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except HeadraceError as error:
        sys.exit(f"headrace: {error}")
