"""Data: what the sets are, that the parts never overlap, and that normalisation knows the training data alone."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from PIL import Image

from feedprop.training.command_line.components import Component
from feedprop.training.data.splits import Normalisation, TensorData, load, loader


def _load(name, *, seed=0, fraction=0.1, **arguments):
    return load(Component("data", name, arguments), seed=seed, validation_fraction=fraction)


def _positions(data):
    return set(data.indices.tolist())


@pytest.mark.parametrize("seed", [0, 1])
def test_no_sample_of_digits_is_in_two_parts(seed):
    splits = _load("digits", seed=seed)
    train, validation, test = (_positions(splits[part]) for part in ("train", "validation", "test"))
    assert not train & validation
    assert not (train | validation) & test
    assert len(train | validation | test) == 1797
    assert (len(train), len(validation), len(test)) == (1294, 144, 359)


def test_validation_depends_on_the_seed_and_the_test_set_does_not():
    first, second = _load("digits", seed=0), _load("digits", seed=1)
    assert _positions(first.validation) != _positions(second.validation)
    assert _positions(first.test) == _positions(second.test)


def test_validation_of_generated_data_is_no_part_of_its_test_set():
    splits = _load("blobs", points=100)
    seen = {tuple(point) for point in splits.train.inputs[splits.train.indices].tolist()}
    held = {tuple(point) for point in splits.validation.inputs[splits.validation.indices].tolist()}
    test = {tuple(point) for point in splits.test.inputs.tolist()}
    assert (len(seen), len(held), len(test)) == (90, 10, 100)
    assert not seen & held
    assert not (seen | held) & test


def test_normalisation_is_measured_on_training_data_alone():
    splits = _load("digits")
    inputs = splits.train.inputs[splits.train.indices]
    torch.testing.assert_close(inputs.mean(), torch.tensor(0.0), atol=1e-5, rtol=0)
    torch.testing.assert_close(inputs.std(), torch.tensor(1.0), atol=1e-5, rtol=0)
    assert abs(float(splits.test.inputs[splits.test.indices].mean())) > 1e-4


def test_normalisation_by_hand():
    normal = Normalisation((1.0, 0.0), (2.0, 1.0))
    assert normal(torch.tensor([[[3.0], [5.0]]])).tolist() == [[[1.0], [5.0]]]  # (3 - 1) / 2 and (5 - 0) / 1


@pytest.mark.parametrize(
    ("name", "points", "classes"), [("blobs", 1000, 2), ("circles", 10000, 2), ("swirls", 9999, 3)]
)
def test_toy_sets_have_the_published_sizes_and_even_classes(name, points, classes):
    splits = _load(name)
    assert len(splits.train) + len(splits.validation) == points
    counts = torch.bincount(splits.test.targets)
    assert len(counts) == classes
    assert counts.max() - counts.min() <= 1


def test_blobs_lie_where_they_should():
    data = _load("blobs", points=20000).test
    for label in (0, 1):
        points = data.inputs[data.targets == label]
        torch.testing.assert_close(points.mean(0), torch.full((2,), label + 1.0), atol=0.01, rtol=0)
        torch.testing.assert_close(points.std(0), torch.full((2,), 0.2), atol=0.01, rtol=0)


def test_circles_have_radius_one_and_the_factor():
    data = _load("circles", points=2000, noise=0.0).test
    radius = data.inputs.norm(dim=1)
    torch.testing.assert_close(radius[data.targets == 0], torch.ones(1000))
    torch.testing.assert_close(radius[data.targets == 1], torch.full((1000,), 0.05))


def test_swirls_turn_from_4j_to_4j_plus_4():
    data = _load("swirls", points=3000, noise=0.0).test
    radius = data.inputs.norm(dim=1)
    expected = 4 * (data.targets + radius)
    angle = torch.atan2(data.inputs[:, 0], data.inputs[:, 1])
    turns = (expected - angle) / (2 * math.pi)
    near = radius > 1e-3
    torch.testing.assert_close(turns[near], turns[near].round(), atol=1e-3, rtol=0)


def test_the_same_seed_gives_the_same_points():
    assert torch.equal(_load("swirls", seed=3).test.inputs, _load("swirls", seed=3).test.inputs)
    assert not torch.equal(_load("swirls", seed=3).test.inputs, _load("swirls", seed=4).test.inputs)


def test_batches_are_whole_and_shuffled_by_the_seed():
    data = TensorData(torch.arange(10.0)[:, None], torch.arange(10))
    orders = [torch.cat([y for _, y in loader(data, batch_size=4, shuffle_seed=seed)]) for seed in (0, 0, 1)]
    assert torch.equal(orders[0], orders[1])
    assert not torch.equal(orders[0], orders[2])
    assert sorted(orders[0].tolist()) == list(range(10))
    inputs, targets = next(iter(loader(data, batch_size=4)))
    assert (inputs.flatten().tolist(), targets.tolist()) == ([0, 1, 2, 3], [0, 1, 2, 3])


def test_no_training_batch_of_one_sample():
    data = TensorData(torch.arange(9.0)[:, None], torch.arange(9))
    assert [len(y) for _, y in loader(data, batch_size=4, shuffle_seed=0)] == [4, 4]
    assert [len(y) for _, y in loader(data, batch_size=4)] == [4, 4, 1]


@pytest.mark.parametrize("name", ["MNIST", "FashionMNIST"])
def test_fetched_images(fetched, name):
    short = {"MNIST": "mnist", "FashionMNIST": "fashion_mnist"}[name]
    splits = _load(short, root=fetched(name), fraction=0.25)
    assert [len(splits[part]) for part in ("train", "validation", "test")] == [45000, 15000, 10000]
    assert splits.train.inputs.shape[1:] == (1, 28, 28)
    assert splits.train.inputs is splits.validation.inputs
    assert len(splits.classes) == 10


def _images(folder: Path, *, count: int, mode: str = "RGB") -> None:
    for label, name in enumerate(("dark", "light")):
        (folder / name).mkdir(parents=True)
        for number in range(count):
            shade = 200 * label + number
            colour = {"RGB": (shade,) * 3, "L": shade, "RGBA": (shade,) * 4}[mode]
            Image.new(mode, (12, 10), colour).save(folder / name / f"{number}.png")


def test_image_folder_with_train_and_test(command, tmp_path):
    _images(tmp_path / "images/train", count=8)
    _images(tmp_path / "images/test", count=3)
    words = ["--data", "image_folder", "--data.root", "images", "--data.size", 16, "--model", "lenet"]
    answer = command("train", *words, "--epochs", 1, "--output", "run", "--workers", 1, "--batch_size", 8)
    assert answer.code == 0, answer.err
    assert "14 train, 2 validation, 6 test" in answer.out


@pytest.mark.parametrize("mode", ["RGB", "L", "RGBA"])
def test_image_folder_without_parts(tmp_path, mode):
    _images(tmp_path, count=10, mode=mode)
    splits = _load("image_folder", root=str(tmp_path), size=8)
    assert [len(splits[part]) for part in ("train", "validation", "test")] == [14, 2, 4]
    assert splits.train[0][0].shape == (3, 8, 8)
    assert splits.classes == ("dark", "light")


def test_image_folder_whose_parts_differ(command, tmp_path):
    _images(tmp_path / "images/train", count=2)
    _images(tmp_path / "images/val", count=2)
    (tmp_path / "images/val/dark").rename(tmp_path / "images/val/grey")
    assert "but each is a class" in command("train", "--data", "image_folder", "--data.root", "images").sentence


def test_image_folder_without_folders(command, tmp_path):
    (tmp_path / "images").mkdir()
    answer = command("train", "--data", "image_folder", "--data.root", "images")
    assert "must hold one folder of images per class" in answer.sentence


def test_a_label_out_of_range_in_a_worker_process_is_one_sentence(command):
    words = ["--data", "samples.Generated", "--data.bad_label", 5, "--workers", 1, "--data.size", 400]
    assert "label 9 of sample 5" in command("train", *words).sentence


def test_data_root_comes_from_the_environment(command, monkeypatch):
    monkeypatch.setenv("FEEDPROP_DATA", "/somewhere/else")
    answer = command("train", "--data", "mnist", "--help")
    assert "/somewhere/else" in answer.out
