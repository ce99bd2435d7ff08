"""What several verbs ask for, and options that are more than a word or a number."""

from collections.abc import Callable
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
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


def run_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command the run file and all that says how to run it."""
    options = (run_file, engine_option, retry_option, limit_option, log_option, metrics_option)
    for option in reversed(options):
        command = option(command)
    return command


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
