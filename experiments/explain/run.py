"""Deletion curves of explanations of MobileNetV2, on 20 images of ImageNet.

    python experiments/explain/run.py [--data data] [--steps 14] [--patch 16] [--pictures FOLDER]

Each explanation says which parts of an image made the network answer what it answers. Squares of the image are deleted,
the most relevant first, or the least relevant first, and the answer's probability (or its logit) is recorded; the area
between the two curves is the figure of the explanation. Nothing was chosen by these figures: the composites have the
settings of their presets.
"""

import sys
from collections.abc import Callable
from pathlib import Path

import torch
import torchvision
from PIL import Image
from torch import Tensor, nn
from torchvision.transforms import functional

import feedprop
from feedprop.inspection.deletion import baselines, deletion
from feedprop.inspection.heatmaps import heatmap, save, tiled
from feedprop.rules import presets

sys.path.append(str(Path(__file__).parents[1]))
from results import parser, write_row

MEAN, STD = torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1), torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)
LOW, HIGH = (-MEAN / STD).flatten(), ((1 - MEAN) / STD).flatten()
COMPOSITES: dict[str, Callable] = {
    "conserving": presets.conserving,
    "epsilon_plus": presets.epsilon_plus,
    "epsilon_plus_flat": presets.epsilon_plus_flat,
    "epsilon_gamma_box": lambda: presets.epsilon_gamma_box(LOW, HIGH),
    "epsilon_alpha2_beta1": presets.epsilon_alpha2_beta1,
    "epsilon_alpha2_beta1_flat": presets.epsilon_alpha2_beta1_flat,
}


def images(root: Path) -> tuple[Tensor, Tensor]:
    """Return the 20 images, normalised (20, 3, 224, 224), and their labels."""
    files = sorted((root / "images").glob("imagenet_*"))
    pixels = [functional.to_tensor(functional.center_crop(Image.open(file).convert("RGB"), 224)) for file in files]
    labels = torch.tensor([int(file.stem.rpartition("_")[2]) for file in files])
    return (torch.stack(pixels) - MEAN) / STD, labels


def network(root: Path) -> nn.Module:
    model = torchvision.models.mobilenet_v2()
    model.load_state_dict(torch.load(root / "weights/mobilenet_v2-b0353104.pth", weights_only=True))
    return model.eval()


def explanations(model: nn.Module, inputs: Tensor, answers: Tensor) -> dict[str, Tensor]:
    """Return what each method says about the answers, by pixel, (batch, height, width)."""
    found = baselines(model, inputs, answers, generator=torch.Generator().manual_seed(0))
    found["random"] = found["random"][:, :1]
    for name, make in COMPOSITES.items():
        parts = zip(inputs.split(5), answers.split(5), strict=True)
        shares = [
            feedprop.relevance(model, x, y, make(), only_inputs=True, merge_batch_norm=True).inputs for x, y in parts
        ]
        found[name] = torch.cat(shares)
    return {name: share.sum(1) for name, share in found.items()}


def scores(answers: Tensor) -> dict[str, Callable[[Tensor], Tensor]]:
    def probability(outputs: Tensor) -> Tensor:
        return outputs.softmax(1).gather(1, answers[:, None])[:, 0]

    def logit(outputs: Tensor) -> Tensor:
        return outputs.gather(1, answers[:, None])[:, 0]

    return {"probability": probability, "logit": logit}


def draw(inputs: Tensor, found: dict[str, Tensor], folder: Path) -> None:
    """Write the images, and a sheet of heatmaps for each method."""
    folder.mkdir(parents=True, exist_ok=True)
    seen = ((inputs * STD + MEAN) * 255).round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1)
    save(tiled(seen, columns=5), folder / "images.png")
    for name, share in found.items():
        save(tiled(heatmap(share), columns=5), folder / f"{name.replace(' ', '-')}.png")


def main() -> None:
    made = parser(__doc__, __file__)
    made.add_argument("--steps", type=int, default=14)
    made.add_argument("--patch", type=int, default=16, help="side of the squares that are deleted, in pixels")
    made.add_argument("--pictures", type=Path, help="folder for the heatmaps")
    options = made.parse_args()
    torch.set_num_threads(1)
    inputs, labels = images(options.data)
    model = network(options.data)
    with torch.no_grad():
        answers = model(inputs).argmax(1)
    print(f"{int((answers == labels).sum())} of {len(labels)} answers are right", flush=True)
    found = explanations(model, inputs, answers)
    if options.pictures:
        draw(inputs, found, options.pictures)
    blurred = functional.gaussian_blur(inputs, [51, 51], [16.0, 16.0])
    for filling, baseline in {"mean colour": 0.0, "blurred image": blurred}.items():
        for score, target in scores(answers).items():
            for name, share in found.items():
                curves = deletion(
                    model, inputs, share, target, baseline=baseline, patch=options.patch, steps=options.steps
                )
                settings = {
                    "method": name, "score": score, "filling": filling, "patch": options.patch, "steps": options.steps
                }  # fmt: skip
                figures = {
                    "area": float(curves.area.mean()),
                    "areas": [round(area, 6) for area in curves.area.tolist()],
                    "most_first": [round(value, 6) for value in curves.most_first.mean(1).tolist()],
                    "least_first": [round(value, 6) for value in curves.least_first.mean(1).tolist()],
                }
                write_row(options.results, experiment="explain", seed=0, settings=settings, figures=figures)


if __name__ == "__main__":
    main()
