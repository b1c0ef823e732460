"""Images as the pages hold them: PNG files in base64."""

from __future__ import annotations

import base64
import io

import torch
from PIL import Image
from torch import Tensor


def brightness(image: Tensor) -> Tensor:
    """Return an image as bytes of the same shape, from its darkest number to its brightest."""
    low, high = image.min(), image.max()
    return ((image - low) / (high - low).clamp(min=1e-9) * 255).round().to(torch.uint8)


def encoded(pixels: Tensor) -> str:
    """Return the PNG of bytes (height, width), which are grey, or (height, width, 3)."""
    file = io.BytesIO()
    Image.fromarray(pixels.contiguous().numpy()).save(file, format="PNG", optimize=True)
    return base64.b64encode(file.getvalue()).decode()
