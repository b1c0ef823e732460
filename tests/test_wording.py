"""Names that were given up (except in the changelog), and phrases that readers stumble over, are nowhere.

Each is written with a ~ in it here, so that this file does not contain what it looks for.
"""

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
RAW = {".json", ".jsonl"}  # results of experiments as they were recorded

PHRASES = [
    "in the pl~ace of", "has t~o be", "in f~orce", "tr~eatments?",
    "(?:take|takes|taken|taking|took) o~ver", "(?:give|gives|given|giving|gave) b~ack",
]  # fmt: skip
NAMES = ["Ch~ords?", "by_p~arts", "rule_in_f~orce"]
CASED = [r"rules\.s~ecant"]  # rules.Secant is a class


def _pattern(words: str, flags: re.RegexFlag = re.IGNORECASE) -> re.Pattern[str]:
    """Match words that stand alone, joined by _, on one line or wrapped, also in comments."""
    words = re.sub("[ _]", r"(?:[\\s_]|\\n\\s*#)+", words.replace("~", ""))
    return re.compile(rf"(?<![a-zA-Z]){words}(?![a-zA-Z])", flags)


OLD_PHRASES = [_pattern(words) for words in PHRASES]
OLD_NAMES = [_pattern(words) for words in NAMES] + [_pattern(words, re.NOFLAG) for words in CASED]


def found(text: str, *, names: bool = True) -> Iterator[tuple[int, str]]:
    """Each match in a text, with the number of its line."""
    for pattern in OLD_PHRASES + OLD_NAMES * names:
        for match in pattern.finditer(text):
            yield text.count("\n", 0, match.start()) + 1, " ".join(match.group().split())


def _texts() -> Iterator[tuple[str, str]]:
    """The name and the content of every file that git tracks and that is text."""
    answer = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True)
    for name in filter(None, answer.stdout.split("\0")):
        path = ROOT / name
        if path.suffix not in RAW and path.is_file() and b"\0" not in (content := path.read_bytes()):
            yield name, content.decode()


def test_old_words_are_gone() -> None:
    texts = dict(_texts())
    assert {"README.md", "CONTRIBUTING.md", "src/feedprop/attach.py", "tests/test_wording.py"} <= texts.keys()
    places = [
        f"{name}:{line}: {words}"
        for name, text in texts.items()
        for line, words in found(text, names=name != "CHANGELOG.md")  # which says what the names are now
    ]
    assert not places, "\n".join(places)


OLD = [
    "used in the pl~ace of x", "IN THE\n    pl~ace of x", "# in the\n    # pl~ace of x", "it has t~o be so",
    "the rule in f~orce", "Tr~eatments of", "def take_o~ver_weights()", "taken o~ver", "weights given b~ack",
    "rules.s~ecant", "rules.Ch~ord", "a ch~ord of", "context.by_p~arts(f)", "self.rule_in_f~orce",
]  # fmt: skip


@pytest.mark.parametrize("text", OLD)
def test_an_old_word_is_found(text: str) -> None:
    assert list(found(text.replace("~", "")))


@pytest.mark.parametrize("text", ["rules.Secant()", "in forces", "mistreatment", "must be", "has to become", "give"])
def test_other_words_are_not(text: str) -> None:
    assert list(found(text)) == []
