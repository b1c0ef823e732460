"""What pages of Markdown show: blocks of code, the output beneath them, and code within sentences."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted(ROOT.glob("docs/*.md"))]
_FENCED = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_NUMBER = re.compile(r"(?<![\w.])[-+]?(?:\d+\.?\d*|\.\d+)(?:e[-+]?\d+)?(?![\w])")
_BEST = re.compile(r"best epoch \d+")
# how a page states its margin
_FACTOR = re.compile(r"within\s+a\s+factor\s+of\s+(\d+)")
_PERCENT = re.compile(r"within\s+(\d+(?:\.\d+)?)\s*%")
_ABSOLUTE = re.compile(r"within\s+(\d*\.\d+)")


@dataclass(frozen=True)
class Block:
    """A block of code: its language, its text, the line it begins at, and what follows it."""

    language: str
    text: str
    line: int
    after: str  # the page from the end of the block on

    @property
    def padded(self) -> str:
        """The text behind empty lines, so that errors give the line numbers of the page."""
        return "\n" * (self.line - 1) + self.text

    @property
    def output(self) -> Block | None:
        """The block of text that follows at once: what this one prints."""
        match = _FENCED.match(self.after.lstrip("\n"))
        if match is None or match[1] not in ("", "text"):
            return None
        return Block(match[1], match[2], 0, self.after.lstrip("\n")[match.end() :])

    @property
    def remark(self) -> str:
        """The paragraph that follows."""
        return self.after.strip("\n").partition("\n\n")[0]


def blocks(page: Path, *languages: str) -> list[Block]:
    """The blocks of a page in these languages."""
    text = page.read_text()
    return [
        Block(match[1], match[2], text.count("\n", 0, match.start(2)) + 1, text[match.end() :])
        for match in _FENCED.finditer(text)
        if match[1] in languages
    ]


def prose(page: Path) -> str:
    """A page without its blocks."""
    return _FENCED.sub("", page.read_text())


def inline_code(page: Path) -> Iterator[str]:
    """The code within sentences and tables, each piece on one line."""
    for code in re.findall(r"(?<!`)`([^`]+)`(?!`)", prose(page)):
        yield " ".join(code.replace("\\|", "|").split())


def is_near(shown: str, found: str, remark: str) -> bool:
    """Whether a number is the one that the page shows, within the margin that the remark states; exactly if none."""
    one, other = float(shown), float(found)
    if (match := _FACTOR.search(remark)) is not None:
        return one == other or (one * other > 0 and 1 / int(match[1]) <= other / one <= int(match[1]))
    if (match := _PERCENT.search(remark)) is not None:
        return math.isclose(one, other, rel_tol=float(match[1]) / 100)
    if (match := _ABSOLUTE.search(remark)) is not None:
        return math.isclose(one, other, rel_tol=0, abs_tol=float(match[1]))
    return one == other


def differences(shown: str, printed: str, remark: str, *, numbers: bool = True) -> list[str]:
    """Say where what was printed is not what a page shows; a line `...` stands for any lines.

    Without `numbers`, any number will do. Which epoch was best is never compared: it may be that of another machine.
    """
    found = [line for line in map(_spaced, printed.splitlines()) if line]
    position, anywhere, wrong = 0, False, []
    for line in filter(None, map(_spaced, shown.splitlines())):
        if line == "...":
            anywhere = True
            continue
        places = range(position, len(found)) if anywhere else range(position, min(position + 1, len(found)))
        place = next((at for at in places if _is_shown(line, found[at], remark, numbers=numbers)), None)
        if place is None:
            wrong.append(f"{line!r} is shown, but {found[position : position + 3]} was printed")
            position += 1
        else:
            position = place + 1
        anywhere = False
    if found[position:] and not anywhere:
        wrong.append(f"{found[position:]} was printed, but is not shown")
    return wrong


def _spaced(line: str) -> str:
    return " ".join(line.split())


def _is_shown(line: str, found: str, remark: str, *, numbers: bool) -> bool:
    line, found = (_BEST.sub("best epoch", text) for text in (line, found))
    if _NUMBER.sub("#", line) != _NUMBER.sub("#", found):
        return False
    pairs = zip(_NUMBER.findall(line), _NUMBER.findall(found), strict=True)
    return not numbers or all(is_near(*pair, remark) for pair in pairs)
