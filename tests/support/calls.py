"""Arguments with which to call every function of the operations table, by name.

A value is the tuple of arguments after the input x, or a function of x that returns all arguments (and keywords).
x has the shape (2, 3, 4, 4) unless `SHAPES` gives another, and is standard normal unless `DOMAINS` gives another.
"""

from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

PLACES = (torch, Tensor, functional, torch.special, torch.linalg, torch.fft, torch._C._nn)

SHAPES: dict[str, tuple[int, ...]] = {}
for _shape, _names in (
    ((3, 4), "adjoint mH mT addmm linear cross_entropy nll_loss"),
    ((4, 4), "H T t diag trace chain_matmul mv rot90 multi_dot mm block_diag"),
    (
        (2, 3, 8),
        "max_pool1d adaptive_max_pool1d avg_pool1d adaptive_avg_pool1d max_unpool1d dropout1d max_pool1d_with_indices",
    ),
    ((2, 12, 4), "adaptive_max_pool1d_with_indices fold"),
    (
        (2, 3, 4, 4, 4),
        "max_pool3d max_pool3d_with_indices adaptive_max_pool3d adaptive_max_pool3d_with_indices avg_pool3d",
    ),
    ((2, 3, 4, 4, 4), "adaptive_avg_pool3d dropout3d fractional_max_pool3d max_unpool3d"),
    ((4,), "segment_reduce"),
    ((2, 4, 3, 3), "pixel_shuffle channel_shuffle hsplit"),
):
    SHAPES |= dict.fromkeys(_names.split(), _shape)

POSITIVE = {"log", "log2", "log10", "log1p", "sqrt", "rsqrt", "reciprocal", "acosh", "arccosh"}
FRACTION = {"acos", "arccos", "asin", "arcsin", "atanh", "arctanh", "logit"}


def domain(name: str, x: Tensor) -> Tensor:
    """Return values at which the function is defined, away from its poles."""
    if name in POSITIVE:
        return x.abs() + 1.1
    return x.tanh().mul(0.8).add(1).div(2) if name in FRACTION else x


def _each(names: str, value: Any) -> dict[str, Any]:
    return dict.fromkeys(names.split(), value)


def _lowered(x: Tensor) -> Tensor:
    return torch.zeros(x.shape, dtype=torch.bool).index_fill(0, torch.tensor([1]), True)


INDEX = torch.tensor([1, 0])
GRID = torch.linspace(-0.9, 0.9, 18, dtype=torch.float64).view(1, 3, 3, 2).expand(2, 3, 3, 2)

ORDINARY: dict[str, Any] = {
    **_each(
        """adjoint clone contiguous cpu flatten H mH mT T positive ravel resolve_conj resolve_neg real squeeze t
        neg negative fliplr flipud atleast_1d atleast_2d atleast_3d diag nan_to_num sort msort median aminmax
        leaky_relu rrelu std var var_mean std_mean tril triu zero_ max min amax amin diag_embed diagonal unbind
        rot90 mode norm vector_norm matrix_norm square sqrt rsqrt reciprocal matrix_exp""",
        (),
    ),
    **_each("fft ifft fft2 ifft2 fftn ifftn rfft irfft rfft2 irfft2 rfftn irfftn hfft ihfft fftshift ifftshift", ()),
    **_each("chunk dsplit hsplit vsplit split tensor_split pixel_unshuffle pow __pow__", (2,)),
    **_each("cuda pin_memory resize", "elsewhere"),
    **_each("softmax log_softmax softmin cummax cummin", (1,)),
    **_each("dropout alpha_dropout feature_dropout feature_alpha_dropout", (0.4, True)),
    **_each("dropout1d dropout2d dropout3d", (0.4, True)),
    **_each("maximum minimum fmax fmin", lambda x: (x, x.flip(0) * 0.9)),
    **_each(
        "cat concat concatenate column_stack dstack hstack vstack stack",
        lambda x: ([x, x.flip(0) * 2],),
    ),
    **_each("max_pool1d max_pool2d max_pool3d", (2,)),
    **_each("max_pool1d_with_indices max_pool2d_with_indices max_pool3d_with_indices", (2,)),
    **_each("adaptive_max_pool1d adaptive_max_pool2d adaptive_max_pool3d", (2,)),
    **_each(
        """adaptive_max_pool1d_with_indices adaptive_max_pool2d_with_indices adaptive_max_pool3d_with_indices""",
        (2,),
    ),
    **_each("movedim moveaxis swapaxes swapdims transpose", (1, 2)),
    **_each("permute tile repeat", lambda x: (x, (0, 2, 1, 3))),
    **_each("broadcast_to expand reshape view", lambda x: (x, (2, 3, 4, 4))),
    **_each("expand_as reshape_as view_as copy_", lambda x: (x, torch.ones(2, 3, 4, 4))),
    "as_strided": ((3, 4), (4, 1)),
    "block_diag": lambda x: (x, x * 2),
    "broadcast_tensors": lambda x: (x, x[:1] * 2),
    "chain_matmul": lambda x: (x, torch.ones(4, 2)),
    "channel_shuffle": (2,),
    "fill_": lambda x: (x, torch.tensor(2.0)),
    "flip": ((1,),),
    "gather": (0, torch.zeros(1, 3, 4, 4, dtype=torch.long)),
    "index_copy": lambda x: (x, 0, INDEX, x * 2),
    "index_fill": (0, INDEX[:1], 0.0),
    "index_put": lambda x: (x, (INDEX,), x * 2),
    "index_select": (0, INDEX),
    "masked_fill": lambda x: (x, _lowered(x), 0.0),
    "masked_scatter": lambda x: (x, _lowered(x), x * 2),
    "masked_select": lambda x: (x, _lowered(x)),
    "narrow": (1, 1, 2),
    "pixel_shuffle": (2,),
    "repeat_interleave": (2, 1),
    "roll": (1, 2),
    "scatter": lambda x: (x, 0, torch.zeros(1, 3, 4, 4, dtype=torch.long), x[:1] * 2),
    "select": (1, 0),
    "slice_scatter": lambda x: (x, x[:1] * 2, 0, 0, 1),
    "select_scatter": lambda x: (x, x[0] * 2, 0, 1),
    "split_with_sizes": ((1, 1),),
    "take": (torch.tensor([0, 5, 7]),),
    "take_along_dim": (torch.zeros(1, 3, 4, 4, dtype=torch.long), 0),
    "unflatten": (1, (3, 1)),
    "unfold": lambda x: (x, 2, 2, 1),
    "unsqueeze": (1,),
    "__getitem__": ((0, slice(1, None), ..., 2),),
    "__setitem__": lambda x: (x, (0, 1), x[1, 0] * 3),
    "pad": ((1, 2),),
    "complex": lambda x: (x, x * 2),
    "view_as_complex": lambda x: (x.reshape(2, 3, 8, 2),),
    "view_as_real": lambda x: (torch.view_as_complex(x.reshape(2, 3, 8, 2)),),
    "norm_except_dim": (2, 1),
    "_weight_norm": lambda x: (x, x[:, :1, :1, :1].abs() * 2, 0),
    "meshgrid": lambda x: (x[0, 0, 0], x[0, 0, 1]),
    "max_unpool1d": lambda x: (x[..., :4], torch.arange(0, 8, 2).expand(2, 3, 4), 2),
    "max_unpool2d": lambda x: (x, torch.arange(0, 64, 4).view(4, 4).expand(2, 3, 4, 4), 2),
    "max_unpool3d": lambda x: (x, torch.arange(0, 512, 8).view(4, 4, 4).expand(2, 3, 4, 4, 4), 2),
    "fractional_max_pool2d": lambda x: ((x, 2, 3), {"_random_samples": torch.full((2, 3, 2), 0.5)}),
    "fractional_max_pool3d": lambda x: ((x, 2, 2), {"_random_samples": torch.full((2, 3, 3), 0.5)}),
    "topk": (2,),
    "kthvalue": (2,),
    "prelu": lambda x: (x, torch.tensor([0.1, 0.2, 0.3])),
    "gumbel_softmax": (1.0, False, 1e-10, 1),
    "cross_entropy": lambda x: (x, torch.tensor([0, 1, 3])),
    "nll_loss": lambda x: (x, torch.tensor([0, 1, 3])),
    **_each(
        "binary_cross_entropy_with_logits mse_loss l1_loss smooth_l1_loss huber_loss",
        lambda x: (x, torch.full((2, 3, 4, 4), 0.25)),
    ),
}

SUMMED: dict[str, Any] = {
    **_each("add sub subtract", lambda x: (x, x.flip(0) * 2)),
    **_each("__rsub__ rsub __iadd__ __isub__", lambda x: (x, x.flip(0) * 2)),
    **_each("sum mean nansum nanmean trace", ()),
    **_each("cumsum logcumsumexp logsumexp", (1,)),
    "normalize": (2.0, 1),
    "lerp": lambda x: (x, x.flip(0) * 2, 0.3),
    **_each("avg_pool1d avg_pool2d avg_pool3d", (2,)),
    **_each("adaptive_avg_pool1d adaptive_avg_pool2d adaptive_avg_pool3d", (2,)),
    **_each("interpolate upsample upsample_nearest", ((8, 8),)),
    "upsample_bilinear": ((8, 8),),
    "grid_sample": lambda x: (x, GRID, "bilinear", "zeros", True),
    "index_add": lambda x: (x, 0, INDEX, x * 2),
    "scatter_add": lambda x: (x, 0, torch.zeros(1, 3, 4, 4, dtype=torch.long), x[:1] * 2),
    "fold": ((4, 4), (2, 2), 1, 0, 2),
    "segment_reduce": lambda x: ((x, "sum"), {"lengths": torch.tensor([1, 3])}),
}  # fmt: skip

SELECTED: dict[str, Any] = {"where": lambda x: (_lowered(x), x, x * 2)}
CONVERSION: dict[str, Any] = {
    "double": (),
    **_each("to type", (torch.float64,)),
    "type_as": lambda x: (x, torch.ones(2, 3, 4, 4)),
    **_each("float bfloat16 half int long", "elsewhere"),
}

SECANT: dict[str, Any] = {
    **_each(
        """tanh sigmoid elu selu celu gelu silu mish softplus softsign tanhshrink softshrink hardshrink hardtanh relu6
        hardswish hardsigmoid logsigmoid abs absolute exp exp2 expm1 log log1p log2 log10 erf erfc
        sin cos tan sinh cosh asinh arcsinh acosh arccosh atan arctan asin arcsin acos arccos atanh arctanh sinc
        sign sgn round floor ceil trunc fix frac logit expit i0""",
        (),
    ),
    **_each("threshold _threshold", (0.1, 0.0)),
    **_each("clamp clip", (-0.5, 0.7)),
    **_each("clamp_min clamp_max", (0.2,)),
    "heaviside": lambda x: (x, torch.zeros(())),
}


def _named(value: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    return value if len(value) == 2 and isinstance(value[1], dict) else (value, {})


def calls(table: dict[str, Any], name: str) -> Iterator[tuple[str, Callable[[Tensor], Any]]]:
    """Yield every out-of-place spelling of a name that can be called, as (spelling, function of x)."""
    value = table[name]

    def call(function: Callable[..., Any]) -> Callable[[Tensor], Any]:
        def run(x: Tensor) -> Any:
            args, kwargs = _named(value(x)) if callable(value) else ((x, *value), {})
            return function(*args, **kwargs)

        return run

    for place in PLACES:
        found = getattr(place, name, None)
        if found is None or isinstance(found, ModuleType):  # torch.fft
            continue
        if not callable(found):
            yield f"{place.__name__}.{name}", lambda x: getattr(x, name)
        else:
            yield f"{place.__name__}.{name}", call(found)
