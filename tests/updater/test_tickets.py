"""The demo's tickets: the same for the same arguments, valid, and drifting from month to month."""

import itertools
import json
import re
from collections import Counter
from datetime import date

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from updater.demo import tickets
from updater.demo.vocabulary import EVERGREEN, ROTATING

MONTHS = ["2026-01", "2026-02", "2026-03", "2026-04", "2026-05"]
months = st.builds("{:04d}-{:02d}".format, st.integers(1999, 2099), st.integers(1, 12))


def made(some=MONTHS, num_per_month=400, seed=0):
    return list(tickets.generate(some, num_per_month, seed))


def test_the_same_arguments_give_the_same_tickets_and_another_seed_others():
    assert made() == made()
    assert made(seed=1) != made()


def test_a_month_does_not_depend_on_the_months_beside_it():
    assert made(["2026-04"]) == [t for t in made() if t["date"].startswith("2026-04")]


@settings(max_examples=30)
@given(month=months, number=st.integers(0, 40), seed=st.integers(0, 5))
def test_every_ticket_is_whole(month, number, seed):
    found = made([month], number, seed)
    assert len(found) == number
    for ticket in found:
        assert list(ticket) == ["id", "date", "text", "product", "category", "customer"]
        assert date.fromisoformat(ticket["date"]).isoformat()[:7] == month
        assert ticket["category"] in tickets.topics(month)
        assert ticket["product"] in tickets.products(month)
        assert re.fullmatch(r"C\d{4}", ticket["customer"])
        assert 10 <= len(ticket["text"]) <= 160
        assert "{" not in ticket["text"]
    assert [t["date"] for t in found] == sorted(t["date"] for t in found)


def test_ids_are_unique_over_all_months():
    ids = [ticket["id"] for ticket in made()]
    assert len(set(ids)) == len(ids)


@given(month=months)
def test_a_month_has_eleven_categories_with_phrases(month):
    found = tickets.topics(month)
    assert len(set(found)) == 11
    assert set(found) <= {*EVERGREEN, *ROTATING}
    assert len(set(tickets.products(month))) == tickets.NUM_PRODUCTS


def test_every_month_has_categories_of_its_own_and_some_of_its_neighbours():
    sets = [set(tickets.topics(month)) for month in MONTHS]
    for number, own in enumerate(sets):
        others = set().union(*(s for i, s in enumerate(sets) if i != number))
        assert len(own - others) >= 4
    for before, after in itertools.pairwise(sets):
        assert len(before & after) == 5  # three of every month, two that stay
    assert sets[0] & sets[4] == set(EVERGREEN)


def test_categories_words_and_products_drift():
    by_month = {m: [t for t in made() if t["date"].startswith(m)] for m in MONTHS}
    words = {m: Counter(w for t in ts for w in t["text"].split()) for m, ts in by_month.items()}
    common = {m: {w for w, n in count.items() if n >= 5} for m, count in words.items()}
    for before, after in itertools.pairwise(MONTHS):
        new = common[after] - set(words[before])
        assert len(new) >= 10, new
        assert common[before] - set(words[after])
        sold = {m: {t["product"] for t in by_month[m]} for m in (before, after)}
        assert sold[after] - sold[before]
        assert sold[before] - sold[after]
        share = [Counter(t["category"] for t in by_month[m]) for m in (before, after)]
        distance = sum(abs(share[0][c] - share[1][c]) for c in {*share[0], *share[1]}) / 800
        assert distance > 0.3  # total variation, 0 would be the same mix


def test_texts_are_varied_and_a_few_stand_in_a_wrong_queue():
    found = made(num_per_month=1200)
    for month in MONTHS:
        texts = [t["text"] for t in found if t["date"].startswith(month)]
        assert len(set(texts)) > 0.9 * len(texts)
    wrong = [t for t in found if t["category"] == "shipping/late" and "password" in t["text"]]
    assert 0 < len(wrong) < 0.02 * len(found)


def test_write_makes_the_whole_file_or_none(tmp_path):
    path = tmp_path / "tickets.jsonl"
    assert tickets.write(path, MONTHS[:2], 50, 3) == 100
    assert [json.loads(line) for line in path.read_text().splitlines()] == made(MONTHS[:2], 50, 3)
    before = path.read_bytes()
    with pytest.raises(ValueError, match="2026-13"):
        tickets.write(path, ["2026-01", "2026-13"], 50, 3)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("wrong", ["2026", "2026-00", "26-01", "2026-1", ""])
def test_no_month_is_refused_before_anything_is_made(wrong):
    with pytest.raises(ValueError, match=r"as in 2026-04"):
        next(tickets.generate(["2026-01", wrong], 5, 0))
    with pytest.raises(ValueError, match="num_per_month"):
        next(tickets.generate(["2026-01"], -1, 0))
