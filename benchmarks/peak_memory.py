"""Peak memory of one training step by LFP over that of one by backprop: the same network, data and optimizer.

    python benchmarks/peak_memory.py [--compiled] [--settings NAME] [--only NAME ...] [--json FILE]

Memory is what torch's allocator hands out, as its profiler reports each allocation and release: the highest sum within
a step, plus the parameters, gradients and data that exist before it. That is exact and the same at every run, unlike
the memory of a process; scratch memory inside a kernel is not counted.
"""

import argparse
import itertools
import json
import warnings
from pathlib import Path

import torch
from networks import NETWORKS, case
from steps import SETTINGS, Step, both
from torch.profiler import ProfilerActivity, profile


def peak(step: Step) -> int:
    """Return the most bytes that a step holds at one time."""
    for _ in range(3):  # the first ones compile; each step releases the gradients of the one before
        step()
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as recorded:
        step()
    events = [event for event in recorded.profiler.kineto_results.events() if event.name() == "[memory]"]
    events.sort(key=lambda event: event.start_ns())
    return max(itertools.accumulate(event.nbytes() for event in events))


def resident(name: str) -> int:
    """Return the bytes of parameters, gradients, buffers and data, which exist before the step."""
    model, inputs, targets = case(name)
    tensors = [
        *model.parameters(),
        *(p for p in model.parameters() if p.requires_grad),
        *model.buffers(),
        inputs,
        targets,
    ]
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--settings", choices=SETTINGS, default="default", help="a preset of steps.py")
    parser.add_argument("--compiled", action="store_true", help="measure torch.compile'd networks too")
    parser.add_argument("--only", nargs="+", choices=NETWORKS, default=list(NETWORKS), metavar="NAME")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    warnings.simplefilter("ignore")  # the profiler's
    table = {}
    print(f"{'':28}{'LFP, MiB':>12}{'backprop, MiB':>16}{'ratio':>8}")
    for compiled in (False, True) if options.compiled else (False,):
        for name in options.only:
            torch._dynamo.reset()
            before = resident(name)
            mine, other = (before + peak(step) for step in both(name, compiled=compiled, settings=options.settings))
            label = f"{name}, {'compiled' if compiled else 'eager'}"
            table[label] = {"feedback": mine, "gradient": other, "ratio": mine / other}
            print(f"{label:28}{mine / 2**20:12.1f}{other / 2**20:16.1f}{mine / other:8.3f}", flush=True)
    if options.json:
        options.json.write_text(json.dumps({"torch": torch.__version__, "bytes": table}, indent=1))


if __name__ == "__main__":
    main()
