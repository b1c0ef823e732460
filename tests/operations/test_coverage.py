"""Every function of torch has a handler, is written in functions that have one, or has a reason to have none."""

from collections.abc import Callable, Iterator
from fnmatch import fnmatchcase
from types import ModuleType

import pytest
import torch
from torch import Tensor
from torch.nn import functional
from torch.overrides import get_ignored_functions, get_overridable_functions, resolve_name

from feedprop.interception.mode import _PARTS
from feedprop.operations.registry import HANDLERS

PLACES = (torch, Tensor, functional, torch.linalg, torch.special, torch.fft, torch.sparse)

# reason -> names, also as patterns
WITHOUT: dict[str, str] = {
    "its results are whole numbers or truth values": """
        *bitwise_*_ logical_*_ eq_ ne_ not_equal_ gcd_ lcm_ hash_tensor histogramdd ndimension *indices
        *indices_copy row_indices __ge__ __gt__ __le__ __lt__ __iand__ __ior__ __ixor__ __ilshift__
        __irshift__ __lshift__ __rshift__ __rand__ __ror__ __rxor__ __long__ __nonzero__ _dimI _dimV _nnz _is_view
        _nested_tensor_* is_distributed
    """,
    "it writes random numbers": "bernoulli_ cauchy_ exponential_ geometric_ log_normal_ normal_ random_ uniform_",
    "torch has no derivative of it": """
        *chebyshev_polynomial_? hermite_polynomial_* laguerre_polynomial_l legendre_polynomial_p geqrf hsmm hspmm saddmm
        smm sspaddmm nextafter_ native_norm embedding_renorm_ spdiags symeig
    """,
    "it ends the graph": "detach_",
    "refused: it changes what a tensor is, not its values": """
        set_ resize_as_ resize_as_sparse_ sparse_resize* _coalesced_ to_sparse_semi_structured _values _to_dense
        _sparse_mask_projection
    """,
    "refused: it adds up into a sparse tensor, which no rule damps": "spsolve",
    "refused: a loop that is traced, not run": "while_loop",
    "a part of a normalisation over several devices, which torch calls from its own backward": "batch_norm_*",
    "another back end, or quantised numbers": """
        miopen_* quantized_* quantize_per_tensor_dynamic fbgemm_* q_* qscheme int_repr choose_qparams_optimized
        to_mkldnn xpu ipu mtia _autocast_to_* __cuda_array_interface__ from_dlpack to_dlpack
    """,
    "no function of tensors": """
        sym_* _sym_int autocast classproperty compiled_with_cxx11_abi get_file_path set_default_dtype Optional
        prepare_multiprocessing_environment profiler_allow_* as_sparse_gradcheck
    """,
}


def _functions() -> Iterator[tuple[str, Callable]]:
    for place, functions in get_overridable_functions().items():
        for function in functions:
            name = resolve_name(function) or f"{place}.{function}"
            yield name.removesuffix(".__get__").rsplit(".", 1)[-1], function
    for place in PLACES:
        for name in dir(place):
            function = getattr(place, name)
            if not name.startswith("_") and callable(function) and not isinstance(function, (type, ModuleType)):
                yield name, function


def _handled(function: Callable) -> bool:
    return function in HANDLERS or function in _PARTS


@pytest.mark.filterwarnings("ignore")  # deprecated attributes of torch
def test_every_function_of_torch_has_a_handler_or_a_reason() -> None:
    ignored = get_ignored_functions()  # torch's own list of what takes no tensors
    listed = " ".join(WITHOUT.values()).split()
    missing = {
        name
        for name, function in _functions()
        if function not in ignored
        and name != "manual_seed"  # not in every release's own list
        and not _handled(function)
        and not any(fnmatchcase(name, pattern) for pattern in listed)
    }
    assert not missing


@pytest.mark.filterwarnings("ignore")
def test_what_has_a_handler_needs_no_reason() -> None:
    spelled = {name for name, function in _functions() if not _handled(function)}
    idle = [
        pattern
        for pattern in " ".join(WITHOUT.values()).split()
        if not any(fnmatchcase(name, pattern) for name in spelled)
        and any(fnmatchcase(name, pattern) for name, _ in _functions())  # this release of torch has it
    ]
    assert not idle


@pytest.mark.parametrize("name", ["chebyshev_polynomial_t", "hermite_polynomial_h", "legendre_polynomial_p"])
def test_polynomials_without_a_derivative_pass_nothing(name: str) -> None:
    z = torch.rand(4, requires_grad=True)
    assert not getattr(torch.special, name)(z, 3).requires_grad
