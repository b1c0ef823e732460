"""Train recipes found in the wild by backprop and by feedback, with every hyperparameter untouched.

    python experiments/recipes/run.py --recipes nanogpt deit --methods backprop default --seeds 0 1 2 --test

The figure is the accuracy, or the loss in nats (nanogpt, run-clm), or the squared error (sine-waves).
"""

import math
import sys
import time
import warnings
from pathlib import Path

import torch
from recipes import RECIPES, train

from feedprop import credit, rules

sys.path.append(str(Path(__file__).parents[1]))
from results import parser, write_row


class RelativeDifference(rules.CentralDifference):
    """Central differences half as wide as a layer's pre-activations for every activation, not only where it jumps."""

    def __call__(self, activation, z, *, at_zero):
        return credit.central_difference(activation, z, self.jump_step, relative=True)


METHODS: dict[str, rules.Composite | None] = {
    "backprop": None,
    "default": rules.presets.training(),
    "plain": rules.Composite(),
    **{
        f"{name}-{floor}": rules.Composite(activation=activation, relative_magnitude=True, magnitude_floor=floor)
        for name, activation in {
            "secant": rules.Secant(),
            "difference": rules.CentralDifference(),
            "relative": RelativeDifference(),
        }.items()
        for floor in (0.0, 0.02, 0.1, 0.3, 0.5, 0.7, 1.0)
    },
}


def main() -> None:
    arguments = parser(__doc__, __file__)
    arguments.add_argument("--recipes", nargs="+", choices=RECIPES, default=list(RECIPES))
    arguments.add_argument("--methods", nargs="+", choices=METHODS, default=["backprop", "default"])
    arguments.add_argument("--seeds", nargs="+", type=int, default=[100])
    arguments.add_argument("--test", action="store_true", help="score on the test part instead of the validation part")
    options = arguments.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore", UserWarning)  # parameters that start at 0 without a floor; that is measured
    for name in options.recipes:
        for seed in options.seeds:
            for method in options.methods:
                torch.manual_seed(seed)
                recipe = RECIPES[name](options.data)
                start = time.perf_counter()
                losses = list(train(recipe, METHODS[method]))
                figure = recipe.score(recipe.model, "test" if options.test else "validation")
                figures = {"score": figure, "seconds": round(time.perf_counter() - start, 1)}
                if not math.isfinite(losses[-1]):
                    figures["score"] = None
                settings = {"recipe": name, "method": method, "part": "test" if options.test else "validation"}
                write_row(options.results, experiment="recipes", seed=seed, settings=settings, figures=figures)


if __name__ == "__main__":
    main()
