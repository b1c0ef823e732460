"""feedprop train on two processes: a signal ends both after the same step, and the run goes on to the same weights."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

EPOCHS = 40
LAUNCH = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
LINUX = pytest.mark.skipif(sys.platform != "linux", reason="torchrun uses gloo's loopback interface of Linux here")
LEAVING = """
import atexit
from torch import distributed
atexit.register(lambda: print("still in" if distributed.is_initialized() else "left", flush=True))  # runs last
from feedprop.training.devices import make_accelerator
make_accelerator("cpu")
"""
COMMAND = ["-m", "feedprop"]
WORDS = ["train", "--data", "blobs", "--data.points", "400", "--model.hidden", "[8]", "--batch_size", "16"]
WORDS += ["--device", "cpu", "--epochs", str(EPOCHS)]


def _started(folder: Path, said: str, *words: str) -> subprocess.Popen:
    """Start two processes, whose words go to the file `said`."""
    env = os.environ | {"OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    with (folder / said).open("w") as file:
        return subprocess.Popen([*LAUNCH, *words], cwd=folder, env=env, stdout=file, stderr=file)


@LINUX
def test_processes_leave_their_group_before_they_exit(tmp_path) -> None:
    """Otherwise one in many aborted at its exit, "terminate called without an active exception"."""
    (tmp_path / "leaving.py").write_text(LEAVING)
    leaving = _started(tmp_path, "said.txt", "leaving.py")
    assert leaving.wait(timeout=240) == 0, (tmp_path / "said.txt").read_text()
    said = (tmp_path / "said.txt").read_text()
    assert (said.count("left"), said.count("still in")) == (2, 0)


@LINUX
def test_a_signal_ends_both_processes_and_the_run_goes_on(tmp_path) -> None:
    whole = _started(tmp_path, "whole.txt", *COMMAND, *WORDS, "--output", "whole")
    assert whole.wait(timeout=240) == 0, (tmp_path / "whole.txt").read_text()
    stopped = _started(tmp_path, "stopped.txt", *COMMAND, *WORDS, "--output", "stopped")
    rows = tmp_path / "stopped/metrics.jsonl"
    deadline = time.monotonic() + 120
    while not rows.exists():
        assert stopped.poll() is None, (tmp_path / "stopped.txt").read_text()
        assert time.monotonic() < deadline
        time.sleep(0.01)
    stopped.send_signal(signal.SIGTERM)  # which torchrun passes on
    stopped.wait(timeout=120)
    assert "feedprop train --resume stopped" in (tmp_path / "stopped.txt").read_text()
    assert 1 <= len(rows.read_text().splitlines()) < EPOCHS
    resumed = _started(tmp_path, "resumed.txt", *COMMAND, "train", "--resume", "stopped")
    assert resumed.wait(timeout=240) == 0, (tmp_path / "resumed.txt").read_text()
    assert "going on after step" in (tmp_path / "resumed.txt").read_text()
    expected, found = (load_file(tmp_path / name / "last.safetensors") for name in ("whole", "stopped"))
    assert expected.keys() == found.keys()
    for name, value in expected.items():
        assert torch.equal(found[name], value), name
