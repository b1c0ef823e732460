"""Two processes, each with half of the batch, take the step that one process takes with the whole batch."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from feedprop import attach
from support.two_processes import COMPOSITES, network, train


def _launched(folder: Path) -> dict[str, dict[str, torch.Tensor]]:
    """Run two_processes.py on two processes and return what it found."""
    script = Path(__file__).parent / "support/two_processes.py"
    launcher = ["-m", "accelerate.commands.launch", "--multi_gpu", "--num_machines=1", "--num_processes=2"]
    settings = ["--mixed_precision=no", "--dynamo_backend=no", "--main_process_port=0"]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true", "CUDA_VISIBLE_DEVICES": ""}
    answer = subprocess.run(
        [sys.executable, *launcher, *settings, str(script), str(folder)],
        env=environment, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert answer.returncode == 0, answer.stderr[-6000:]
    return torch.load(folder / "steps.pt", weights_only=True)


@pytest.mark.usefixtures("float64")
@pytest.mark.filterwarnings("ignore:.*magnitude_floor")
def test_two_processes_take_the_steps_of_one(tmp_path: Path) -> None:
    before = dict(network().named_parameters())
    expected = {name: train(attach(network(), composite)) for name, composite in COMPOSITES.items()}
    found = _launched(tmp_path)
    assert len(found) >= 20
    for way, parameters in found.items():
        alone = expected[way.split(":")[0].replace("bfloat16", "epsilon")]
        assert parameters.keys() == alone.keys(), way
        updates = torch.cat([(alone[name] - before[name]).flatten() for name in alone]).detach()
        differences = torch.cat([(parameters[name] - alone[name]).flatten() for name in alone])
        limit = 2e-2 if way.startswith("bfloat16") else 1e-6
        assert differences.norm() <= limit * updates.norm(), f"{way}: {differences.norm() / updates.norm():.1e}"
