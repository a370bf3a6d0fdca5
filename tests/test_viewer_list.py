"""The web viewer's list of samples: filters, orders and pages against reading all samples."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

import pytest
from convert_help import Converted, convert_in, record, text_record, turns
from html_help import elements, parse, text_of
from loader_help import encoder
from viewer_help import ask, catalogued, listed, mixed, settings, wait_for

from neva_prep.dataprep.look.open import Looked, open_looked
from neva_prep.dataprep.look.page import write_page
from neva_prep.dataprep.look.stops import Flow
from neva_prep.dataprep.look.tokens import view_tokens
from neva_prep.dataprep.viewer.catalogue import Catalogue
from neva_prep.dataprep.viewer.query import SORTS, STATES, Query
from neva_prep.dataprep.viewer.rows import read_rows
from neva_prep.dataprep.viewer.serve import running


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


def ids_in_order(looked: Looked, key: Callable[[int], Any], *, keep: Callable[[int], bool]) -> Any:
    found = sorted(filter(keep, range(len(looked))), key=lambda n: (key(n), n))
    return [looked.sample(n).id for n in found]


def test_the_first_page_lists_samples_in_their_places(url: str, looked: Looked) -> None:
    assert listed(ask(url)) == [looked.sample(n).id for n in range(len(looked))]


@pytest.mark.parametrize(
    ("address", "keep"),
    [
        ("q=question+7", lambda s: "Question 7 " in s.turns[0].text),
        ("q=ROW-1", lambda s: s.id.startswith("row-1")),
        ("q=%C3%A9t%C3%A9", lambda s: len(s.turns) > 2),
        ("q=%25", lambda s: False),
        ("split=val", lambda s: s.place.split == "val"),
        ("images=0", lambda s: not s.images),
        ("images=2", lambda s: len(s.images) == 2),
        ("images=1-", lambda s: s.images),
        ("turns=-4", lambda s: len(s.turns) <= 4),
        ("state=text", lambda s: not s.images),
        ("state=text&turns=4-8&q=yes", lambda s: not s.images and 4 <= len(s.turns) <= 8),
        ("images=x&turns=--&state=no&sort=no&page=no", lambda s: True),
    ],
)
def test_filters_find_what_reading_all_samples_finds(
    url: str, looked: Looked, address: str, keep: Callable[[Any], Any]
) -> None:
    samples = [looked.sample(n) for n in range(len(looked))]
    answer = ask(f"{url}?{address}")
    assert listed(answer) == [sample.id for sample in samples if keep(sample)]
    (results,) = elements(answer.tree, css="results")
    assert text_of(results).split()[0] == str(len(listed(answer)))


def test_lengths_and_trained_tokens_are_those_of_the_token_view(looked: Looked) -> None:
    with catalogued(looked, tokens=True) as catalogue:
        for card in catalogue.cards(Query(), 0, 100):
            view = view_tokens(looked, card.n, encoder(packed=True))
            assert (card.length, card.trained) == (view.length, view.num_trained)
        short = [card.n for card in catalogue.cards(Query(tokens="-60"), 0, 100)]
        lengths = [view_tokens(looked, n, encoder(packed=True)).length for n in range(len(looked))]
        assert short == [n for n, length in enumerate(lengths) if length <= 60]
        assert 0 < len(short) < len(looked)


def test_samples_that_training_skips_are_found_by_their_state(looked: Looked) -> None:
    made = Catalogue(Flow(looked, settings(packed_sequence_size=None, seq_length=60)))
    made.start()
    assert made.wait()
    long = {card.n for card in made.cards(Query(state="long"), 0, 100)}
    views = {n: view_tokens(looked, n, made._flow.encoder) for n in range(len(looked))}
    assert long == {n for n, view in views.items() if view.reason == "too_long"}
    assert 0 < len(long) < len(looked)
    assert made.count(Query(state="skipped")) == len(long)
    made.close()


@pytest.mark.parametrize("sort", SORTS)
def test_walking_from_sample_to_sample_follows_the_list(looked: Looked, sort: str) -> None:
    with catalogued(looked, tokens=True) as catalogue:
        for query in (Query(sort=sort), Query(sort=sort, images="1-", q="yes")):
            order = [card.n for card in catalogue.cards(query, 0, 100)]
            sides = zip([None, *order], order, [*order[1:], None], strict=False)
            for before, here, after in sides:
                assert catalogue.neighbours(query, here) == (before, after)


def test_pages_of_the_list_follow_each_other(looked: Looked) -> None:
    with catalogued(looked) as catalogue:
        for query in (Query(), Query(sort="chars"), Query(images="1-")):
            whole = catalogue.cards(query, 0, 100)
            parts = [card for start in range(0, 40, 7) for card in catalogue.cards(query, start, 7)]
            assert parts == whole and len(whole) == catalogue.count(query)


def test_every_state_of_a_page_is_in_its_address(url: str) -> None:
    query = Query(q="a&b=c ü", split="train", images="2-", turns="3", state="text", sort="chars")
    assert Query.from_address(dict(parse_qsl(query.address()))) == query
    tree = ask(f"{url}sample/4?images=1-&sort=chars&tab=tokens&shift=1").tree
    links = [a.get("href") for a in elements(tree, "a") if a.get("data-key") in ("j", "k", "2")]
    assert len(links) == 3
    for link in links:
        assert "images=1-" in link and "sort=chars" in link and "shift=1" in link
    (box,) = elements(tree, css="opt-shift")
    assert box.get("checked") is not None


def test_before_the_catalogue_is_there_the_first_page_comes_from_the_shards(
    looked: Looked,
) -> None:
    catalogue = Catalogue(Flow(looked))
    try:
        cards = catalogue.cards(Query(), 0, 5)
        assert [card.id for card in cards] == [looked.sample(n).id for n in range(5)]
        assert catalogue.count(Query()) == len(looked)
        assert not catalogue.progress.covers(Query(q="yes"))
        assert not catalogue.progress.is_done
    finally:
        catalogue.close()
    assert not catalogue._folder.exists()


def test_a_filter_says_that_the_catalogue_is_not_complete(
    looked: Looked, monkeypatch: pytest.MonkeyPatch
) -> None:
    halt = threading.Event()

    def slowly(looked: Looked) -> Iterator[Any]:
        for number, row in enumerate(read_rows(looked)):
            if number == 10:
                halt.wait(30)
            yield row

    monkeypatch.setattr("neva_prep.dataprep.viewer.catalogue.read_rows", slowly)
    monkeypatch.setattr("neva_prep.dataprep.viewer.catalogue.FIRST_ROWS", 10)
    with running(looked) as address:
        while b"10 of 40 catalogued" not in ask(f"{address}progress").body:
            pass
        answer = ask(f"{address}?q=yes")
        assert len(listed(answer)) == 10
        assert elements(answer.tree, css="partial")
        assert not elements(ask(address).tree, css="partial")
        halt.set()
        wait_for(address)
        answer = ask(f"{address}?q=yes")
        assert len(listed(answer)) == 40 and not elements(answer.tree, css="partial")


def test_every_state_and_sort_is_sound_sql(looked: Looked) -> None:
    with catalogued(looked) as catalogue:
        for state in STATES:
            for sort in SORTS:
                query = Query(state=state, sort=sort, tokens="1-5")
                assert catalogue.count(query) == len(catalogue.cards(query, 0, 100))


def test_ctrl_c_is_the_usual_end(converted: Converted, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "neva_prep.cli", "inspect", str(converted.out), "--serve"]
    environment = {**os.environ, "TMPDIR": str(tmp_path), "DISPLAY": "", "WAYLAND_DISPLAY": ""}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stdout is not None
        address = process.stdout.readline().strip()
        assert ask(address).status == 200
        assert list(tmp_path.iterdir())
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 0
        assert process.stdout.read() == ""
    assert not list(tmp_path.iterdir())


def test_a_record_without_an_id_is_called_by_the_key_that_becomes_its_id(tmp_path: Path) -> None:
    rows = [
        record("first"),
        record("", id=...),
        record("", id=None),
        record("", id=..., conversations=turns("<image>\nWhy?", "")),
        record("000000004"),
        "no object",
    ]
    made = convert_in(tmp_path, rows)
    names = ["first", "000000001", "000000002", "000000003", "000000004", "000000005"]
    converted = [str(one["id"]) for one in made.records.values()]
    assert converted == [names[n] for n in (0, 1, 2, 4)]
    with running(open_looked(made.out)) as address:
        wait_for(address)
        assert listed(ask(address)) == converted
    with running(open_looked(tmp_path / "source.json", images=tmp_path / "images")) as address:
        wait_for(address)
        page = ask(address)
        assert listed(page) == names
        chips = [text_of(one) for one in elements(page.tree, css="unnamed")]
        assert chips == [f"record {n}, no id" for n in (1, 2, 3, 5)]
        assert listed(ask(f"{address}?q=000000001")) == ["000000001"]
        for n, name in enumerate(names):
            tree = ask(f"{address}sample/{n}").tree
            assert text_of(elements(tree, "h1")[0]) == name
            told = [text_of(one) for one in elements(tree, css="unnamed")]
            assert told == ([] if n in (0, 4) else ["no id; convert makes the key its id"])
        tree = ask(f"{address}quarantine").tree
        assert [text_of(one) for one in elements(tree, "h2")][:2] == ["000000003", "000000005"]
        assert len(elements(tree, css="unnamed")) == 2


@pytest.mark.parametrize("name", ["", "   ", "\n", "\u200d", "\u3000"])
def test_an_id_that_cannot_be_seen_is_shown_in_quotes(tmp_path: Path, name: str) -> None:
    made = convert_in(tmp_path, [record(name), record(name, conversations=turns("<image>", ""))])
    with running(open_looked(made.out)) as address:
        wait_for(address)
        shown = json.dumps(name)
        assert listed(ask(address)) == [shown]
        assert text_of(elements(ask(f"{address}sample/0").tree, "h1")[0]) == shown
        assert text_of(elements(ask(f"{address}sample/0").tree, "title")[0]).startswith(shown)
        assert text_of(elements(ask(f"{address}quarantine").tree, "h2")[0]) == shown
    out = tmp_path / "page.html"
    write_page(open_looked(made.out), out, count=1)
    (heading, *_) = elements(parse(out.read_text()), "h2")
    assert text_of(heading) == shown


def test_a_stored_record_without_an_id_is_called_by_its_key_and_not_by_its_place(
    tmp_path: Path,
) -> None:
    made = convert_in(tmp_path, [text_record("", "Why?", ""), record("a"), record("b")])
    (shard,) = made.out.glob("*.tar")
    shard.write_bytes(shard.read_bytes().replace(b'"id": "b"', b'"ix": "b"'))
    with running(open_looked(made.out)) as address:
        wait_for(address)
        assert listed(ask(address)) == ["a", "000000002"]
        assert [text_of(one) for one in elements(ask(address).tree, css="bad")] == ["RecordError"]
