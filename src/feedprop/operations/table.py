"""One table: torch function -> how credit passes it.

Every spelling of a function counts (`torch.tanh`, `Tensor.tanh`, `F.tanh`, `Tensor.tanh_`); the names below are looked
up in all of torch's name spaces. To add an operation, add its name to the line of its handler.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from feedprop.operations import attention, elementwise, normalisation, products, recurrent, registry, self_gated
from feedprop.operations.in_place import in_place, optionally_in_place
from feedprop.operations.registry import HANDLERS, Function, Handler, Limits

# Shapes, selections, piecewise linear maps through 0, transforms, what must be differentiated: as in autograd.
ORDINARY = """
    adjoint as_strided atleast_1d atleast_2d atleast_3d broadcast_tensors broadcast_to cat chunk clone column_stack
    concat concatenate contiguous copy_ cpu cuda diag diag_embed diagonal dsplit dstack expand expand_as flatten flip
    fliplr flipud gather hsplit hstack index_copy index_fill index_put index_select masked_fill
    masked_scatter masked_select movedim moveaxis mH mT T H narrow neg negative permute pin_memory ravel
    pixel_shuffle pixel_unshuffle channel_shuffle real repeat repeat_interleave reshape reshape_as resolve_conj
    resolve_neg roll rot90 scatter select slice_scatter select_scatter split split_with_sizes squeeze stack swapaxes
    swapdims t take take_along_dim tensor_split tile transpose tril triu unbind unflatten unfold unsqueeze view view_as
    vsplit vstack view_as_complex view_as_real complex
    __getitem__ __setitem__ pad zero_ fill_ chain_matmul block_diag nan_to_num positive resize meshgrid
    max_pool1d max_pool2d max_pool3d max_pool1d_with_indices max_pool2d_with_indices max_pool3d_with_indices
    adaptive_max_pool1d adaptive_max_pool2d adaptive_max_pool3d max_unpool1d max_unpool2d max_unpool3d
    adaptive_max_pool1d_with_indices adaptive_max_pool2d_with_indices adaptive_max_pool3d_with_indices
    fractional_max_pool2d fractional_max_pool3d max min amax amin maximum minimum fmax fmin median mode sort topk
    kthvalue msort cummax cummin aminmax dropout dropout1d dropout2d dropout3d alpha_dropout feature_dropout
    feature_alpha_dropout
    leaky_relu rrelu prelu softmax log_softmax softmin gumbel_softmax
    matrix_exp
    var std var_mean std_mean norm vector_norm matrix_norm norm_except_dim _weight_norm
    fft ifft fft2 ifft2 fftn ifftn rfft irfft rfft2 irfft2 rfftn irfftn hfft ihfft fftshift ifftshift
    cross_entropy nll_loss binary_cross_entropy_with_logits mse_loss l1_loss smooth_l1_loss huber_loss
"""
# Of the above: they only move values.
MOVING = """
    as_strided broadcast_to cat chunk clone column_stack concat concatenate contiguous diagonal dsplit dstack expand
    expand_as flatten flip fliplr flipud gather hsplit hstack index_select movedim moveaxis mH mT T H narrow permute
    ravel pixel_shuffle pixel_unshuffle channel_shuffle repeat reshape reshape_as roll select split split_with_sizes
    squeeze stack swapaxes swapdims t take_along_dim tensor_split tile transpose unbind unflatten unfold unsqueeze view
    view_as vsplit vstack __getitem__ cpu cuda
"""
# Contributions are added up: the ordinary backward, damped.
SUMMED = """
    add sub subtract __rsub__ rsub __iadd__ __isub__ sum mean nansum nanmean cumsum logcumsumexp logsumexp trace
    lerp
    avg_pool1d avg_pool2d avg_pool3d adaptive_avg_pool1d adaptive_avg_pool2d adaptive_avg_pool3d
    interpolate upsample upsample_nearest upsample_bilinear grid_sample index_add scatter_add fold segment_reduce
"""
# Normalisations and lookups: the same, and the output is an activation whatever went in.
LAYER = """
    batch_norm layer_norm group_norm instance_norm rms_norm native_layer_norm native_group_norm
    embedding embedding_bag
"""
# Elementwise, with phi(0) = 0 from both sides (or no limit there, where the paper's secant is all there is).
THROUGH_ZERO = """
    tanh elu selu celu gelu silu mish softsign tanhshrink softshrink hardshrink hardswish abs absolute expm1 log log1p
    log2 log10 erf sin tan sinh asinh arcsinh atan arctan asin arcsin atanh arctanh acosh arccosh round trunc fix frac
    logit
"""
# The other activations, with what their further arguments make of their limits at 0.
AT_ZERO: dict[str, Callable[..., Limits]] = {
    "sigmoid expit hardsigmoid": lambda **_: (0.5, 0.5),
    "softplus": lambda beta=1.0, threshold=20.0: (math.log(2) / beta,) * 2,
    "logsigmoid": lambda: (-math.log(2),) * 2,
    "exp exp2 cos cosh erfc sinc i0": lambda: (1.0, 1.0),
    "acos arccos": lambda: (math.pi / 2,) * 2,
    "sign sgn": lambda: (-1.0, 1.0),
    "heaviside": lambda values: (0.0, 1.0),
    "floor": lambda: (-1.0, 0.0),
    "ceil": lambda: (0.0, 1.0),
    "hardtanh": lambda min_val=-1.0, max_val=1.0: (min(max(0.0, min_val), max_val),) * 2,
    "relu6": lambda: (0.0, 0.0),
    "clamp clip": lambda min=None, max=None: _clamped(min, max),
    "clamp_min": lambda min: _clamped(min, None),
    "clamp_max": lambda max: _clamped(None, max),
    "threshold _threshold": lambda threshold, value: (
        (value,) * 2 if threshold > 0 else (value if threshold == 0 else 0.0, 0.0)
    ),
}
NON_NEGATIVE = "sigmoid expit hardsigmoid softplus exp exp2 abs absolute heaviside relu6"
PARTIAL = "log log1p log2 log10 logit asin arcsin acos arccos atanh arctanh acosh arccosh"
PIECEWISE_CONSTANT = "sign sgn round floor ceil trunc fix heaviside"
COMPARISON = "gt ge lt le greater greater_equal less less_equal"
CONVERSION = "float double half bfloat16 int long to type type_as"
# Of the above: no negative input, no negative output.
SIGN_PRESERVING = """
    cat concat stack flatten ravel reshape view view_as squeeze unsqueeze permute transpose t contiguous clone expand
    chunk narrow select index_select gather __getitem__ max_pool1d max_pool2d max_pool3d adaptive_max_pool1d
    adaptive_max_pool2d adaptive_max_pool3d avg_pool1d avg_pool2d avg_pool3d adaptive_avg_pool1d adaptive_avg_pool2d
    adaptive_avg_pool3d dropout dropout1d dropout2d dropout3d mean sum repeat
"""
# Elementwise: a result that is multiplied by its own input makes an activation, x sigmoid(x). The first are multiples.
MULTIPLES = "mul multiply __mul__ __rmul__ __imul__ div divide true_divide __truediv__ __itruediv__ __idiv__"
RECTIFIERS = "relu leaky_relu rrelu prelu"
SCALED = "clone contiguous neg negative float double half bfloat16 to type_as"
SHIFTED = "add __add__ __radd__ sub subtract rsub __rsub__"
LINEAR = "linear conv1d conv2d conv3d conv_transpose1d conv_transpose2d conv_transpose3d"
ADDED_PRODUCT = "addmm addmv addbmm baddbmm addr"
MATRIX_PRODUCT = "matmul __matmul__ __rmatmul__ mm bmm mv dot inner vdot einsum tensordot outer ger vecdot _grouped_mm"
PRODUCT = "bilinear multi_dot"
ELEMENTWISE_PRODUCT = "mul multiply __mul__ __rmul__ __imul__"
PRODUCT_OF_ELEMENTS = "prod cumprod"
POWER = "square sqrt rsqrt reciprocal pow __pow__"
SOLUTION = "solve solve_triangular"
QUOTIENT = "div divide true_divide __truediv__ __div__ __itruediv__ __idiv__"
# Questions about a tensor, and what makes constants.
NEUTRAL = """
    size dim ndim numel stride storage_offset is_contiguous is_floating_point is_complex element_size data_ptr detach
    requires_grad_ register_hook retain_grad backward item tolist numpy storage untyped_storage new_zeros new_ones
    new_full new_empty new_tensor zeros_like ones_like empty_like full_like rand_like randn_like randint_like bernoulli
    is_same_size eq ne equal argmax argmin argsort isnan isinf isfinite any all nonzero allclose isclose __len__
    __bool__ is_nonzero one_hot names get_device __repr__ __format__ __hash__ __contains__ multinomial
    unique unique_consecutive
"""
VIEWS = "H T mH mT real imag"  # attributes that are values


def _clamped(low: float | Tensor | None, high: float | Tensor | None) -> Limits:
    if isinstance(low, Tensor) or isinstance(high, Tensor):
        return 0.0, 0.0  # bounds that vary: the paper's secant
    value = max(0.0, low or 0.0) if low is not None else 0.0
    value = min(value, high) if high is not None else value
    return value, value


def _spellings(name: str) -> Iterator[Function]:
    places: list[Any] = [
        torch,
        Tensor,
        torch._C.TensorBase,
        functional,
        torch.special,
        torch.linalg,
        torch.fft,
        torch._C._nn,
    ]
    for place in places:
        found = getattr(place, name, None)
        if found is None or isinstance(found, ModuleType):
            continue
        if not callable(found):  # a property: its getter is what a mode sees
            found = getattr(found, "__get__", None)
        if callable(found):
            yield found


def _attributes() -> Iterator[Function]:
    """Reading and setting what a tensor carries beside its values: concerns a parameter itself, not a use of it."""
    for name, attribute in inspect.getmembers(torch._C.TensorBase, inspect.isgetsetdescriptor):
        if name not in VIEWS.split():
            yield from (attribute.__get__, attribute.__set__, attribute.__delete__)


def _options(function: Function) -> list[str]:
    try:
        return list(inspect.signature(function).parameters)
    except (TypeError, ValueError):
        return []


def _following(name: str, handler: Handler) -> Handler:
    """The handler of a name, with what its results are to remember."""
    if name in SIGN_PRESERVING.split():
        handler = registry.sign_preserving(handler)
    if name in MULTIPLES.split():
        return self_gated.self_gated(handler)
    if name in f"{SCALED} {SHIFTED} {POWER} {RECTIFIERS}".split() or name in _activations():
        return self_gated.tracked(handler, multiplies=name in SCALED.split())
    return handler


def _register(names: str, handler: Handler) -> None:
    for name in names.split():
        kept = _following(name, handler)
        for function in _spellings(name):
            options = _options(function)
            HANDLERS[function] = kept
            if "inplace" in options:
                written = handler if handler in (registry.ordinary, elementwise.relu) else kept
                HANDLERS[function] = optionally_in_place(kept, options.index("inplace"), written=written)
        _register_in_place(name, kept if name in MULTIPLES.split() else handler)


def _register_in_place(name: str, handler: Handler) -> None:
    operator = name.startswith("__i") or name == "__setitem__" or (name.endswith("_") and not name.endswith("__"))
    if operator:  # has no other spelling, or the other spelling is this name without the i
        plain = getattr(Tensor, name.replace("__i", "__", 1), None) or getattr(Tensor, name)
        for function in _spellings(name):
            HANDLERS[function] = in_place(handler, plain)
    elif handler is not registry.neutral:
        out_of_place = next(_spellings(name), None)
        for function in _spellings(f"{name}_"):
            assert out_of_place is not None
            HANDLERS[function] = in_place(handler, out_of_place)


def _activations() -> dict[str, Callable[..., Limits]]:
    through_zero = dict.fromkeys(THROUGH_ZERO.split(), lambda *_, **__: (0.0, 0.0))
    return through_zero | {name: limits for names, limits in AT_ZERO.items() for name in names.split()}


def _fill() -> None:
    for names, handler in (
        (NEUTRAL, registry.neutral),
        (ORDINARY, registry.ordinary),
        (SUMMED, registry.summed),
        (LAYER, normalisation.layer),
        ("relu", elementwise.relu),
        ("where", elementwise.selected),
        (MOVING, registry.moved),
        (COMPARISON, elementwise.compared),
        (CONVERSION, elementwise.converted),
        (LINEAR, products.linear),
        (ADDED_PRODUCT, products.added_product),
        (MATRIX_PRODUCT, products.matrix_product),
        (PRODUCT, products.product),
        (ELEMENTWISE_PRODUCT, products.elementwise_product),
        (POWER, products.power),
        (PRODUCT_OF_ELEMENTS, products.product_of_elements),
        (QUOTIENT, products.quotient),
        (SOLUTION, products.solution),
        ("scaled_dot_product_attention", attention.scaled_dot_product_attention),
        ("normalize", normalisation.unit_length),
        ("cosine_similarity", normalisation.cosine_similarity),
        ("local_response_norm", normalisation.rescaled),
        ("glu", products.gated),
        ("addcmul", products.summed_with_product),
        ("addcdiv", products.summed_with_quotient),
    ):
        _register(names, handler)
    HANDLERS.update({getattr(functional, name): t for name, t in normalisation.NORMALISATIONS.items()})
    HANDLERS.update(recurrent.RECURRENT)
    for name, limits in _activations().items():
        _register(name, elementwise.activation(limits, non_negative=name in NON_NEGATIVE.split()))
    HANDLERS.update(dict.fromkeys(_attributes(), registry.neutral))
    for names, functions in (
        (PIECEWISE_CONSTANT, elementwise.PIECEWISE_CONSTANT),
        (PARTIAL, elementwise.PARTIAL),
    ):
        functions.update(function for name in names.split() for function in _spellings(name))


_fill()
