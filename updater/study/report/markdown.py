"""A study as a Markdown page: claims, tables, and links to the pictures beside it.

The same words as the HTML page. The same data give the same bytes, so that it can be committed.
"""

from collections.abc import Mapping

from updater.study.report import pair_report, sweep_report, words
from updater.study.report.pictures import Picture
from updater.study.report.sheet import Sheet, aligned
from updater.study.report.sheets import sheets
from updater.study.tabulated import Table


def markdown(table: Table, drawn: Mapping[str, Picture], *, title: str) -> str:
    """The page.

    Args:
        drawn: name -> picture; each is the file NAME.svg beside the page.
    """
    parts = [f"# {_escaped(title)}", f"{words.summary(table)}."]
    claims = [sentence for _, sentence in words.claims(table)]
    for heading, how, sentences in (
        (words.STOPPED, "", [s for arm in table.arms for s in words.stopped(arm)]),
        (words.HOLDS, words.basis(table), claims or [words.nothing_compared(table)]),
        (pair_report.TITLE, "", [sentence for _, sentence in pair_report.sentences(table)]),
        (sweep_report.TITLE, "", sweep_report.sentences(table)),
    ):
        if sentences:
            parts += [f"## {heading}", *([_escaped(how)] if how else []), _bullets(sentences)]
    for sheet in sheets(table):
        parts += [f"## {_escaped(sheet.title)}", _escaped(sheet.how), _table(sheet)]
        if sheet.below:
            parts.append(_escaped(sheet.below))
    for name, picture in drawn.items():
        parts += [
            f"## {picture.title}",
            _escaped(picture.explained(table)),
            f"![{picture.title}]({name}.svg)",
        ]
    return "\n\n".join(parts) + "\n"


def _bullets(sentences: list[str]) -> str:
    return "\n".join(f"* {_escaped(sentence)}" for sentence in sentences)


def _table(sheet: Sheet) -> str:
    rules = tuple("--:" if number else ":--" for number in aligned(sheet))
    head, *rows = ([_escaped(cell) for cell in row] for row in (sheet.columns, *sheet.rows))
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (head, rules, *rows))


def _escaped(text: str) -> str:
    """No character of it is markup."""
    for character in "\\`*_[]<>|#":
        text = text.replace(character, f"\\{character}")
    return " ".join(text.split())
