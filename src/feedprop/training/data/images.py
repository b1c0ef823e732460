"""Image data sets: those of torchvision, held in memory where possible, and folders of images."""

from __future__ import annotations

import contextlib
import inspect
import os
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset, Subset
from torchvision import transforms  # type: ignore[import-untyped]  # torchvision ships no types
from torchvision.datasets import ImageFolder  # type: ignore[import-untyped]  # as above

from feedprop.errors import FeedpropError
from feedprop.training.command_line.components import Component
from feedprop.training.data.source import Source, split_off
from feedprop.training.data.tensors import TensorData

_FORMATS = ("JPEG", "PNG", "PPM", "BMP", "TIFF", "WEBP", "GIF")  # none that runs another program


def torchvision_source(component: Component) -> Source:
    """Load the training and test data of a class like those of torchvision; download what is missing."""
    train, test = _part(component, training=True), _part(component, training=False)
    names = getattr(train, "classes", None)
    held_train, held_test = in_memory(train), in_memory(test)
    if names is None:
        names = _label_names(held_train, component.name)
    return Source(held_train, held_test, classes=tuple(str(name) for name in names))


def image_folder(root: str, *, size: int = 64) -> Source:
    """Images in one folder per class, in root/train and root/test (or root/val), or directly in root.

    Without a folder test or val, a fifth of the images becomes the test set.

    Args:
        root: folder that holds these folders
        size: height and width to which the images are resized
    """
    base = Path(root)
    if not base.is_dir():
        raise FeedpropError(f"--data.root: there is no folder {root}")
    if base.resolve() == Path(base.resolve().anchor):
        raise FeedpropError(f"--data.root {root} is the whole file system; name a folder of images")
    if size < 1:
        raise FeedpropError(f"--data.size must be at least 1, but is {size}")
    transform = transforms.Compose([transforms.Resize((size, size)), transforms.ToTensor(), _three_channels])
    resized = f"images are resized to {size}x{size} pixels; --data.size changes that"
    tests = [base / name for name in ("test", "val") if (base / name).is_dir()]
    inside = base / "train" if (base / "train").is_dir() else base
    if inside == base and tests:
        raise FeedpropError(f"{base} holds {tests[0].name}, but no folder train")
    train = _folder(inside, transform)
    if len(train.classes) < 2:
        raise FeedpropError(
            f"{inside} must hold at least two folders, one per class, but holds {train.classes[0]} alone"
        )
    if not tests:
        rest, chosen = split_off(train, fraction=0.2, seed=0, name=str(base))
        held_out = f"{base} has no folder test or val, so a fifth of its images, drawn at random, is the test set"
        return Source(rest, chosen, classes=readable(train.classes), notes=(resized, held_out))
    test = _folder(tests[0], transform)
    if train.classes != test.classes:
        raise FeedpropError(f"{base}: the folders in train and {tests[0].name} differ, but each is a class")
    unused = [f"{base / 'val'} is not used: validation data is drawn from train"] if len(tests) > 1 else []
    return Source(train, test, classes=readable(train.classes), notes=(resized, *unused))


def read_image(path: str) -> Image.Image:
    """Return an image in colours of 8 bits.

    Raises:
        OSError: it is none, or too large.
        ValueError: its pixels have no known range.
    """
    if not os.path.isfile(path):
        raise OSError("it is not a file")  # a pipe would never end
    with warnings.catch_warnings(), open(path, "rb") as file:
        warnings.simplefilter("ignore")  # what it says of sizes and palettes
        try:
            image: Image.Image = Image.open(file, formats=_FORMATS)
            image.load()
        except Image.DecompressionBombError as error:
            raise OSError("it has too many pixels") from error
        if image.mode.startswith("I;16") or (image.mode == "I" and image.format == "PNG"):
            image = Image.fromarray((np.asarray(image).astype(np.int64) >> 8).astype(np.uint8))
        elif image.mode in ("I", "F"):
            raise ValueError("its pixels are 32-bit numbers, whose range is unknown; save it with 8 or 16 bits")
        return image.convert("RGB")


def readable(classes: Sequence[str]) -> tuple[str, ...]:
    """Return names of folders without bytes that are no text."""
    return tuple(name.encode(errors="surrogateescape").decode(errors="replace") for name in classes)


def in_memory(data: Dataset[Any]) -> Dataset[Any]:
    """Return data that is already in memory as bytes as one float tensor in [0, 1]; leave other data as it is."""
    pixels, labels = getattr(data, "data", None), getattr(data, "targets", getattr(data, "labels", None))
    if not isinstance(pixels, np.ndarray | Tensor) or labels is None:
        return data
    tensor = torch.as_tensor(pixels)
    if tensor.dtype != torch.uint8 or tensor.ndim not in (3, 4):
        return data
    if tensor.ndim == 3:
        tensor = tensor.unsqueeze(1)  # (N, H, W) -> (N, 1, H, W)
    elif tensor.shape[-1] in (1, 3, 4) and tensor.shape[1] not in (1, 3, 4):
        tensor = tensor.permute(0, 3, 1, 2)  # (N, H, W, C) -> (N, C, H, W)
    return TensorData(tensor.to(torch.float32).div_(255), torch.as_tensor(labels).long())


def _part(component: Component, *, training: bool) -> Dataset[Any]:
    target = component.target()
    accepted = inspect.signature(target).parameters
    given: dict[str, Any] = {}
    if "train" in accepted:
        given["train"] = training
    elif "split" in accepted:
        given["split"] = "train" if training else "test"
    else:
        raise FeedpropError(
            f"--data {component.name} has neither a parameter train nor split to tell its training data from its test "
            f"data; name a function that returns a feedprop.training.data.source.Source"
        )
    if "transform" in accepted:
        given["transform"] = transforms.ToTensor()
    try:
        data: Dataset[Any] = _construct(target, **component.arguments, **given)
    except (RuntimeError, FileNotFoundError) as error:
        if "download" not in accepted:
            raise FeedpropError(f"--data {component.name}: {error}") from error
        data = _download(component, given)
    return data


def _download(component: Component, given: dict[str, Any]) -> Dataset[Any]:
    root = component.arguments.get("root")
    before = _folders(root)
    try:
        data: Dataset[Any] = _construct(component.target(), **component.arguments, **given, download=True)
    except (RuntimeError, OSError) as error:
        for folder in sorted(_folders(root) - before, reverse=True):  # made for the download that failed
            with contextlib.suppress(OSError):
                folder.rmdir()
        reason = (str(error).strip().splitlines() or [type(error).__name__])[-1]
        raise FeedpropError(
            f"{component.name} is not in the folder {root} and cannot be downloaded ({reason}); put torchvision's "
            f"files there, or name another folder with --data.root or the environment variable FEEDPROP_DATA"
        ) from error
    return data


def _folders(root: Any) -> set[Path]:
    """Return the folder, if it exists, and all folders in it."""
    base = Path(str(root))
    return {path for path in (base, *base.rglob("*")) if path.is_dir()}


def _construct(target: Callable[..., Any], **arguments: Any) -> Any:
    """Make a data set; if it refuses its arguments, the user can correct them."""
    try:
        return target(**arguments)
    except (ValueError, TypeError) as error:
        raise FeedpropError(f"the data set {target.__name__} cannot be made: {error}") from error


def _folder(path: Path, transform: Callable[[Any], Tensor]) -> ImageFolder:
    try:
        return ImageFolder(str(path), transform=transform, loader=read_image)
    except FileNotFoundError as error:
        reason = str(error).splitlines()[0].rstrip(".")
        raise FeedpropError(f"--data.root {path} must hold one folder of images per class: {reason}") from error


def _three_channels(image: Tensor) -> Tensor:
    return image[:3] if len(image) >= 3 else image[:1].expand(3, -1, -1)


def _label_names(data: Dataset[Any], name: str) -> list[str]:
    """Return the numbers of the classes as their names."""
    if isinstance(data, TensorData):
        return [str(label) for label in range(int(data.targets.max()) + 1)]
    if isinstance(data, Subset):
        return _label_names(data.dataset, name)
    raise FeedpropError(f"--data {name} has no attribute classes with the names of its classes")
