"""Made-up compressions of a version, as the report sees them: at tiny size and at Nano's."""

import dataclasses
import random

from updater.report.data import ReportData, Went
from updater.settings import CompressionSettings
from updater.shrunk import Compression

TINY = "MEM*EME"
NANO = "MEMEM*EMEMEM*EMEMEM*EMEMEM*EMEMEM*EMEMEMEM*EMEMEMEME"
SIZES = {TINY: (8, 4), NANO: (128, 64)}
"""By the layers' letters, how many routed experts and Mamba heads a layer has."""

_SORTS = {
    "M": ("in_proj", "out_proj"),
    "E": ("experts.down_proj", "experts.up_proj", "shared_experts.down_proj"),
    "*": ("k_proj", "o_proj", "q_proj", "v_proj"),
}


def went(letters: str, remove: str, share: float = 0.25, seed: int = 1) -> Went:
    rng = random.Random(seed)
    loses_parts = remove != "weights"
    bare = Went(letters, base_parameters=(1_000_000 if loses_parts else 750_000) * len(letters))
    if remove == "layers":
        gone = sorted(rng.sample(range(len(letters)), round(share * len(letters))))
        return dataclasses.replace(bare, layers=tuple(gone))
    if remove in ("experts", "heads"):
        num = SIZES[letters][remove == "heads"]
        of = "E" if remove == "experts" else "M"
        parts = {
            str(n): tuple(sorted(rng.sample(range(num), round(share * num))))
            for n, letter in enumerate(letters)
            if letter == of
        }
        return dataclasses.replace(bare, parts=parts, num_parts=num)
    sorts = {"E": ("routed experts", "shared experts")} if remove == "neurons" else _SORTS
    shares = {
        (str(n), sort): share if remove == "neurons" else share * (0.6 + 0.8 * rng.random())
        for n, letter in enumerate(letters)
        for sort in sorts.get(letter, ())
    }
    return dataclasses.replace(bare, shares=shares)


def compressed(data: ReportData, letters: str, **asked: object) -> ReportData:
    """The newest version of `data` was made by compressing its base, and is judged on its past."""
    settings = CompressionSettings(**asked)  # type: ignore[arg-type]
    subject = data.subject
    assert data.judgement is not None
    assert data.flips is not None
    past = tuple(period for period in subject.learnt if period not in subject.new)
    return dataclasses.replace(
        data,
        versions=tuple(
            dataclasses.replace(v, kind="compress", learnt=past, new=()) if v is subject else v
            for v in data.versions
        ),
        judgement=dataclasses.replace(
            data.judgement,
            reasons=("All past periods hold.",),
            comparisons=tuple(c for c in data.judgement.comparisons if c["role"] == "past"),
        ),
        flips=tuple(f for f in data.flips if f.period in past),
        datasets=tuple(d for d in data.datasets if d.period in past),
        rehearsed=None,
        importance=None,
        searched=None,
        curve={},
        config={"compression": dataclasses.asdict(settings)},
        compression=Compression(
            asked=settings,
            uncompressed="ab" * 32,
            num_parameters=750_000 * len(letters),
            nonzero_fraction=1.0 if settings.remove != "weights" else 0.75,
            num_bytes=1_500_000 * len(letters),
            base_bytes=2_000_000 * len(letters),
            seconds=83.2,
        ),
        went=Went(letters, 750_000 * len(letters))
        if settings.method == "none"
        else went(letters, settings.remove),
    )
