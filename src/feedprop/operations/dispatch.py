"""Whether a mode sees the calls of functions that feedprop adds to torch's."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.overrides import has_torch_function


def listened_to(*tensors: Tensor) -> bool:
    """Whether a call with these tensors is to be handed over by `torch.overrides.handle_torch_function`.

    To a mode, such as an attached model that runs, or to a subclass of Tensor. torch.compile says of has_torch_function
    that it is False where only a mode listens.
    """
    return has_torch_function(tensors) or torch._C._is_torch_function_mode_enabled()
