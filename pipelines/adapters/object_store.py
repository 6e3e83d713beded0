"""Objects in an S3 bucket, and the set-up of that bucket."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from pipelines.errors import LakeError

if TYPE_CHECKING:
    from minio import Minio

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

    def keys(self, url: str) -> Iterator[str]:
        """Keys of all objects below an address."""
        bucket, prefix = _split(url)
        for page in self._client.get_paginator("list_objects_v2").paginate(
            Bucket=bucket, Prefix=f"{prefix.rstrip('/')}/"
        ):
            yield from (item["Key"] for item in page.get("Contents", []))

    def list(self, url: str) -> Iterator[tuple[str, datetime, int]]:
        """Address, time of writing (UTC) and size of each object below an address."""
        bucket, prefix = _split(url.rstrip("/") + "/")
        for page in self._client.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix):
            for item in page.get("Contents", ()):
                yield f"s3://{bucket}/{item['Key']}", item["LastModified"].astimezone(UTC), item["Size"]

    def folders(self, url: str) -> Sequence[str]:
        """Names of the folders right below an address, in order."""
        bucket, prefix = _split(url.rstrip("/") + "/")
        pages = self._client.get_paginator("list_objects_v2").paginate(
            Bucket=bucket, Prefix=prefix, Delimiter="/"
        )
        found = [item["Prefix"] for page in pages for item in page.get("CommonPrefixes", ())]
        return sorted(key.removeprefix(prefix).rstrip("/") for key in found)

    def delete(self, url: str) -> None:
        """No error where there is no such object."""
        bucket, key = _split(url)
        self._client.delete_object(Bucket=bucket, Key=key)


def client_of(settings: Settings) -> Minio:
    """MinIO's client, with the keys of the settings.

    Raises:
        LakeError: no endpoint or no keys are set.
    """
    from minio import Minio

    if not (settings.s3_endpoint_url and settings.s3_access_key_id and settings.s3_secret_access_key):
        raise LakeError(
            "an S3 lake needs HEADRACE_S3_ENDPOINT_URL, HEADRACE_S3_ACCESS_KEY_ID and HEADRACE_S3_SECRET_ACCESS_KEY"
        )
    endpoint = urlsplit(settings.s3_endpoint_url)
    return Minio(
        endpoint.netloc,
        access_key=settings.s3_access_key_id,
        secret_key=settings.s3_secret_access_key.get_secret_value(),
        secure=endpoint.scheme == "https",
        region=settings.s3_region,
    )


def ensure_bucket(settings: Settings, bucket: str) -> bool:
    """Make the bucket with versioning on, where it is missing. Returns whether it was made.

    Raises:
        LakeError: as :func:`client_of`.
    """
    from minio.commonconfig import ENABLED
    from minio.versioningconfig import VersioningConfig

    client = client_of(settings)
    if client.bucket_exists(bucket):
        return False
    client.make_bucket(bucket)
    client.set_bucket_versioning(bucket, VersioningConfig(ENABLED))
    return True


def _split(url: str) -> tuple[str, str]:
    parts = urlsplit(url)
    return parts.netloc, parts.path.lstrip("/")
