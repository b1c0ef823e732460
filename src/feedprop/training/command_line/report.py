"""The command report."""

from __future__ import annotations

from collections.abc import Sequence

from feedprop.training.command_line.arguments import read_words
from feedprop.training.command_line.parser import OneSentenceParser
from feedprop.training.report.page import write_report


def report_command(argv: Sequence[str]) -> None:
    """Draw the report from the files of a run, also of one that was stopped; nothing that they name is imported."""
    arguments, given = read_words(argv)
    parser = OneSentenceParser(prog="feedprop report", usage="feedprop report RUN [options]")
    parser.add_argument("run", type=str, metavar="RUN", help="folder that feedprop train wrote")
    parser.add_argument("--beside", type=str, metavar="RUN", help="another run, whose curves are drawn beside")
    values = parser.read(arguments, given)
    print(f"report: {write_report(values['run'], beside=values['beside'])}")
