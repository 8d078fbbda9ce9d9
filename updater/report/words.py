"""Amounts as people read them: counts, times, bytes, energy. For the page and the model card."""


def amount(count: int) -> str:
    """1234567 is "1,234,567"."""
    return f"{count:,}"


def duration(seconds: float) -> str:
    """65 is "1 min 5 s"."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 1:
        return f"{rest} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"


def size(count: int) -> str:
    """1234567 is "1.2 MB"."""
    if count < 1000:
        return f"{count} bytes"
    thousands = min(4, (len(str(count)) - 1) // 3)
    return f"{count / 1000**thousands:.1f} {' kMGT'[thousands]}B"


def energy(joules: float) -> str:
    """In watt hours, from a thousand on in kilowatt hours."""
    hours = joules / 3600
    return f"{hours / 1000:.2f} kWh" if hours >= 1000 else f"{hours:.1f} Wh"
