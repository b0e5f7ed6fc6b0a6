"""Parts of a text file that a benchmark writes, between marks that stay."""

from __future__ import annotations

from pathlib import Path


def marks(name: str) -> tuple[str, str]:
    """What stands before and behind the part `name`."""
    return f"<!-- {name}:begin -->", f"<!-- {name}:end -->"


def replaced(text: str, name: str, part: str) -> str:
    """`text` with `part` between the marks; unchanged without marks."""
    begin, end = marks(name)
    if begin not in text or end not in text:
        return text
    before, _, rest = text.partition(begin)
    return f"{before}{begin}\n{part}\n{end}{rest.partition(end)[2]}"


def rewrite(path: Path, name: str, part: str) -> None:
    """Replace the part of a file, or say that it has none."""
    text = path.read_text(encoding="utf-8")
    begin, end = marks(name)
    if begin not in text or end not in text:
        print(f"{path} has no marks {begin} … {end}: left as it is")
    path.write_text(replaced(text, name, part), encoding="utf-8")
