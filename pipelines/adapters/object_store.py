"""Objects in an S3 bucket, and the set-up of that bucket."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from pipelines.errors import LakeError

if TYPE_CHECKING:
    from pipelines.settings import Settings


class ObjectStore:
    """Reads and writes whole objects by ``s3://bucket/key`` address."""

    def __init__(self, client: Any) -> None:
        self._client = client

    @classmethod
    def from_storage_options(cls, options: Mapping[str, str]) -> ObjectStore:
        """A store by the same options that ``deltalake`` takes."""
        import boto3

        return cls(
            boto3.client(
                "s3",
                endpoint_url=options.get("AWS_ENDPOINT_URL"),
                region_name=options.get("AWS_REGION"),
                aws_access_key_id=options.get("AWS_ACCESS_KEY_ID"),
                aws_secret_access_key=options.get("AWS_SECRET_ACCESS_KEY"),
            )
        )

    def write(self, url: str, content: bytes) -> str:
        bucket, key = _split(url)
        self._client.put_object(Bucket=bucket, Key=key, Body=content)
        return url

    def read(self, url: str) -> bytes:
        """Raises LakeError where there is no such object."""
        bucket, key = _split(url)
        try:
            body: bytes = self._client.get_object(Bucket=bucket, Key=key)["Body"].read()
        except self._client.exceptions.NoSuchKey as error:
            raise LakeError(f"no object at {url}") from error
        return body


def ensure_bucket(settings: Settings, bucket: str) -> bool:
    """Make the bucket with versioning on, where it is missing. Returns whether it was made.

    Raises:
        LakeError: no endpoint or no keys are set.
    """
    from minio import Minio
    from minio.commonconfig import ENABLED
    from minio.versioningconfig import VersioningConfig

    if not (settings.s3_endpoint_url and settings.s3_access_key_id and settings.s3_secret_access_key):
        raise LakeError(
            "an S3 lake needs HEADRACE_S3_ENDPOINT_URL, HEADRACE_S3_ACCESS_KEY_ID and HEADRACE_S3_SECRET_ACCESS_KEY"
        )
    endpoint = urlsplit(settings.s3_endpoint_url)
    client = Minio(
        endpoint.netloc,
        access_key=settings.s3_access_key_id,
        secret_key=settings.s3_secret_access_key.get_secret_value(),
        secure=endpoint.scheme == "https",
        region=settings.s3_region,
    )
    if client.bucket_exists(bucket):
        return False
    client.make_bucket(bucket)
    client.set_bucket_versioning(bucket, VersioningConfig(ENABLED))
    return True


def _split(url: str) -> tuple[str, str]:
    parts = urlsplit(url)
    return parts.netloc, parts.path.lstrip("/")
