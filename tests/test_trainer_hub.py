"""Downloading from the hub, which is a small server of this machine here."""

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import sha256
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

CHUNK = 8 * 1024 * 1024
"""What is written at a time."""
SHA = "0123456789" * 4
KEPT = ("config.json", "model.safetensors", "tokenizer.json")
FILES = {
    "config.json": b'{"model_type": "llava"}',
    "model.safetensors": bytes(range(256)) * (96 * 1024),
    "pytorch_model.bin": b"a pickle",
    "tokenizer.json": b"{}",
}


class Hub(BaseHTTPRequestHandler):
    """Answers for one model; the first answer with its weights stops in the middle."""

    ranges: list[str]
    stopped: threading.Event

    def log_message(self, *args: object) -> None: ...

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        if self.path.startswith("/api/models/some/model"):
            self.answer(json.dumps(self.listing()).encode())
            return
        name = self.path.split("?")[0].rpartition("/")[2]
        if not self.path.startswith("/some/model/resolve/") or name not in FILES:
            self.send_response(404)
            self.send_header("X-Error-Code", "RepoNotFound")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        self.answer(FILES[name], name)

    def listing(self) -> object:
        if "/tree/" in self.path:
            return [
                {"type": "file", "path": name, "size": len(data), "oid": name}
                for name, data in FILES.items()
            ]
        siblings = [{"rfilename": name} for name in FILES]
        return {"id": "some/model", "sha": SHA, "siblings": siblings}

    def answer(self, data: bytes, name: str = "") -> None:
        start = 0
        asked = self.headers.get("Range")
        if asked and self.command == "GET":
            type(self).ranges.append(asked)
            start = int(asked.removeprefix("bytes=").split("-")[0])
        self.send_response(206 if asked else 200)
        self.send_header("X-Repo-Commit", SHA)
        self.send_header("ETag", f'"{sha256(data).hexdigest()}"')
        self.send_header("Content-Length", str(len(data) - start))
        self.end_headers()
        if self.command == "HEAD":
            return
        if name == "model.safetensors" and not type(self).stopped.is_set():
            self.wfile.write(data[: len(data) // 2])
            type(self).stopped.set()
            self.rfile.read()  # until the other side is gone
        else:
            self.wfile.write(data[start:])
        self.close_connection = True


@contextmanager
def hub() -> Iterator[str]:
    Hub.ranges, Hub.stopped = [], threading.Event()
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def start(source: str, endpoint: str, cache: Path) -> subprocess.Popen[str]:
    code = (
        "from neva_prep.trainer.hub import hf_folder\n"
        "from neva_prep.errors import ConfigError\n"
        f"try: print(hf_folder({source!r}))\n"
        "except ConfigError as error: raise SystemExit(f'ConfigError: {error}')\n"
    )
    settings = {"HF_ENDPOINT": endpoint, "NEVA_PREP_CACHE": str(cache), "HF_HUB_DISABLE_XET": "1"}
    path = {"PYTHONPATH": os.pathsep.join(sys.path)}
    return subprocess.Popen(
        [sys.executable, "-c", code],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={"HOME": str(cache), "no_proxy": "127.0.0.1"} | path | settings,
    )


def fetch(source: str, endpoint: str, cache: Path) -> subprocess.CompletedProcess[str]:
    process = start(source, endpoint, cache)
    out, err = process.communicate()
    return subprocess.CompletedProcess(process.args, process.returncode, out, err)


def wait_for_bytes(cache: Path) -> None:
    """Until the part that came is on the disk."""
    for _ in range(300):
        if any(path.stat().st_size >= CHUNK for path in cache.rglob("*.part")):
            return
        time.sleep(0.1)
    raise AssertionError("nothing was written")


def stop_in_the_middle(endpoint: str, cache: Path) -> None:
    process = start("hf://some/model", endpoint, cache)
    assert Hub.stopped.wait(30)
    wait_for_bytes(cache)
    process.kill()
    process.communicate()


def test_a_damaged_file_is_thrown_away(tmp_path: Path) -> None:
    with hub() as endpoint:
        stop_in_the_middle(endpoint, tmp_path)
        (part,) = tmp_path.rglob("*.part")
        part.write_bytes(b"x" + part.read_bytes()[1:])
        done = fetch("hf://some/model", endpoint, tmp_path)
        assert done.returncode != 0 and "damaged" in done.stderr
        done = fetch("hf://some/model", endpoint, tmp_path)
        whole = Path(done.stdout.strip()) / "model.safetensors"
        assert whole.read_bytes() == FILES["model.safetensors"]


def test_a_download_goes_on_where_it_broke_off_and_fetches_no_pickle(tmp_path: Path) -> None:
    with hub() as endpoint:
        stop_in_the_middle(endpoint, tmp_path)
        done = fetch("hf://some/model", endpoint, tmp_path)
        assert done.returncode == 0, done.stderr
        folder = Path(done.stdout.strip())
        assert folder.is_relative_to(tmp_path)
        assert {path.name for path in folder.iterdir()} == {*KEPT, "model.safetensors.part.lock"}
        assert (folder / "model.safetensors").read_bytes() == FILES["model.safetensors"]
        assert Hub.ranges == [f"bytes={CHUNK}-"]
        assert not list(tmp_path.rglob("*.part"))
    # Without the hub, what is there is enough.
    again = fetch("hf://some/model", "http://127.0.0.1:9", tmp_path)
    assert again.stdout == done.stdout, again.stderr


@pytest.mark.parametrize(
    ("source", "says"),
    [
        ("hf://some/other", "the hub has no such model"),
        ("hf://a/b/c", "write hf://owner/name"),
    ],
)
def test_what_the_hub_does_not_have(source: str, says: str, tmp_path: Path) -> None:
    with hub() as endpoint:
        done = fetch(source, endpoint, tmp_path)
    assert done.stderr.startswith("ConfigError: ") and says in done.stderr


def test_no_hub_at_all(tmp_path: Path) -> None:
    done = fetch("hf://some/model", "http://127.0.0.1:9", tmp_path)
    assert "cannot be downloaded" in done.stderr and "without a network" in done.stderr
