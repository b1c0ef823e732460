"""The table: torch function -> handler. Names only; each stands once, for all of its spellings (see `spellings`).

To add a function, add its name to the row of its handler; an activation also says its limits at 0.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from torch import Tensor

from feedprop.operations import elementwise, normalisation, products, recurrent
from feedprop.operations.attention import scaled_dot_product_attention
from feedprop.operations.elementwise import activation, arithmetic, compared, converted, relu, selected, steep
from feedprop.operations.in_place import in_place, optionally_in_place
from feedprop.operations.kinds import added, gate, multiple, raised, smooth
from feedprop.operations.masked_products import masked
from feedprop.operations.registry import (
    HANDLERS,
    Handler,
    Limits,
    drawn,
    fixed,
    keeps_sign,
    moved,
    neutral,
    ordinary,
    refused,
    summed,
    with_constants,
)
from feedprop.operations.self_gated import self_gated
from feedprop.operations.spellings import attributes, in_place_spellings, position_of_inplace, spellings
from feedprop.operations.tracking import mixes, moves, tracked

VALUES = frozenset({"H", "T", "mH", "mT", "real", "imag"})  # attributes of a tensor that are tensors of values

# handler -> names
ROWS: tuple[tuple[Handler, str], ...] = (
    # --- questions about a tensor, and what makes constants: no credit passes
    (neutral, """
        size dim ndim numel nelement stride storage_offset is_contiguous is_floating_point is_complex is_conj is_neg
        is_signed is_pinned is_coalesced is_inference is_set_to is_same_size element_size data_ptr const_data_ptr
        get_device typename requires_grad_ register_hook retain_grad item tolist numpy storage
        untyped_storage new new_zeros new_ones new_full new_empty new_tensor new_empty_strided rand_like
        randn_like randint_like multinomial equal argmax argmin argwhere isnan isinf isposinf isneginf isfinite
        isreal isin isclose allclose any all nonzero nonzero_static count_nonzero signbit byte char short
        bitwise_left_shift bitwise_right_shift gcd lcm searchsorted bucketize bincount histc histogram unique
        unique_consecutive one_hot tril_indices triu_indices matrix_rank result_type __len__ __bool__ is_nonzero
        __repr__ __format__ __hash__ __contains__ __index__ __int__ __float__ __complex__ __dlpack__
        __str__ dense_dim sparse_dim indices crow_indices col_indices
        record_stream share_memory_ __reduce_ex__ __deepcopy__ __setstate__ is_shared nextafter
    """),
    (fixed, """
        detach zeros_like ones_like empty_like full_like argsort bool eq ne not_equal __eq__ __ne__ logical_and
        logical_or logical_not logical_xor bitwise_and bitwise_or bitwise_not bitwise_xor __and__ __or__ __xor__
        __invert__
    """),
    (drawn, "bernoulli poisson normal binomial"),
    # --- what only moves values: views, selections by position, copies
    (moves(keeps_sign(moved)), "permute index_select gather"),
    (moves(keeps_sign(moved), "transpose"), "transpose"),
    (moves(keeps_sign(moved), "T"), "t"),
    (moves(keeps_sign(moved), in_order=True), """
        cat concat concatenate stack expand expand_as narrow select repeat chunk
        flatten ravel reshape view view_as squeeze unsqueeze unflatten __getitem__ clone contiguous alias_copy
    """),
    (moves(moved, in_order=True), """
        reshape_as broadcast_to column_stack row_stack dstack hstack vstack tile cpu cuda pin_memory view_copy
        narrow_copy select_copy slice_copy expand_copy squeeze_copy unsqueeze_copy
        split split_with_sizes tensor_split unbind hsplit vsplit dsplit unsafe_chunk unsafe_split
        unsafe_split_with_sizes split_copy split_with_sizes_copy unbind_copy
    """),
    (moves(moved, "transpose"), "swapaxes swapdims transpose_copy"),
    (moves(moved, "T"), "T t_copy"),
    (moves(moved, "mT"), "mT"),
    (moves(moved, "H"), "H"),
    (moves(moved, "mH"), "mH adjoint"),
    (moves(moved), """
        as_strided diagonal flip fliplr flipud movedim moveaxis pixel_shuffle pixel_unshuffle channel_shuffle
        native_channel_shuffle roll rot90 take take_along_dim unfold diagonal_copy permute_copy unfold_copy
        as_strided_copy pad_sequence
    """),
    (moved, "detach_copy"),
    # --- selections, piecewise linear maps, transforms: linear in each input, or smooth, so the gradient is right
    (keeps_sign(ordinary), """
        max_pool1d max_pool2d max_pool3d adaptive_max_pool1d adaptive_max_pool2d adaptive_max_pool3d dropout dropout1d
        dropout2d dropout3d native_dropout
    """),
    (moves(ordinary, in_order=True), "atleast_1d atleast_2d atleast_3d"),
    (moves(ordinary), "repeat_interleave pad constant_pad_nd tril triu diag_embed"),
    (tracked(ordinary, multiple), "masked_fill"),
    (ordinary, """
        broadcast_tensors copy_ diag diagflat index_copy index_fill
        index_put masked_scatter masked_select resolve_conj resolve_neg conj
        conj_physical scatter slice_scatter select_scatter diagonal_scatter as_strided_scatter slice_inverse
        view_as_complex view_as_real view_as_complex_copy view_as_real_copy complex real imag polar __setitem__
        reflection_pad1d reflection_pad2d reflection_pad3d replication_pad1d replication_pad2d
        replication_pad3d zero_ fill_ fill fill_diagonal_ chain_matmul block_diag nan_to_num positive resize meshgrid
        cartesian_prod combinations put sum_to_size to_dense to_sparse to_sparse_csr to_sparse_csc to_sparse_bsr
        to_sparse_bsc to_padded_tensor coalesce values sparse_mask values_copy sparse_coo_tensor sparse_csr_tensor
        sparse_csc_tensor sparse_bsr_tensor sparse_bsc_tensor sparse_compressed_tensor im2col
        max_pool1d_with_indices max_pool2d_with_indices max_pool3d_with_indices adaptive_max_pool1d_with_indices
        adaptive_max_pool2d_with_indices adaptive_max_pool3d_with_indices max_unpool1d max_unpool2d max_unpool3d
        fractional_max_pool2d fractional_max_pool3d scatter_reduce index_reduce
        alpha_dropout feature_dropout feature_alpha_dropout
        fft ifft fft2 ifft2 fftn ifftn rfft irfft rfft2 irfft2 rfftn irfftn hfft ihfft hfft2 ihfft2 hfftn ihfftn
        fftshift ifftshift stft istft diff gradient affine_grid affine_grid_generator cov corrcoef
        _pack_padded_sequence _pad_packed_sequence fmod remainder __mod__ __rmod__ __imod__ copysign
    """),
    (mixes(ordinary), """
        max min amax amin median nanmedian mode quantile nanquantile sort topk kthvalue msort aminmax var std var_mean
        std_mean norm vector_norm matrix_norm cdist
    """),
    (mixes(ordinary, keeps_places=True), "softmax log_softmax softmin gumbel_softmax cummax cummin"),
    (tracked(ordinary, gate), "leaky_relu rrelu prelu maximum minimum fmax fmin"),
    (tracked(ordinary, multiple), "neg negative"),
    (with_constants("target", 1), "soft_margin_loss"),
    (with_constants("weight", 2), "nll_loss nll_loss2d"),
    (steep(with_constants("weight", 2), at_one=True), "binary_cross_entropy"),
    (with_constants("weight", 2, soft_targets=True), "cross_entropy"),
    (with_constants("weight", 4), "multi_margin_loss"),
    (with_constants("weight pos_weight", 2, 3, 6), "binary_cross_entropy_with_logits"),
    # --- norms, losses, linear algebra, special functions: smooth arithmetic has its ordinary backward
    (ordinary, """
        norm_except_dim _weight_norm nuclear_norm frobenius_norm dist renorm pdist pairwise_distance
        poisson_nll_loss gaussian_nll_loss ctc_loss mse_loss l1_loss smooth_l1_loss huber_loss
        hinge_embedding_loss margin_ranking_loss multilabel_margin_loss multilabel_soft_margin_loss
        triplet_margin_loss triplet_margin_with_distance_loss cosine_embedding_loss linear_cross_entropy
        inv inverse inv_ex pinv pinverse det slogdet logdet cholesky cholesky_ex cholesky_inverse qr svd svdvals eig
        eigh eigvals eigvalsh lu lu_factor lu_factor_ex lu_unpack ldl_factor ldl_factor_ex householder_product orgqr
        ormqr matrix_power matrix_exp matrix_sqrth tensorinv cond lstsq lobpcg svd_lowrank pca_lowrank vander
        atan2 arctan2 angle hypot logaddexp logaddexp2 xlog1py float_power ldexp frexp polygamma mvlgamma
        multigammaln igamma gammainc igammac gammaincc zeta cross _standard_gamma
    """),
    (steep(ordinary, 1), "kl_div xlogy"),
    # --- sums of contributions: the ordinary backward, damped
    (mixes(keeps_sign(summed)), """
        sum mean avg_pool1d avg_pool2d avg_pool3d adaptive_avg_pool1d adaptive_avg_pool2d adaptive_avg_pool3d
    """),
    (mixes(summed), "nansum nanmean logsumexp"),
    (mixes(summed, keeps_places=True), "cumsum logcumsumexp"),
    (tracked(summed, added), "add __add__ __radd__ sub subtract __sub__ rsub __rsub__"),
    (summed, """
        __iadd__ __isub__ trace _sparse_sum interpolate upsample
        upsample_nearest upsample_bilinear upsample_nearest1d upsample_nearest2d upsample_nearest3d upsample_linear1d
        upsample_bilinear2d upsample_bicubic2d upsample_trilinear3d grid_sample grid_sampler grid_sampler_2d
        grid_sampler_3d index_add scatter_add fold col2im segment_reduce trapezoid trapz cumulative_trapezoid
    """),
    (tracked(products.interpolated, added), "lerp"),
    # --- normalisations and lookups
    (normalisation.lookup, "embedding embedding_bag"),
    (mixes(normalisation.unit_length, keeps_places=True), "normalize"),
    (normalisation.cosine_similarity, "cosine_similarity"),
    (normalisation.rescaled, "local_response_norm"),
    # --- layers and products
    (products.linear, """
        linear conv1d conv2d conv3d conv_transpose1d conv_transpose2d conv_transpose3d convolution
    """),
    (products.added_product, "addmm addmv addbmm baddbmm addr"),
    (products.sampled_product, "sampled_addmm"),
    (masked(products.matrix_product), "matmul __matmul__ mm bmm mv dot einsum"),
    (products.matrix_product, "__rmatmul__ inner vdot tensordot outer ger vecdot kron _grouped_mm"),
    (products.product, "bilinear multi_dot conv_tbc"),
    (self_gated(products.elementwise_product), "mul multiply __mul__ __rmul__ __imul__"),
    (products.rounded_quotient, "floor_divide __floordiv__ __rfloordiv__ __ifloordiv__"),
    (self_gated(steep(products.quotient, 1), divides=True), """
        div divide true_divide __truediv__ __div__ __itruediv__ __idiv__
    """),
    (mixes(products.product_of_elements), "prod"),
    (mixes(products.product_of_elements, keeps_places=True), "cumprod"),
    (tracked(products.power, raised), "square"),
    (tracked(steep(products.power), raised), "sqrt rsqrt reciprocal pow __pow__"),
    (products.solution, """
        solve solve_triangular triangular_solve cholesky_solve lu_solve ldl_solve solve_ex tensorsolve
    """),
    (products.gated, "glu"),
    (tracked(products.summed_with_product, added), "addcmul"),
    (tracked(products.summed_with_quotient, added), "addcdiv"),
    (scaled_dot_product_attention, "scaled_dot_product_attention"),
    # --- comparisons, and conversions of their results
    (compared, "gt ge lt le greater greater_equal less less_equal"),
    (tracked(converted, multiple), "float double half bfloat16 to type type_as"),
    (converted, "int long cfloat cdouble chalf as_tensor asarray"),
    (selected, "where"),
    (tracked(relu, gate), "relu"),
    # --- refused, with a reason
    (refused("it calls Python for each number, so no rule sees it; write it in torch functions"), "apply_ map_ map2_"),
    (refused("quantised numbers have no credit; feedprop.discrete rounds numbers that have"), """
        quantize_per_tensor quantize_per_channel dequantize fake_quantize_per_tensor_affine
        fake_quantize_per_channel_affine fused_moving_avg_obs_fake_quant
    """),
)  # fmt: skip


def at(below: float, above: float | None = None) -> Callable[..., Limits]:
    """Return limits at 0 that do not depend on the further arguments of an activation."""
    limits = below, below if above is None else above
    return lambda *_, **__: limits


def _clamped(low: Any = None, high: Any = None) -> Limits:
    if isinstance(low, Tensor) or isinstance(high, Tensor):
        return 0.0, 0.0  # bounds that differ per element: the paper's secant
    value = max(0.0, low or 0.0) if low is not None else 0.0
    value = min(value, high) if high is not None else value
    return value, value


# Activation functions: names -> limits at 0, from below and from above.
ACTIVATIONS: dict[str, Callable[..., Limits]] = {
    "tanh elu selu celu gelu silu mish softsign tanhshrink softshrink hardshrink hardswish relu6": at(0.0),
    "round trunc fix frac": at(0.0),
    "sigmoid expit hardsigmoid": at(0.5),
    "softplus": lambda beta=1.0, threshold=20.0: (math.log(2) / beta,) * 2,
    "sign sgn": at(-1.0, 1.0),
    "heaviside": at(0.0, 1.0),
    "floor": at(-1.0, 0.0),
    "ceil": at(0.0, 1.0),
    "hardtanh": lambda min_val=-1.0, max_val=1.0: (min(max(0.0, min_val), max_val),) * 2,
    "clamp clip": lambda min=None, max=None: _clamped(min, max),
    "clamp_min": lambda min: _clamped(min, None),
    "clamp_max": lambda max: _clamped(None, max),
    "threshold _threshold": lambda threshold, value: (
        (value,) * 2 if threshold > 0 else (value if threshold == 0 else 0.0, 0.0)
    ),
}
# Activation functions that may be two lines through 0, as ReLU is: names -> whether they are, by further arguments.
STRAIGHT: dict[str, Callable[..., bool]] = {
    "clamp clip": lambda min=None, max=None: (min, max) in ((0, None), (None, 0)),
    "clamp_min": lambda min: bool(min == 0),
    "clamp_max": lambda max: bool(max == 0),
    "threshold _threshold": lambda threshold, value: bool(threshold == value == 0),
}
# Arithmetic of one number: the ordinary backward in training; conserving, an activation with these limits at 0.
ARITHMETIC: dict[str, Callable[..., Limits]] = {
    "abs absolute expm1 log1p erf sin tan sinh asinh arcsinh atan arctan asin arcsin atanh arctanh": at(0.0),
    "log log2 log10 logit acosh arccosh erfinv": at(0.0),  # no limit, or 0
    "exp exp2 cos cosh erfc sinc i0 i0e erfcx": at(1.0),
    "acos arccos": at(math.pi / 2),
    "logsigmoid log_ndtr": at(-math.log(2)),
    "ndtr": at(0.5),
    "airy_ai": at(3 ** (-2 / 3) / math.gamma(2 / 3)),
    "deg2rad rad2deg i1 i1e lgamma gammaln digamma psi entr ndtri": at(0.0),
    "bessel_j0 modified_bessel_i0 spherical_bessel_j0": at(1.0),
    "bessel_j1 bessel_y0 bessel_y1 modified_bessel_i1 modified_bessel_k0 modified_bessel_k1": at(0.0),
    "scaled_modified_bessel_k0 scaled_modified_bessel_k1": at(0.0),
}
NON_NEGATIVE = frozenset(
    ("sigmoid", "expit", "hardsigmoid", "softplus", "heaviside", "relu6", "exp", "exp2", "abs", "absolute")
)
SATURATING = frozenset(("erf", "erfc", "ndtr"))  # arithmetic, but x times a function of these is an activation: GELU
PIECEWISE_CONSTANT = "sign sgn round floor ceil trunc fix heaviside"  # latent weights learn through them


def handlers() -> dict[str, Handler]:
    """Return name -> handler, the whole table."""
    found = {name: handler for handler, names in ROWS for name in names.split()}
    for names, limits in ACTIVATIONS.items():
        for name in names.split():
            handler = activation(limits, non_negative=name in NON_NEGATIVE, straight=STRAIGHT.get(names))
            found[name] = tracked(handler, gate)
    for names, limits in ARITHMETIC.items():
        for name in names.split():
            handler = arithmetic(limits, non_negative=name in NON_NEGATIVE)
            found[name] = tracked(handler, gate if name in SATURATING else smooth)
    return found


def _fill() -> None:
    HANDLERS.update(dict.fromkeys(attributes(but=VALUES), neutral))
    HANDLERS[Tensor.data.__get__] = fixed  # type: ignore[attr-defined]  # a descriptor
    for name, handler in handlers().items():
        for function in spellings(name):
            position = position_of_inplace(function)
            HANDLERS[function] = handler
            if position is not None:
                HANDLERS[function] = optionally_in_place(handler, position)
        if handler not in (neutral, fixed, drawn):
            for function, plain in in_place_spellings(name):
                HANDLERS[function] = in_place(handler, plain)
    for function, handler in normalisation.NORMALISATIONS.items():
        HANDLERS[function] = mixes(handler, keeps_places=True)
    HANDLERS.update(recurrent.RECURRENT)
    for name in ("log", "log2", "log10", "entr"):
        elementwise.LOGARITHMS.update(spellings(name))
    for name in PIECEWISE_CONSTANT.split():
        elementwise.PIECEWISE_CONSTANT.update(spellings(name))


_fill()
