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


def _square(x: Tensor) -> Tensor:
    """A batch of well-conditioned matrices."""
    return x * 0.3 + 3 * torch.eye(x.shape[-1], dtype=x.dtype)


def _symmetric(x: Tensor) -> Tensor:
    return _square(x) + _square(x).mT + torch.diag(torch.arange(4, dtype=x.dtype))


# Their arguments are computed from x by sums, which an epsilon would damp.
PREPARED = set(
    """polar index_reduce __rmod__ poisson_nll_loss gaussian_nll_loss kl_div binary_cross_entropy inv inverse pinv
    pinverse det slogdet logdet tensorinv inv_ex lu_factor lu_factor_ex qr svdvals vander svd eigvalsh eigh cholesky
    cholesky_ex cholesky_inverse lstsq xlogy xlog1py float_power polygamma mvlgamma multigammaln igamma gammainc igammac
    gammaincc zeta istft lgamma gammaln digamma psi""".split()  # noqa: SIM905
)


def _probabilities(x: Tensor) -> Tensor:
    return x * 0.1 + 0.5


ORDINARY |= {
    **_each("alias_copy conj conj_physical squeeze_copy unbind_copy diff hfft2 hfftn ihfft2 ihfftn gradient", ()),
    **_each("t_copy combinations cov corrcoef pdist", lambda x: (x[0, 0],)),
    **_each("view_copy expand_copy", lambda x: (x, (2, 3, 4, 4))),
    "combinations": lambda x: (x[0, 0, 0],),
    "detach_copy": "elsewhere",  # no gradient passes it
    "_standard_gamma": "elsewhere",  # random: test_arithmetic.py
    **_each("row_stack cartesian_prod", lambda x: ([x[0, 0, 0], x[0, 0, 1] * 2],)),
    "cartesian_prod": lambda x: (x[0, 0, 0], x[0, 0, 1] * 2),
    "pad_sequence": lambda x: ([x[0, 0], x[0, 1, :2] * 2],),
    "native_channel_shuffle": "elsewhere",  # torch has no derivative of it
    **_each("unsafe_chunk unsafe_split split_copy", (2,)),
    **_each("unsafe_split_with_sizes split_with_sizes_copy", ((1, 1),)),
    "narrow_copy": (1, 1, 2),
    "select_copy": (1, 0),
    "slice_copy": (1, 0, 2),
    **_each("diagonal_copy diagflat", lambda x: (x[0, 0],)),
    "permute_copy": ((0, 2, 1, 3),),
    "transpose_copy": (1, 2),
    "unsqueeze_copy": (1,),
    "unfold_copy": (2, 2, 1),
    "as_strided_copy": ((3, 4), (4, 1)),
    "native_dropout": (0.4, True),
    "diagonal_scatter": lambda x: (x[0, 0], x[0, 1, 0] * 2),
    "as_strided_scatter": lambda x: (x, x[0, 0, 0] * 2, (4,), (1,)),
    "slice_inverse": lambda x: (x[:, :2], x, 1, 0, 2, 1),
    **_each("view_as_complex_copy view_as_real_copy", "elsewhere"),  # torch has no derivative of them
    "imag": lambda x: (torch.complex(x, x * 2),),
    "polar": lambda x: (x.abs() + 0.1, x),
    "constant_pad_nd": ((1, 2), 0.5),
    **_each("reflection_pad1d replication_pad1d", lambda x: (x[0], (1, 2))),
    **_each("reflection_pad2d replication_pad2d", ((1, 2, 1, 0),)),
    **_each("reflection_pad3d replication_pad3d", lambda x: (x[None], (1, 2, 1, 0, 0, 1))),
    "fill": (2.0,),
    "fill_diagonal_": lambda x: (x[0, 0], 2.0),
    "put": lambda x: (x, INDEX, x[0, 0, 0, :2] * 2),
    "sum_to_size": ((2, 1, 4, 4),),
    "nanmedian": (),
    "_weight_norm": lambda x: (x, x[:, :1, :1, :1].abs() * 2, 0),
    **_each(
        """to_dense to_sparse to_sparse_csr to_sparse_csc to_sparse_bsr to_sparse_bsc to_padded_tensor coalesce values
        sparse_mask values_copy linear_cross_entropy _pack_padded_sequence _pad_packed_sequence lobpcg
        svd_lowrank pca_lowrank resize cfloat cdouble chalf sparse_coo_tensor sparse_csr_tensor sparse_csc_tensor
        sparse_bsr_tensor sparse_bsc_tensor sparse_compressed_tensor""",
        "elsewhere",  # other layouts and random projections: test_layouts.py
    ),
    "as_tensor": (),
    "asarray": lambda x: ((x,), {"requires_grad": True}),
    "im2col": (2, 1, 0, 1),
    **_each("quantile nanquantile", (0.3, 1)),
    "scatter_reduce": lambda x: (x, 0, torch.zeros(1, 3, 4, 4, dtype=torch.long), x[:1] * 2, "amax"),
    "index_reduce": lambda x: (x.abs(), 0, INDEX, x.abs() * 2, "amax"),
    "stft": lambda x: ((x.reshape(6, 16), 8), {"return_complex": True, "window": torch.ones(8)}),
    "istft": lambda x: (
        (torch.stft(x.reshape(6, 16), 8, return_complex=True, window=torch.ones(8)), 8),
        {"window": torch.ones(8)},
    ),
    "affine_grid": lambda x: (x.reshape(-1, 2, 3), (16, 1, 2, 2), False),
    "affine_grid_generator": lambda x: (x.reshape(-1, 2, 3), (16, 1, 2, 2), False),
    **_each("fmod remainder __mod__ __imod__", (0.7,)),
    "__rmod__": "elsewhere",  # torch has no derivative by the divisor
    "copysign": lambda x: (x, torch.full((2, 3, 4, 4), -1.0)),
    "nuclear_norm": lambda x: (x[0, 0],),
    "frobenius_norm": lambda x: (x[0, 0], (0, 1)),
    **_each("dist", lambda x: (x, x.flip(0) * 0.7)),
    "renorm": (2, 0, 1.0),
    "cdist": lambda x: (x[0, 0], x[1, 0] * 2),
    "pairwise_distance": lambda x: (x[0, 0], x[1, 0] * 2),
    "nll_loss2d": lambda x: (x, torch.zeros(2, 4, 4, dtype=torch.long)),
    **_each("poisson_nll_loss soft_margin_loss hinge_embedding_loss", lambda x: (x, x.detach().sign())),
    "poisson_nll_loss": lambda x: (x, torch.ones_like(x), True, False, 1e-8, 1),
    "gaussian_nll_loss": lambda x: (x, x.detach() * 2, x.abs() + 0.5),
    "kl_div": lambda x: (x.log_softmax(1), torch.full((2, 3, 4, 4), 0.25)),
    "ctc_loss": lambda x: (x.reshape(8, 3, 4).log_softmax(2), torch.ones(3, 2, dtype=torch.long), (8,) * 3, (2,) * 3),
    "binary_cross_entropy": lambda x: (_probabilities(x), torch.full((2, 3, 4, 4), 0.25)),
    "margin_ranking_loss": lambda x: (x, x.flip(0) * 2, x.detach().sign()),
    "multi_margin_loss": lambda x: (x[0, 0], torch.tensor([0, 1, 3, 2])),
    "multilabel_margin_loss": lambda x: (x[0, 0], torch.tensor([[0, 1, -1, -1]] * 4)),
    "multilabel_soft_margin_loss": lambda x: (x[0, 0], torch.eye(4)),
    **_each("triplet_margin_loss triplet_margin_with_distance_loss", lambda x: (x[0, 0], x[0, 1], x[0, 2])),
    "cosine_embedding_loss": lambda x: (x[0, 0], x[0, 1], torch.tensor([1, -1, 1, -1])),
    **_each("inv inverse pinv pinverse det slogdet logdet tensorinv", lambda x: (_square(x),)),
    **_each("inv_ex lu_factor lu_factor_ex qr svdvals", lambda x: (_square(x),)),
    **_each("svdvals eigvalsh", lambda x: (_symmetric(x[0, 0]),)),
    **_each("svd eigh", "elsewhere"),  # only functions without a phase have a gradient: test_layouts.py
    **_each("cholesky cholesky_ex", lambda x: (_square(x) @ _square(x).mT,)),
    "cholesky_inverse": lambda x: (torch.linalg.cholesky(_square(x) @ _square(x).mT),),
    **_each("lu ldl_factor ldl_factor_ex eig eigvals lu_unpack matrix_sqrth", "elsewhere"),  # test_layouts.py
    **_each("householder_product orgqr", lambda x: (x[0, 0], x[0, 1, 0])),
    "ormqr": lambda x: (x[0, 0], x[0, 1, 0], x[0, 2]),
    "matrix_power": (3,),
    "tensorinv": lambda x: (_square(x[0, 0]), 1),
    "cond": "elsewhere",  # test_layouts.py
    "lstsq": lambda x: (_square(x[0, 0]), x[0, 1]),
    "vander": "elsewhere",  # its own backward fails in plain torch
    **_each("atan2 arctan2 hypot logaddexp logaddexp2", lambda x: (x, x.flip(0) * 2)),
    "angle": lambda x: (torch.complex(x, x.flip(0)),),
    **_each("xlogy xlog1py", lambda x: (x, x.flip(0).abs() + 0.5)),
    "float_power": lambda x: (x.abs() + 0.5, 1.5),
    "ldexp": lambda x: (x, torch.tensor(2)),
    "frexp": (),
    "polygamma": "elsewhere",
    **_each("mvlgamma multigammaln", lambda x: (x.abs() + 2, 2)),
    **_each("igamma gammainc igammac gammaincc", lambda x: (torch.full((2, 3, 4, 4), 1.5), x.abs() + 0.5)),
    "zeta": lambda x: (torch.full((2, 3, 4, 4), 2.5), x.abs() + 1.5),
    "cross": lambda x: (x, x.flip(0) * 2, 1),
    **_each("polygamma", lambda x: (1, x.abs() + 0.5)),
}
SUMMED |= {
    **_each("__add__ __radd__ __sub__", lambda x: (x, x.flip(0) * 2)),
    "upsample_linear1d": lambda x: (x[0], 8, False),
    **_each("upsample_nearest1d", lambda x: (x[0], 8)),
    **_each("upsample_nearest2d", lambda x: (x, (8, 8))),
    "upsample_nearest3d": lambda x: (x[None], (6, 8, 8)),
    **_each("upsample_bilinear2d upsample_bicubic2d", lambda x: (x, (8, 8), False)),
    "upsample_trilinear3d": lambda x: (x[None], (6, 8, 8), False),
    **_each("grid_sampler grid_sampler_2d", lambda x: (x, GRID, 0, 0, True)),
    **_each("grid_sampler_3d _sparse_sum", "elsewhere"),
    "col2im": lambda x: (x.reshape(2, 12, 4), (4, 4), (2, 2), 1, 0, 2),
    **_each("trapezoid trapz cumulative_trapezoid", ()),
}
ARITHMETIC: dict[str, Any] = (
    {
        name: SECANT.pop(name)
        for name in """abs absolute expm1 log1p erf sin tan sinh asinh arcsinh atan arctan asin arcsin atanh arctanh log
    log2 log10 logit acosh arccosh exp exp2 cos cosh erfc sinc i0 acos arccos logsigmoid""".split()  # noqa: SIM905
    }
    | _each("""erfinv i0e erfcx deg2rad rad2deg i1 i1e lgamma gammaln digamma psi entr ndtr ndtri log_ndtr""", ())
    | _each(
        """bessel_j0 bessel_j1 bessel_y0 bessel_y1 modified_bessel_i0 modified_bessel_i1 modified_bessel_k0
    modified_bessel_k1 scaled_modified_bessel_k0 scaled_modified_bessel_k1 spherical_bessel_j0 airy_ai""",
        "elsewhere",  # torch has no derivative of them
    )
)
FRACTION |= {"erfinv", "ndtri", "entr"}
POSITIVE |= {"lgamma", "gammaln", "digamma", "psi"}


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
