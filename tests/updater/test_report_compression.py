"""The report on a compressed version: its panel, its picture at both sizes, its card."""

import dataclasses
import html
import re
import xml.etree.ElementTree as ET
from typing import Any

import pytest
from compressions import NANO, TINY, compressed
from histories import history

from updater.report import asked, card, figures, style
from updater.report.page import render
from updater.settings import (
    CompressionSettings,
)

ASKED: dict[str, dict[str, Any]] = {
    "experts": {"method": "reap", "sparsity": 0.25, "rounds": 3, "recovery": "distill"},
    "heads": {"method": "obd", "sparsity": 0.25},
    "layers": {"method": "dropout", "sparsity": 0.25},
    "neurons": {"method": "merge", "sparsity": 0.25, "quantize": "int8"},
    "weights": {"method": "magnitude", "sparsity": 0.25},
}


def visible(text: str) -> str:
    """The page's text without its pictures and tags, blanks made single."""
    text = re.sub(r"<(svg|style).*?</\1>", " ", text, flags=re.DOTALL)
    return re.sub(r"\s+", " ", html.unescape(re.sub(r"<[^>]*>", " ", text)))


@pytest.mark.parametrize("letters", [TINY, NANO], ids=["tiny", "nano"])
@pytest.mark.parametrize("remove", ASKED)
def test_what_went_is_drawn_small_and_at_nanos_size(letters: str, remove: str) -> None:
    data = compressed(history(3), letters, remove=remove, **ASKED[remove])
    drawn = {name: (picture, figure) for name, picture, figure in figures.drawn(data)}
    picture, figure = drawn["what_went"]
    assert figure.get_figwidth() * 72 <= style.WIDTH + 60
    text = style.inline_svg(figure, "what_went", picture.description)
    ET.fromstring(text)
    assert 'aria-label="What compression took away, layer by layer"' in text
    assert style.BAD not in text
    assert len(text) < 150_000


def test_experts_that_went_are_where_they_were() -> None:
    data = compressed(history(2), TINY, remove="experts", **ASKED["experts"])
    figure = figures.what_went(data)
    assert figure is not None
    assert data.went is not None
    axes = figure.axes[0]
    gone = axes.patches[1].get_path().to_polygons()
    middles = {tuple(box[:4].mean(axis=0).round().astype(int)) for box in gone}
    rows = list(data.went.parts)
    assert [tick.get_text() for tick in axes.get_yticklabels()] == rows == ["1", "4", "6"]
    assert middles == {(n, y) for y, row in enumerate(rows) for n in data.went.parts[row]}


def test_shares_are_written_into_the_cells_where_there_is_room() -> None:
    def numbers(letters: str) -> list[str]:
        figure = figures.what_went(
            compressed(history(2), letters, remove="neurons", **ASKED["neurons"])
        )
        assert figure is not None
        return [text.get_text() for text in figure.axes[0].texts]

    assert numbers(TINY) == ["25"] * 6, "of the routed and the shared experts of three layers"
    assert numbers(NANO) == []


def test_the_page_says_what_was_asked_and_what_became_of_it() -> None:
    data = compressed(history(4), TINY, remove="experts", **ASKED["experts"])
    said = visible(render(data))
    for words in (
        "made by compressing version 3",
        "25% of the experts, chosen by “reap” in 3 rounds",
        "for 2 epochs, from the examples and from what the uncompressed model says to them",
        "7,000,000 → 5,250,000 (75.0 %), 100.0 % of them not zero",
        "14.0 MB → 10.5 MB (75.0 %)",
        "Weights on disk",
        "1 min 23 s",
        "Of the 8 routed experts of each layer",
        "right answers that became wrong",
        "best score so far",
    ):
        assert words in said, words
    for words in ("New period", "new period", "trained from", "Training", "Numbers kept as"):
        assert words not in said, words


def test_a_quantized_version_has_no_picture_and_an_update_says_that_it_was_compressed() -> None:
    data = compressed(history(3), TINY, quantize="nvfp4")
    assert figures.what_went(data) is None
    said = visible(render(data))
    assert "Numbers kept as nvfp4" in said
    assert "Removed" not in said
    assert "What went" not in said
    plain = history(3)
    both = dataclasses.replace(plain, compression=data.compression, went=data.went)
    assert "trained from version 2, then compressed" in visible(render(both))
    assert "compressed" not in visible(render(plain)).split("Resolved configuration")[0]


def test_a_base_that_is_gone_is_said_to_be() -> None:
    data = compressed(history(3), TINY, remove="layers", **ASKED["layers"])
    said = visible(render(dataclasses.replace(data, went=None)))
    assert "What went is not known: the weights of before are gone" in said
    assert "Parameters 5,250,000, 100.0 % of them not zero" in said


def test_the_summary_has_what_is_left_of_the_bytes() -> None:
    summary = compressed(history(3), TINY, **ASKED["weights"]).summary()
    assert summary["compression/bytes_ratio"] == 0.75
    assert summary["compression/nonzero_fraction"] == 0.75
    assert "new_period_accuracy" not in summary
    assert summary["worst_past_change"] < 0
    assert "compression/bytes_ratio" not in history(3).summary()


@pytest.mark.parametrize(
    ("given", "removed", "recovered"),
    [
        ({"method": "obd", "sparsity": 0.125}, "12.5% of the weights, chosen by obd", ""),
        ({"method": "obd", "pattern": "2:4"}, "two of each four weights, chosen by obd", ""),
        (
            {"method": "reap", "remove": "experts", "recovery": "finetune", "recovery_epochs": 1},
            "50% of the experts, chosen by reap",
            "for 1 epoch, from the examples",
        ),
    ],
)
def test_what_was_asked_in_words(given: dict[str, Any], removed: str, recovered: str) -> None:
    settings = CompressionSettings(**given)
    assert asked.removed(settings, settings.method) == removed
    if recovered:
        assert asked.recovered(settings) == recovered


def test_the_card_says_that_what_was_left_learnt_again() -> None:
    text = card.whole(compressed(history(3), TINY, remove="experts", **ASKED["experts"]))
    assert "What was left learnt again, for 2 epochs, from the examples and from what" in text
    assert "Nothing was trained" not in text
    assert "what is new in it" not in text
    plain = card.whole(compressed(history(3), TINY, **ASKED["weights"]))
    assert "Nothing was trained here. Removed: 25% of the weights, chosen by `magnitude`." in plain
