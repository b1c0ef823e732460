"""Every example runs as it stands, and does what it says."""

import runpy
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parent.parent / "examples"
RESULTS = {
    "accelerate_digits": lambda accuracy: accuracy > 0.8,
    "hugging_face_trainer": lambda metrics: metrics["eval_accuracy"] > 0.75,
    "lightning_autoencoder": lambda errors: errors[1] < 0.3 * errors[0],
    "rewards_of_pixels": lambda accuracy: accuracy > 0.88,
    "per_sample_feedback": lambda share: share >= 0.5,
}
OTHERS = [  # warnings of other packages about themselves
    "ignore:.torch.jit.script. is deprecated",  # torch.func.vmap
    "ignore:.isinstance.treespec, LeafSpec:",  # lightning
    "ignore:.*does not have many workers",  # lightning, which would have us start processes
    "ignore:.gradient_checkpointing_enable. is deprecated",  # transformers 5.23 renamed it
    "ignore:'pin_memory' argument",  # transformers without a GPU
]


def example(name: str) -> dict:
    """Return what an example defines."""
    return runpy.run_path(str(EXAMPLES / f"{name}.py"))


def test_every_example_is_run() -> None:
    assert {path.stem for path in EXAMPLES.glob("*.py")} == set(RESULTS)
    assert all(len(path.read_text().splitlines()) <= 100 for path in EXAMPLES.glob("*.py"))


@pytest.mark.parametrize("name", RESULTS)
def test_example(name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    result = example(name)["main"]()
    assert RESULTS[name](result), result


for warning in OTHERS:
    test_example = pytest.mark.filterwarnings(warning)(test_example)
