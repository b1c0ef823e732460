"""Look for what keeps feedback behind backprop in a recipe: change one thing about the feedback at a time.

    python experiments/recipes/causes.py --recipe torchvision-resnet --seeds 110 111 112

The scores are those of the validation part. What is changed is the feedback of --base, by hooks that run when it has
been accumulated. That is `difference-0.3` unless named, the default of `attach` when this was begun (rows of then call
it so).
"""

import functools
import time
from collections.abc import Callable

import torch
from recipes import RECIPES, train
from run import METHODS, parser, write_row
from torch import Tensor

from feedprop.credit.weights import Magnitude

THEN = "difference-0.3"
Change = Callable[[Tensor, Magnitude], None]


def levelled(weight: Tensor, magnitude: Magnitude) -> None:
    """Divide the feedback of weights by their mean magnitude, so that a step is on average as long as backprop's."""
    if weight.ndim > 1:
        weight.grad /= magnitude(weight.detach()).mean()


def plain_offsets(weight: Tensor, magnitude: Magnitude) -> None:
    """Give biases, and the scales and offsets of normalisations, their gradients."""
    if weight.ndim == 1:
        weight.grad /= magnitude(weight.detach())


def plain_weights(weight: Tensor, magnitude: Magnitude) -> None:
    """Give weights their gradients, and leave biases, scales and offsets their feedback."""
    if weight.ndim > 1:
        weight.grad /= magnitude(weight.detach())


def tangential(weight: Tensor, magnitude: Magnitude) -> None:
    """Take away what changes the norm of a filter, which no gradient does in front of a batch normalisation."""
    if weight.ndim == 4:
        rows, feedback = weight.detach().flatten(1), weight.grad.flatten(1)
        along = (rows * feedback).sum(1, keepdim=True) / rows.square().sum(1, keepdim=True)
        weight.grad -= (along * rows).view_as(weight)


def exchanged(weight: Tensor, magnitude: Magnitude) -> None:
    """Give each entry the magnitude of another one, the same all along: steps are as unequal, but |w| has no say."""
    magnitudes = magnitude(weight.detach())
    weight.grad *= magnitudes.flatten()[_others(weight.numel())].view_as(weight) / magnitudes


@functools.cache
def _others(number: int) -> Tensor:
    """Return an order of so many entries, always the same."""
    return torch.randperm(number, generator=torch.Generator().manual_seed(number))


def per_output(weight: Tensor, magnitude: Magnitude) -> None:
    """Measure |w| by the root mean square of the weights of its own filter or neuron, not by that of the layer."""
    if weight.ndim > 1:
        rows = torch.stack([magnitude(row) for row in weight.detach()])
        weight.grad *= rows / magnitude(weight.detach())


def root(weight: Tensor, magnitude: Magnitude) -> None:
    """Replace magnitudes by their square roots: large weights still take the larger steps, but less so."""
    weight.grad /= magnitude(weight.detach()).sqrt_()


def bounded(weight: Tensor, magnitude: Magnitude) -> None:
    """Bound magnitudes from above as well, by the inverse of the floor: .7 to 1.43 with a floor of .7."""
    magnitudes = magnitude(weight.detach())
    weight.grad *= magnitudes.clamp(max=1 / magnitude.floor) / magnitudes


CHANGES: dict[str, Change] = {
    "levelled": levelled,
    "plain offsets": plain_offsets,
    "plain weights": plain_weights,
    "tangential": tangential,
    "exchanged": exchanged,
    "per output": per_output,
    "root": root,
    "bounded": bounded,
}


def main() -> None:
    arguments = parser(__doc__, __file__)
    arguments.add_argument("--recipe", choices=RECIPES, required=True)
    feedbacks = [name for name, composite in METHODS.items() if composite is not None]
    arguments.add_argument("--base", choices=feedbacks, default=THEN)
    arguments.add_argument(
        "--methods", nargs="+", choices=[*METHODS, *CHANGES], help="default: backprop, the base, all changes"
    )
    arguments.add_argument("--seeds", nargs="+", type=int, required=True)
    arguments.add_argument("--training", action="store_true", help="score on the training part as well")
    options = arguments.parse_args()
    torch.set_num_threads(1)
    magnitude = Magnitude(METHODS[options.base].magnitude_floor, relative=True)
    for seed in options.seeds:
        for method in options.methods or ["backprop", options.base, *CHANGES]:
            torch.manual_seed(seed)
            recipe = RECIPES[options.recipe](options.data)
            for weight in recipe.model.parameters() if method in CHANGES else ():
                weight.register_post_accumulate_grad_hook(functools.partial(CHANGES[method], magnitude=magnitude))
            start = time.perf_counter()
            for _ in train(recipe, METHODS[method if method not in CHANGES else options.base]):
                pass
            figures = {
                "score": recipe.score(recipe.model, "validation"),
                **({"training": recipe.score(recipe.model, "train")} if options.training else {}),
                "seconds": round(time.perf_counter() - start, 1),
            }
            settings = {"recipe": options.recipe, "method": method, "base": options.base, "part": "causes"}
            write_row(options.results, experiment="recipes", seed=seed, settings=settings, figures=figures)


if __name__ == "__main__":
    main()
