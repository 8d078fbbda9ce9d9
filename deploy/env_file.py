"""The variables of a .env file, as Compose reads them. Standard library only: `make env` has no
other."""

QUOTES = ("'", '"')


def variables(text: str) -> dict[str, str]:
    """Each with its value; of several lines with one name the last counts, as for Compose."""
    pairs = (variable(line) for line in text.splitlines())
    return dict(pair for pair in pairs if pair is not None)


def variable(line: str) -> tuple[str, str] | None:
    """Name and value; None where the line sets nothing."""
    name, sign, value = line.strip().removeprefix("export ").partition("=")
    if not sign or name.startswith("#"):
        return None
    return name.strip(), _bare(value.strip())


def _bare(value: str) -> str:
    """The value without its quotes, or without the comment that follows it."""
    if value.startswith(QUOTES):
        return value[1:].partition(value[0])[0]
    return "" if value.startswith("#") else value.partition(" #")[0].rstrip()
