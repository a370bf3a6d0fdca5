"""S3 and what speaks its language, through botocore: half the work of asynchronous clients.

botocore finds credentials, region and endpoint as every AWS tool does: environment (also
AWS_ENDPOINT_URL), ~/.aws, the roles of a machine.
"""

from __future__ import annotations

import base64
import hashlib
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from ..errors import ConfigError
from .remote_errors import MissingObjectError, PassingError, RemoteError, host_of, retried

PART_BYTES = 16 << 20
"""Of an upload in parts."""
PARALLEL_PARTS = 4
CONNECTIONS = 64
PAGE_OBJECTS = 1000
"""Of a listing; more are not given at once."""
_MOST_PARTS = 9_000
_MISSING = frozenset({"NoSuchKey", "404", "NotFound"})
_PASSING = frozenset(
    {"SlowDown", "RequestTimeout", "RequestTimeTooSkewed", "Throttling", "ThrottlingException"}
)
_ADVICE = {
    "InvalidAccessKeyId": "the service does not know this access key; check AWS_ACCESS_KEY_ID, or "
    "the profile that AWS_PROFILE names",
    "SignatureDoesNotMatch": "the secret key is not that of the access key; check "
    "AWS_SECRET_ACCESS_KEY, or the profile that AWS_PROFILE names",
    "ExpiredToken": "the session has expired; log in again",
    "NoSuchBucket": "there is no such bucket; check the address and AWS_ENDPOINT_URL",
}
_Given = TypeVar("_Given")


class S3Objects:
    """Objects of one bucket; see remote.Objects."""

    def __init__(self, bucket: str) -> None:
        """Make a client; nothing is asked yet.

        Raises:
            ConfigError: botocore is not installed, or a profile is not there.
        """
        self._bucket = bucket
        self._client = _client()

    def size(self, key: str) -> int:
        """Bytes of an object."""
        try:
            return int(self._ask("head_object", Key=key)["ContentLength"])
        except MissingObjectError:
            raise
        except RemoteError:
            # An answer to this question has no text: another one says why.
            self.read(key, 0, 1)
            raise

    def read(self, key: str, start: int = 0, stop: int | None = None) -> bytes:
        """An object, or a range of it."""
        if stop is not None and stop <= start:
            return b""
        last = "" if stop is None else stop - 1
        chosen = {"Range": f"bytes={start}-{last}"} if start or stop is not None else {}
        answer = self._ask("get_object", Key=key, **chosen)
        content: bytes = _told(answer["Body"].read)
        return content

    def listed(self, prefix: str) -> Iterator[tuple[str, int]]:
        """Key and size of each object below a prefix, a thousand a request."""
        more: dict[str, str] = {}
        while True:
            page = retried(
                "",
                partial(self._ask, "list_objects_v2", Prefix=prefix, MaxKeys=PAGE_OBJECTS, **more),
            )
            for entry in page.get("Contents", ()):
                yield entry["Key"], int(entry["Size"])
            if not page.get("IsTruncated"):
                return
            more = {"ContinuationToken": page["NextContinuationToken"]}

    def upload(self, file: Path, key: str) -> None:
        """Store a file; a large one in parts, several at a time."""
        size = file.stat().st_size
        if size <= PART_BYTES:
            content = file.read_bytes()
            self._ask("put_object", Key=key, Body=content, ContentMD5=_md5(content))
            return
        number = self._ask("create_multipart_upload", Key=key)["UploadId"]
        try:
            parts = self._upload_parts(file, size, key, number)
            whole = {"Parts": parts}
            self._ask("complete_multipart_upload", Key=key, UploadId=number, MultipartUpload=whole)
        except BaseException:
            # Parts that nobody completes would be kept, and paid for.
            with suppress(RemoteError, PassingError):
                self._ask("abort_multipart_upload", Key=key, UploadId=number)
            raise

    def delete(self, key: str) -> None:
        """Remove an object, if it is there."""
        with suppress(MissingObjectError):
            self._ask("delete_object", Key=key)

    def _upload_parts(self, file: Path, size: int, key: str, number: str) -> list[dict[str, Any]]:
        part_bytes = max(PART_BYTES, -(-size // _MOST_PARTS))
        fd = os.open(file, os.O_RDONLY | os.O_CLOEXEC)

        def upload(part: int) -> dict[str, Any]:
            content = os.pread(fd, part_bytes, part * part_bytes)
            answer = retried(
                "",
                lambda: self._ask(
                    "upload_part",
                    Key=key,
                    UploadId=number,
                    PartNumber=part + 1,
                    Body=content,
                    ContentMD5=_md5(content),
                ),
            )
            return {"PartNumber": part + 1, "ETag": answer["ETag"]}

        pool = ThreadPoolExecutor(PARALLEL_PARTS)
        try:
            return list(pool.map(upload, range(-(-size // part_bytes))))
        finally:
            pool.shutdown(cancel_futures=True)
            os.close(fd)

    def _ask(self, what: str, **given: Any) -> dict[str, Any]:
        ask = getattr(self._client, what)
        answer: dict[str, Any] = _told(lambda: ask(Bucket=self._bucket, **given))
        return answer


def _client() -> Any:
    try:
        from botocore.config import Config
        from botocore.exceptions import BotoCoreError
        from botocore.session import Session
    except ImportError as error:
        raise ConfigError("s3:// needs botocore: pip install 'neva-prep[s3]'") from error
    endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL", "")
    # Buckets as host names are Amazon's own way; few others have names for them.
    own = {"s3": {"addressing_style": "path"}} if endpoint and "amazonaws" not in endpoint else {}
    config = Config(
        # Trying again is our own business: it lasts longer, and tells what happened.
        retries={"max_attempts": 0},
        max_pool_connections=CONNECTIONS,
        connect_timeout=10,
        read_timeout=60,
        # Other checksums than MD5 are known to few services but Amazon's.
        request_checksum_calculation="when_required",
        response_checksum_validation="when_required",
        **own,
    )
    try:
        return Session().create_client("s3", config=config)
    except (BotoCoreError, ValueError) as error:
        raise ConfigError(f"s3://: {error}; check AWS_PROFILE and AWS_ENDPOINT_URL") from error


def _told(ask: Callable[[], _Given]) -> _Given:
    """Ask, and tell what can pass from what cannot; no message holds a key or a signature."""
    from botocore.exceptions import (
        BotoCoreError,
        ClientError,
        ConnectionError,
        CredentialRetrievalError,
        HTTPClientError,
        IncompleteReadError,
        NoCredentialsError,
        PartialCredentialsError,
        ResponseStreamingError,
    )
    from urllib3.exceptions import HTTPError

    try:
        return ask()
    except ClientError as error:
        raise _sorted(error.response) from error
    except (NoCredentialsError, PartialCredentialsError, CredentialRetrievalError) as error:
        raise RemoteError(
            "no credentials were found; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or "
            "AWS_PROFILE"
        ) from error
    except (
        ConnectionError,
        HTTPClientError,
        HTTPError,
        IncompleteReadError,
        ResponseStreamingError,
        OSError,
    ) as error:
        endpoint = getattr(error, "kwargs", {}).get("endpoint_url")
        host = f" at {host_of(endpoint)}" if endpoint else ""
        raise PassingError(f"no answer{host} ({type(error).__name__})") from error
    except BotoCoreError as error:
        raise RemoteError(f"cannot be asked for ({type(error).__name__}: {error})") from error


def _sorted(answer: dict[str, Any]) -> Exception:
    """What an error of the service means."""
    code = str(answer.get("Error", {}).get("Code", ""))
    status = int(answer.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
    if code in _MISSING:
        return MissingObjectError("there is no such object")
    if code in _PASSING or status in (408, 429) or status >= 500:
        return PassingError(f"the service answers {status} {code}")
    if code in _ADVICE:
        return RemoteError(f"{_ADVICE[code]} ({code})")
    if status in (401, 403):
        return RemoteError(
            f"access is refused ({code or status}); check the credentials, and what they may do"
        )
    return RemoteError(f"the service refuses: {status} {code}")


def _md5(content: bytes) -> str:
    """What the service compares with what has arrived."""
    return base64.b64encode(hashlib.md5(content, usedforsecurity=False).digest()).decode()
