"""The methods of a comparison, as --methods describes them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from feedprop.errors import FeedpropError
from feedprop.training.command_line.arguments import Options, configure, overlay
from feedprop.training.command_line.components import KINDS, nearest
from feedprop.training.command_line.config import Config, Settings, as_options, read_yaml
from feedprop.training.command_line.defaults import OBJECTIVES
from feedprop.training.comparison.plan import OWN_KINDS, Entry

FACTORS = (0.1, 0.3, 1.0, 3.0)  # times the default learning rate
# what a method may have of its own, beside OWN_KINDS; all else is shared
OWN_SETTINGS = ("clip_norm", "magnitude_floor", "relative_magnitude", "scheduler_interval")
LFP_SETTINGS = ("magnitude_floor", "relative_magnitude")


def numbers(name: str, text: Any, kind: type) -> list[Any] | None:
    """Return the numbers of 0,1,2 or [0,1,2]."""
    if text is None:
        return None
    parts = list(text) if isinstance(text, list | tuple) else str(text).strip().strip("[]").split(",")
    try:
        return [kind(part) for part in parts]
    except (TypeError, ValueError):
        what = "whole numbers" if kind is int else "numbers"
        raise FeedpropError(f"--{name} must be {what} such as {_EXAMPLES[kind]}, but is {text}") from None


_EXAMPLES = {int: "0,1,2", float: "0.01,0.03,0.1"}


def described(text: str) -> dict[str, Options]:
    """Return the options of each method, {label: {"method": "lfp", "rule.name": "presets.sparse"}}."""
    if text.endswith((".yaml", ".yml")):
        return _in_file(text)
    words: list[list[str]] = []
    for word in re.split(r",(?![^\[]*\])", text):
        head, colon, first = word.strip().partition(":")
        if colon or "=" not in head:
            words.append([head, *([first] if first else [])])
        elif words:
            words[-1].append(head)  # goes on with the options of the method before
        else:
            raise FeedpropError(f"--methods begins with {word}; write METHOD:{word}")
    found: dict[str, Options] = {}
    for method, *options in words:
        named = [option for option in options if not option.startswith("learning_rates=")]
        label = ":".join([method, *([",".join(named)] if named else [])])
        if label in found:
            raise FeedpropError(f"--methods names {label} twice; describe both in a YAML file, with a name for each")
        found[label] = {"method": method} | dict(_option(option, label) for option in options)
    return found


def _option(word: str, label: str) -> tuple[str, str]:
    key, equals, value = word.partition("=")
    if not equals:
        raise FeedpropError(f"--methods {label}: an option is KEY=VALUE, such as optimizer=Adam, but is {word}")
    return f"{key}.name" if key in KINDS else key, value


def _in_file(path: str) -> dict[str, Options]:
    found = {}
    for label, content in read_yaml(path).items():
        if not isinstance(content, dict | None):
            raise FeedpropError(f"{path}: {label} must hold the options of a method, but holds {content!r}")
        options = dict(content or {})
        rates = {"learning_rates": options.pop("learning_rates")} if "learning_rates" in options else {}
        found[str(label)] = {"method": str(label), **as_options(options, path=path), **rates}
    if not found:
        raise FeedpropError(f"{path} describes no method")
    return found


def entries(
    described: Mapping[str, Options], arguments: list[str], given: Options, rates: list[float] | None
) -> tuple[Entry, ...]:
    """Return the methods, each with the shared options that concern it and its own."""
    files = given.pop("config", [])
    concerned: set[str] = set()
    entries = []
    for label, options in described.items():
        method = options["method"]
        if method not in OBJECTIVES:
            hint = nearest(method, OBJECTIVES) or f"; known are {', '.join(OBJECTIVES)}"
            raise FeedpropError(f"--methods: there is no method {method}{hint}")
        own = {key: value for key, value in options.items() if key not in ("method", "learning_rates")}
        for key in own:
            _check_own(key, label)
        shared = {key: value for key, value in given.items() if _concerns(key, method)}
        concerned |= {*shared}
        try:
            foreign = {name: None for name in LFP_SETTINGS if files and method != "lfp"}  # what a file may have
            words = {"config": [*files], **foreign, **overlay(shared, own), "method": method}
            config = configure(arguments, words, command="compare")
            tried = numbers("learning_rates", options.get("learning_rates"), float) or rates or _around(config)
            entry = Entry(label, config, tuple(sorted(tried)))
            for rate in entry.rates:
                entry.of(seed=0, rate=rate)
        except FeedpropError as error:
            raise FeedpropError(f"{error} (method {label})" if own else str(error)) from error
        entries.append(entry)
    for key in given:
        if key not in concerned:
            raise FeedpropError(f"--{key.removesuffix('.name')} concerns none of the methods, {', '.join(described)}")
    return tuple(entries)


def _check_own(key: str, label: str) -> None:
    """Refuse what a method cannot have of its own."""
    kind = key.partition(".")[0]
    if key == "optimizer.lr" or key == "scheduler.max_lr":
        raise FeedpropError(f"--methods {label}: the rate is chosen; write learning_rates=[0.01,0.03,0.1]")
    if kind not in OWN_KINDS and key not in OWN_SETTINGS:
        known = [*OWN_KINDS, *OWN_SETTINGS, "learning_rates"]
        shared = kind in KINDS or key in {field.name for field in fields(Settings)}
        raise FeedpropError(
            f"--methods {label}: {key} is shared by all methods; give it as --{key.removesuffix('.name')}"
            if shared
            else f"--methods {label}: a method has no option {key}{nearest(key, known)}; its options are "
            f"{', '.join(known)}"
        )


def _concerns(key: str, method: str) -> bool:
    """Whether a shared option means anything for a method."""
    kind = key.partition(".")[0]
    special = {name.partition(".")[0] for options in OBJECTIVES.values() for name in options}
    if kind in special:
        return f"{kind}.name" in OBJECTIVES[method]
    return method == "lfp" or key not in LFP_SETTINGS


def _around(config: Config) -> list[float]:
    """Return rates around the optimizer's own."""
    optimizer = config.components["optimizer"]
    rate = optimizer.arguments.get("lr")
    if not isinstance(rate, int | float):
        raise FeedpropError(f"the optimizer {optimizer.name} has no default learning rate; give --learning_rates")
    return [float(f"{factor * rate:.3g}") for factor in FACTORS]
