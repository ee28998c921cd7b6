"""SeaweedFS, a real S3 server, for tests and for a look at the chain on object storage."""

import io
import json
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import boto3
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from local_stack.servers import LOOPBACK, Server, family, free_port, is_running, recall, start_server, stop_server
from pipelines.settings import Settings
from pipelines.storage import Location

ACCESS_KEY, SECRET_KEY = "nightjar-tests", "a-secret-of-the-tests"
NAME = "seaweedfs"
_PORTS = ("master", "volume", "filer", "s3")


@dataclass(frozen=True)
class Place:
    """A file or folder on either storage, with the words of `pathlib`."""

    location: Location
    name: str

    def __truediv__(self, name: str) -> "Place":
        return Place(self.location, f"{self.name}/{name}")

    def __str__(self) -> str:
        return self.location.uri_of(self.name)

    def __fspath__(self) -> str:
        if self.location.is_remote:
            raise TypeError(f"no file of this machine: {self}")
        return str(self)

    def iterdir(self) -> list["Place"]:
        return [Place(self.location, name) for name in self.location.names(f"{self.name}/")]

    def exists(self) -> bool:
        return self.location.exists(self.name)

    def unlink(self) -> None:
        self.location.delete(self.name)

    def read_bytes(self) -> bytes:
        return self.location.read(self.name)

    def read_text(self) -> str:
        return self.read_bytes().decode()

    def read_table(self) -> pa.Table:
        return pq.read_table(io.BytesIO(self.read_bytes()))

    def write_bytes(self, content: bytes) -> None:
        self.location.write(self.name, content)

    def write_text(self, text: str) -> None:
        self.write_bytes(text.encode())


@contextmanager
def running_object_store(home: Path, *others: dict[str, object]) -> Iterator[Server]:
    """A healthy server with an empty data folder below `home`, stopped at the end; `others` may use it too."""
    data = home / "data"
    data.mkdir(parents=True)
    identity = {
        "name": "tests",
        "credentials": [{"accessKey": ACCESS_KEY, "secretKey": SECRET_KEY}],
        "actions": ["Admin", "Read", "List", "Tagging", "Write"],
    }
    known = home / "identities.json"
    known.write_text(json.dumps({"identities": [identity, *others]}))
    ports = [free_port() for _ in range(2 * len(_PORTS))]
    command = [str(Path(sys.executable).with_name("weed")), "server", "-s3", f"-dir={data}", f"-s3.config={known}"]
    command += [f"-ip={LOOPBACK}", "-s3.port.iceberg=0", "-s3.port.lance=0", "-master.telemetry=false"]
    command += ["-s3.autoCreateBucket=false", "-volume.max=0", "-master.volumeSizeLimitMB=64"]
    command += [f"-{name}.localSocket={home / name}.sock" for name in ("filer", "s3")]
    for name, http, grpc in zip(_PORTS, ports[::2], ports[1::2], strict=True):
        command += [f"-{name}.port={http}", f"-{name}.port.grpc={grpc}"]
    url = f"http://{LOOPBACK}:{ports[-2]}"
    settings = Settings(home=home, demo=True)
    server = start_server(settings, NAME, command, dict(os.environ), url)
    try:
        _wait_until_healthy(server)
        yield server
    finally:
        # its data are thrown away: no need to wait for a clean end
        stop_server(settings, recall(settings, NAME) or server, patience_s=2)
        for name, grpc in zip(_PORTS, ports[1::2], strict=True):
            Path(f"/tmp/seaweedfs-{name}-grpc-{grpc}.sock").unlink(missing_ok=True)


@contextmanager
def without_object_store(server: Server) -> Iterator[None]:
    """The server is killed with all that it holds in memory, and at the end started again over the same folder."""
    command = psutil.Process(server.pid).cmdline()
    processes = family(server)
    for process in processes:
        process.kill()
    psutil.wait_procs(processes, timeout=30)
    try:
        yield
    finally:  # its master elects itself anew, which takes 15 to 25 seconds
        home = Settings(home=Path(server.log).parents[1], demo=True)
        _wait_until_healthy(start_server(home, NAME, command, dict(os.environ), server.url))


def client_of(url: str):
    """A client with the right key."""
    session = boto3.Session(ACCESS_KEY, SECRET_KEY, region_name="us-east-1")
    config = Config(retries={"max_attempts": 0}, connect_timeout=2, read_timeout=5)
    return session.client("s3", endpoint_url=url, config=config)


def _wait_until_healthy(server: Server, patience_s: float = 120) -> None:
    """A bucket can be made, an object written: gateway, filer, master and volume server are all there."""
    client, deadline = client_of(server.url), time.monotonic() + patience_s
    while time.monotonic() < deadline and is_running(server):
        with suppress(BotoCoreError, ClientError):
            client.create_bucket(Bucket="healthy")
            client.put_object(Bucket="healthy", Key="probe", Body=b"probe")
            return
        with suppress(BotoCoreError, ClientError):  # the bucket may be there while no volume is
            client.delete_bucket(Bucket="healthy")
        time.sleep(0.2)
    raise RuntimeError(f"SeaweedFS did not become healthy: {Path(server.log).read_text()[-2000:]}")
