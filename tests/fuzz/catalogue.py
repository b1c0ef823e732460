"""What the random programs are made of: one template per spelling of every function that the engine handles.

A template is Python source with slots:

    {a}         a value that the program has computed, an input, a parameter or a buffer
    {b} {c}     another one that broadcasts against {a}: a value, a parameter or a constant
    {w:shape}   a tensor of this shape, mostly a parameter; `s` is the shape of {a}
    {p:shape}   a parameter of this shape
    {k:shape}   a constant of this shape
    {m}         a boolean mask shaped like {a}
    {n:module}  a module of the model, made by this expression
    {=code}     the value of this expression
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from types import ModuleType
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

PLACES: dict[str, Any] = {
    "torch": torch,
    "F": F,
    "torch.special": torch.special,
    "torch.linalg": torch.linalg,
    "torch.fft": torch.fft,
}


@dataclass(frozen=True)
class Template:
    """One line of a program.

    Args:
        source: an expression, or a statement if `writes`.
        shape: what {a} must look like, or None for any shape: a tuple, or a number of dimensions.
        domain: "any", "positive" (> 0.2) or "fraction" (0.1 to 0.9), which {a} is brought into.
        kinks: numbers at which `at` is not smooth; a program stays away from them.
        at: the expression that must stay away from `kinks`.
        steps: constant in pieces. Of weights, such a function passes feedback on although its derivative is 0.
        writes: a statement that changes {a} in place.
    """

    source: str
    shape: tuple[int, ...] | int | None = None
    domain: str = "any"
    kinks: tuple[float, ...] = ()
    at: str = "{a}"
    steps: bool = False
    writes: bool = False


def _positional(arguments: Sequence[str]) -> list[str]:
    return [re.sub(r"^\w+=", "", argument) for argument in arguments]


def _calls(function: str, arguments: Sequence[str]) -> Iterator[str]:
    yield f"{function}({', '.join(['{a}', *_positional(arguments)])})"
    yield f"{function}({', '.join(['{a}', *arguments])})"
    if all(re.match(r"\w+=", argument) for argument in arguments):
        yield f"{function}({', '.join(['input={a}', *arguments])})"


def spelled(names: str, *arguments: str, **options: Any) -> list[Template]:
    """Every spelling of a function: of torch and its name spaces, method, in place; positional and by keyword."""
    found = []
    for name in names.split():
        for place, space in PLACES.items():
            for spelling in (name, f"{name}_"):
                function = getattr(space, spelling, None)
                if callable(function) and not isinstance(function, ModuleType):
                    found += _calls(f"{place}.{spelling}", arguments)
        for spelling in (name, f"{name}_"):
            if callable(getattr(Tensor, spelling, None)):
                found += [f"{{a}}.{spelling}({', '.join(given)})" for given in (_positional(arguments), arguments)]
        if "inplace" in getattr(getattr(F, name, None), "__annotations__", {}):
            found += [f"F.{name}({', '.join(['{a}', *arguments, 'inplace=True'])})"]
    return [Template(source, **options) for source in dict.fromkeys(found)]


def written(*sources: str, **options: Any) -> list[Template]:
    """Templates as they are written here."""
    return [Template(source, **options) for source in sources]


SMOOTH = [
    *spelled(
        """tanh sigmoid expit silu mish gelu tanhshrink softsign logsigmoid sin cos sinh cosh atan arctan asinh arcsinh
        exp exp2 expm1 erf erfc sinc i0 softplus celu square deg2rad rad2deg digamma lgamma erfcx ndtr
        log_ndtr i0e i1 i1e nan_to_num"""
    ),
    *spelled("elu"),
    *spelled("tan", domain="fraction"),
    *spelled("elu", "alpha=0.7", kinks=(0.0,)),
    *spelled("celu", "alpha=0.7"),
    *spelled("gelu", "approximate='tanh'"),
    *spelled("softplus", "beta=1.5", "threshold=10.0"),
    *spelled("log log2 log10 log1p sqrt rsqrt reciprocal entr", domain="positive"),
    *spelled("acosh arccosh", domain="positive", kinks=()),
    *spelled("asin arcsin acos arccos atanh arctanh logit erfinv ndtri", domain="fraction"),
    *spelled("logit", "eps=1e-6", domain="fraction"),
    *written("{a}.logit_()", domain="fraction"),
]
BENT = [
    *spelled("abs absolute selu", kinks=(0.0,)),
    *spelled("hardswish hardsigmoid", kinks=(-3.0, 3.0)),
    *spelled("softshrink hardshrink", kinks=(-0.5, 0.5)),
    *spelled("softshrink hardshrink", "lambd=0.3", kinks=(-0.3, 0.3)),
    *spelled("hardtanh", kinks=(-1.0, 1.0)),
    *spelled("hardtanh", "min_val=-0.4", "max_val=0.9", kinks=(-0.4, 0.9)),
    *spelled("relu6", kinks=(0.0, 6.0)),
    *spelled("relu leaky_relu"),
    *spelled("leaky_relu", "negative_slope=0.2"),
    *spelled("rrelu", "lower=0.2", "upper=0.2"),
    *spelled("prelu", "weight={w:()}"),
    *spelled("prelu", "weight={w:s[1:2]}", shape=2),
    *spelled("threshold", "threshold=0.1", "value=0.05", kinks=(0.1,)),
    *spelled("clamp clip", "min=-0.5", "max=0.7", kinks=(-0.5, 0.7)),
    *spelled("clamp clip", "min=-0.5", kinks=(-0.5,)),
    *spelled("clamp clip", "max=0.7", kinks=(0.7,)),
    *spelled("clamp clip", "min={b}", at="{a} - {b}", kinks=(0.0,)),
    *spelled("clamp clip", "max={b}", at="{a} - {b}", kinks=(0.0,)),
    *spelled("clamp_min", "min=0.2", kinks=(0.2,)),
    *spelled("clamp_max", "max=0.2", kinks=(0.2,)),
    *spelled("clamp_min clamp_max", "{b}", at="{a} - {b}", kinks=(0.0,)),
    *written("torch.relu({a}).square()", "{a} * torch.relu({a})", "{a} * F.leaky_relu({a}, 0.1)"),
    *written("{a} * torch.sigmoid({a})", "{a}.clone() * {a}.sigmoid()", "torch.mul(input={a}.sigmoid(), other={a})"),
    *written("{a} * {a}.tanh()", "{a} * (1 + torch.erf({a} / 2 ** 0.5)) / 2", "{a}.mul({a}.sigmoid())"),
    *written("{a} / (1 + torch.exp(-{a}))", "{a} * F.relu6({a} + 3) / 6", kinks=(-3.0, 3.0)),
]
STEPS = [
    *spelled("sign sgn", kinks=(0.0,), steps=True),
    *spelled("floor ceil trunc fix frac", kinks=(-2.0, -1.0, 0.0, 1.0, 2.0), steps=True),
    *spelled("round", kinks=(-2.5, -1.5, -0.5, 0.5, 1.5, 2.5), steps=True),
    *spelled("round", "decimals=0", kinks=(-2.5, -1.5, -0.5, 0.5, 1.5, 2.5), steps=True),
    *spelled("gt ge lt le greater greater_equal less less_equal", "other=0.1", kinks=(0.1,), steps=True),
    *spelled("heaviside", "values={k:()}", kinks=(0.0,), steps=True),
    *(
        replace(template, source=template.source.replace("$", conversion))
        for conversion in (".double()", ".to({a}.dtype)", ".type_as({a})", ".to(torch.float64)", " * 1.0", " + 0.0")
        for template in (
            *written("({a} > 0)$", "{a}.ge(0)$", "torch.lt({a}, 0)$", "({a} <= 0)$", kinks=(0.0,), steps=True),
            *written("({a} > 0.1)$", "torch.gt(input={a}, other=0.1)$", kinks=(0.1,), steps=True),
            *written("({a} > {b})$", "{a}.less({b})$", at="{a} - {b}", kinks=(0.0,), steps=True),
        )
    ),
    *written("{a} * ({a} > 0)", "{a} * ({a} > 0).double()", "{a} * {m}.double()", kinks=(0.0,), steps=True),
    *written("({a} > 0).double() * {b}", "{b} * ({a} > 0).to({b})", kinks=(0.0,), steps=True),
    *written("{a} * ({a} >= {a}.topk(2, -1).values[..., -1:]).double()", shape=(3, 4), steps=True),
    *written("torch.where({a} > 0, 1.0, -1.0)", "torch.where({a} > 0, 1, 0)", kinks=(0.0,), steps=True),
    *written("torch.where(condition={a} > 0, input=1.0, other=-1.0)", kinks=(0.0,), steps=True),
    *written("({a} > 0).long()", "({a} > 0).int().double()", "({a} > 0).sum()", kinks=(0.0,), steps=True),
    *written("({a} > 0).float().mean()", "({a} > 0).logical_not().double()", kinks=(0.0,), steps=True),
    *written("(({a} > 0) & ({a} < 1)).double()", "(~({a} > 0)).double()", kinks=(0.0, 1.0), steps=True),
    *written("({a} > 0)[..., 0].double()", "({a} > 0).clone().double()", kinks=(0.0,), steps=True),
    *written("{a} * ({a}.detach().abs() > 0.1).double()", "{a} * ({a}.data > 0)", kinks=(-0.1, 0.0, 0.1)),
    *written("({a} * ({a} > 0)).sum() / (({a} > 0).double().sum() + 1.0)", kinks=(0.0,), steps=True),
    *written("torch.einsum('bt,bt->b', {a}, ({a} > 0).double())", shape=2, kinks=(0.0,), steps=True),
    *written("({a} > 0).double().mT @ {a}", shape=2, kinks=(0.0,), steps=True),
    *written("({a} - {a}.detach()).abs() + {a}", "{a} + ({a}.round() - {a}).detach()", kinks=(0.0,)),
]
OPERATORS = [
    *written("{a} + {b}", "{a} - {b}", "{b} - {a}", "{a} * {b}", "{b} * {a}", "-{a}", "+{a}", "{a} + 0.5", "1 - {a}"),
    *written("{a} * {a}.detach().abs().mean()", "{a} * torch.ones_like({a})", "{a} + ({a}.abs() - {a}).detach()"),
    *written("{a} * torch.ones({=tuple(s)}).cumsum(-1)", "{a} * torch.arange({=s[-1]} + 1.0)[1:]"),
    *written("2 * {a}", "{a} * 1", "{a} / 2", "{a} ** 2", "{a} ** 3", "{a} + {a}", "{a} * {a}", "abs({a} * {a})"),
    *written("{a} / ({b} ** 2 + 0.5)", "1 / ({a} ** 2 + 0.5)", "{a} % 10.0 - {a}.detach() % 10.0"),
    *written("{b} / {a}", "{b} ** {a}.detach()", "{a} ** 0.5", "{a} ** -1", "{a} ** {b}", "2 / {a}", domain="positive"),
    *written("2.0 ** {a}", "{a}.__rsub__(1.0)", "{a}.__rpow__(2.0)", "{a}.__rmul__({b})", "{a}.__radd__({b})"),
    *written("{a}.__rtruediv__(2.0)", domain="positive"),
    *written("{a} @ {w:(s[-1], 3)}", "{w:(2, s[-2])} @ {a}", "{a} @ {w:s[-1:]}", shape=2),
    *written(
        "{a} @ {a}.T", "{a}.T @ {a}", "{a} @ {a}.mT", "{a} @ {w:(3, s[-1])}.T", "{a} @ {w:(3, s[-1])}.t()", shape=2
    ),
    *written("{a} // 1.0", kinks=(-2.0, -1.0, 0.0, 1.0, 2.0), steps=True),
]
WRITES = written(
    "{a} += {b}",
    "{a} -= {b}",
    "{a} *= {b}",
    "{a} /= 2.0",
    "{a} **= 2",
    "{a}.zero_()",
    "{a}.fill_(0.3)",
    "{a}[0] = 0.4",
    "{a}[..., 0] = {w:s[:-1]}",
    "{a}[0] += 1.0",
    "{a}[..., :1] *= 2.0",
    "{a}[{m}] = 0.2",
    "{a}[..., 0] = {a}[..., 1] * 2",
    "{a}.copy_({b})",
    "{a}.copy_({b}.tanh())",
    "{a}.view(-1)[0] = 0.3",
    "{a}.flatten()[0] = 0.3",
    "{a}.detach().add_(0.1)",
    "{a}.index_fill_(-1, torch.tensor([0]), 0.5)",
    "{a}.masked_fill_({m}, 0.5)",
    "{a}.T.mul_(1.5)",
    "{a}[1:].add_(0.25)",
    "{a}.select(0, 0).mul_(2.0)",
    "{a}.unsqueeze(0).add_({b})",
    "{a}.narrow(-1, 0, 1).zero_()",
    writes=True,
    shape=2,
)
ARITHMETIC = [
    *spelled("add sub subtract rsub", "other={b}"),
    *spelled("add sub subtract rsub", "other={b}", "alpha=0.5"),
    *spelled("add sub mul", "other=0.7"),
    *spelled("mul multiply", "other={b}"),
    *spelled("div divide true_divide", "other={b} ** 2 + 0.5"),
    *spelled("div", "other=2.0"),
    *spelled(
        "div", "other=0.7", "rounding_mode='floor'", at="{a} / 0.7", kinks=(-2.0, -1.0, 0.0, 1.0, 2.0), steps=True
    ),
    *spelled("remainder fmod", "other=10.0", kinks=(0.0,)),
    *spelled("neg negative positive"),
    *spelled("pow", "exponent=2"),
    *spelled("pow", "exponent=-0.5", domain="positive"),
    *spelled("pow float_power", "exponent={b}", domain="positive"),
    *spelled("float_power", "exponent=2.0"),
    *spelled("xlogy", "other={b} ** 2 + 0.5"),
    *spelled("xlog1py", "other={b} ** 2"),
    *spelled("atan2 arctan2", "other={b}", domain="positive"),
    *spelled("hypot logaddexp logaddexp2 copysign ldexp", "other={b}"),
    *spelled("addcmul", "tensor1={b}", "tensor2={c}"),
    *spelled("addcmul", "tensor1={b}", "tensor2={c}", "value=0.5"),
    *spelled("addcdiv", "tensor1={b}", "tensor2={c} ** 2 + 0.5"),
    *spelled("addcdiv", "tensor1={b}", "tensor2={c} ** 2 + 0.5", "value=0.5"),
    *spelled("lerp", "end={b}", "weight=0.3"),
    *spelled("lerp", "end={w:s}", "weight={w:s}"),
    *written(
        *("torch.where({m}, {a}, {b})", "torch.where({m}, {a}, 0.0)", "torch.where({m}, 0.5, {a})"),
        *("{a}.where({m}, {b})", "torch.where(condition={m}, input={a}, other={b})"),
        steps=True,  # between constants
    ),
    *spelled("maximum minimum fmax fmin max min", "other={b}", at="{a} - {b}", kinks=(0.0,)),
    *written("torch.add(2.0, {a})", "torch.mul(2.0, {a})", "torch.pow(2.0, {a})", "torch.rsub({a}, 2.0)"),
]
REDUCTIONS = [
    *spelled(
        "sum mean nansum nanmean prod logsumexp cumsum cumprod logcumsumexp softmax log_softmax softmin", "dim=-1"
    ),
    *spelled("sum mean prod", "dim=0", "keepdim=True"),
    *spelled("sum mean nansum norm prod var std trace"),
    *spelled("var std", "dim=-1", "keepdim=True"),
    *spelled("var_mean std_mean var std", "dim=-1"),
    *spelled("std var", "dim=0", "correction=0"),
    *spelled("norm vector_norm", "2", "-1"),
    *spelled("vector_norm", "ord=3", "dim=-1"),
    *spelled("norm vector_norm", "1", "-1", kinks=(0.0,)),
    *spelled("matrix_norm", shape=2),
    *spelled("renorm", "2", "0", "0.7", shape=2),
    *spelled("dist", "other={b}", domain="positive"),
    *spelled("max min median mode amax amin aminmax"),
    *spelled("amax amin", "dim=-1"),
    *spelled("amax amin", "dim=-1", "keepdim=True"),
    *spelled("max min median nanmedian mode cummax cummin sort", "dim=-1"),
    *spelled("aminmax", "dim=-1"),
    *spelled("topk kthvalue", "2", "dim=-1", shape=(3, 4)),
    *spelled("topk", "k=2", shape=(3, 4)),
    *spelled("msort sort"),
    *spelled("sort", "dim=0", "descending=True"),
    *spelled("quantile nanquantile", "q=0.3", "dim=-1"),
    *spelled("diff"),
    *spelled("diff", "dim=0", shape=2),
    *spelled("trapezoid cumulative_trapezoid", "dim=-1"),
    *spelled("normalize", "dim=-1"),
    *spelled("normalize", "p=2.0", "dim=0", "eps=1e-6"),
    *spelled("cosine_similarity", "{b}", "dim=-1"),
    *spelled("cosine_similarity", "{w:s}", "dim=-1"),
    *written("F.cosine_similarity(x1={a}, x2={w:s}, dim=-1)"),
    *spelled("pairwise_distance", "{w:s}", shape=2),
    *spelled("cdist", "{w:(2, s[-1])}", shape=2),
    *spelled("gumbel_softmax", "tau=1.0", "dim=-1"),
    *spelled("cov corrcoef", shape=2),
    *spelled("glu", "dim=-1", shape=(3, 4)),
    *written(
        "({a} - {a}.amax(-1, keepdim=True)).exp() / ({a} - {a}.amax(-1, keepdim=True)).exp().sum(-1, keepdim=True)"
    ),
    *written(
        "{a}.softmax(-1).log()",
        "{a}.exp().sum(-1).log()",
        "({a} - {a}.mean(-1, keepdim=True)) / ({a}.var(-1, keepdim=True) + 0.1).sqrt()",
    ),
    *written("{a}.mean((0, 1))", "torch.sum({a}, (0, 1))", "{a}.sum(dim=(0, 1), keepdim=True)", shape=2),
    *written("{a}.sum(-1, dtype=torch.float64)", "{a}.softmax(dim=-1, dtype=torch.float64)"),
]
SHAPES = [
    *spelled(
        "clone contiguous flatten ravel squeeze atleast_1d atleast_2d atleast_3d fliplr flipud resolve_neg", shape=2
    ),
    *spelled("t adjoint triu tril diag diagonal rot90 unbind diag_embed", shape=2),
    *spelled("resolve_conj real conj conj_physical"),
    *spelled("transpose swapaxes swapdims movedim moveaxis", "0", "1", shape=2),
    *spelled("transpose", "dim0=0", "dim1=1", shape=2),
    *spelled("permute", "dims=(1, 0)", shape=2),
    *spelled("unsqueeze", "dim=0"),
    *spelled("squeeze", "dim=0"),
    *spelled("unbind", "dim=-1", shape=2),
    *spelled("select", "dim=0", "index=1", shape=2),
    *spelled("narrow", "dim=-1", "start=1", "length=2", shape=(3, 4)),
    *spelled("chunk tensor_split", "2", "dim=-1", shape=(3, 4)),
    *spelled("split", "2", "dim=-1", shape=(3, 4)),
    *spelled("hsplit vsplit", "2", shape=(4, 4)),
    *spelled("dsplit", "2", shape=(2, 2, 4)),
    *spelled("split_with_sizes", "(1, 3)", "-1", shape=(3, 4)),
    *spelled("flip", "(0,)"),
    *spelled("flip", "dims=(-1,)"),
    *spelled("roll", "shifts=1", "dims=-1"),
    *spelled("tile repeat", "(2, 1)", shape=2),
    *spelled("repeat_interleave", "2", "dim=-1"),
    *spelled("expand broadcast_to", "(2, *{=tuple(s)})"),
    *spelled("reshape view", "(-1,)"),
    *spelled("reshape view", "(2, -1)", shape=(3, 4)),
    *spelled("unflatten", "dim=-1", "sizes=(2, 2)", shape=(3, 4)),
    *spelled("unfold", "-1", "2", "1", shape=(3, 4)),
    *spelled("pad", "pad=(1, 0)"),
    *spelled("pad", "(1, 1)", "mode='reflect'", shape=(2, 3, 4)),
    *spelled("constant_pad_nd", "(1, 0)", "0.5"),
    *spelled("as_strided", "(2, 2)", "(4, 1)", shape=(3, 4)),
    *spelled("index_select", "dim=0", "index=torch.tensor([1, 0, 1])", shape=2),
    *spelled("gather", "-1", "torch.tensor([[0, 1], [1, 0], [2, 2]])", shape=(3, 4)),
    *spelled("gather take_along_dim", "{a}.argsort(-1)", "-1"),
    *spelled("gather", "dim=-1", "index={a}.argsort(-1)"),
    *spelled("take", "torch.tensor([0, 2, 1])"),
    *spelled("masked_select", "{m}"),
    *spelled("masked_fill", "mask={m}", "value=0.3"),
    *spelled("masked_fill", "{m}", "{w:()}"),
    *spelled("masked_scatter", "{m}", "{w:s}"),
    *spelled("index_fill", "-1", "torch.tensor([0])", "0.5"),
    *spelled("index_fill", "-1", "torch.tensor([0])", "{w:()}"),
    *spelled("index_add", "0", "torch.tensor([1, 0])", "{w:(2, *s[1:])}", shape=2),
    *spelled("index_add", "0", "torch.tensor([1, 0])", "{w:(2, *s[1:])}", "alpha=0.5", shape=2),
    *spelled("index_copy", "0", "torch.tensor([1, 0])", "{w:(2, *s[1:])}", shape=2),
    *spelled("index_put", "(torch.tensor([1, 0]),)", "{w:s[1:]}", shape=2),
    *spelled("index_put", "(torch.tensor([1, 1]),)", "{w:s[1:]}", "accumulate=True", shape=2),
    *spelled("index_reduce", "0", "torch.tensor([1, 0])", "{w:(2, *s[1:])}", "'mean'", shape=2),
    *spelled("scatter", "-1", "torch.tensor([[0], [1], [2]])", "{w:(3, 1)}", shape=(3, 4)),
    *spelled("scatter", "-1", "torch.tensor([[0], [1], [2]])", "0.5", shape=(3, 4)),
    *spelled("scatter_add", "-1", "torch.tensor([[0, 0], [1, 1], [2, 2]])", "{w:(3, 2)}", shape=(3, 4)),
    *spelled("scatter_reduce", "-1", "torch.tensor([[0, 0], [1, 1], [2, 2]])", "{w:(3, 2)}", "'sum'", shape=(3, 4)),
    *spelled("scatter_reduce", "-1", "torch.tensor([[0, 0], [1, 1], [2, 2]])", "{w:(3, 2)}", "'amax'", shape=(3, 4)),
    *spelled("select_scatter", "{w:s[1:]}", "0", "1", shape=2),
    *spelled("slice_scatter", "{w:(1, *s[1:])}", "0", "0", "1", shape=2),
    *spelled("diagonal_scatter", "{w:(3,)}", shape=(3, 4)),
    *spelled("block_diag", "{w:(2, 2)}", shape=2),
    *spelled("kron", "{w:(2, 1)}", shape=2),
    *spelled("cartesian_prod", "{w:(2,)}", shape=1),
    *spelled("channel_shuffle pixel_shuffle", "2", shape=(2, 4, 3, 3)),
    *spelled("pixel_unshuffle", "2", shape=(1, 1, 4, 4)),
    *written(
        "torch.cat([{a}, {b}.expand({=tuple(s)})])",
        "torch.cat(tensors=[{a}, {a}], dim=-1)",
        "torch.stack([{a}, {a} * 2])",
    ),
    *written(
        "torch.stack(tensors=[{a}, {w:s}], dim=-1)", "torch.concat([{a}, {w:s}], 0)", "torch.concatenate([{a}, {a}])"
    ),
    *written("torch.hstack([{a}, {w:s}])", "torch.vstack([{a}, {w:s}])", "torch.dstack([{a}, {w:s}])", shape=2),
    *written("torch.column_stack([{a}, {w:s}])", "torch.row_stack([{a}, {w:s}])", shape=2),
    *written("torch.broadcast_tensors({a}, {b})", "torch.meshgrid({a}, {w:(2,)}, indexing='ij')", shape=1),
    *written("torch.combinations({a})", shape=1),
    *written(
        "{a}[0]",
        "{a}[..., 0]",
        "{a}[:, 1:]",
        "{a}[None]",
        "{a}[:, [1, 0]]",
        "{a}[torch.tensor([1, 0])]",
        "{a}[{m}]",
        shape=2,
    ),
    *written("{a}[{a}.argmax(0)]", "{a}[::2]", "{a}[-1]", "{a}[1, 2]", "{a}[:, None, :]", shape=(4, 4)),
    *written("{a}.T", "{a}.mT", "{a}.H", "{a}.mH", shape=2),
    *written("{a}.real", "{a}.data", "{a}.detach()", "{a}.detach().clone()", "{a}.view_as({a})", "{a}.expand_as({a})"),
    *written(
        "{a}.reshape_as({a})",
        "{a}.type_as({a})",
        "{a}.double()",
        "{a}.to(torch.float64)",
        "{a}.to({a})",
        "{a}.type(torch.float64)",
    ),
    *written(
        "{a}.cpu()",
        "{a}.to('cpu')",
        "{a}.float().double()",
        "{a}.requires_grad_()",
        "{a}.view(*{=tuple(s)})",
        "{a}.view(dtype=torch.float64)",
    ),
    *written(
        "list({a})[0]",
        "[row * 2 for row in {a}][1]",
        "tuple({a}.unbind(0))",
        "{a}.tolist() and {a}",
        "{a}[0].item() + {a}",
        shape=2,
    ),
    *written(
        "{a}.view({=int(torch.Size(s).numel())}).view({=tuple(s)})",
        "{a}.new_zeros({=tuple(s)}) + {a}",
        "torch.zeros_like({a}) + {a}",
    ),
    *written(
        "torch.zeros_like({a}).copy_({a})",
        "torch.empty_like({a}).copy_({b})",
        "torch.zeros_like({a}).add_({b})",
        "torch.ones_like({a}).mul_({b})",
    ),
    *written(
        "torch.zeros_like({a}).masked_scatter({m}, {a})",
        "torch.zeros_like({a}).scatter_(-1, {a}.argmax(-1, keepdim=True), 1.0)",
    ),
    *written(
        "{a}.swapaxes(0, 1).contiguous()", "torch.einsum('ij->ji', {a})", "{a}.unsqueeze(-1).squeeze(-1)", shape=2
    ),
    *written("torch.utils.checkpoint.checkpoint(torch.tanh, {a}, use_reentrant=False)"),
]
PRODUCTS = [
    *spelled("matmul mm", "{w:(s[-1], 3)}", shape=2),
    *spelled("matmul mm", "{a}.mT", shape=2),
    *spelled("matmul", "other={w:(s[-1], 3)}", shape=2),
    *spelled("mv", "vec={w:(s[-1],)}", shape=2),
    *spelled("dot inner vdot", "{w:s}", shape=1),
    *spelled("dot inner", "other={a}", shape=1),
    *spelled("inner", "{w:(3, s[-1])}", shape=2),
    *spelled("vecdot", "{w:s}"),
    *spelled("outer ger", "{w:(3,)}", shape=1),
    *spelled("outer", "vec2={a}", shape=1),
    *spelled("bmm", "{w:(s[0], s[2], 2)}", shape=3),
    *spelled("bmm", "mat2={a}.mT", shape=3),
    *spelled("addmm", "mat1={w:(s[0], 2)}", "mat2={w:(2, s[1])}", shape=2),
    *spelled("addmm", "{w:(s[0], 2)}", "{w:(2, s[1])}", "beta=0.5", "alpha=2.0", shape=2),
    *written(
        "torch.addmm({w:(3,)}, {a}, {w:(s[-1], 3)})", "torch.addmm({p:(3,)}, {a}, {p:(s[-1], 3)}, beta=0.5)", shape=2
    ),
    *spelled("addmv", "{w:(s[0], 2)}", "{w:(2,)}", shape=1),
    *spelled("addr", "{w:(s[0],)}", "{w:(s[1],)}", shape=2),
    *spelled("addbmm", "{w:(2, s[0], 3)}", "{w:(2, 3, s[1])}", shape=2),
    *spelled("baddbmm", "{w:(s[0], s[1], 3)}", "{w:(s[0], 3, s[2])}", shape=3),
    *spelled("linear", "weight={w:(3, s[-1])}", "bias={w:(3,)}"),
    *spelled("linear", "weight={w:(3, s[-1])}"),
    *spelled("linear", "{p:(3, s[-1])}", "{p:(3,)}"),
    *spelled("bilinear", "{w:s}", "{w:(2, s[-1], s[-1])}", "{w:(2,)}"),
    *spelled("tensordot", "{w:(s[-1], 3)}", "dims=1"),
    *spelled("chain_matmul", "{w:(s[-1], 2)}", "{w:(2, 3)}", shape=2),
    *written("torch.linalg.multi_dot([{a}, {w:(s[-1], 2)}, {w:(2, 3)}])", shape=2),
    *spelled("cross", "{w:s}", "dim=-1", shape=(4, 3)),
    *written("torch.einsum('ij,kj->ik', {a}, {w:(3, s[-1])})", "torch.einsum('ij,ij->i', {a}, {w:s})", shape=2),
    *written(
        "torch.einsum('ij,ik->jk', {a}, {a})", "torch.einsum('ij,jk,kl->il', {a}, {w:(s[-1], 2)}, {w:(2, 3)})", shape=2
    ),
    *spelled("matrix_exp", shape=(3, 3)),
    *spelled("matrix_power", "2", shape=(3, 3)),
    *spelled("solve", "{w:(3, 2)}", shape=(3, 3)),
    *written("torch.linalg.solve({a} * 0.1 + torch.eye(3, dtype=torch.float64), {w:(3, 2)})", shape=(3, 3)),
    *written(
        "torch.linalg.inv({a} * 0.1 + torch.eye(3, dtype=torch.float64))",
        "torch.det({a})",
        "torch.linalg.det({a})",
        shape=(3, 3),
    ),
    *written(
        "torch.inverse({a} * 0.1 + torch.eye(3, dtype=torch.float64))",
        "torch.slogdet({a})[1]",
        "torch.logdet({a} @ {a}.T + torch.eye(3, dtype=torch.float64))",
        shape=(3, 3),
    ),
    *written(
        "torch.linalg.cholesky({a} @ {a}.T + torch.eye(3, dtype=torch.float64))",
        "torch.linalg.svdvals({a})",
        "torch.linalg.eigvalsh({a} + {a}.T)",
        shape=(3, 3),
    ),
    *written(
        "torch.linalg.qr({a}).R",
        "torch.linalg.pinv({a} + torch.eye(3, dtype=torch.float64))",
        shape=(3, 3),
    ),
    *written(
        "torch.linalg.solve_triangular({a}.tril() + 3 * torch.eye(3, dtype=torch.float64), {w:(3, 2)}, upper=False)",
        shape=(3, 3),
    ),
    *written(
        "torch.sparse.mm(torch.eye({=s[0]}, dtype=torch.float64).to_sparse(), {a})",
        "torch.eye({=s[0]}, dtype=torch.float64).to_sparse() @ {a}",
        shape=2,
    ),
]
LAYERS = [
    *spelled("conv1d", "weight={w:(2, 3, 2)}", "bias={w:(2,)}", shape=(2, 3, 4)),
    *spelled("conv1d", "{w:(2, 3, 2)}", "stride=2", "padding=1", shape=(2, 3, 4)),
    *spelled("conv2d", "weight={w:(2, 3, 2, 2)}", "bias={w:(2,)}", "padding=1", shape=(2, 3, 4, 4)),
    *spelled("conv2d", "{w:(3, 1, 2, 2)}", "groups=3", shape=(2, 3, 4, 4)),
    *spelled("conv3d", "{w:(2, 1, 2, 2, 2)}", shape=(1, 1, 2, 3, 4)),
    *spelled("conv_transpose1d", "{w:(3, 2, 2)}", "{w:(2,)}", shape=(2, 3, 4)),
    *spelled("conv_transpose2d", "{w:(3, 2, 2, 2)}", "stride=2", shape=(2, 3, 4, 4)),
    *spelled("conv_transpose3d", "{w:(1, 2, 2, 2, 2)}", shape=(1, 1, 2, 3, 4)),
    *spelled("conv_tbc", "{w:(2, 4, 2)}", "{w:(2,)}", shape=(2, 3, 4)),
    *spelled("max_pool1d avg_pool1d", "2", shape=(2, 3, 4)),
    *spelled("max_pool1d avg_pool1d", "kernel_size=2", "stride=1", shape=(2, 3, 4)),
    *spelled("max_pool2d avg_pool2d", "2", shape=(2, 3, 4, 4)),
    *spelled("max_pool2d avg_pool2d", "kernel_size=2", "padding=1", shape=(2, 3, 4, 4)),
    *spelled("max_pool3d avg_pool3d", "2", shape=(1, 1, 2, 3, 4)),
    *spelled("adaptive_avg_pool3d adaptive_max_pool3d", "(1, 2, 2)", shape=(1, 1, 2, 3, 4)),
    *spelled("max_pool1d_with_indices adaptive_max_pool1d_with_indices", "2", shape=(2, 3, 4)),
    *spelled("max_pool2d_with_indices adaptive_max_pool2d_with_indices", "(2, 2)", shape=(2, 3, 4, 4)),
    *spelled("max_pool3d_with_indices adaptive_max_pool3d_with_indices", "(1, 2, 2)", shape=(1, 1, 2, 3, 4)),
    *spelled("fractional_max_pool3d", "2", "output_size=2", shape=(1, 1, 4, 4, 4)),
    *spelled("dropout alpha_dropout feature_dropout feature_alpha_dropout", "0.4", "True", shape=(2, 3, 4)),
    *spelled("dropout2d", "p=0.4", "training=True", shape=(2, 3, 4, 4)),
    *spelled("dropout3d", "p=0.4", "training=True", shape=(1, 1, 2, 3, 4)),
    *spelled("native_layer_norm", "{=tuple(s[-1:])}", "{w:s[-1:]}", "{w:s[-1:]}", "1e-5"),
    *spelled("native_group_norm", "{w:(4,)}", "{w:(4,)}", "2", "4", "9", "2", "1e-5", shape=(2, 4, 3, 3)),
    *written("F.max_unpool1d(*F.max_pool1d({a}, 2, return_indices=True), 2)", shape=(2, 3, 4)),
    *written("F.max_unpool3d(*F.max_pool3d({a}, 2, return_indices=True), 2)", shape=(1, 2, 2, 4, 4)),
    *written("F.upsample_nearest({a}, scale_factor=2)", "F.upsample_bilinear({a}, scale_factor=2)", shape=(1, 2, 4, 4)),
    *spelled("lp_pool1d", "2.0", "2", shape=(2, 3, 4)),
    *spelled("lp_pool2d", "2.0", "2", shape=(2, 3, 4, 4)),
    *written(
        "F.max_pool2d({a}, 2, return_indices=True)",
        "F.max_unpool2d(*F.max_pool2d({a}, 2, return_indices=True), 2)",
        shape=(2, 3, 4, 4),
    ),
    *spelled("adaptive_max_pool1d adaptive_avg_pool1d", "2", shape=(2, 3, 4)),
    *spelled("adaptive_max_pool2d adaptive_avg_pool2d", "(2, 2)", shape=(2, 3, 4, 4)),
    *spelled("fractional_max_pool2d", "2", "output_size=3", shape=(2, 3, 4, 4)),
    *written(
        "F.interpolate({a}, scale_factor=2.0)",
        "F.interpolate({a}, size=(3, 3), mode='bilinear', align_corners=False)",
        shape=(1, 2, 4, 4),
    ),
    *written("F.upsample({a}, scale_factor=2)", "F.interpolate({a}, (3, 3), None, 'area')", shape=(1, 2, 4, 4)),
    *written(
        "F.grid_sample({a}, {w:(1, 2, 2, 2)} * 0.4, align_corners=True)",
        "F.unfold({a}, 2)",
        "F.fold(F.unfold({a}, 2), (4, 4), 2)",
        shape=(1, 2, 4, 4),
    ),
    *written(
        "F.grid_sample({a}, F.affine_grid({w:(1, 2, 3)} * 0.4, [1, 2, 2, 2], False), align_corners=False)",
        shape=(1, 2, 4, 4),
    ),
    *spelled("layer_norm", "{=tuple(s[-1:])}", "{w:s[-1:]}", "{w:s[-1:]}", shape=2),
    *spelled("layer_norm", "normalized_shape={=tuple(s[-1:])}", "weight={w:s[-1:]}", shape=2),
    *spelled("layer_norm rms_norm", "{=tuple(s[-1:])}"),
    *spelled("rms_norm", "{=tuple(s[-1:])}", "weight={w:s[-1:]}", "eps=1e-3"),
    *spelled("group_norm", "2", "{w:(4,)}", "{w:(4,)}", shape=(2, 4, 3, 3)),
    *spelled("group_norm", "num_groups=2", shape=(2, 4, 3, 3)),
    *spelled("instance_norm", shape=(2, 3, 4)),
    *written(
        "F.instance_norm({a}, weight={w:(3,)}, bias={w:(3,)})",
        "F.instance_norm({a}, {k:(3,)}, {k:(3,)} ** 2, use_input_stats=False)",
        shape=(2, 3, 4),
    ),
    *written(
        "F.batch_norm({a}, {k:s[1:]}, {k:s[1:]} ** 2 + 0.1, {w:s[1:]}, {w:s[1:]})",
        "F.batch_norm({a}, None, None, training=True)",
        shape=2,
    ),
    *written("F.batch_norm({a}, {k:s[1:]}, {k:s[1:]} ** 2 + 0.1, {w:s[1:]}, {w:s[1:]}, training=True)", shape=2),
    *written("F.local_response_norm({a}, 2)", shape=(2, 3, 4)),
    *spelled("embedding", "{w:(5, 3)}"),
    *written(
        "F.embedding({a}.argmax(-1), {w:(5, 3)})",
        "F.embedding(input={a}.argmax(-1), weight={p:(5, 3)}, padding_idx=0)",
        "{w:(5, 3)}[{a}.argmax(-1)]",
        shape=(3, 4),
    ),
    *written(
        "F.embedding_bag({a}.argsort(-1), {w:(5, 3)}, mode='sum')",
        "F.embedding_bag({a}.argsort(-1), {p:(5, 3)})",
        shape=(3, 4),
    ),
    *written(
        "F.one_hot({a}.argmax(-1), 4) @ {w:(4, 2)}.long()",
        "F.one_hot({a}.argmax(-1), 4).double() @ {w:(4, 2)}",
        shape=(3, 4),
    ),
    *written(
        "F.dropout({a}, 0.4, True)",
        "F.dropout({a}, p=0.4, training=True, inplace=True)",
        "torch.dropout({a}, 0.4, train=True)",
        "F.alpha_dropout({a}, 0.3, True)",
    ),
    *written("F.dropout1d({a}, 0.4, True)", "F.feature_alpha_dropout({a}, 0.4, True)", shape=(2, 3, 4)),
    *written(
        "F.scaled_dot_product_attention({a}, {w:s}, {w:s})",
        "F.scaled_dot_product_attention({a}, {a}, {a}, is_causal=True)",
        shape=(2, 3, 4),
    ),
    *written("F.scaled_dot_product_attention(query={a}, key={a}, value={w:s}, attn_mask={k:(3, 3)})", shape=(2, 3, 4)),
    *written(
        "F.scaled_dot_product_attention({a}, {a}, {a}, attn_mask={w:(3, 3)})",
        "F.scaled_dot_product_attention({a}, {a}, {a}, torch.ones(3, 3, dtype=torch.bool).tril(), scale=0.3)",
        shape=(2, 3, 4),
    ),
    *written("torch._weight_norm({a}, {w:(s[0], 1)}, 0)", "torch.norm_except_dim({a}, 2, 0)", shape=2),
    *written("torch.segment_reduce({a}, 'sum', lengths=torch.tensor([1, 3]))", shape=(4,)),
    *written(
        "torch.istft(torch.stft({a}, 8, 2, window=torch.ones(8), return_complex=True), 8, 2, window=torch.ones(8))",
        "torch.stft({a}, 8, 2, window={w:(8,)}, return_complex=True).abs()",
        shape=(16,),
    ),
]
LOSSES = [
    *spelled("mse_loss l1_loss smooth_l1_loss huber_loss soft_margin_loss", "{w:s}", kinks=()),
    *spelled("mse_loss l1_loss smooth_l1_loss huber_loss", "target={k:s}"),
    *spelled("cross_entropy nll_loss multi_margin_loss", "torch.tensor([0, 1, 3])", shape=(3, 4)),
    *spelled(
        "cross_entropy", "target=torch.tensor([0, 1, 3])", "weight={k:(4,)} ** 2", "label_smoothing=0.1", shape=(3, 4)
    ),
    *spelled("cross_entropy", "{w:(3, 4)}.softmax(-1)", shape=(3, 4)),
    *spelled("binary_cross_entropy_with_logits", "{k:s} ** 2 / 4"),
    *spelled("binary_cross_entropy_with_logits", "{k:s} ** 2 / 4", "pos_weight={k:()} ** 2"),
    *spelled("binary_cross_entropy", "{k:s} ** 2 / 4", domain="fraction"),
    *spelled("kl_div", "{k:s} ** 2"),
    *spelled("poisson_nll_loss", "{k:s} ** 2"),
    *spelled("gaussian_nll_loss", "{w:s}", "{w:s} ** 2 + 0.2", shape=2),
    *written(
        "F.cosine_embedding_loss({a}, {w:s}, torch.tensor([1, -1, 1]))",
        "F.triplet_margin_loss({a}, {w:s}, {w:s})",
        shape=(3, 4),
    ),
    *written(
        "F.margin_ranking_loss({a}, {w:s}, torch.ones({=tuple(s)}), margin=0.3)",
        "F.hinge_embedding_loss({a}, torch.ones({=tuple(s)}))",
    ),
    *written("F.multilabel_soft_margin_loss({a}, torch.ones({=tuple(s)}, dtype=torch.float64))", shape=(3, 4)),
    *written(
        "F.ctc_loss({a}[:, None].log_softmax(-1), torch.tensor([[1]]), torch.tensor([3]), torch.tensor([1]))",
        shape=(3, 4),
    ),
]
COMPLEX = [
    *(
        t
        for name in ("fft", "ifft", "rfft", "ihfft", "fftshift", "ifftshift")
        for t in written(f"torch.fft.{name}({{a}})", f"torch.fft.{name}(input={{a}})")
    ),
    *(
        t
        for name in ("fft2", "ifft2", "fftn", "ifftn", "rfft2", "rfftn")
        for t in written(f"torch.fft.{name}({{a}})", shape=2)
    ),
    *written(
        "torch.fft.irfft(torch.fft.rfft({a}) * {w:(3,)}, 4)",
        "torch.fft.hfft({a})",
        "torch.fft.irfft2(torch.fft.rfft2({a}))",
        "torch.fft.irfftn(torch.fft.rfftn({a}))",
        shape=(3, 4),
    ),
    *written(
        "torch.complex({a}, {w:s})",
        "torch.complex({a}, {w:s}).abs()",
        "torch.complex({a}, {a} * 2).real",
        "torch.polar({a}, {w:s})",
    ),
    *written(
        "torch.complex({a}, {w:s}).imag",
        "torch.imag(torch.complex({a}, {w:s}))",
        "torch.complex({a}, {w:s}).conj().real",
        "torch.complex({a}, {w:s}).angle()",
    ),
    *written(
        "torch.view_as_real(torch.complex({a}, {w:s}))", "torch.view_as_complex(torch.stack([{a}, {w:s}], -1)).abs()"
    ),
    *written(
        "(torch.complex({a}, {w:s}) * torch.complex({w:s}, {a})).abs()",
        "torch.complex({a}, {w:s}).tanh().real",
        "torch.complex({a}, {w:s}).square().real",
    ),
]
MODULES = [
    *written(
        "{n:nn.Linear(4, 3)}({a})",
        "{n:nn.Linear(4, 3, bias=False)}({a})",
        "{n:nn.LayerNorm(4)}({a})",
        "{n:nn.RMSNorm(4)}({a})",
        "{n:nn.BatchNorm1d(4)}({a})",
        "{n:nn.BatchNorm1d(4).eval()}({a})",
        shape=(3, 4),
    ),
    *written(
        "{n:nn.PReLU()}({a})",
        "{n:nn.GRUCell(4, 3)}({a})",
        "{n:nn.LSTMCell(4, 3)}({a})",
        "{n:nn.RNNCell(4, 3)}({a})",
        "{n:nn.RNNCell(4, 3, nonlinearity='relu')}({a})",
        "{n:nn.Bilinear(4, 4, 2)}({a}, {w:s})",
        "{n:nn.RNN(4, 3)}({a})",
        shape=(3, 4),
    ),
    *written(
        "{n:nn.GRU(4, 3)}({a})[0]",
        "{n:nn.LSTM(4, 3, batch_first=True)}({a})[0]",
        "{n:nn.RNN(4, 3, nonlinearity='relu')}({a})[0]",
        "{n:nn.GRU(4, 2, num_layers=2, bidirectional=True)}({a})[1]",
        shape=(2, 3, 4),
    ),
    *written(
        "{n:nn.MultiheadAttention(4, 2, batch_first=True)}({a}, {a}, {a})[0]",
        "{n:nn.MultiheadAttention(4, 2)}({a}, {w:s}, {a}, need_weights=False)[0]",
        "{n:nn.TransformerEncoderLayer(4, 2, 5, batch_first=True)}({a})",
        "{n:nn.TransformerEncoderLayer(4, 2, 5, dropout=0.0, activation='gelu', norm_first=True)}({a})",
        shape=(2, 3, 4),
    ),
    *written(
        "{n:nn.Conv1d(3, 2, 2)}({a})",
        "{n:nn.ConvTranspose1d(3, 2, 2)}({a})",
        "{n:nn.InstanceNorm1d(3, affine=True)}({a})",
        "{n:nn.Conv1d(3, 2, 2, padding=1, padding_mode='circular')}({a})",
        "{n:nn.GroupNorm(3, 3)}({a})",
        shape=(2, 3, 4),
    ),
    *written(
        "{n:nn.Conv2d(3, 2, 2)}({a})",
        "{n:nn.BatchNorm2d(3)}({a})",
        "{n:nn.utils.parametrizations.weight_norm(nn.Conv2d(3, 2, 2))}({a})",
        "{n:nn.ConvTranspose2d(3, 2, 2)}({a})",
        shape=(2, 3, 4, 4),
    ),
    *written(
        "{n:nn.Embedding(5, 3)}({a}.argmax(-1))",
        "{n:nn.Embedding(5, 3, padding_idx=0)}({a}.argmax(-1))",
        "{n:nn.EmbeddingBag(5, 3)}({a}.argsort(-1))",
        "{n:nn.Embedding(5, 3, max_norm=0.6)}({a}.argmax(-1))",
        shape=(3, 4),
    ),
    *written(
        "{n:nn.utils.parametrizations.weight_norm(nn.Linear(4, 3))}({a})",
        "{n:nn.utils.parametrizations.spectral_norm(nn.Linear(4, 3))}({a})",
        "{n:nn.utils.parametrizations.orthogonal(nn.Linear(4, 3))}({a})",
        "F.linear({a}, {n:nn.Linear(4, 3)}.weight)",
        "F.linear({a}, {n:nn.Linear(4, 3)}.weight ** 2, {n:nn.Linear(4, 3)}.bias)",
        shape=(3, 4),
    ),
    *written(
        "{n:nn.Sequential(nn.Linear(4, 5), nn.ReLU(inplace=True), nn.Linear(5, 3))}({a})",
        "{n:nn.Sequential(nn.Linear(4, 4), nn.GELU(), nn.Dropout(0.3))}({a}) + {a}",
        "{n:nn.Sequential(nn.Linear(4, 4), nn.SiLU(inplace=True))}({a})",
        "{n:nn.Sequential(nn.Linear(4, 4), nn.GLU())}({a})",
        shape=(3, 4),
    ),
]
GROUPS: dict[str, list[Template]] = {
    "smooth": SMOOTH, "bent": BENT, "steps": STEPS, "operators": OPERATORS, "writes": WRITES, "arithmetic": ARITHMETIC,
    "reductions": REDUCTIONS, "shapes": SHAPES, "products": PRODUCTS, "layers": LAYERS, "losses": LOSSES,
    "complex": COMPLEX, "modules": MODULES,
}  # fmt: skip

_LAYER = "F.linear({a}, {p:(4, s[-1])}, {p:(4,)})"
CHAINS: list[tuple[str, ...]] = [  # what is remembered of a value, and a write that makes it untrue
    (_LAYER, "{a}.relu()", "torch.cat([{a}])", "{a}.sub_(0.7)", "F.linear({a}, {p:(2, 4)})"),
    (_LAYER, "torch.relu({a})", "{a}.clone()", "{a}.neg_()", "{a} @ {p:(4, 2)}"),
    (_LAYER, "{a}.clamp(min=0.0)", "{a}.mul_(2.0)"),
    (_LAYER, "F.relu({a})", "{a}.mean(0, keepdim=True)", "{a}.sub_({p:(4,)})", "F.linear({a}, {p:(2, 4)})"),
    (_LAYER, "{r0} + 1.0", "{r0}.mul_(2.0)", "{r0} * {r1}"),
    (_LAYER, "{r0} * 2 + 0.5", "{r0}.add_(1.0)", "{r1} * {r0}"),
    (_LAYER, "({a} > 0.1)", "{r1}.logical_not_()", "{r1}.double()"),
    (_LAYER, "({a} > 0.1)", "{r0}.neg_()", "{r1}.double()"),
    (_LAYER, "torch.relu_({a})", "{a} + {r0}"),
    (_LAYER, "{r0} * 2.0", "torch.relu_({r0})", "{r1} + {r2}"),
    (_LAYER, "torch.maximum({a}, {p:(4,)})", "{a} * 2.0"),
    (_LAYER, "torch.tanh({r0})", "{r0}.mul_(2.0)", "{r1} * {p:(4,)}"),
    ("{p:(3, 4)} * 2", "{a}.clamp_(max=0.5)", "F.linear(torch.ones(2, 4), {a})"),
    ("{p:(3, 4)} + 0.1", "{a}.add_({k:(3, 4)})", "{a}.tanh()"),
]

NO_HANDLER = """
    affine_grid angle atan2 arctan2 binary_cross_entropy cartesian_prod cdist cholesky combinations conj
    conj_physical constant_pad_nd conv_tbc copysign rad2deg corrcoef cosine_embedding_loss cov cross ctc_loss
    cumulative_trapezoid deg2rad det diagonal_scatter diff digamma dist eigvalsh entr erfcx erfinv float_power fmod
    gaussian_nll_loss hinge_embedding_loss hypot i0e i1 i1e imag index_reduce inv inverse stft istft kl_div kron
    ldexp lgamma log_ndtr logaddexp logaddexp2 logdet lstsq margin_ranking_loss matrix_power multi_margin_loss
    multilabel_soft_margin_loss nanmedian nanquantile ndtr ndtri pairwise_distance pinv poisson_nll_loss polar qr
    quantile remainder renorm row_stack scatter_reduce slogdet soft_margin_loss svdvals trapezoid
    triplet_margin_loss xlog1py xlogy psi gammaln multigammaln
"""
NOT_CALLED = """
    __iadd__ __isub__ __imul__ __idiv__ __div__ __mul__ __rmul__ __truediv__ __matmul__ __rmatmul__
    upsample upsample_nearest upsample_bilinear cuda pin_memory half bfloat16
    gelu_ hardsigmoid_ hardswish_ mish_ relu6_ silu_ resize resize_ solve checkpoint _grouped_mm top_one
    triangular_solve cholesky_solve lu_solve ldl_solve solve_ex tensorsolve convolution
    native_batch_norm numpy_T matrix_H
    sparse_sampled_addmm _sparse_addmm _sparse_softmax _sparse_log_softmax grad backward
    floor_divide floor_divide_ __rfloordiv__ __ifloordiv__
    apply_ map_ map2_ dequantize quantize_per_tensor quantize_per_channel fake_quantize_per_tensor_affine
    fake_quantize_per_channel_affine fused_moving_avg_obs_fake_quant
    bernoulli binomial normal poisson
"""  # they arrive by other names, need another device, are coarse or refused, or have tests of their own
