"""Support tickets that drift from month to month: the data of the demo.

A month has three topics that every month has, and eight out of a rotation that moves on by six:
so two stay from the month before, two go on into the next, and at least four are the month's own.
Products come and go at their own pace. A model that learns a new month alone forgets the topics
that have gone, which is what the demo shows. Not a model of any real help desk: the words are
written by hand (`updater.demo.vocabulary`) and the rates below were chosen by measurement, so that
the tiny preset learns a month in seconds and still gets some tickets wrong. Called by
`updater.demo`; standard library only.
"""

import calendar
import json
import os
import random
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from updater.demo.vocabulary import CLOSERS, EVERGREEN, OPENERS, PRODUCTS, ROTATING, SYNONYMS

NUM_TOPICS, NUM_NEW_TOPICS = 8, 6  # of the rotation: in one month; new against the month before
NUM_PRODUCTS, NUM_NEW_PRODUCTS = 9, 2
TYPO_FRACTION = 0.15  # of the tickets; as the next one chosen by measurement on the tiny preset
MISFILED_FRACTION = 0.02  # of the tickets stand in a wrong queue, as in real life
SYNONYM_FRACTION = 0.6  # of the places where one fits
NUM_CUSTOMERS = 400
_MONTH = re.compile(r"(\d{4})-(0[1-9]|1[0-2])")
_LETTERS = "abcdefghijklmnopqrstuvwxyz"
_CHOICES = {first: others for first, *others in SYNONYMS}
_REPLACEABLE = re.compile(
    r"\b(" + "|".join(sorted(map(re.escape, _CHOICES), key=len, reverse=True)) + r")\b"
)


def topics(month: str) -> list[str]:
    """The categories of `month` ("2026-04"), each "queue/topic": eleven of them.

    Raises:
        ValueError: `month` is no month.
    """
    rotation = list(ROTATING)
    start = NUM_NEW_TOPICS * _ordinal(month)
    moving = [rotation[(start + i) % len(rotation)] for i in range(NUM_TOPICS)]
    return [*EVERGREEN, *moving]


def products(month: str) -> list[str]:
    """What is on sale in `month`, oldest first. Raises ValueError: `month` is no month."""
    start = NUM_NEW_PRODUCTS * _ordinal(month)
    return [PRODUCTS[(start + i) % len(PRODUCTS)] for i in range(NUM_PRODUCTS)]


def generate(months: Sequence[str], num_per_month: int, seed: int) -> Iterator[dict[str, str]]:
    """Tickets in the order of `months`: `num_per_month` each, the same for the same arguments.

    A month's tickets depend on the month, the number and the seed, not on the other months. Fields:
    `id` (unique over all months), `date` (ISO, within the month), `text`, `product`, `category`
    (what a model is to say) and `customer`.

    Raises:
        ValueError: something in `months` is no month ("YYYY-MM"), or `num_per_month` is negative.
    """
    if num_per_month < 0:
        raise ValueError("num_per_month: must be at least 0")
    for month in months:
        _ordinal(month)
    for month in months:
        yield from _month(month, num_per_month, random.Random(f"{seed} {month}"))


def write(path: Path, months: Sequence[str], num_per_month: int, seed: int) -> int:
    """`path` is a JSONL file of `generate(...)`, whole or not at all; how many lines it has.

    Raises:
        ValueError: as `generate`.
        OSError: the file can't be written; `path` is as it was.
    """
    staged = path.with_name(f".{path.name}.{os.getpid()}")
    num_tickets = 0
    try:
        with staged.open("w", encoding="utf-8") as file:
            for ticket in generate(months, num_per_month, seed):
                file.write(json.dumps(ticket) + "\n")
                num_tickets += 1
        staged.replace(path)
    finally:
        staged.unlink(missing_ok=True)
    return num_tickets


def _ordinal(month: str) -> int:
    """Months since January 2026; negative before. Raises ValueError: `month` is no month."""
    match = _MONTH.fullmatch(month)
    if match is None:
        raise ValueError(f"month {month!r}: must be a year and a month as in 2026-04")
    return (int(match[1]) - 2026) * 12 + int(match[2]) - 1


def _month(month: str, num_tickets: int, rng: random.Random) -> Iterator[dict[str, str]]:
    categories, on_sale = topics(month), products(month)
    weights = [rng.uniform(0.7, 1.5) for _ in categories]
    num_days = calendar.monthrange(int(month[:4]), int(month[5:]))[1]
    days = sorted(rng.randint(1, num_days) for _ in range(num_tickets))
    for number, day in enumerate(days, start=1):
        category = rng.choices(categories, weights)[0]
        product = rng.choice(on_sale)
        is_misfiled = rng.random() < MISFILED_FRACTION
        yield {
            "id": f"T{month.replace('-', '')}-{number:06d}",
            "date": f"{month}-{day:02d}",
            "text": _text(category, product, rng),
            "product": product,
            "category": rng.choice(categories) if is_misfiled else category,
            "customer": f"C{int(NUM_CUSTOMERS * rng.random() ** 2):04d}",
        }


def _text(category: str, product: str, rng: random.Random) -> str:
    """One or two sentences about `category`, as somebody in a hurry writes them."""
    phrases = EVERGREEN.get(category) or ROTATING[category]

    def reworded(match: re.Match[str]) -> str:
        word = match[0]
        return rng.choice(_CHOICES[word]) if rng.random() < SYNONYM_FRACTION else word

    phrase = _REPLACEABLE.sub(reworded, rng.choice(phrases))
    text = rng.choice(OPENERS) + phrase.format(p=product) + rng.choice(CLOSERS)
    return _mistyped(text, rng) if rng.random() < TYPO_FRACTION else text


def _mistyped(text: str, rng: random.Random) -> str:
    """`text` with one letter dropped, doubled, swapped with the next, or hit wrongly."""
    place = rng.choice([i for i in range(len(text) - 1) if text[i].isalpha()])
    before, letter, after = text[:place], text[place], text[place + 1 :]
    wrong = (after[0] + letter + after[1:], after, 2 * letter + after, rng.choice(_LETTERS) + after)
    return before + rng.choice(wrong)
