"""Labelled texts: a folder of files for each class, or a CSV file with a row for each text."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import torch

from feedprop.errors import FeedpropError, first_few
from feedprop.training.data.columns import as_classes, read_columns
from feedprop.training.data.images import readable
from feedprop.training.data.source import Source, split_off
from feedprop.training.data.tensors import TextData
from feedprop.training.data.tokens import WORD, pretrained, words

STRANGE = "\ufffd"  # what bytes become that are not in the encoding


class Labelled(NamedTuple):
    """Texts and the label of each."""

    texts: list[str]
    labels: list[str]


def text(
    path: str,
    *,
    text: str | None = None,
    target: str | None = None,
    test: str | None = None,
    delimiter: str = ",",
    encoding: str = "utf-8",
    length: int = 256,
    vocabulary: int = 20000,
    tokenizer: str | None = None,
) -> Source:
    """Texts with a class each: a folder with one folder of files per class, or a CSV file that names its columns.

    Args:
        path: of the folder or file
        text: name of the column of texts in a CSV file
        target: name of the column of classes in a CSV file
        test: folder or file of the test data, like the first; a fifth of the texts unless given
        delimiter: between the values of a line of a CSV file
        encoding: of the files
        length: tokens that are read of each text
        vocabulary: words that are told apart, the most frequent ones of the training data
        tokenizer: folder or hub name of a tokenizer of Hugging Face, for its tokens instead of words
    """
    for name, value in (("length", length), ("vocabulary", vocabulary)):
        if value < 1:
            raise FeedpropError(f"--data.{name} must be at least 1, but is {value}")
    try:
        b"a".decode(encoding)
    except (LookupError, UnicodeError):
        raise FeedpropError(f"--data.encoding {encoding} is unknown; write utf-8 or latin-1, for instance") from None
    parts = [
        _folder(place, encoding) if place.is_dir() else _file(place, text, target, delimiter, encoding)
        for place in map(Path, (path,) if test is None else (path, test))
    ]
    for option, column in (("text", text), ("target", target)):
        if column is not None and Path(path).is_dir():
            raise FeedpropError(f"--data.{option} names a column of a CSV file; leave it out, as {path} is a folder")
    if len(parts) == 2 and (strange := sorted({*parts[1].labels} - {*parts[0].labels})):
        raise FeedpropError(f"{test} has the class {strange[0]}, which {path} lacks")
    texts = [one for part in parts for one in part.texts]
    labels, classes = as_classes([label for part in parts for label in part.labels])
    if len(classes) < 2:
        raise FeedpropError(f"{path} must hold at least two classes, but holds {classes[0]} alone")
    if target is not None and len(classes) > max(20, len(labels) // 2):
        raise FeedpropError(
            f"column {target} of {path} holds {len(classes)} different values, which would be as many classes; name "
            f"the column of classes by --data.target"
        )
    tokens = words(texts, length=length, size=vocabulary) if tokenizer is None else pretrained(tokenizer, length=length)
    ids, ends = tokens.encode(texts)
    data = TextData(ids, labels, texts=texts)
    if len(parts) == 1:
        train, held_out = split_off(data, fraction=0.2, seed=0, name=path)
    else:
        train, held_out = map(data.select, torch.split(torch.arange(len(texts)), [len(part.texts) for part in parts]))
    notes = _notes(texts, ends, length)
    return Source(train, held_out, classes=readable(classes), normalise=False, notes=notes, tokens=tokens)


text.model = "text_mlp"  # type: ignore[attr-defined]  # the default one for texts


def _folder(folder: Path, encoding: str) -> Labelled:
    """Return the texts in the folders of a folder; files whose name begins with a dot are left out."""
    found = Labelled([], [])
    kinds = sorted(entry for entry in folder.iterdir() if entry.is_dir() and not entry.name.startswith("."))
    if not kinds:
        raise FeedpropError(f"{folder} must hold one folder of texts per class, but holds no folder")
    for kind in kinds:
        files = sorted(entry for entry in kind.iterdir() if not entry.name.startswith("."))
        if inner := [entry for entry in files if not entry.is_file()]:
            raise FeedpropError(f"{inner[0]} is no file; name the folder whose folders are the classes")
        if not files:
            raise FeedpropError(f"the folder {kind} holds no texts, but each folder is a class")
        found.texts.extend(file.read_bytes().decode(encoding, errors="replace") for file in files)
        found.labels.extend([kind.name] * len(files))
    return found


def _file(path: Path, text: str | None, target: str | None, delimiter: str, encoding: str) -> Labelled:
    """Return the texts in a column of a CSV file and the labels in another one."""
    if not path.exists():
        raise FeedpropError(f"there is no folder or file {path}")
    filled = () if target is None else (target,)
    columns = read_columns(path, delimiter=delimiter, encoding=encoding, errors="replace", filled=filled)
    named = f"; its columns are {first_few([*columns])}"
    if text is None or target is None:
        raise FeedpropError(f"{path} needs --data.text and --data.target, names of columns{named}")
    if missing := [name for name in (text, target) if name not in columns]:
        raise FeedpropError(f"{path} has no column {missing[0]}{named}")
    if text == target:
        raise FeedpropError(f"--data.text and --data.target are both {text}; name two columns")
    return Labelled(columns[text], columns[target])


def _notes(texts: list[str], ends: list[int], length: int) -> tuple[str, ...]:
    """Say what was done to texts, of which so much was read."""
    counts = {
        f"are longer than {length} tokens and end there; --data.length changes that": sum(
            WORD.search(text, end) is not None for text, end in zip(texts, ends, strict=True)
        ),
        "have no tokens and are read as one unknown token": ends.count(0),
        f"hold bytes that --data.encoding does not know, which are read as {STRANGE}": sum(
            STRANGE in text for text in texts
        ),
    }
    return tuple(f"{count:,} of {len(texts):,} texts {what}" for what, count in counts.items() if count)
