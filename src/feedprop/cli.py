"""The command `feedprop`: finds the function of a command, calls it and reports its errors."""

from __future__ import annotations

import difflib
import importlib
import os
import signal
import sys
from collections.abc import Callable, Sequence

from feedprop.errors import FeedpropError

# command -> (module, function that takes the words after the command, summary)
COMMANDS = {
    "init": (
        "feedprop.training.command_line.init",
        "init_command",
        "write a configuration file with every option, its default and what it is for",
    ),
    "train": (
        "feedprop.training.command_line.train",
        "train_command",
        "train a network by LFP, or by backprop for comparison",
    ),
    "compare": (
        "feedprop.training.command_line.compare",
        "compare_command",
        "compare methods: rates tuned on validation data, several seeds, intervals",
    ),
    "check": (
        "feedprop.training.command_line.train",
        "check_command",
        "check whether LFP is right on the model of a configuration",
    ),
    "evaluate": (
        "feedprop.training.command_line.evaluate",
        "evaluate_command",
        "evaluate a trained model on test data",
    ),
    "sweep": (
        "feedprop.training.command_line.sweep",
        "sweep_command",
        "search for hyperparameters, on several machines if need be",
    ),
    "prune": (
        "feedprop.training.command_line.prune",
        "prune_command",
        "prune a trained model, and draw its accuracy over sparsity",
    ),
    "report": (
        "feedprop.training.command_line.report",
        "report_command",
        "draw the report of a run again, or of two runs beside each other",
    ),
    "explain": (
        "feedprop.training.command_line.explain",
        "explain_command",
        "show what the answers of a trained model to images were made of",
    ),
    "doctor": (
        "feedprop.training.command_line.doctor",
        "doctor_command",
        "say which versions, devices and extras there are",
    ),
    "completion": (
        "feedprop.training.command_line.completion",
        "completion_command",
        "print what lets a shell complete commands and options",
    ),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return the exit code: 0 done, 1 the system refused, 2 the user can correct something.

    It is 130 or 143 if the user or the system interrupted.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    try:
        if not words or words[0] in ("-h", "--help"):
            print(_usage())
        elif words[0] == "--version":
            print(_version())
        else:
            _function(words[0])(words[1:])
    except FeedpropError as error:
        return _complain(_sentence(error), error, code=2)
    except KeyboardInterrupt as error:
        return _complain("interrupted", error, code=128 + (error.args[0] if error.args else signal.SIGINT))
    except BrokenPipeError:  # nobody reads the output any more
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as error:
        if error.strerror is None:
            raise
        place = "" if error.filename is None else f"{error.filename}: "
        return _complain(f"{place}{error.strerror}", error, code=1)
    except SystemExit as done:  # --help of a command
        return int(done.code or 0)
    return 0


def _function(name: str) -> Callable[[Sequence[str]], None]:
    if name not in COMMANDS:
        match = difflib.get_close_matches(name, COMMANDS, n=1)
        hint = f"did you mean {match[0]}?" if match else f"the commands are {', '.join(COMMANDS)}"
        raise FeedpropError(f"unknown command {name}; {hint}")
    module, function, _ = COMMANDS[name]
    try:
        found: Callable[[Sequence[str]], None] = getattr(importlib.import_module(module), function)
    except ModuleNotFoundError as error:
        if error.name is None or error.name.startswith("feedprop"):
            raise
        message = f"the command needs {error.name}, which is not installed; pip install 'feedprop[train]'"
        raise FeedpropError(message) from error
    return found


def _complain(sentence: str, error: BaseException, *, code: int) -> int:
    """Print the error and its notes as one line on stderr."""
    print("; ".join([f"feedprop: {sentence}", *getattr(error, "__notes__", [])]), file=sys.stderr)
    return code


def _sentence(error: BaseException) -> str:
    """Return the message on one line; for an error in a worker process, without its traceback."""
    message = str(error)
    if "Original Traceback" in message:
        message = message.strip().splitlines()[-1].partition(": ")[2]
    return " ".join(message.split())


def _usage() -> str:
    width = max(map(len, COMMANDS))
    lines = [f"  {name:<{width}}  {summary}" for name, (_, _, summary) in COMMANDS.items()]
    return "\n".join(
        [
            "usage: feedprop COMMAND [options]",
            "",
            "Train PyTorch networks by Layer-wise Feedback Propagation instead of gradients.",
            "",
            *lines,
            "",
            "feedprop COMMAND --help lists the options of a command; feedprop --version prints the version.",
        ]
    )


def _version() -> str:
    from importlib.metadata import version

    return f"feedprop {version('feedprop')}"


if __name__ == "__main__":
    sys.exit(main())
