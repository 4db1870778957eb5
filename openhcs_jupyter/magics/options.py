"""The options of a run, described once for the cell magic, its completion and the command line."""

from __future__ import annotations

import argparse
import difflib
import re
import shlex
from collections.abc import Iterable, Sequence
from typing import NoReturn

from openhcs_jupyter.door.options import DEFAULT_NAME, RunOptions, checked
from openhcs_jupyter.errors import UsageError

CELL_DESCRIPTION = """Run the pipeline that the cell defines.

The cell is ordinary Python that assigns pipeline_steps, a list of Step. NAME becomes a variable that holds the run:
NAME.table("cells"), NAME.image("max_projection", well="A01", field=1), NAME.labels("nuclei", well="A01", field=1)."""

REPLAYED = "variable, name or id of a run, or what it made in OMERO, such as Image:12 or a link; left out, the last one"


class OptionParser(argparse.ArgumentParser):
    """An argument parser that raises `UsageError`, with what was probably meant, and never ends the process."""

    def error(self, message: str) -> NoReturn:
        """Raise a `UsageError`.

        Parameters
        ----------
        message
            What argparse found amiss.
        """
        raise UsageError(_readable(message), self._advice(message))

    def _advice(self, message: str) -> str:
        command = f"{self.prog} --help" if not self.prog.startswith("%") else _magic_help(self.prog)
        unknown = re.search(r"unrecognized arguments: (\S+)", message)
        if unknown:
            near = nearest(unknown[1].partition("=")[0], option_strings(self))
            return f"Did you mean {near}? All options: {command}" if near else f"All options: {command}"
        choice = re.search(r"invalid choice: '?([^' ]*)'? \(choose from (.*)\)", message)
        if choice:
            choices = [word.strip(" '") for word in choice[2].split(",")]
            near = nearest(choice[1], choices)
            listed = f"There are: {', '.join(choices)}."
            return f"Did you mean {near}? {listed}" if near else listed
        return f"All options: {command}"


class CommandParser(OptionParser):
    """The parser of a sub-command: itself refuses what it does not know, since it knows what was probably meant."""

    def parse_known_args(  # type: ignore[override]  # argparse's overloads cannot be written here
        self, args: Sequence[str] | None = None, namespace: argparse.Namespace | None = None
    ) -> tuple[argparse.Namespace, list[str]]:
        """Parse all arguments."""
        values, unknown = super().parse_known_args(args, namespace)
        if unknown:
            self.error(f"unrecognized arguments: {' '.join(unknown)}")
        assert values is not None
        return values, []


def nearest(word: str, words: Iterable[str]) -> str | None:
    """Return the word most like `word`, or None where none is near."""
    words = list(words)
    exact = [known for known in words if known.lower() == word.lower()]
    return next(iter(exact or difflib.get_close_matches(word, words, n=1, cutoff=0.6)), None)


def add_run_options(parser: argparse.ArgumentParser, *, background: bool = True) -> None:
    """Add the options that say what is run and how.

    Parameters
    ----------
    parser
        Takes the options.
    background
        Whether the caller lives on while the run goes on.
    """
    what = parser.add_argument_group("what is run")
    what.add_argument(
        "--plate",
        metavar="ID",
        help="id or name of the plate, in OMERO also Dataset:7 or a link; left out, the chosen or only one",
    )
    what.add_argument(
        "--wells",
        metavar="WELLS",
        help="A01,B02  A01:B12 (a block)  row:A  col:01-06  selected (in plate_view); left out, all",
    )
    what.add_argument("--fields", metavar="FIELDS", help="1,2 or 1-4; left out, all")
    what.add_argument("--channels", metavar="NAMES", help="names with commas between; left out, all")
    what.add_argument(
        "--source", choices=["stack", "projection"], default="stack", help="which of a field's images is read"
    )
    what.add_argument("--skip-missing", action="store_true", help="leave out fields that lack a plane")
    what.add_argument("--preview", metavar="WELL", help="run the first field of this well only; nothing is saved")
    how = parser.add_argument_group("how it is run")
    how.add_argument("--dry-run", action="store_true", help="show the plan and run nothing")
    how.add_argument(
        "--save", action=argparse.BooleanOptionalAction, help="write the results into the repository, or not"
    )
    how.add_argument(
        "--on-error",
        choices=["continue", "stop"],
        default="continue",
        help="what a failing unit means for the others",
    )
    how.add_argument("--workers", type=int, metavar="N", help="worker processes; left out, one for each core")
    how.add_argument(
        "--device", metavar="DEVICE", default="auto", help="cpu, gpu, gpu:N, or auto: GPUs if there are any"
    )
    how.add_argument(
        "--scheduler", metavar="WHERE", help="run on Dask: tcp://HOST:PORT, local, or slurm; left out, on this machine"
    )
    how.add_argument("--server", metavar="NAME", help="run as a job on an execution server, for each of --plate 51,52")
    how.add_argument("--priority", type=int, metavar="N", default=0, help="of a job, among your own: -100 to 100")
    how.add_argument(
        "--resume", nargs="?", const="last", metavar="RUN", help="go on with an interrupted run, the last one or RUN"
    )
    how.add_argument("--force", action="store_true", help="compute everything anew, also what is there already")
    if background:
        how.add_argument("--view", action="store_true", help="show the results in napari as they arrive")
        how.add_argument("--background", action="store_true", help="return at once; %%openhcs status and attach follow")
    how.add_argument("--quiet", action="store_true", help="show the result only, no progress")


def cell_parser() -> OptionParser:
    """Return the parser of the first line of a ``%%openhcs`` cell."""
    parser = OptionParser(
        prog="%%openhcs",
        description=CELL_DESCRIPTION,
        add_help=False,
        allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("name", nargs="?", metavar="NAME", default=DEFAULT_NAME, help="variable that holds the run")
    add_run_options(parser)
    parser.add_argument("-h", "--help", action="store_true", help="show this help")
    return parser


def parse_cell(line: str) -> RunOptions:
    """Read the first line of a cell, without ``%%openhcs``.

    Raises
    ------
    UsageError
        If an option is unknown or a value does not fit; names it and what was probably meant.
    """
    parser = cell_parser()
    return run_options(parser.parse_intermixed_args(split(line)))


def run_options(values: argparse.Namespace) -> RunOptions:
    """Check the parsed values of `add_run_options`.

    Raises
    ------
    UsageError
        If values do not fit, alone or together.
    """
    known = {name: value for name, value in vars(values).items() if name in RunOptions.__struct_fields__}
    return checked(RunOptions(**known))


def add_import_options(parser: argparse.ArgumentParser) -> None:
    """Add what stands behind ``import``."""
    parser.add_argument("folder", metavar="FOLDER", help="folder of the plate's images")
    parser.add_argument("--name", metavar="NAME", help="name of the plate; left out, its files' or folder's")
    parser.add_argument("--format", metavar="FORMAT", help="such as ImageXpress; left out, it is recognised")
    parser.add_argument(
        "--pattern", metavar="PATTERN", help="of the images' names, such as {well}_s{field}_w{channel}_z{z}.tif"
    )


def add_results_options(parser: argparse.ArgumentParser) -> None:
    """Add what ``%openhcs results`` takes."""
    parser.add_argument("run", nargs="?", metavar="RUN", help="variable, name or id; left out, the last one")
    parser.add_argument("--delete", action="store_true", help="delete what the run saved in the repository, no more")


def add_broker_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``openhcs-jupyter broker``."""
    parser.add_argument("--socket", metavar="FILE", required=True, help="where kernels reach it")
    parser.add_argument("--repository", metavar="FOLDER", required=True, help="OMERO's data directory")
    parser.add_argument("--server", metavar="HOST[:PORT]", default="localhost", help="the OMERO server it asks")
    parser.add_argument(
        "--folder",
        metavar="FOLDER",
        action="append",
        default=[],
        help="another folder, into which links of the repository may lead (imports in place); may be repeated",
    )
    parser.add_argument(
        "--plates",
        action="store_true",
        help="hand out images of plates, too, though OMERO by itself restricts the download of their files",
    )
    parser.add_argument("--group", metavar="NAME", help="of this machine, whose members may ask; left out, everybody")
    parser.add_argument(
        "--rate", metavar="N", type=float, default=1000.0, help="requests a second of one user (default: 1000)"
    )


def add_server_option(parser: argparse.ArgumentParser) -> None:
    """Add the option that names an execution server."""
    parser.add_argument("--server", metavar="NAME", help="profile of the execution server that has it as a job")


def add_viewer_option(parser: argparse.ArgumentParser) -> None:
    """Add the option that names a listening viewer."""
    parser.add_argument(
        "--viewer", metavar="LINE", help="what a listening viewer printed; left out, as the settings say"
    )


def add_jobs_options(parser: argparse.ArgumentParser) -> None:
    """Add what stands behind ``jobs``."""
    add_server_option(parser)
    parser.add_argument("--all", action="store_true", help="all of them, not the latest 20")
    parser.add_argument("--everybody", action="store_true", help="of all owners, for administrators")


def add_job_options(parser: argparse.ArgumentParser) -> None:
    """Add what names one job."""
    parser.add_argument("job", nargs="?", metavar="JOB", help="id of a job, or of its run; left out, the latest one")
    add_server_option(parser)


def add_profile_options(parser: argparse.ArgumentParser) -> None:
    """Add what stands behind ``server``."""
    parser.add_argument(
        "action",
        nargs="?",
        metavar="ACTION",
        choices=["status", "list", "add", "remove"],
        default="status",
        help="status (if left out), list, add or remove",
    )
    parser.add_argument("name", nargs="?", metavar="NAME", help="your name for the server")
    parser.add_argument("line", nargs="?", metavar="LINE", help="to add: the line that openhcs-jupyter serve prints")
    proof = parser.add_mutually_exclusive_group()
    proof.add_argument("--token", metavar="FILE", help="to add: a token file of the server; its content is kept")
    proof.add_argument("--omero", metavar="URI", help="to add: omero://USER@HOST, whose session proves who you are")
    proof.add_argument("--folder", metavar="FOLDER", help="to add a server of this machine: the folder it names")


def add_cache_options(parser: argparse.ArgumentParser) -> None:
    """Add what stands behind ``cache``."""
    parser.add_argument(
        "action", nargs="?", metavar="clear", choices=["clear"], help="remove what stands between steps"
    )
    parser.add_argument(
        "--results",
        action="store_true",
        help="clear also the results of all runs but the latest of each name; what was saved stays",
    )


def split(line: str) -> list[str]:
    """Split a line into words as a shell does.

    Raises
    ------
    UsageError
        If a quote is left open.
    """
    try:
        return shlex.split(line)
    except ValueError as error:
        raise UsageError(
            f"The line cannot be read: {str(error).lower()}: {line.strip()}", "Close the quote."
        ) from error


def option_strings(parser: argparse.ArgumentParser) -> list[str]:
    """List the long options of a parser."""
    return [text for action in parser._actions for text in action.option_strings if text.startswith("--")]


def option_action(parser: argparse.ArgumentParser, text: str) -> argparse.Action | None:
    """Return the action of an option as it is written, or None."""
    return next((action for action in parser._actions if text in action.option_strings), None)


def _readable(message: str) -> str:
    message = re.sub(r"^argument (\S+): ", r"\1: ", message)
    message = re.sub(r"^COMMAND: invalid choice: '?([^' ]*)'? .*", r"There is no command '\1'", message)
    message = re.sub(r"invalid choice: '?([^' ]*)'? \(choose from .*\)", r"there is no choice '\1'", message)
    message = re.sub(r"invalid int value: ('[^']*')", r"\1 is not a whole number", message)
    message = message.replace("expected one argument", "a value is missing")
    return re.sub(r"unrecognized arguments: (\S+).*", r"There is no option \1", message)


def _magic_help(prog: str) -> str:
    return "%openhcs help cell" if prog.startswith("%%") else f"%openhcs help {prog.partition(' ')[2]}".rstrip()
