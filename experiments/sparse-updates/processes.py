"""What do two processes gain if each sends a hundredth of its feedback? `topk_hook` beside the all-reduce of DDP.

    python experiments/sparse-updates/processes.py [--parts accuracy time] [--data data] [--seeds 0 1 2]

- accuracy: run.py's MLP and LeNet with its learning rates, but 10,000 images and 2 epochs, and each batch of 128 split
  between the processes; on 5,000 validation images.
- time: seconds and bytes of a step, over loopback as it is, and slowed down so that each process sends at most so many
  bits per second. Each rate has a network namespace of its own (Linux, `unshare` and `tc`), whose counter of bytes sees
  no other program. The four ways take turns, one step each; the time is the median of the slower process, on the clock
  and of its processor, which on a busy machine is the one to trust.
"""

import itertools
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
import torch.distributed as dist
import torch.multiprocessing
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torchvision import datasets

import feedprop
from feedprop import rewards
from feedprop.distributed import TopKState, topk_hook

sys.path.append(str(Path(__file__).parents[1]))
from loop import BATCH, Data, images, split
from results import parser, write_row
from run import METHODS, NETWORKS, accuracy

TRAINING, EPOCHS, WARM_UP = 10_000, 2, 16  # images; the last, in steps, is a tenth of all
SENT: dict[str, dict[str, int] | None] = {  # settings of TopKState; None for DDP's own all-reduce
    "everything": None,
    "1 %": {"whole_below": 0},
    "1 %, small ones whole": {"whole_below": 1000},
    "1 %, warm-up": {"whole_below": 0, "warm_up": WARM_UP},
}
RATES = {"loopback": None, "1 Gbit/s": 1000, "100 Mbit/s": 100}  # Mbit/s that each process sends
ROUNDS, FIRST = 6, 2  # of which the first are not counted
SLOW = "tc qdisc add dev lo root tbf rate {}mbit burst 256kb latency 1s"


def wide() -> nn.Sequential:
    """Return an MLP of 10,030,090 parameters."""
    sizes = (784, 2048, 2048, 2048)
    layers = [layer for a, b in itertools.pairwise(sizes) for layer in (nn.Linear(a, b), nn.ReLU())]
    return nn.Sequential(nn.Flatten(), *layers, nn.Linear(2048, 10))


def spread(make: Callable[[], nn.Module], method: str, sent: str) -> tuple[nn.Module, nn.Module]:
    """Return a model on all processes and what it minimises."""
    model, composite = make(), METHODS[method][0]
    if composite is not None:
        feedprop.attach(model, composite)
    model = DistributedDataParallel(model)
    settings = SENT[sent]
    if settings is not None:
        model.register_comm_hook(TopKState(model, 0.01, **settings), topk_hook)
    return model, nn.CrossEntropyLoss() if composite is None else rewards.SoftmaxReward()


def trained(network: str, method: str, sent: str, *, data: Data, seed: int) -> nn.Module:
    """Train as run.py does, each process on its half of every batch, and return the model inside."""
    torch.manual_seed(seed)
    model, objective = spread(NETWORKS[network], method, sent)
    optimizer = torch.optim.SGD(model.parameters(), METHODS[method][2], momentum=0.9)
    rate, steps = METHODS[method][2], EPOCHS * (len(data[0]) // BATCH)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, total_steps=steps, cycle_momentum=False)
    for _ in range(EPOCHS):
        for batch in torch.randperm(len(data[0]))[: steps // EPOCHS * BATCH].split(BATCH):
            mine = batch.chunk(dist.get_world_size())[dist.get_rank()]
            optimizer.zero_grad()
            objective(model(data[0][mine]), data[1][mine]).backward()
            optimizer.step()
            schedule.step()
    if METHODS[method][0] is not None:
        feedprop.detach(model.module)
    return model.module


def write_accuracies(options) -> None:
    data, held_out = split(images(datasets.MNIST, options.data, train=True), TRAINING)
    cases = itertools.product(options.seeds, ("mlp", "lenet"), ("backprop", "default"), SENT)
    for seed, network, method, sent in cases:
        model = trained(network, method, sent, data=data, seed=seed)
        if dist.get_rank() == 0:
            settings = {"part": "accuracy", "network": network, "method": method, "sent": sent}
            write(options, seed, settings, {"accuracy": accuracy(model, held_out)})


def write_times(options) -> None:
    for network, make in {"lenet": NETWORKS["lenet"], "wide mlp": wide}.items():
        ways = {
            (m, s): spread(make, m, s) for m in ("backprop", "default") for s in ("everything", "1 %, small ones whole")
        }
        inputs, targets = torch.randn(BATCH // 2, 1, 28, 28), torch.randint(10, (BATCH // 2,))
        measured = {way: [] for way in ways}
        for _ in range(ROUNDS):
            for way, (model, objective) in ways.items():
                model.zero_grad()
                dist.barrier()
                before, start, cpu = bytes_sent(), time.perf_counter(), time.process_time()
                objective(model(inputs), targets).backward()
                mine = torch.tensor([time.perf_counter() - start, time.process_time() - cpu], dtype=torch.float64)
                dist.barrier()
                sent_bytes = (bytes_sent() - before) / dist.get_world_size()
                dist.all_reduce(mine, dist.ReduceOp.MAX)
                measured[way].append((*mine.tolist(), sent_bytes))
        if dist.get_rank() == 0:
            for (method, sent), found in measured.items():
                seconds, cpu_seconds, sent_bytes = zip(*found[FIRST:], strict=True)
                settings = {"part": "time", "network": network, "method": method, "sent": sent, "rate": options.rate}
                settings["steps"] = ROUNDS - FIRST
                figures = {"seconds": statistics.median(seconds), "fastest": min(seconds), "slowest": max(seconds)}
                figures |= {"cpu_seconds": statistics.median(cpu_seconds), "bytes": statistics.median(sent_bytes)}
                write(options, None, settings, figures)


def bytes_sent() -> int:
    """Return the bytes that went through the loopback interface so far."""
    (line,) = (line for line in Path("/proc/net/dev").read_text().splitlines() if line.strip().startswith("lo:"))
    return int(line.split(":")[1].split()[8])


def write(options, seed: int | None, settings: dict, figures: dict) -> None:
    command = "python experiments/sparse-updates/processes.py"  # sys.argv of a process that it started is another
    write_row(
        options.results, experiment="sparse-updates", seed=seed, settings=settings, figures=figures, command=command
    )


def work(rank: int, part: Callable, options, store: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
    part(options)
    dist.destroy_process_group()


def on_two_processes(part: Callable, options) -> None:
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    with tempfile.TemporaryDirectory() as folder:
        torch.multiprocessing.spawn(work, (part, options, f"{folder}/store"), nprocs=2)


def measure_at(rate: str, results: Path) -> None:
    """Run this script in a network namespace in which two processes share twice the rate."""
    limit = RATES[rate]
    setup = ["ip link set lo up", *([] if limit is None else [SLOW.format(2 * limit)]), 'exec "$@"']
    script = [sys.executable, __file__, "--parts", "time", "--rate", rate, "--results", str(results)]
    namespace = ["unshare", "--map-root-user", "--net", "sh", "-ec", "; ".join(setup), "sh"]
    subprocess.run([*namespace, *script], check=True)


def main() -> None:
    arguments = parser(__doc__, __file__)
    arguments.add_argument("--parts", nargs="+", choices=("accuracy", "time"), default=("accuracy", "time"))
    arguments.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    arguments.add_argument("--rate", choices=RATES, help="time over this network as it is, and call it so")
    options = arguments.parse_args()
    if "accuracy" in options.parts:
        on_two_processes(write_accuracies, options)
    if "time" in options.parts and options.rate:
        on_two_processes(write_times, options)
    elif "time" in options.parts:
        for rate in RATES:
            measure_at(rate, options.results)


if __name__ == "__main__":
    main()
