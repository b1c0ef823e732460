"""The whole state of a run in one file of numbers and JSON, so that it goes on to the same weights, bit for bit."""

from __future__ import annotations

import json
import random
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from feedprop.errors import FeedpropError

FORMAT = 2


def checksum(tensors: Mapping[str, Tensor], *texts: str) -> str:
    """Return a number that changes with any bit of the tensors, their names, or the texts."""
    found = 0
    for key in sorted(tensors):
        content = tensors[key].detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data
        found = zlib.crc32(content, zlib.crc32(key.encode(), found))
    for text in texts:
        found = zlib.crc32(text.encode(), found)
    return f"{found:08x}"


def pack(state: Any) -> bytes:
    """Return a state as the content of a safetensors file.

    Args:
        state: dictionaries, lists and tuples of tensors, arrays, numbers, text, booleans and None, nested.

    Raises:
        FeedpropError: the state holds anything else.
    """
    tensors: dict[str, Tensor] = {}
    plan = json.dumps(_plan(state, tensors))
    return save(tensors, metadata={"format": str(FORMAT), "plan": plan, "checksum": checksum(tensors, plan)})


def unpack(path: Path) -> Any:
    """Return the state in a file.

    Raises:
        FeedpropError: the file is damaged, or of another format.
    """
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            if metadata.get("format") != str(FORMAT):
                raise FeedpropError(f"{path} has another format; it was written by another version of feedprop")
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118  # no mapping
            if metadata["checksum"] != checksum(tensors, metadata["plan"]):
                raise ValueError("its content is not what was written")
            return _built(json.loads(metadata["plan"]), tensors)
    except (SafetensorError, OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise FeedpropError(f"{path} is damaged: {' '.join(str(error).split())}") from error


def _plan(value: Any, tensors: dict[str, Tensor]) -> Any:
    """Return a value in the types of JSON, each as [kind, content]; tensors are put aside under a number."""
    if value is None or isinstance(value, bool | int | float | str):
        return ["value", value]
    if isinstance(value, Tensor | np.ndarray):
        key = str(len(tensors))
        tensor = value.detach() if isinstance(value, Tensor) else torch.from_numpy(np.ascontiguousarray(value))
        tensors[key] = tensor.cpu().contiguous().clone()
        return ["tensor" if isinstance(value, Tensor) else "array", key]
    if isinstance(value, Mapping):
        return ["dict", [[_plan(key, tensors), _plan(item, tensors)] for key, item in value.items()]]
    if isinstance(value, list | tuple):
        kind = "list" if isinstance(value, list) else "tuple"
        return [kind, [_plan(item, tensors) for item in value]]
    if isinstance(value, np.generic):
        return ["value", value.item()]
    raise FeedpropError(f"a {type(value).__name__} cannot be kept in a checkpoint of a run")


def _built(plan: Any, tensors: Mapping[str, Tensor]) -> Any:
    kind, content = plan
    if kind == "dict":
        return {_built(key, tensors): _built(item, tensors) for key, item in content}
    if kind in ("list", "tuple"):
        items = [_built(item, tensors) for item in content]
        return items if kind == "list" else tuple(items)
    if kind == "tensor":
        return tensors[content]
    return tensors[content].numpy() if kind == "array" else content


def random_state() -> dict[str, Any]:
    """Return the state of all generators of random numbers that a run may use."""
    return {
        "python": random.getstate(),
        "numpy": np.random.get_state(),
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
    }


def set_random_state(state: Mapping[str, Any]) -> None:
    """Restore what `random_state` returned."""
    random.setstate(state["python"])
    np.random.set_state(state["numpy"])
    torch.set_rng_state(state["torch"])
    if state["cuda"] and torch.cuda.is_available():
        torch.cuda.set_rng_state_all(state["cuda"])
