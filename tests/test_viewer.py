"""The web viewer without a browser: who may ask, and whether the answers are right."""

from __future__ import annotations

import io
import tarfile
import tempfile
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from convert_help import Converted, convert_in, files_of, make_source, record, text_record, turns
from handmade import picture
from html_help import assert_nothing_runs, elements, text_of
from loader_help import encoder
from PIL import Image
from viewer_help import Answer, ask, catalogued, listed, mixed, settings, wait_for

from neva_prep.dataprep.look.open import Looked, open_looked
from neva_prep.dataprep.look.stops import Flow
from neva_prep.dataprep.look.tokens import view_tokens
from neva_prep.dataprep.look.view import BatchView
from neva_prep.dataprep.viewer.app import THREADS
from neva_prep.dataprep.viewer.cache import PictureCache
from neva_prep.dataprep.viewer.query import Query
from neva_prep.dataprep.viewer.serve import running, serve
from neva_prep.errors import ConfigError


@pytest.fixture(scope="module")
def converted(tmp_path_factory: pytest.TempPathFactory) -> Converted:
    return mixed(tmp_path_factory.mktemp("viewer"), split={"train": 0.8, "val": 0.2})


@pytest.fixture(scope="module")
def looked(converted: Converted) -> Looked:
    return open_looked(converted.out)


@pytest.fixture(scope="module")
def url(looked: Looked) -> Iterator[str]:
    """A viewer whose catalogue is complete."""
    with running(looked, settings=settings()) as address:
        wait_for(address)
        yield address


# who may ask


def test_without_the_secret_path_nothing_is_told(url: str) -> None:
    root, token = url.rstrip("/").rsplit("/", 1)
    for path in ("/", "/sample/0", "/static/look.css", f"/{token[:-1]}/", f"/{token}x/", "//"):
        answer = ask(root + path)
        assert answer.status == 403, path
        assert token.encode() not in answer.body
    assert len(token) >= 32


@pytest.mark.parametrize("host", ["evil.example", "evil.example:{port}", "", "127.0.0.1", "[::1]"])
def test_another_host_name_is_refused(url: str, host: str) -> None:
    port = url.split(":")[2].partition("/")[0]
    assert ask(url, Host=host.format(port=port)).status == 403
    assert ask(url, Host=f"localhost:{port}").status == 200


def test_it_only_reads(url: str, converted: Converted) -> None:
    before = files_of(converted.out)
    for method in ("POST", "PUT", "DELETE", "OPTIONS"):
        assert ask(url, method=method).status == 405
    for path in ("", "sample/3?tab=tokens", "batch?tab=batch", "quarantine", "?q=yes"):
        assert ask(url + path).status == 200
    assert files_of(converted.out) == before


def test_every_answer_forbids_what_is_not_its_own(url: str) -> None:
    for path in ("", "sample/0", "image/1/0", "static/look.js", "progress", "nowhere"):
        headers = ask(url + path).headers
        policy = headers["content-security-policy"]
        assert policy.startswith("default-src 'none'; img-src 'self'")
        assert "unsafe" not in policy and "http" not in policy
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["referrer-policy"] == "no-referrer"
    assert ask(url).headers["cache-control"] == "no-store"


@pytest.mark.parametrize(
    "path",
    [
        "../etc/passwd",
        "static/../look.css",
        "static/..%2f..%2fhtml.py",
        "static/page.html",
        "static/%2e%2e/%2e%2e/view.py",
        "image/0/../../../etc/passwd",
        "image/0/..%2f..%2fneva-prep.json",
        "image/%2fetc%2fpasswd/0",
        "image/-1/0",
        "image/0/99",
        "tile/sample/0/99/0",
        "tile/sample/999/0/0",
        "tile/batch/999999/0/0",
        "tile/etc/0/0/0",
        "sample/40",
        "sample/99999999999999999999",
        "rejected/99",
        "text/looked/0/99",
        "text/looked/0/..",
        "text/rejected/0/0",
        "find?key=nosuch",
        pytest.param("sample/" + "9" * 5000, id="sample/999..."),
        pytest.param("rejected/" + "9" * 5000, id="rejected/999..."),
        pytest.param("text/looked/0/" + "9" * 5000, id="text/looked/0/999..."),
        pytest.param("find?key=" + "9" * 5000, id="find?key=999..."),
        "neva-prep.json",
        "train-000000.tar",
    ],
)
def test_nothing_but_samples_by_their_number_can_be_had(url: str, path: str) -> None:
    answer = ask(url + path)
    assert answer.status in (404, 500)
    assert answer.body != b"Internal Server Error"
    for secret in (b"root:", b"xxh3", b"from __future__"):
        assert secret not in answer.body


def test_a_picture_is_made_anew_and_never_the_file_itself(url: str, converted: Converted) -> None:
    answer = ask(f"{url}image/1/0?edge=99999999")
    assert answer.headers["content-type"] == "image/jpeg"
    assert Image.open(io.BytesIO(answer.body)).format == "JPEG"
    stored = next(iter(converted.samples["000000001"].values()))
    assert answer.body != stored


# samples and batches


def test_the_token_page_shows_the_labels_of_the_encoder(url: str, looked: Looked) -> None:
    for index in (0, 11, 39):
        view = view_tokens(looked, index, encoder(packed=True))
        (stream,) = elements(ask(f"{url}sample/{index}?tab=tokens").tree, css="stream")
        shown = elements(stream, css="k")
        assert [int(k.get("data-i")) for k in shown] == [token.id for token in view.tokens]
        labels = [int(k.get("data-l", -100)) for k in shown]
        assert labels == [token.label for token in view.tokens]


def test_batches_can_be_walked_forth_and_back(url: str, looked: Looked) -> None:
    views = list(Flow(looked, settings()).batches(range(4)))
    for step in (0, 3, 1):
        tree = ask(f"{url}batch?step={step}").tree
        (table,) = elements(tree, css="grid")
        keys = [text_of(elements(row, "a")[0]) for row in elements(table, "tr")[1:]]
        assert tuple(keys) == views[step].keys
    (table,) = elements(ask(f"{url}batch?step=2&tab=batch").tree, css="numbers")
    ids = [int(text_of(elements(row, "td")[1])) for row in elements(table, "tr")[1:]]
    assert ids == [token.id for token in views[2].rows[0].tokens]
    assert ask(f"{url}batch?step=1000").status == 404


def test_a_batch_that_takes_long_keeps_no_other_page_waiting(
    looked: Looked, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, halt = threading.Event(), threading.Event()
    batches = Flow.batches

    def slowly(flow: Flow, steps: range) -> Iterator[BatchView]:
        begun.set()
        halt.wait(30)
        yield from batches(flow, steps)

    monkeypatch.setattr(Flow, "batches", slowly)
    with (
        running(looked, settings=settings()) as address,
        ThreadPoolExecutor(2 * THREADS) as threads,
    ):
        wait_for(address)
        asked = [threads.submit(ask, f"{address}batch?step=1") for _ in range(2 * THREADS)]
        try:
            assert begun.wait(20)
            assert ask(f"{address}sample/0").status == 200
            assert not halt.is_set()
        finally:
            halt.set()
        answers = [one.result() for one in asked]
        refused = [one for one in answers if one.status != 200]
        assert 0 < len(refused) < len(answers)
        assert all(b"look again" in one.body for one in refused)
        assert ask(f"{address}batch?step=1").status == 200


def test_a_key_in_a_batch_leads_to_its_sample(url: str, looked: Looked) -> None:
    key = looked.sample(7).key
    answer = ask(f"{url}find?key={key}")
    assert answer.status == 302 and answer.headers["location"].endswith("/sample/7")


def test_pictures_of_the_model_are_made_again_once_they_are_forgotten(looked: Looked) -> None:
    with running(looked, settings=settings()) as address:
        tree = ask(f"{address}sample/2").tree
        addresses = [one.get("src") for one in elements(tree, "img") if "tile" in one.get("src")]
        root = "/".join(address.split("/")[:3])
        kept = [ask(root + one) for one in addresses]
    with running(looked, settings=settings()) as address:
        made = [ask(address + one.split("/", 2)[2]) for one in addresses]
    assert len(kept) == 2
    assert [a.body for a in made] == [a.body for a in kept]
    assert {a.headers["content-type"] for a in made} == {"image/webp"}


def test_without_a_tokenizer_the_pages_say_what_is_missing(looked: Looked) -> None:
    with running(looked) as address:
        for path in ("sample/0?tab=tokens", "batch"):
            answer = ask(address + path)
            assert answer.status == 200 and b"--tokenizer" in answer.body
        assert not elements(ask(address).tree, "input", "tokens")


def test_a_long_message_can_be_read_to_its_end(tmp_path: Path) -> None:
    whole = "".join(f"{number:06d} " for number in range(150_000))
    made = convert_in(tmp_path, [text_record("long", whole, "Yes")])
    with running(open_looked(made.out)) as address:
        answer = ask(f"{address}sample/0")
        assert len(answer.body) < 200_000
        assert [a for a in elements(answer.tree, "a") if "/text/looked/0/0" in a.get("href")]
        for page in (0, 17, 52):
            (part,) = elements(ask(f"{address}text/looked/0/0?page={page}").tree, css="whole")
            assert text_of(part) == whole[page * 20_000 :][:20_000]
        assert text_of(part) == whole[-len(text_of(part)) :]


# quarantine


def test_the_quarantine_groups_by_reason_and_marks_the_place(
    url: str, converted: Converted
) -> None:
    answer = ask(f"{url}quarantine")
    (nav,) = elements(answer.tree, css="reasons")
    counts = {
        text_of(elements(a, "code")[0]): int(text_of(elements(a, "b")[0]))
        for a in elements(nav, "a")[1:]
    }
    assert counts == converted.report.rejections == {"empty_value": 2, "missing_image": 1}
    tree = ask(f"{url}quarantine?reason=missing_image").tree
    (article,) = elements(tree, "article")
    (mark,) = elements(article, "mark")
    assert text_of(mark) == '"absent.jpg"'
    (one,) = [a for a in elements(article, "a")]
    root = "/".join(url.split("/")[:3])
    (mark,) = elements(ask(root + one.get("href")).tree, "mark")
    assert text_of(mark) == '"absent.jpg"'


def test_a_source_is_checked_as_a_conversion_would(tmp_path: Path) -> None:
    rows = [
        text_record("fine"),
        record("gone", "absent.jpg"),
        record("empty", conversations=turns("<image>\nWhy?", "")),
        "not an object",
    ]
    source = make_source(tmp_path, rows)
    looked = open_looked(source, images=tmp_path / "images")
    with catalogued(looked) as catalogue:
        reasons = {"missing_image": 1, "empty_value": 1, "not_an_object": 1}
        assert dict(catalogue.reasons()) == reasons
        assert {c.id for c in catalogue.cards(Query(state="rejected"), 0, 9)} == {
            "gone",
            "empty",
            "000000003",
        }
    with running(looked) as address:
        wait_for(address)
        assert len(elements(ask(f"{address}quarantine").tree, "article")) == 3
        assert len(listed(ask(address))) == 4
        for index in range(4):
            assert ask(f"{address}sample/{index}").status == 200


def test_a_quarantine_file_can_be_looked_at_on_its_own(converted: Converted) -> None:
    with running(open_looked(converted.out / "quarantine.jsonl")) as address:
        wait_for(address)
        assert sorted(listed(ask(address))) == ["bad-0", "bad-1", "bad-2"]
        assert len(elements(ask(f"{address}quarantine").tree, "article")) == 3
        assert elements(ask(f"{address}sample/0").tree, "mark")


# what it is made of


def test_hostile_addresses_are_text(url: str) -> None:
    odd = "%22%3E%3Cscript%3Ealert(1)%3C/script%3E%e2%80%ae%00"
    for path in (
        f"?q={odd}&split={odd}",
        f"quarantine?reason={odd}",
        f"batch?back={odd}",
        f"{odd}",
    ):
        answer = ask(url + path)
        assert answer.status in (200, 404)
        assert_nothing_runs(answer.tree)
        assert len(elements(answer.tree, "script")) == 2


def test_a_dataset_that_is_damaged_meanwhile_gives_a_page_that_says_so(tmp_path: Path) -> None:
    made = mixed(tmp_path)
    with running(open_looked(made.out)) as address:
        wait_for(address)
        (shard,) = made.out.glob("*.tar")
        shard.unlink()
        answer: Answer = ask(f"{address}sample/0")
        assert answer.status == 500 and b"cannot be read" in answer.body
        assert ask(address).status == 200


def test_the_cache_of_pictures_has_an_end() -> None:
    cache = PictureCache(max_bytes=100)
    for number in range(50):
        assert cache.get(number, lambda: b"x" * 30) == b"x" * 30
        cache.get(0, lambda: b"first")
    assert cache._bytes == sum(map(len, cache._kept.values())) <= 100
    assert 0 in cache._kept and 1 not in cache._kept


def test_the_catalogue_is_removed_with_the_viewer(looked: Looked, tmp_path: Path) -> None:
    tempfile.tempdir, before = str(tmp_path), tempfile.tempdir
    try:
        with running(looked) as address:
            ask(address)
            assert list(tmp_path.iterdir())
        assert not list(tmp_path.iterdir())
    finally:
        tempfile.tempdir = before


def test_a_port_that_is_taken_is_an_error(url: str, looked: Looked) -> None:
    port = int(url.split(":")[2].partition("/")[0])
    with pytest.raises(ConfigError, match=f"port {port} cannot be taken"):
        serve(looked, port=port)


def test_a_very_long_record_keeps_nobody_waiting(tmp_path: Path) -> None:
    made = convert_in(tmp_path, [text_record("a"), text_record("b", "Why? " * 40_000, "So.")])
    with running(open_looked(made.out), settings=settings()) as address:
        wait_for(address)
        page = ask(f"{address}sample/1?tab=tokens")
        assert page.status == 200
        assert "too long to show: 200,003 characters, where tokens are made of 131,072" in text_of(
            page.tree
        )
        assert listed(ask(f"{address}?state=long")) == ["b"]
        page = ask(f"{address}sample/0?tab=tokens")
        assert "too long" not in text_of(page.tree) and elements(page.tree, css="stream")


def test_a_folder_of_tars_is_shown_with_what_convert_would_reject(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "0.tar", "w") as archive:
        for name, content in (("1.txt", b"A cat."), ("1.jpg", picture()), ("2.txt", b"A dog.")):
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    with running(open_looked(tmp_path)) as address:
        wait_for(address)
        for page in ("", "sample/0", "quarantine", "rejected/1"):
            assert ask(f"{address}{page}").status == 200, page


def test_the_tokens_of_very_many_turns_are_shown(tmp_path: Path) -> None:
    made = convert_in(tmp_path, [text_record("many", *(["Why?", "So."] * 1000))])
    with running(open_looked(made.out), settings=settings()) as address:
        wait_for(address)
        page = ask(f"{address}sample/0?tab=tokens")
        (stream,) = elements(page.tree, css="stream")
        # The page ends after so many tokens; each turn before has its own.
        assert text_of(stream).count("Why") > 200
