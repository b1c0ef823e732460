"""The command `feedprop`: finds the function of a command, calls it and reports its errors."""

from __future__ import annotations

import difflib
import importlib
import io
import os
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from feedprop import startup
from feedprop.errors import FeedpropError

LONGEST = 1000  # characters of an error; what is in the middle of a longer one is left out

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
        "show what the answers of a trained model were made of",
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
    """Run the command and return the exit code: 0 done, 1 the system refused or a check found problems, 2 the user can
    correct something.

    It is 130 or 143 if the user or the system interrupted.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    try:
        startup.leave_to_the_command()
        if isinstance(sys.stdout, io.TextIOWrapper):  # an encoding such as ASCII lacks characters of names
            sys.stdout.reconfigure(errors="backslashreplace")
        with _warnings_on_one_line(), _one_report_of_full_disks():
            _run(words)
    except FeedpropError as error:
        return _complain(_sentence(error), error, code=2)
    except MemoryError as error:
        return _complain("there is not enough memory", error, code=1)
    except RuntimeError as error:
        if not _lacks_memory(error):
            raise
        return _complain(f"there is not enough memory: {_sentence(error)}", error, code=1)
    except KeyboardInterrupt as error:
        return _complain("interrupted", error, code=128 + (error.args[0] if error.args else signal.SIGINT))
    except BrokenPipeError:  # nobody reads the output any more
        _stop_printing()
        return 1
    except OSError as error:
        _stop_printing()
        if error.strerror is None:
            raise
        place = "" if error.filename is None else f"{error.filename}: "
        return _complain(f"{_sentence(place)} {error.strerror}".strip(), error, code=1)
    except SystemExit as done:
        return int(done.code or 0)
    return 0


def _run(words: Sequence[str]) -> None:
    for word in words:
        if "\0" in word:
            raise FeedpropError(f"the word {word!r} holds a NUL character, which no name and no value can have")
    if not words or words[0] in ("-h", "--help"):
        print(_usage())
    elif words[0] == "--version":
        print(_version())
    else:
        function = _function(words[0])
        try:
            os.getcwd()
        except FileNotFoundError as error:
            raise FeedpropError("the folder that the command runs in is gone; change to another folder") from error
        try:
            function(words[1:])
        except SystemExit as done:  # of --help, or of rich when nobody reads its output
            if done.code:
                raise
    if sys.stdout is not None:
        sys.stdout.flush()


def _stop_printing() -> None:
    """Let what is printed from now on go nowhere if it cannot be printed."""
    if sys.stdout is not None:
        try:
            sys.stdout.flush()
        except OSError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


@contextmanager
def _warnings_on_one_line() -> Iterator[None]:
    """Print what libraries warn about as one line each, without a place in their source."""
    with warnings.catch_warnings():
        said: set[str] = set()

        def show(message: Warning | str, *_: object, **__: object) -> None:
            sentence = _sentence(str(message))
            if sentence not in said:
                print(f"feedprop: warning: {sentence}", file=sys.stderr)
            said.add(sentence)

        warnings.showwarning = show
        yield


@contextmanager
def _one_report_of_full_disks() -> Iterator[None]:
    """Let threads that write, such as TensorBoard's, end in silence: the next call for one raises its error."""
    before = threading.excepthook

    def report(arguments: threading.ExceptHookArgs) -> None:
        if not issubclass(arguments.exc_type, OSError):
            before(arguments)

    threading.excepthook = report
    try:
        yield
    finally:
        threading.excepthook = before


def _lacks_memory(error: RuntimeError) -> bool:
    """Whether this is how torch says that memory is full, on a processor or a device."""
    return type(error).__name__ == "OutOfMemoryError" or "can't allocate memory" in str(error)


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


def _sentence(error: object) -> str:
    """Return the message on one line, not too long; for an error in a worker process, without its traceback."""
    message = str(error)
    if "Original Traceback" in message:
        message = message.strip().splitlines()[-1].partition(": ")[2]
    line = " ".join(message.split())
    return line if len(line) <= LONGEST else f"{line[: LONGEST // 2]} ... {line[-LONGEST // 2 :]}"


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
