"""How much accuracy a spiking MLP keeps with 90 % of its weights at 0, beside the surrogate gradient.

    python experiments/spiking/pruned.py [--methods feedback surrogate] [--seeds 3 4 5]

MNIST, 784-1000-10, with the settings that compare.py chose for the whole network; nothing was chosen here. Pruned by
global magnitude: in one shot after training, without training afterwards, or gradually from a fifth to four fifths of
the training (Zhu & Gupta 2017). Each seed is tested once.
"""

import argparse
import sys
from pathlib import Path

import torch
from run import EPOCHS, train

sys.path.append(str(Path(__file__).parents[1]))
from results import parser, write_row

TASK, AMOUNT = "mnist-mlp", 0.9
CHOSEN = {
    "feedback": {"reward": "target", "loss": "", "share": 0.5, "epsilon": 1.0, "floor": 0.0, "lr": 4e-3},
    "surrogate": {"reward": "", "loss": "mse-count", "share": 0.0, "epsilon": 0.0, "floor": 0.0, "lr": 3e-3},
}
WAYS = {"gradual": {"gradual": AMOUNT, "one_shot": 0.0}, "one shot": {"gradual": 0.0, "one_shot": AMOUNT}}


def main() -> None:
    arguments = parser(__doc__, __file__)
    arguments.add_argument("--methods", nargs="+", choices=CHOSEN, default=list(CHOSEN))
    arguments.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS))
    arguments.add_argument("--seeds", nargs="+", type=int, default=[3, 4, 5])
    options = arguments.parse_args()
    torch.set_num_threads(1)
    for way in options.ways:
        for method in options.methods:
            for seed in options.seeds:
                settings = {"task": TASK, "method": method, **CHOSEN[method], **WAYS[way], "epochs": EPOCHS[TASK]}
                fixed = {"beta": 0.9, "train_on": 0, "test": True}
                figures = train(argparse.Namespace(**settings, **fixed, seed=seed, data=options.data))
                write_row(options.results, experiment="spiking", seed=seed, settings=settings, figures=figures)


if __name__ == "__main__":
    main()
