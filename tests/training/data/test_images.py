"""torchvision's data sets, classes like them, and folders of images."""

from __future__ import annotations

import os
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from safetensors.torch import load_file

from feedprop.errors import FeedpropError
from feedprop.training.command_line.components import Component
from feedprop.training.data.images import read_image
from feedprop.training.data.splits import load


def _load(name, *, seed=0, fraction=0.1, **arguments):
    return load(Component("data", name, arguments), seed=seed, validation_fraction=fraction)


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


def test_torchvision_models_take_the_class_count_from_the_data(command, tmp_path):
    words = ["--data", "cifar_like.Colours", "--model", "torchvision.models.squeezenet1_1", "--epochs", 1]
    assert command("train", *words, "--output", "run", "--optimizer.lr", 0.01).code == 0
    state = load_file(tmp_path / "run/best.safetensors")
    assert state["classifier.1.weight"].shape[0] == 3


def test_image_folder_with_train_alone(command, tmp_path):
    _images(tmp_path / "images/train", count=10)
    words = ["--data", "image_folder", "--data.root", "images", "--data.size", 16, "--epochs", 1, "--output", "run"]
    answer = command("train", *words)
    assert answer.code == 0, answer.err
    assert "14 train, 2 validation, 4 test" in answer.out
    assert "note: images are resized to 16x16 pixels; --data.size changes that" in answer.out
    assert "note: images has no folder test or val, so a fifth of its images" in answer.out


def test_image_folder_with_all_three_parts(command, tmp_path):
    for part in ("train", "val", "test"):
        _images(tmp_path / "images" / part, count=10)
    answer = command("train", "--data", "image_folder", "--data.root", "images", "--epochs", 1, "--output", "run")
    assert "note: images/val is not used: validation data is drawn from train" in answer.out


@pytest.mark.parametrize(
    ("folders", "sentence"),
    [
        (["test/dark"], "holds test, but no folder train"),
        (["dark"], "at least two folders, one per class, but holds dark"),
    ],
)
def test_image_folder_that_lacks_something(command, tmp_path, folders, sentence):
    for folder in folders:
        (tmp_path / "images" / folder).mkdir(parents=True)
        Image.new("L", (12, 10)).save(tmp_path / "images" / folder / "0.png")
    assert sentence in command("train", "--data", "image_folder", "--data.root", "images").sentence


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("part", ["train", "test"])
def test_a_corrupted_image_is_found_before_the_first_step(command, tmp_path, part, workers):
    for folder in ("train", "test"):
        _images(tmp_path / "images" / folder, count=30)
    file = tmp_path / "images" / part / "light/29.png"
    file.write_bytes(file.read_bytes()[:-30])
    answer = command("train", "--data", "image_folder", "--data.root", "images", "--workers", workers)
    kind = {"train": "training", "test": "test"}[part]
    assert re.search(rf"sample \d+ of the {kind} data \(images/{part}/light/29.png\) cannot be read", answer.sentence)
    assert "epoch" not in answer.out
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("data", ["digits", "samples.Generated"])
def test_grey_images_in_a_model_that_takes_colours(command, tmp_path, data):
    words = ["--data", data, "--model", "samples.Coloured", "--epochs", 1, "--output", "run", "--optimizer.lr", 0.03]
    answer = command("train", *words)
    assert answer.code == 0, answer.err
    assert "note: the model samples.Coloured takes colours, so the channel of the grey images is repeated" in answer.out
    assert command("evaluate", "run", "--trust").code == 0
    assert command("check", *words[:4]).code == 0


def test_a_model_that_takes_neither_says_what_is_wrong_with_three_channels(command):
    answer = command("train", "--model", "torchvision.models.squeezenet1_1")
    assert "cannot take inputs of shape (3, 8, 8)" in answer.sentence


@pytest.mark.parametrize(("name", "kind"), [("x.png", np.uint16), ("x.tif", np.uint16)])
def test_sixteen_bits_are_scaled_and_not_cut_off(tmp_path, name, kind):
    Image.fromarray(np.array([[0, 256, 32768, 65535]], kind)).save(tmp_path / name)
    assert np.asarray(read_image(str(tmp_path / name)))[0, :, 0].tolist() == [0, 1, 128, 255]


def test_images_without_a_known_range_are_refused(tmp_path):
    Image.fromarray(np.zeros((2, 2), np.float32)).save(tmp_path / "x.tif")
    with pytest.raises(ValueError, match="whose range is unknown"):
        read_image(str(tmp_path / "x.tif"))


def test_what_is_no_file_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "x.png")
    with pytest.raises(OSError, match="it is not a file"):
        read_image(str(tmp_path / "x.png"))


def test_no_program_is_run_for_an_image(tmp_path):
    (tmp_path / "x.png").write_text("%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n")
    with pytest.raises(OSError, match="cannot identify image file"):
        read_image(str(tmp_path / "x.png"))


def test_the_whole_file_system_is_no_folder_of_images():
    with pytest.raises(FeedpropError, match="is the whole file system"):
        _load("image_folder", root="/")
