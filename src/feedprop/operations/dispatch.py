"""Whether a mode sees the calls of functions that feedprop adds to torch's."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.overrides import has_torch_function


def listened_to(*tensors: Tensor) -> bool:
    """Whether a call with these tensors must go through `torch.overrides.handle_torch_function`.

    It must if a mode is active, such as the pass of an attached model, or if one is of a subclass of Tensor. Under
    torch.compile, has_torch_function ignores modes.
    """
    return has_torch_function(tensors) or torch._C._is_torch_function_mode_enabled()
