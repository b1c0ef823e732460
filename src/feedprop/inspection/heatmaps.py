"""Pictures of relevance: images, text and spikes. What is below 0 has the cold colours, what is above 0 the warm ones.

Colours are computed with torch alone. Files need Pillow, text in the terminal needs rich, spikes need matplotlib: the
extra "explain".
"""

from __future__ import annotations

import html
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from feedprop.errors import FeedpropError, shape_or_type

# colours at equal distances from -1 to 1; names and colours as in zennit and matplotlib
COLOURS: dict[str, tuple[str, ...]] = {
    "coldnhot": ("00ffff", "0000ff", "000000", "ff0000", "ffff00", "ffffff"),
    "bwr": ("0000ff", "ffffff", "ff0000"),
    "seismic": ("00004d", "0000ff", "ffffff", "ff0000", "800000"),
    "france": ("0055a4", "ffffff", "ef4135"),
    "gray": ("000000", "ffffff"),
}
_PLACES = {"coldnhot": (-1.0, -0.5, 0.0, 1 / 3, 2 / 3, 1.0)}


def heatmap(relevance: Tensor, *, colours: str = "coldnhot", largest: float | Tensor | None = None) -> Tensor:
    """Return colours, uint8 (..., height, width, 3), for relevance (..., height, width), 0 in the middle.

    Args:
        relevance: sum over the channels of an image before.
        colours: "coldnhot" (black is 0), "seismic", "bwr", "france" (white is 0) or "gray".
        largest: absolute relevance at the ends of the colours, a number or one for each image. If not given, that of
            the strongest half percent of each image, since single pixels would darken all others.

    Raises:
        FeedpropError: relevance is not finite, or shapes, `largest` or `colours` do not fit.
    """
    if not isinstance(relevance, Tensor) or relevance.ndim < 2 or not relevance.is_floating_point():
        kind = (
            f"{relevance.dtype} {tuple(relevance.shape)}" if isinstance(relevance, Tensor) else shape_or_type(relevance)
        )
        raise FeedpropError(f"a heatmap takes relevance (..., height, width), got {kind}")
    values = _finite(relevance)
    if largest is None:
        scale = _strong(values.abs().flatten(-2))[..., None, None]
    else:
        scale = torch.as_tensor(largest, dtype=torch.float64).cpu()
        if not bool((scale >= 0).all()) or scale.shape not in (scale.shape[:0], values.shape[:-2]):
            raise FeedpropError(
                f"largest must be a number, 0 or more, or one for each image, shape {tuple(values.shape[:-2])}, not "
                f"{largest!r}"
            )
        scale = scale if scale.ndim == 0 else scale[..., None, None]
    scaled = (values / torch.where(scale == 0, 1.0, scale)).clamp(-1, 1)
    return _coloured(scaled, colours)


def _finite(relevance: Tensor) -> Tensor:
    """Return relevance in float64 on the CPU; refuse what has no colour."""
    values = relevance.detach().double().cpu()
    wrong = int((~values.isfinite()).sum())
    if wrong:
        raise FeedpropError(
            f"{wrong} of {values.numel()} relevances are NaN or infinite and have no colour; look for NaN in the "
            f"inputs and the outputs of the model"
        )
    return values


def _strong(sizes: Tensor) -> Tensor:
    """Return the least of the largest half percent in the last dimension, at least one; the largest if that is 0."""
    if not sizes.shape[-1]:
        return sizes.new_zeros(sizes.shape[:-1])
    number = sizes.shape[-1]
    strong = sizes.kthvalue(number - max(number // 200, 1) + 1, dim=-1).values
    return torch.where(strong == 0, sizes.amax(-1), strong)


def _coloured(values: Tensor, colours: str) -> Tensor:
    """Return the colours of values from -1 to 1, uint8 (..., 3)."""
    if colours not in COLOURS:
        raise FeedpropError(f"colours must be one of {', '.join(COLOURS)}, not {colours!r}")
    codes = COLOURS[colours]
    places = torch.tensor(_PLACES.get(colours) or torch.linspace(-1, 1, len(codes)).tolist(), dtype=torch.float64)
    rows = torch.tensor([[int(code[at : at + 2], 16) for at in (0, 2, 4)] for code in codes], dtype=torch.float64)
    after = torch.searchsorted(places, values.contiguous()).clamp(1, len(codes) - 1)
    left, right = places[after - 1], places[after]
    weight = ((values - left) / (right - left))[..., None]
    return (rows[after - 1] * (1 - weight) + rows[after] * weight).round().to(torch.uint8)


def tiled(images: Tensor, *, columns: int | None = None, gap: int = 2) -> Tensor:
    """Return images, uint8 (number, height, width, 3), side by side as one, with white lines between them."""
    if images.ndim != 4 or images.shape[-1] != 3 or images.dtype is not torch.uint8:
        raise FeedpropError(
            f"tiled() takes images (number, height, width, 3) of bytes, got {images.dtype} {tuple(images.shape)}"
        )
    number, height, width, _ = images.shape
    if not number or (columns is not None and columns < 1) or gap < 0:
        raise FeedpropError(
            f"tiled() takes at least one image, at least one column and a gap of 0 or more, got {number} images, "
            f"columns={columns} and gap={gap}"
        )
    columns = columns or math.ceil(math.sqrt(number))
    rows = math.ceil(number / columns)
    sheet = torch.full((rows * (height + gap) - gap, columns * (width + gap) - gap, 3), 255, dtype=torch.uint8)
    for place, image in enumerate(images):
        top, left = place // columns * (height + gap), place % columns * (width + gap)
        sheet[top : top + height, left : left + width] = image
    return sheet


def save(image: Tensor, path: str | Path, *, enlarge: int = 1) -> None:
    """Write an image, uint8 (height, width, 3), to a file whose format its ending says; needs Pillow.

    Args:
        image: as `heatmap` and `tiled` return it.
        path: such as "heatmap.png".
        enlarge: side of the square that each pixel becomes.
    """
    if image.ndim != 3 or image.shape[-1] != 3 or image.dtype is not torch.uint8:
        raise FeedpropError(
            f"save() takes one image (height, width, 3), got {tuple(image.shape)}; tiled() joins several"
        )
    if enlarge < 1 or not image.numel():
        raise FeedpropError(
            f"save() takes an image with pixels and enlarge >= 1, got {tuple(image.shape)} and {enlarge}"
        )
    picture: Any = _needed("PIL.Image")
    if Path(path).suffix.lower() not in picture.registered_extensions():
        raise FeedpropError(f"{path} does not end in the format of an image, such as .png")
    image = image.repeat_interleave(enlarge, 0).repeat_interleave(enlarge, 1)
    picture.fromarray(image.contiguous().numpy()).save(path)


def text_html(tokens: Sequence[str], relevance: Tensor, *, largest: float | None = None) -> str:
    """Return tokens as HTML, each on the colour of its relevance (positions,); a number shows on hovering."""
    parts = []
    for token, value, colour in zip(tokens, *_of_tokens(tokens, relevance, largest), strict=True):
        parts.append(f'<span style="background:#{colour};color:#000" title="{value:+.3g}">{html.escape(token)}</span>')
    return f'<p style="line-height:1.8;white-space:pre-wrap;font-family:monospace">{"".join(parts)}</p>'


def text_terminal(tokens: Sequence[str], relevance: Tensor, *, largest: float | None = None) -> Any:
    """Return tokens as a `rich.text.Text`, each on the colour of its relevance (positions,); needs rich."""
    rich: Any = _needed("rich.text")
    text = rich.Text()
    for token, _, colour in zip(tokens, *_of_tokens(tokens, relevance, largest), strict=True):
        text.append(token, style=f"#000000 on #{colour}")
    return text


def _of_tokens(tokens: Sequence[str], relevance: Tensor, largest: float | None) -> tuple[list[float], list[str]]:
    """Return the relevance of each token and its colour."""
    if not isinstance(relevance, Tensor) or relevance.shape != (len(tokens),):
        raise FeedpropError(
            f"{len(tokens)} tokens need relevance of shape ({len(tokens)},), one sample, got {shape_or_type(relevance)}"
        )
    if not all(isinstance(token, str) for token in tokens):
        raise FeedpropError("tokens must be strings; look them up in the vocabulary first")
    colours = heatmap(relevance[None].double(), colours="bwr", largest=largest)[0]
    faint = (255 - (255 - colours.double()) * 0.7).round().int().tolist()  # so that black letters can be read
    return relevance.tolist(), ["".join(f"{part:02x}" for part in row) for row in faint]


def spikes(
    fired: Tensor, relevance: Tensor, *, sample: int = 0, title: str = "", size: tuple[float, float] = (7.0, 3.5)
) -> Any:
    """Draw when each neuron of one sample fired, each spike in the colour of its relevance; needs matplotlib.

    Args:
        fired: spikes (time, batch, ...).
        relevance: shaped like them, as `Relevance.modules` has it.
        sample: which one of the batch.
        title: above the figure.
        size: of the figure, in inches.

    Returns a `matplotlib.figure.Figure`.
    """
    if fired.ndim < 3 or fired.shape != relevance.shape:
        raise FeedpropError(
            f"spikes and their relevance must have one shape (time, batch, neurons, ...), got {tuple(fired.shape)} and "
            f"{tuple(relevance.shape)}"
        )
    if not 0 <= sample < fired.shape[1]:
        raise FeedpropError(f"sample must be from 0 to {fired.shape[1] - 1}, the last of the batch, not {sample!r}")
    figures: Any = _needed("matplotlib.figure")
    rows, shares = (values.detach()[:, sample].flatten(1).cpu() for values in (fired, relevance))
    at = torch.nonzero(rows, as_tuple=True)
    found = _finite(shares[at])
    largest = float(found.abs().max()) if len(found) else 0.0
    figure = figures.Figure(figsize=size, layout="constrained")
    axes = figure.add_subplot()
    order = found.abs().argsort()  # the strongest on top
    marker = max(2.0, min(60.0, 6000 / rows.shape[1]))
    drawn = axes.scatter(
        *(at[0][order].tolist(), at[1][order].tolist()),
        c=found[order].tolist(),
        s=marker,
        marker="|",
        cmap="coolwarm",
        vmin=-largest or -1.0,
        vmax=largest or 1.0,
    )
    axes.set(xlabel="step", ylabel="neuron", xlim=(-0.5, rows.shape[0] - 0.5), ylim=(-0.5, rows.shape[1] - 0.5))
    axes.set_title(title)
    axes.locator_params(axis="x", integer=True)
    figure.colorbar(drawn, ax=axes, label="relevance")
    return figure


def _needed(name: str) -> Any:
    """Import a module of the extra "explain"."""
    import importlib

    try:
        return importlib.import_module(name)
    except ImportError:
        raise FeedpropError(
            f"this picture needs {name.partition('.')[0]}, which is not installed; pip install 'feedprop[explain]'"
        ) from None
