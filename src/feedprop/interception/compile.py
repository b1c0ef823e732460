"""What torch.compile has to be told so that it sees what eager torch sees."""

from __future__ import annotations

import functools
import sys

from torch.overrides import get_ignored_functions, get_overridable_functions

from feedprop.operations.registry import HANDLERS, neutral


def hand_over_all_functions() -> None:
    """Have torch.compile hand every function that has a handler to the rules.

    It puts some into the graph unseen (F.tanh, F.sigmoid, F.hardswish): those that torch.overrides says no mode can
    override. In eager torch the rules see them, or what they call.
    """
    unseen = {function for function in _ignored() if HANDLERS.get(function, neutral) is not neutral}
    listed = get_overridable_functions()
    unseen.difference_update(listed.get("feedprop", ()))
    listed.setdefault("feedprop", []).extend(unseen)
    compiler = sys.modules.get("torch._dynamo.variables.torch")
    if compiler is not None:  # it has perhaps read the list already
        compiler.get_overridable_functions().update(listed["feedprop"])


_ignored = functools.cache(get_ignored_functions)
