"""Texts as tokens: words, or what a tokenizer of Hugging Face makes of them; and the id of each token."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any, NamedTuple

import torch
from torch import Tensor

from feedprop.errors import FeedpropError

WORD = re.compile(r"\w+(?:['\u2019]\w+)*")  # with apostrophes inside
PADDING, UNKNOWN = "<padding>", "<unknown>"
OFTEN = 2  # times that a word occurs in the training data, at least, to have an id of its own


class Piece(NamedTuple):
    """A token, and where it stands in its text; special tokens stand nowhere, from 0 to 0."""

    token: str
    start: int
    end: int


@dataclass(frozen=True)
class Tokens:
    """The tokens of texts.

    Args:
        names: the token that each id stands for.
        split: returns the tokens of a text that are read.
        size: how many names remain that are no special tokens, the most frequent ones; None for all.
        padding: the id that fills up texts.
        unknown: the id of tokens that are not among the names.
        special: ids that stand for no part of a text, that of padding among them.
    """

    names: tuple[str, ...]
    split: Callable[[str], list[Piece]]
    size: int | None
    padding: int
    unknown: int
    special: tuple[int, ...]

    def encode(self, texts: Sequence[str]) -> tuple[Tensor, list[int]]:
        """Return the ids of texts, (texts, tokens of the longest), and where the last token of each text ends.

        A text without tokens is one unknown token.
        """
        places = {name: place for place, name in enumerate(self.names)}
        rows, ends = [], []
        for text in texts:
            pieces = self.split(text)
            rows.append(torch.tensor([places.get(piece.token, self.unknown) for piece in pieces] or [self.unknown]))
            ends.append(max((piece.end for piece in pieces), default=0))
        return torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=self.padding), ends

    def of_training(self, ids: Tensor) -> Tokens:
        """Return the tokens that remain: the most frequent ones among the ids of the training data."""
        if self.size is None:
            return self
        counts = torch.bincount(ids.flatten(), minlength=len(self.names)).tolist()
        first = max(*self.special, self.unknown) + 1
        often = [place for place in range(first, len(self.names)) if counts[place] >= OFTEN]
        often.sort(key=lambda place: (-counts[place], self.names[place]))
        return replace(self, names=(*self.names[:first], *(self.names[place] for place in often[: self.size])))

    def renamed(self, names: Sequence[str]) -> Tokens:
        """Return the tokens with the names that a model was trained with.

        Raises:
            FeedpropError: they are those of another tokenizer.
        """
        first = max(*self.special, self.unknown) + 1
        if tuple(names[:first]) != self.names[:first] or (self.size is None and tuple(names) != self.names):
            raise FeedpropError(
                "the tokens of this data are not those that the model was trained with; give the same --data.tokenizer"
            )
        return replace(self, names=tuple(names))

    def numbers_in(self, other: Tokens) -> Tensor:
        """Return the id that each token has among other ones."""
        places = {name: place for place, name in enumerate(other.names)}
        return torch.tensor([places.get(name, other.unknown) for name in self.names])


def words(texts: Sequence[str], *, length: int, size: int) -> Tokens:
    """Return the words of texts in small letters, `length` of each text at most."""

    def split(text: str) -> list[Piece]:
        return [Piece(found[0].lower(), *found.span()) for found in islice(WORD.finditer(text), length)]

    known = dict.fromkeys(piece.token for text in texts for piece in split(text))
    return Tokens((PADDING, UNKNOWN, *known), split, size, padding=0, unknown=1, special=(0,))


def pretrained(name: str, *, length: int) -> Tokens:
    """Return the tokens of a tokenizer of Hugging Face, `length` of each text at most; needs transformers.

    Args:
        name: of a folder, or on the hub.
        length: with special tokens.

    Raises:
        FeedpropError: there is no such tokenizer, or it cannot say where tokens stand, or has no padding.
    """
    try:
        from transformers import AutoTokenizer
    except ImportError:
        raise FeedpropError(
            "--data.tokenizer needs transformers, which is not installed; pip install 'feedprop[models]'"
        ) from None
    try:
        tokenizer: Any = AutoTokenizer.from_pretrained(name)
    except (OSError, ValueError, KeyError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise FeedpropError(f"--data.tokenizer {name} cannot be loaded: {reason}") from error
    if not tokenizer.is_fast:
        raise FeedpropError(f"--data.tokenizer {name} has no tokenizer.json, so it cannot say where its tokens stand")
    if tokenizer.pad_token_id is None:
        raise FeedpropError(f"--data.tokenizer {name} has no padding token; name one with a pad_token")
    names = tuple(map(str, tokenizer.convert_ids_to_tokens(range(len(tokenizer)))))

    def split(text: str) -> list[Piece]:
        found = tokenizer(text, truncation=True, max_length=length, return_offsets_mapping=True)
        return [
            Piece(names[place], *span) for place, span in zip(found["input_ids"], found["offset_mapping"], strict=True)
        ]

    padding = int(tokenizer.pad_token_id)
    unknown = padding if tokenizer.unk_token_id is None else int(tokenizer.unk_token_id)
    special = tuple(place for place in sorted({*tokenizer.all_special_ids, padding}) if place != tokenizer.unk_token_id)
    return Tokens(names, split, None, padding=padding, unknown=unknown, special=special)
