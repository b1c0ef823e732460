"""Look for what keeps feedback behind backprop in a recipe: change one thing about the feedback at a time.

    python experiments/recipes/causes.py --recipe torchvision-resnet --seeds 110 111 112

The scores are those of the validation part. What is changed is the feedback of BASE, the default of `attach` when this
was begun (rows of then call it so), by hooks that run when it has been accumulated.
"""

import time

import torch
from recipes import RECIPES, train
from run import METHODS, parser, write_row
from torch import Tensor

from feedprop.credit.weights import Magnitude

BASE = "difference-0.3"
magnitude = Magnitude(METHODS[BASE].magnitude_floor, relative=True)


def levelled(weight: Tensor) -> None:
    """Divide the feedback of weights by their mean magnitude, so that a step is on average as long as backprop's."""
    if weight.ndim > 1:
        weight.grad /= magnitude(weight.detach()).mean()


def plain_offsets(weight: Tensor) -> None:
    """Give biases, and the scales and offsets of normalisations, their gradients."""
    if weight.ndim == 1:
        weight.grad /= magnitude(weight.detach())


def plain_weights(weight: Tensor) -> None:
    """Give weights their gradients, and leave biases, scales and offsets their feedback."""
    if weight.ndim > 1:
        weight.grad /= magnitude(weight.detach())


def tangential(weight: Tensor) -> None:
    """Take away what changes the norm of a filter, which no gradient does in front of a batch normalisation."""
    if weight.ndim == 4:
        rows, feedback = weight.detach().flatten(1), weight.grad.flatten(1)
        along = (rows * feedback).sum(1, keepdim=True) / rows.square().sum(1, keepdim=True)
        weight.grad -= (along * rows).view_as(weight)


CHANGES = {
    "levelled": levelled,
    "plain offsets": plain_offsets,
    "plain weights": plain_weights,
    "tangential": tangential,
}


def main() -> None:
    arguments = parser(__doc__, __file__)
    arguments.add_argument("--recipe", choices=RECIPES, required=True)
    arguments.add_argument("--methods", nargs="+", default=["backprop", "difference-1.0", BASE, *CHANGES])
    arguments.add_argument("--seeds", nargs="+", type=int, required=True)
    options = arguments.parse_args()
    torch.set_num_threads(1)
    for seed in options.seeds:
        for method in options.methods:
            torch.manual_seed(seed)
            recipe = RECIPES[options.recipe](options.data)
            for weight in recipe.model.parameters() if method in CHANGES else ():
                weight.register_post_accumulate_grad_hook(CHANGES[method])
            start = time.perf_counter()
            for _ in train(recipe, METHODS[method if method not in CHANGES else BASE]):
                pass
            figures = {
                "score": recipe.score(recipe.model, "validation"),
                "seconds": round(time.perf_counter() - start, 1),
            }
            settings = {"recipe": options.recipe, "method": method, "part": "causes"}
            write_row(options.results, experiment="recipes", seed=seed, settings=settings, figures=figures)


if __name__ == "__main__":
    main()
