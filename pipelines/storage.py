"""Files by name below a folder or an S3 prefix: listed, read whole, replaced whole."""

import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from pipelines.crash_points import crash_point
from pipelines.errors import EngineFailure, StorageRefused

_REFUSALS = {"403", "AccessDenied", "InvalidAccessKeyId", "SignatureDoesNotMatch", "NoSuchBucket"}
_ABSENT = {"404", "NoSuchKey", "NotFound"}


@dataclass(frozen=True)
class Location:
    """A folder, or `s3://bucket/prefix`; names within it have `/` and no leading one.

    Objects of S3 that a library must read as files are copied to `cached`; credentials come from the standard AWS
    variables. Every call may raise EngineFailure (the server failed, after bounded retries) or StorageRefused.
    """

    uri: str
    cached: Path
    endpoint_url: str = ""

    @property
    def is_remote(self) -> bool:
        """Whether it is on S3."""
        return self.uri.startswith("s3://")

    @property
    def folder(self) -> Path:
        """The folder whose files DuckDB and Feast read: the place itself, or that of the copies."""
        return self.cached if self.is_remote else Path(self.uri)

    def uri_of(self, name: str) -> str:
        """Address of a file or of a Delta table."""
        return f"{self.uri.rstrip('/')}/{name}"

    def names(self, prefix: str = "") -> list[str]:
        """Names of the files that begin with the prefix, sorted; unfinished ones are left out."""
        if not self.is_remote:
            start = self.folder / prefix.rpartition("/")[0]
            found = (path.relative_to(self.folder).as_posix() for path in start.rglob("*") if path.is_file())
            return sorted(name for name in found if name.startswith(prefix) and "/." not in f"/{name}")
        bucket, root = self._bucket_and_root
        with self._reaching(prefix) as client:
            pages = client.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=root + prefix)
            return sorted(item["Key"].removeprefix(root) for page in pages for item in page.get("Contents", ()))

    def exists(self, name: str) -> bool:
        """Whether there is a file of that name."""
        if not self.is_remote:
            return (self.folder / name).is_file()
        return self._etag(name) is not None

    def read(self, name: str) -> bytes:
        """A small file's content; FileNotFoundError without one."""
        if not self.is_remote:
            return (self.folder / name).read_bytes()
        bucket, root = self._bucket_and_root
        with self._reaching(name) as client:
            return bytes(client.get_object(Bucket=bucket, Key=root + name)["Body"].read())

    def write(self, name: str, content: bytes) -> None:
        """Put a small file in place; readers see the old one or this one, whole."""
        if not self.is_remote:
            with replacing(self.folder / name) as unfinished:
                unfinished.write_bytes(content)
            return
        bucket, root = self._bucket_and_root
        with self._reaching(name) as client:
            client.put_object(Bucket=bucket, Key=root + name, Body=content)

    def upload(self, source: Path, name: str) -> None:
        """Put a copy of a file of any size in place; readers see the old one or this one, whole."""
        if not self.is_remote:
            with replacing(self.folder / name) as unfinished:
                shutil.copyfile(source, unfinished)
            return
        bucket, root = self._bucket_and_root
        with self._reaching(name) as client:
            client.upload_file(str(source), bucket, root + name)

    def delete(self, name: str) -> None:
        """Remove a file and its copy; nothing where there is none."""
        (self.folder / name).unlink(missing_ok=True)
        if self.is_remote:
            bucket, root = self._bucket_and_root
            with self._reaching(name) as client:
                client.delete_object(Bucket=bucket, Key=root + name)

    def fetch(self, name: str, *, is_immutable: bool = False) -> Path:
        """Path of a file for libraries that read files; from S3, a copy as new as the object.

        A copy of an immutable object is not asked for again. FileNotFoundError where there is none.
        """
        path = self.folder / name
        if not self.is_remote or (is_immutable and path.exists()):
            if not path.exists():
                raise FileNotFoundError(path)
            return path
        tag, known = self._etag(name), path.with_name(f".{path.name}.etag")
        if tag is None:
            raise FileNotFoundError(self.uri_of(name))
        if not (path.exists() and known.exists() and known.read_text() == tag):
            bucket, root = self._bucket_and_root
            with self._reaching(name) as client, replacing(path) as unfinished:
                client.download_file(bucket, root + name, str(unfinished))
            known.write_text(tag)
        return path

    @property
    def storage_options(self) -> dict[str, str] | None:
        """What Delta Lake needs to reach the place; commits are conditional puts, so no writer overwrites another."""
        if not self.is_remote:
            return None
        import boto3

        session = boto3.Session()
        options = {"conditional_put": "etag", "region": session.region_name or "us-east-1"}
        if self.endpoint_url:
            options |= {"endpoint_url": self.endpoint_url, "allow_http": str(self.endpoint_url.startswith("http:"))}
        credentials = session.get_credentials()
        if credentials:
            options |= {"access_key_id": credentials.access_key, "secret_access_key": credentials.secret_key}
            options |= {"session_token": credentials.token} if credentials.token else {}
        return options

    @property
    def _bucket_and_root(self) -> tuple[str, str]:
        bucket, _, root = self.uri.removeprefix("s3://").partition("/")
        return bucket, root.rstrip("/") + "/" if root else ""

    def _etag(self, name: str) -> str | None:
        bucket, root = self._bucket_and_root
        try:
            with self._reaching(name) as client:
                return str(client.head_object(Bucket=bucket, Key=root + name)["ETag"])
        except FileNotFoundError:
            return None

    @contextmanager
    def _reaching(self, name: str) -> Iterator[Any]:
        from boto3.exceptions import Boto3Error
        from botocore.exceptions import BotoCoreError, ClientError

        try:
            yield _client(self.endpoint_url)
        except (ClientError, BotoCoreError, Boto3Error) as error:
            code = error.response["Error"]["Code"] if isinstance(error, ClientError) else ""
            where, server = self.uri_of(name), self.endpoint_url or "AWS"
            if code in _ABSENT:
                raise FileNotFoundError(where) from error
            if code in _REFUSALS:
                raise StorageRefused(
                    "the object store refused the request",
                    where=f"{where} at {server}",
                    found=error,
                    remedy="check NIGHTJAR_LANDING_URI, NIGHTJAR_LAKE_URI, and AWS_ACCESS_KEY_ID with its secret",
                ) from error
            raise EngineFailure(
                "the object store does not answer as it should",
                where=f"{where} at {server}",
                found=error,
                remedy="check NIGHTJAR_S3_ENDPOINT_URL and the server; then run the step again",
            ) from error


def sql_list(paths: Iterable[object]) -> str:
    """The paths as a list in SQL."""
    return "[" + ", ".join("'" + str(path).replace("'", "''") + "'" for path in paths) + "]"


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A name to write to; at the end it takes the place of `path` at once, and after an error it is removed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        yield unfinished
        crash_point("storage.replacing")
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)


@cache
def _client(endpoint_url: str) -> Any:
    import boto3
    from botocore.config import Config

    config = Config(retries={"mode": "standard", "max_attempts": 4}, connect_timeout=5, read_timeout=30)
    return boto3.client("s3", endpoint_url=endpoint_url or None, config=config)
