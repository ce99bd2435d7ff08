"""What several verbs ask for, and options that are more than a word or a number."""

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import click

from scalespec.errors import ConfigError

run_file = click.argument("run_file", type=click.Path(exists=True, dir_okay=False))
engine_option = click.option(
    "--engine", type=click.Choice(["local", "dask", "ray"]), help="One engine for every stage."
)
retry_option = click.option("--retry-failed", is_flag=True, help="Take failed blocks again.")
limit_option = click.option("--limit", type=click.IntRange(1), help="Only the first N spectra.")
log_option = click.option("--log", type=click.Path(), help="JSON lines are appended: one a block.")
metrics_option = click.option("--metrics", type=click.Path(), help="Counts for Prometheus.")
older_option = click.option(
    "--older-than",
    type=click.FloatRange(0),
    default=24.0,
    show_default=True,
    metavar="HOURS",
    help="Leave what was written since. 0 takes everything: only where nothing runs.",
)
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")

label_output = click.option(
    *("-o", "--output"),
    type=click.Path(dir_okay=False),
    required=True,
    help="A .parquet, .fits or .vot to write.",
)


def run_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command the run file and all that says how to run it."""
    options = (run_file, engine_option, retry_option, limit_option, log_option, metrics_option)
    for option in reversed(options):
        command = option(command)
    return command


def check_target(path: str, known: Sequence[str]) -> str:
    """Return the ending of a file to write, before the work that fills it.

    Parameters
    ----------
    path : str
        A local path or ``s3://`` URL, as ``-o`` has it.
    known : sequence of str
        Endings that we write, without the dot.

    Raises
    ------
    ConfigError
        If its ending is none of these, or its folder is not there or not ours to write.

    Examples
    --------
    >>> check_target("labels.FITS", ["parquet", "fits"])
    'fits'
    """
    target = Path(path.partition("?")[0] if "://" in path else path)
    ending = target.suffix.removeprefix(".").lower()
    if ending not in known:
        *most, last = (f".{one}" for one in known)
        raise ConfigError(
            f"-o {path}: no form of file we write: end it in {', '.join(most)} or {last}"
        )
    if "://" in path:
        return ending
    if not target.parent.is_dir():
        raise ConfigError(f"-o {path}: no folder {target.parent}: make it first")
    if not os.access(target if target.exists() else target.parent, os.W_OK):
        raise ConfigError(f"-o {path}: no permission to write there")
    return ending


def fractions(recipe: tuple[str, ...]) -> dict[str, float]:
    """Return ``name=value`` options as a mapping.

    Raises
    ------
    ConfigError
        If one is written otherwise.

    Examples
    --------
    >>> fractions(("binary=0.3", "young=0"))
    {'binary': 0.3, 'young': 0.0}
    """
    found = {}
    for text in recipe:
        name, _, value = text.partition("=")
        try:
            found[name.strip()] = float(value)
        except ValueError as error:
            raise ConfigError(f"--recipe {text}: wanted as binary=0.3") from error
    return found


def ranges(limits: tuple[str, ...]) -> dict[str, tuple[float, float]]:
    """Return ``label=low:high`` options as a mapping.

    Raises
    ------
    ConfigError
        If one is written otherwise.

    Examples
    --------
    >>> ranges(("logg=0:4",))
    {'logg': (0.0, 4.0)}
    """
    found = {}
    for text in limits:
        name, _, ends = text.partition("=")
        low, _, high = ends.partition(":")
        try:
            found[name.strip()] = float(low), float(high)
        except ValueError as error:
            raise ConfigError(f"--limits {text}: wanted as logg=0:4") from error
    return found
