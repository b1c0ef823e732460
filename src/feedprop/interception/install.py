"""Every change that feedprop makes to torch and to classes of others: in one list, each with its reason.

The changes are made when the first model is attached (or unpickled) and undone when the last one is detached or
deleted. While no attached model runs, everything behaves as before, except that backward passes are searched.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any, NamedTuple

from feedprop.interception import activation_checkpointing, backward, compile, pickled, script, shallow_copy
from feedprop.operations import autograd_function, packages

__all__ = ["CHANGES", "PRIVATE", "Change", "acquire", "release"]


class Change(NamedTuple):
    """A change: what is changed, why, and how it is made and undone. Making it again must be harmless."""

    what: str
    why: str
    make: Callable[[], None]
    undo: Callable[[], None]


CHANGES = (
    Change(
        "torch.utils.checkpoint.noop_context_fn.__code__",
        "checkpoints that are given no context_fn recompute with the rules; every library holds its own reference to "
        "this function and torch knows it by identity, so it stays the same object and gets other code",
        activation_checkpointing.make,
        activation_checkpointing.undo,
    ),
    Change(
        "torch.jit.ScriptFunction.__call__",
        "scripted functions run where no mode sees them; inside a pass they run as the Python they were made from",
        script.make,
        script.undo,
    ),
    Change(
        "torch.overrides.get_overridable_functions(), and the compiler's copy; methods of its TensorVariable; "
        "its OutputGraph.call_user_compiler",
        "torch.compile hands only listed functions to a mode: F.tanh, F.sigmoid and others are missing; it handles "
        "y[i] = x, abs(x), pow(x, y) and iteration over a tensor by itself; its answer to requires_grad is out of date "
        "after a write to a view; what it compiled cannot be searched for parameters that would get plain gradients, "
        'what it traced can; and what the backend "eager" runs in a pass would meet the rules twice',
        compile.make,
        compile.undo,
    ),
    Change(
        "torch.autograd._engine_run_backward, and the same in torch.autograd.graph",
        "a parameter of an attached model that was used outside of a pass would get a plain gradient; it is refused "
        "when a backward pass starts, by backward() or torch.autograd.grad(), since no hook of torch sees such a use",
        backward.make,
        backward.undo,
    ),
    Change(
        "torch.nn.Module.__setstate__",
        "a shallow copy of an attached model would have the forward and methods of its original, and run its weights",
        shallow_copy.make,
        shallow_copy.undo,
    ),
    Change(
        "copyreg.dispatch_table[torch.Tensor]",
        "what feedprop remembers of a tensor would be saved with it, and torch.load would refuse the file",
        pickled.make,
        pickled.undo,
    ),
    Change(
        "apply and __class__ of registered torch.autograd.Functions (the user's, timm's, transformers')",
        "their apply is no torch function, so a mode would not see it, and torch.compile traces no other apply",
        autograd_function.make,
        autograd_function.undo,
    ),
)

# Private names of torch that feedprop uses, each with what breaks without it. (A test finds uses that are not here.)
PRIVATE = {
    "torch._C._autograd._get_sequence_nr": "the audit, and relu_: which nodes were made since",
    "Node._input_metadata": "rewards on outputs of 0: whether a conjugate is of real numbers; shapes in a graph",
    "torch.autograd.graph._engine_run_backward": "searching the graph of each backward pass",
    "torch._C._current_graph_task_id": "record: a forward pass within a backward pass is a checkpoint, recomputed",
    "torch.autograd.Variable._execution_engine": "record: when a backward pass has ended",
    "torch._foreach_norm": "record: the norms of all weights in one call",
    "torch._C.DisableTorchFunction": "record: what it computes is not sent to the rules",
    "nn.Module._compiled_call_impl": "record: refusing what torch.compile replaced",
    "OptimizedModule._orig_mod": "the same",
    "torch._C._functorch": "torch.func: whether a wrapped tensor follows a gradient",
    "torch._C._functorch.maybe_current_level": "the same: how many transforms are running",
    "torch._C._functorch.is_legacy_batchedtensor": "backward passes: refusing is_grads_batched=True",
    "torch._C._are_functorch_transforms_active": "torch.func: another way of changing the backward pass",
    "torch._C._is_torch_function_mode_enabled": "spiking neurons and registered autograd functions under a mode",
    "torch._C.TensorBase": "the table: attributes of tensors (T, real, imag, shape)",
    "torch._C._nn": "the table: gelu, silu and their kin, as torch.nn.functional calls them",
    "torch.overrides._get_current_function_mode_stack": "which passes run in this thread",
    "torch._functorch.pyfunctorch.retrieve_all_functorch_interpreters": "refusing jvp, grad(vmap(...)), and transforms "
    "inside of a model",
    "torch._functorch.pyfunctorch.GradInterpreter": "the same: whether they are called under torch.no_grad()",
    "torch._C._dynamo.eval_frame": "torch.compile: what runs by itself, since the graph broke, is not compiled anew",
    "torch._dynamo.variables.torch": "torch.compile: its copy of the overridable functions; calling one in a graph",
    "torch._dynamo.variables.tensor": "torch.compile: what it does with a tensor by itself (TensorVariable)",
    "torch._dynamo.variables.torch_function": "the same: whether a mode is active in what is compiled",
    "Function._dynamo_marked_constant": "the same: a function that torch.compile runs while it traces",
    "torch._dynamo.output_graph": "the same: what was traced is searched before it is compiled",
    "torch._guards": "the same: which function is being traced, and its name",
    "torch._functorch": "the audit: which nodes are compiled regions, by the module that made their class",
    "torch._tensor": "torch.compile: methods of tensors that torch writes in Python",
    "Tensor._version": "marks end with a write",
    "Tensor._base": "in-place operations on views",
    "Tensor._use_count": "pre-activations are kept no longer than outputs",
    "Tensor._backward_hooks": "fusing damping and activation is left undone where a hook watches in between",
    "Node._sequence_nr": "the audit",
    "Node._forward_cls": "the audit: which autograd function made a node",
    "Function._backward_cls": "finding feedprop's own nodes in a graph",
    "Node._saved_self": "rewards on outputs of 0 behind a multiplication by 1",
    "Node._saved_other": "the same, for the other factor",
    "_DDPSinkBackward": "rewards on outputs of 0 of a model in DistributedDataParallel",
    "nn.Module._call_impl": "hooks of the attached module itself run inside the pass",
    "nn.Module._parameters": "torch.func: weights that are given for one call",
    "nn.Module._modules": "torch.func: the same, in modules of length 0 too",
    "nn.Module._forward_hooks": "detach removes feedprop's hooks; those of others run inside the pass",
    "nn.Module._forward_pre_hooks": "the same",
    "nn.Module._backward_hooks": "refusing packages that compute gradients of weights from hooks",
    "nn.Module._forward_hooks_always_called": "detach removes feedprop's hooks",
    "nn.Conv2d._conv_forward": "counting the additions of spiking convolutions",
    "Tensor._is_view": "training by feedback alignment: outputs of layers that are views are copied",
    "FlatParameter._is_flat_param": "refusing FullyShardedDataParallel",
    "nn.Module._is_fsdp_managed_module": "the same",
    "torch._ops.OpOverload": "error messages: the same of one overload, torch.ops.aten.tanh.default",
    "OpOverloadPacket._qualified_op_name": "error messages: the public name of a torch.ops function",
    "ScriptFunction._torchdynamo_inline": "scripted functions run as Python in a pass",
}

_users: weakref.WeakKeyDictionary[Any, weakref.finalize[Any, Any]] = weakref.WeakKeyDictionary()
_count = 0


def acquire(user: Any) -> None:
    """Make the changes for as long as `user` is alive, or until `release(user)`."""
    global _count
    packages.register_known()
    for change in CHANGES:
        change.make()
    if user not in _users:
        _count += 1
        _users[user] = weakref.finalize(user, _decrease)
        _users[user].atexit = False


def release(user: Any) -> None:
    """Undo the changes if nobody else needs them."""
    finalizer = _users.pop(user, None)
    if finalizer is not None:
        finalizer()


def _decrease() -> None:
    global _count
    _count -= 1
    if _count == 0:
        for change in reversed(CHANGES):
            change.undo()
