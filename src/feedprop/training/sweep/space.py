"""The space of a sweep: which options are searched, and over which values.

A range is written LOW:HIGH, LOW:HIGH:STEP or log:LOW:HIGH; anything else is a list of values, A,B,C.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import yaml
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import Trial

from feedprop.errors import FeedpropError
from feedprop.training.command_line.arguments import Options, configure, overlay
from feedprop.training.command_line.components import KINDS
from feedprop.training.command_line.config import Config, read_yaml

_NUMBER = r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?"
_RANGE = re.compile(rf"(log:)?({_NUMBER}):({_NUMBER})(?::({_NUMBER}))?")
_BEGUN = re.compile(rf"(log|uniform|int|{_NUMBER}):.*")  # meant as a range
_FIXED = ("output", "overwrite", "config", "resume", "trust")  # what no trial chooses
FORMS = "a range such as 0.1:0.9, 16:256:16 or log:1e-4:1, or values such as 64,128"
Space = Mapping[str, BaseDistribution]
Words = Mapping[str, str | list[str]]


def read_space(path: str) -> dict[str, str | list[str]]:
    """Return the space in a YAML file, {"optimizer.lr": "log:1e-4:1", "model.hidden": ["[64]", "[128]"]}."""
    content = read_yaml(path, what="space")
    words: dict[str, str | list[str]] = {}
    for key, value in content.items():
        inner = value.items() if isinstance(value, dict) else [("", value)]
        for name, part in inner:
            words[f"{key}.{name}" if name else str(key)] = _words(f"{key}.{name}" if name else str(key), part)
    return {_full(option): value for option, value in words.items()}


def _words(option: str, value: Any) -> str | list[str]:
    if isinstance(value, str):
        return value
    if isinstance(value, list):
        return [_word(item) for item in value]
    raise FeedpropError(f"the space of {option} must be a list or a range in quotes, but is {value!r}; write {FORMS}")


def _word(value: Any) -> str:
    """Return a value of YAML as it is written on a command line."""
    return (
        value
        if isinstance(value, str)
        else yaml.safe_dump(value, default_flow_style=True).removesuffix("...\n").strip()
    )


def take_space(given: Options) -> dict[str, str | list[str]]:
    """Return the space that options such as space.optimizer.lr describe, and remove these from the options."""
    words = read_space(given.pop("space")) if "space" in given else {}
    for key in [key for key in given if key.startswith("space.")]:
        words[_full(key.removeprefix("space."))] = given.pop(key)
    if not words:
        raise FeedpropError(
            f"feedprop sweep needs --space.OPTION with {FORMS}, or --space FILE; as in --space.optimizer.lr log:1e-3:1"
        )
    return words


def _full(option: str) -> str:
    return f"{option}.name" if option in KINDS else option


class Searched:
    """The options of `feedprop train` that all trials share, and those that are searched.

    Args:
        options: as given, {"model.name": "lenet", "epochs": "3"}
        words: the space as written

    Raises:
        FeedpropError: an option is unknown, or a value or an end of a range is refused.
    """

    def __init__(self, options: Options, words: Words) -> None:
        self.options = dict(options)
        self.words = dict(words)
        self.space: dict[str, BaseDistribution] = {}
        self._made: dict[tuple[tuple[str, Any], ...], Config] = {}  # making one takes a tenth of a second
        self._first = {option: _first(option, word) for option, word in self.words.items()}
        self._check()
        for option in self.words:
            self.space[option] = self._distribution(option)

    def first(self) -> Config:
        """Return one configuration."""
        return self.configuration(self._first)

    def configuration(self, values: Mapping[str, Any]) -> Config:
        """Return the configuration of a trial with these values."""
        key = tuple(values.items())
        if key not in self._made:
            self._made[key] = configure([], self.trial_options(values), command="sweep")
        return self._made[key]

    def trial_options(self, values: Mapping[str, Any]) -> Options:
        return overlay(self.options, dict(values))

    def draw(self, trial: Trial) -> dict[str, Any]:
        """Return the values that the sampler suggests."""
        return {option: _suggest(trial, option, distribution) for option, distribution in self.space.items()}

    def _check(self) -> None:
        """Refuse options that no value of the space could make right."""
        wrong = []
        for values in ({}, self._first):
            try:
                self.configuration(values)
            except FeedpropError as error:
                wrong.append(str(error))
            else:
                wrong.append("")
        if wrong[1]:
            raise FeedpropError(wrong[1] if wrong[0] == wrong[1] else f"the space: {wrong[1]}")

    def _distribution(self, option: str) -> BaseDistribution:
        word = self.words[option]
        found = _range(option, word)

        def accepted(value: Any) -> None:
            self.configuration({**self._first, option: value})

        if found is None:
            values = _values(option, word)
            for value in values:
                _explained(option, value, accepted)
            return CategoricalDistribution(values)
        log, low, high, step = found
        whole = all(isinstance(number, int) for number in (low, high, step) if number is not None)
        if whole and not _takes_reals(accepted, low, high):
            for end in (low, high):
                _explained(option, end, accepted)
            return IntDistribution(int(low), int(high), log=log, step=int(step or 1))
        for end in (float(low), float(high)):
            _explained(option, end, accepted)
        return FloatDistribution(float(low), float(high), log=log, step=None if step is None else float(step))


def _first(option: str, word: str | list[str]) -> Any:
    """Return one value of the space, with which the others are tried."""
    if option.split(".")[0] in ("output", "overwrite") or option in _FIXED:
        raise FeedpropError(f"--space.{option}: every trial has its own folder; search another option")
    found = _range(option, word)
    return _values(option, word)[0] if found is None else found[1]


def _range(option: str, word: str | list[str]) -> tuple[bool, float, float, float | None] | None:
    """Return whether a range is logarithmic, its ends and its step; None for anything else."""
    found = None if isinstance(word, list) else _RANGE.fullmatch(word)
    if found is None:
        return None
    low, high = _number(found[2]), _number(found[3])
    step = None if found[4] is None else _number(found[4])
    _check_range(option, str(word), low, high, step, log=bool(found[1]))
    return bool(found[1]), low, high, step


def _values(option: str, word: str | list[str]) -> list[str]:
    """Return the values of a list, A,[B,C],D."""
    values = word if isinstance(word, list) else _split(word)
    if isinstance(word, str) and len(values) == 1 and _BEGUN.fullmatch(word):
        raise FeedpropError(f"--space.{option} {word} is no range; write {FORMS}")
    if len(values) < 2:
        written = ",".join(values) or "nothing"
        raise FeedpropError(
            f"--space.{option} {written} leaves nothing to search; write {FORMS}, or --{option} {written}"
        )
    if len({*values}) < len(values) or "" in values:
        raise FeedpropError(f"--space.{option} {','.join(values)} has a value twice, or an empty one")
    return values


def _split(word: str) -> list[str]:
    """Split at commas that are in no brackets."""
    parts, depth = [""], 0
    for letter in word:
        depth += (letter in "[({") - (letter in "])}")
        if letter == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += letter
    return [part.strip() for part in parts]


def _number(text: str) -> float:
    return int(text) if re.fullmatch(r"[+-]?\d+", text) else float(text)


def _check_range(option: str, word: str, low: float, high: float, step: float | None, *, log: bool) -> None:
    wrong = ""
    if not low < high:
        wrong = f"{low:g} is not below {high:g}"
    elif log and low <= 0:
        wrong = "a logarithmic range must begin above 0"
    elif log and step is not None:
        wrong = "a logarithmic range has no step"
    elif step is not None and not 0 < step <= high - low:
        wrong = f"the step must be above 0 and at most {high - low:g}"
    if wrong:
        raise FeedpropError(f"--space.{option} {word}: {wrong}")


def _takes_reals(accepted: Callable[[Any], None], low: float, high: float) -> bool:
    """Whether the option takes a number between the ends that is not whole."""
    between = low + (high - low) * 0.4142
    try:
        accepted(between)
    except FeedpropError:
        return False
    return True


def _explained(option: str, value: Any, accepted: Callable[[Any], None]) -> None:
    try:
        accepted(value)
    except FeedpropError as error:
        raise FeedpropError(f"--space.{option.removesuffix('.name')}, value {value}: {error}") from error


def _suggest(trial: Trial, option: str, distribution: BaseDistribution) -> Any:
    if isinstance(distribution, FloatDistribution):
        return trial.suggest_float(
            option, distribution.low, distribution.high, step=distribution.step, log=distribution.log
        )
    if isinstance(distribution, IntDistribution):
        return trial.suggest_int(
            option, distribution.low, distribution.high, step=distribution.step, log=distribution.log
        )
    assert isinstance(distribution, CategoricalDistribution)
    return trial.suggest_categorical(option, distribution.choices)


def written(value: Any) -> str:
    """Return a value for people."""
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def described(values: Mapping[str, Any]) -> str:
    """Return the values of a trial on a line."""
    return "  ".join(f"{option.removesuffix('.name')} {written(value)}" for option, value in values.items())


def choices(words: Words) -> Sequence[tuple[str, str]]:
    """Return each option with each of its values."""
    return [
        (option, value)
        for option, word in words.items()
        for value in (word if isinstance(word, list) else _split(word))
    ]
