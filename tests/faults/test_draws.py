"""Drawn configurations, damaged folders and odd images: one sentence, nothing executed, nothing lost.

FEEDPROP_FAULTS says how many configurations are drawn, with three fifths as many folders and three tenths as many
images; continuous integration draws a few. Draw number so-and-so is always the same.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from faults import configurations, folders, pictures
from faults.places import furnish, mnist, remove_data
from faults.trials import ROOT, Trials, draws, fault, report


@pytest.fixture(autouse=True, scope="module")
def _data() -> Iterator[None]:
    yield
    remove_data()


def test_drawn_configurations(trials: Trials, tmp_path: Path) -> None:
    total, trained, faults = draws(40), 0, []
    for number in range(total):
        place = tmp_path / str(number)
        place.mkdir()
        furnish(place)
        drawn = configurations.draw(number, mnist=mnist())
        drawn.write(place)
        outcome = trials(drawn.words, place, path=[str(ROOT / "tests/support")])
        found = "executed" if (place / "ran").exists() else fault(outcome)
        if found is None and drawn.sound and outcome.code != 0:
            found = f"refused, but it is sound: {outcome.err[:100]}"
        if found is not None:
            faults.append((found, f"{number}: {drawn}"))
        trained += outcome.code == 0
        shutil.rmtree(place)
    assert not faults, report(faults, of=total)
    assert trained >= total / 2


def test_damaged_folders(trials: Trials, tmp_path: Path) -> None:
    total, faults, refused = draws(30, share=0.6), [], 0
    runs = tmp_path / "runs"
    runs.mkdir()
    folders.make_runs(trials, runs)
    for number in range(total):
        place = tmp_path / str(number)
        place.mkdir()
        case, outcome, lost = folders.attempt(number, trials, runs, place)
        if (found := fault(outcome) or lost) is not None:
            faults.append((found, str(case)))
        refused += outcome.code != 0
        shutil.rmtree(place)
    assert not faults, report(faults, of=total)
    assert refused >= total / 5


def test_odd_images(trials: Trials, tmp_path: Path) -> None:
    total, trained, faults = draws(6, share=0.3), 0, []
    for number in range(total):
        place = tmp_path / str(number)
        place.mkdir()
        what = pictures.write(number, place / "images")
        outcome = trials(pictures.words(number), place)
        outcomes = [("train", outcome)]
        if outcome.code == 0:
            trained += 1
            for words in ("evaluate run", "explain run", "prune run --samples 8"):
                outcomes += [(words, trials(words.split(), place))]
        faults += [(found, f"{words}, {what}") for words, outcome in outcomes if (found := fault(outcome)) is not None]
        shutil.rmtree(place)
    assert not faults, report(faults, of=total)
    assert trained >= total // 6
