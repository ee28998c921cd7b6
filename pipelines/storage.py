"""Files by name below a folder or an S3 prefix: listed, read whole, replaced whole."""

import hashlib
import os
import re
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from pipelines.crash_points import crash_point
from pipelines.errors import NightjarError, StorageDown, StorageRefused

_REFUSALS = {
    *("403", "AccessDenied", "InvalidAccessKeyId", "SignatureDoesNotMatch", "ExpiredToken", "InvalidToken"),
    *("NoSuchBucket", "InvalidBucketName", "PermanentRedirect", "AuthorizationHeaderMalformed"),
    "Unable to locate credentials",
}
_ABSENT = {"404", "NoSuchKey", "NotFound"}
_CODE = re.compile(r"<Code>(\w+)</Code>|\((\w+)\) when calling|(Unable to locate credentials)")
_PAINT = re.compile(r"\x1b\[\d*m|↳")  # Delta Lake draws its messages for a terminal
_RETRIES = 3
_SECOND_NS = 1_000_000_000


@dataclass(frozen=True)
class Location:
    """A folder, or `s3://bucket/prefix`; names within it have `/` and no leading one.

    Objects of S3 that a library must read as files are copied to `cached`; credentials come from the standard AWS
    variables. Every call may raise StorageDown (the server failed, after bounded retries) or StorageRefused.
    A server that is silent for `timeout_s` is asked again, three times at most.
    """

    uri: str
    cached: Path
    endpoint_url: str = ""
    timeout_s: float = 10

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
        if self.is_remote:
            bucket, root = self._bucket_and_root
            with self._reaching(prefix) as client:
                pages = client.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=root + prefix)
                found = [item["Key"].removeprefix(root) for page in pages for item in page.get("Contents", ())]
        else:
            start = self.folder / prefix.rpartition("/")[0]
            found = [path.relative_to(self.folder).as_posix() for path in start.rglob("*") if path.is_file()]
        # a name that ends with a slash is the mark of a folder that some tools leave on S3
        return sorted(
            name for name in found if name.startswith(prefix) and "/." not in f"/{name}" and not name.endswith("/")
        )

    def exists(self, name: str) -> bool:
        """Whether there is a file of that name."""
        if not self.is_remote:
            return (self.folder / name).is_file()
        return self._tag(name) is not None

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
        tag = self._tag(name)
        if tag is None:
            raise FileNotFoundError(self.uri_of(name))
        if not (path.exists() and path.stat().st_mtime_ns % _SECOND_NS == tag):
            bucket, root = self._bucket_and_root
            with self._reaching(name) as client, replacing(path) as unfinished:
                client.download_file(bucket, root + name, str(unfinished))
                second = unfinished.stat().st_mtime_ns // _SECOND_NS - 1  # never in the future
                os.utime(unfinished, ns=(second * _SECOND_NS + tag,) * 2)
        return path

    def origin(self, path: Path) -> str:
        """Address of the file whose path `fetch` gave."""
        return self.uri_of(path.relative_to(self.folder).as_posix())

    @property
    def storage_options(self) -> dict[str, str] | None:
        """What Delta Lake needs to reach the place; commits are conditional puts, so no writer overwrites another."""
        if not self.is_remote:
            return None
        from botocore.exceptions import NoCredentialsError

        session = _session()
        credentials = session.get_credentials()
        if credentials is None:
            raise self.failure("", NoCredentialsError())
        key = credentials.get_frozen_credentials()
        options = {"access_key_id": key.access_key, "secret_access_key": key.secret_key}
        options |= {"session_token": key.token} if key.token else {}
        options |= {"conditional_put": "etag", "region": session.region_name or "us-east-1"}
        # here a request's timeout counts its whole content, which may be large
        options |= {"timeout": f"{self.timeout_s * 3000:.0f}ms", "connect_timeout": f"{self.timeout_s * 1000:.0f}ms"}
        options |= {"max_retries": str(_RETRIES), "retry_timeout": f"{self.timeout_s * 2000:.0f}ms"}
        if self.endpoint_url:
            options |= {"endpoint_url": self.endpoint_url, "allow_http": str(self.endpoint_url.startswith("http:"))}
        return options

    def failure(self, name: str, error: Exception) -> NightjarError:
        """The error that a reader understands, for one that a library raised about a file or table on S3."""
        lines = [line.strip() for line in _PAINT.sub("", str(error)).splitlines() if line.strip()]
        where = f"{self.uri_of(name)} at {self.endpoint_url or 'AWS'}"
        code = _code_of(error)
        if code in _REFUSALS:
            return StorageRefused(
                "the object store refused the request",
                where=where,
                found=code,
                remedy="check NIGHTJAR_LANDING_URI, NIGHTJAR_LAKE_URI, and AWS_ACCESS_KEY_ID with its secret",
            )
        return StorageDown(
            "the object store does not answer as it should",
            where=where,
            found=": ".join(dict.fromkeys((lines[0], lines[-1]))),
            remedy="check NIGHTJAR_S3_ENDPOINT_URL and the server; then run the step again",
        )

    @property
    def _bucket_and_root(self) -> tuple[str, str]:
        bucket, _, root = self.uri.removeprefix("s3://").partition("/")
        return bucket, root.rstrip("/") + "/" if root else ""

    def _tag(self, name: str) -> int | None:
        """A number for the object's ETag: the nanoseconds of a copy's time, so that both are put in place at once."""
        bucket, root = self._bucket_and_root
        with self._reaching(name) as client:  # HEAD would not tell a missing object from a missing bucket
            found = client.list_objects_v2(Bucket=bucket, Prefix=root + name, MaxKeys=1).get("Contents", ())
        tags = [item["ETag"] for item in found if item["Key"] == root + name]
        return int.from_bytes(hashlib.sha256(tags[0].encode()).digest()) % _SECOND_NS if tags else None

    @contextmanager
    def _reaching(self, name: str) -> Iterator[Any]:
        from boto3.exceptions import Boto3Error
        from botocore.exceptions import BotoCoreError, ClientError

        try:
            yield _client(self.endpoint_url, self.timeout_s)
        except (ClientError, BotoCoreError, Boto3Error) as error:
            if _code_of(error) in _ABSENT:
                raise FileNotFoundError(self.uri_of(name)) from error
            raise self.failure(name, error) from error


def sql_text(value: object) -> str:
    """The value as a text in SQL, for the few places that take no parameters."""
    return "'" + str(value).replace("'", "''") + "'"


def sql_list(values: Iterable[object]) -> str:
    """The values as a list of texts in SQL."""
    return f"[{', '.join(map(sql_text, values))}]"


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


def _code_of(error: Exception) -> str | None:
    """The code that an S3 server gave, in whatever a library made of it."""
    code = _CODE.search(str(error))
    return code[code.lastindex or 0] if code else None


@cache
def _session() -> Any:
    import boto3

    return boto3.Session()


@cache
def _client(endpoint_url: str, timeout_s: float) -> Any:
    from botocore.config import Config

    config = Config(
        retries={"mode": "standard", "max_attempts": _RETRIES}, connect_timeout=timeout_s, read_timeout=timeout_s
    )
    return _session().client("s3", endpoint_url=endpoint_url or None, config=config)
