"""Refuses modules that use parameters where no rule sees it."""

from __future__ import annotations

from torch import Tensor, nn

from feedprop.errors import FeedpropError

_REFUSED = {
    "FullyShardedDataParallel": "shard with torch.distributed.fsdp.fully_shard instead, which keeps them as they are",
    "SyncBatchNorm": "use nn.BatchNorm2d and its like, or a normalisation that needs no other samples",
    "ScriptModule": "attach the model that it was made from, and script or trace after detach",
    "DataParallel": "use torch.nn.parallel.DistributedDataParallel instead",
}


def refuse_unsupported(model: nn.Module) -> None:
    """Raise if `model` contains a module that uses parameters where no rule sees it."""
    for path, module in model.named_modules():
        for kind in type(module).__mro__:
            if kind.__module__.startswith("torch.") and kind.__name__ in _REFUSED:
                raise FeedpropError(_hides(f"{kind.__name__} ({path or 'the model itself'})", kind.__name__))


def refuse_flat_parameters(module: nn.Module) -> None:
    """Raise if FullyShardedDataParallel has replaced parameters by pieces of a flat one."""
    flat = [value for value in vars(module).values() if isinstance(value, Tensor) and value.requires_grad]
    if flat or any(hasattr(weight, "_is_flat_param") for weight in module._parameters.values()):
        raise FeedpropError(_hides("FullyShardedDataParallel", "FullyShardedDataParallel"))


def _hides(what: str, kind: str) -> str:
    return (
        f"{what} uses parameters where the rules cannot see it, so that they would get plain gradients; "
        f"{_REFUSED[kind]}"
    )
