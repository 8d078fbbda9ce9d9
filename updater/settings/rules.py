"""The rules that many settings share; a broken one raises `ValueError("field: rule")`."""

import math

MOST = 2**31 - 1  # of anything that is counted: what every library takes for a whole number


def one_of(name: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise ValueError(f"{name}: must be one of {', '.join(allowed)}")


def at_least(name: str, value: float, least: float) -> None:
    if not (math.isfinite(value) and value >= least):
        raise ValueError(f"{name}: must be a finite number of at least {least:g}")
    if isinstance(value, int) and value > MOST:
        raise ValueError(f"{name}: must be at most {MOST}")


def positive(name: str, value: float) -> None:
    if not (math.isfinite(value) and value > 0):
        raise ValueError(f"{name}: must be a finite number above 0")


def fraction(name: str, value: float, *, low_open: bool = False, high_open: bool = False) -> None:
    low_ok = value > 0 if low_open else value >= 0
    high_ok = value < 1 if high_open else value <= 1
    if not (low_ok and high_ok):
        raise ValueError(
            f"{name}: must lie in {'(' if low_open else '['}0, 1{')' if high_open else ']'}"
        )
