"""The verbs; turns errors into messages and exit codes. No logic lives here."""

import os

# Before NumPy or torch come in: two spinning threads on one busy core cost a factor of ten.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")

import json
import logging
import sys
import webbrowser
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any

import click
from rich.logging import RichHandler

from scalespec import __version__
from scalespec.config import STAGES, load_config
from scalespec.errors import ConfigError, ScalespecError
from scalespec.options import (
    check_target,
    engine_option,
    fractions,
    json_option,
    label_output,
    limit_option,
    older_option,
    ranges,
    run_file,
    run_options,
)
from scalespec.terminal import (
    Stopping,
    drawn,
    err,
    out,
    plan_table,
    probe_table,
    say,
    say_cleaned,
    say_failures,
    status_table,
)

OK, FAILED, WRONG, PARTLY = 0, 1, 2, 3
"""Exit codes: done; failed or stopped; the command or run file is wrong; some blocks failed."""


class Order(click.Group):
    """Lists verbs in the order of the data, not of the alphabet."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's signature
        """Return the verbs as they were declared."""
        return list(self.commands)


def _explained(command: Callable[..., Any]) -> Callable[..., Any]:
    """Turn errors raised on purpose into a message and an exit code."""

    @wraps(command)
    def wrapped(*args: Any, **kwargs: Any) -> None:
        try:
            code = command(*args, **kwargs)
        except ConfigError as error:
            say(error, to=err, style="red")
            sys.exit(WRONG)
        except BrokenPipeError:  # whoever read us has enough; click ends quietly
            raise
        except (ScalespecError, ValueError, OSError) as error:
            say(f"{type(error).__name__}: {error}", to=err, style="red")
            sys.exit(FAILED)
        sys.exit(code or OK)

    return wrapped


@click.group(cls=Order, context_settings={"help_option_names": ["-h", "--help"]})
@click.option("-v", "--verbose", count=True, help="Say more; twice for debugging.")
@click.version_option(__version__)
def main(verbose: int) -> None:
    """Survey spectra in, a catalog of stellar labels out."""
    level = (logging.WARNING, logging.INFO, logging.DEBUG)[min(verbose, 2)]
    handler = RichHandler(console=err, show_path=False, markup=False)
    logging.basicConfig(level=level, handlers=[handler], format="%(message)s")


@main.command()
@click.argument("folder", type=click.Path(file_okay=False))
@click.option("--n-spectra", type=click.IntRange(1), default=2048, show_default=True)
@click.option("--seed", type=click.IntRange(0), default=1, show_default=True)
@click.option("--n-library", type=click.IntRange(0), show_default="4096 for lamost_lrs")
@click.option("--survey", default="lamost_lrs", show_default=True, help="Whose files to write.")
@click.option("--truth-model", type=click.Path(), help="True spectra from this model or .npz.")
@click.option("--labels", help="Of the stars, as teff,logg,fe_h,mg_fe; without --truth-model.")
@click.option("--recipe", multiple=True, help="Of the stars, as binary=0.3; may be repeated.")
@click.option("--limits", multiple=True, help="Of the stars, as logg=0:4; may be repeated.")
@click.option("--even-fibres", is_flag=True, help="All resolve alike, as a fit assumes.")
@click.option("--ivar-factor", type=float, default=1.0, help="Stated over true ivar.")
@click.option("--spectra-per-file", type=click.IntRange(1), help="Where a file holds many.")
@click.option("--engine", type=click.Choice(["local", "dask"]), default="dask", show_default=True)
@click.option("--workers", type=click.IntRange(1), default=2, show_default=True)
@_explained
def mock(
    folder: str,
    labels: str | None,
    recipe: tuple[str, ...],
    limits: tuple[str, ...],
    **options: Any,
) -> None:
    """Write a made-up survey: files, label catalogs, pairs, truth, library, run files."""
    from scalespec.mock import write_mock

    if labels:
        options["labels"] = tuple(labels.split(","))
    options["recipe"] = fractions(recipe)
    options["limits"] = ranges(limits)
    with drawn() as listener:
        made = write_mock(folder, listener=listener, **options)
    say(made)


@main.command()
@run_file
@limit_option
@json_option
@click.option("--probe", is_flag=True, help="Run a few blocks: time, memory, requests, cost.")
@engine_option
@click.option("--workers", type=click.IntRange(1), help="Of the run; else as the probe has.")
@click.option("--prices", default="", help="As worker_hour=,gb_month=,put_1000=,get_1000=.")
@_explained
def plan(run_file: str, limit: int | None, as_json: bool, probe: bool, **options: Any) -> None:
    """Say what would run: blocks, bytes, memory per worker; touch nothing but with --probe."""
    config = _config(run_file, limit)
    if probe:
        _probe(config, as_json, **options)
        return
    from scalespec.status import plan_run

    facts = plan_run(config)
    out.print_json(json.dumps(facts)) if as_json else out.print(plan_table(facts))


def _probe(config: Any, as_json: bool, *, prices: str, workers: int | None, engine: Any) -> None:
    from scalespec.probe import Prices, priced, probe_run

    asked = Prices.parse(prices)
    found = priced(probe_run(config, engine=engine, workers=workers), asked, workers, config)
    out.print_json(json.dumps(found)) if as_json else out.print(probe_table(found))


def _verb(name: str) -> None:
    """Declare one stage's verb."""
    only_train = click.option(
        "--search", is_flag=True, hidden=name != "train", help="Try [train.search]; keep the best."
    )

    @main.command(name, help=f"Run the {name} stage, skipping what is done.")
    @run_options
    @only_train
    @_explained
    def command(run_file: str, *, search: bool, **options: Any) -> int:
        if search:
            return _search(run_file, name)
        return _run(run_file, (name,), **options)


def _search(run_file: str, verb: str) -> int:
    """Draw, train and print the table of trials, best first."""
    from scalespec.run import search

    if verb != "train":
        raise ConfigError(f"--search is of train, not of {verb}")
    for row in search(load_config(run_file)):
        found = row["validation_rms"]
        said = row["error"] if found is None else f"validation rms {found:.5f}"
        say(f"trial {row['trial']}: {said}  {row['settings'] or 'as the run file says'}")
    return OK


@main.command()
@run_options
@_explained
def run(run_file: str, **options: Any) -> int:
    """Run every stage in order, skipping what is done."""
    return _run(run_file, (), **options)


for _name in STAGES:
    if _name != "compare":
        _verb(_name)


@main.command()
@run_options
@_explained
def compare(run_file: str, **options: Any) -> int:
    """Compare models on one split, with all that it takes; print the tables."""
    from scalespec.stages.folders import compare_url
    from scalespec.stages.verdict import read_tables, written

    config = _config(run_file, options["limit"])  # what is run, and so where it lies
    needed = ("ingest", "preprocess", "crossmatch", "compare")
    verbs = tuple(verb for verb in needed if verb in config.stages() or verb == "compare")
    code = _run(run_file, verbs, **options)
    if written(compare_url(config)):  # not of one that was stopped
        say(read_tables(compare_url(config)))
    return code


@main.command()
@run_file
@json_option
@_explained
def status(run_file: str, as_json: bool) -> None:
    """Say what is done, failed and left, per stage."""
    from scalespec.status import stage_states

    states = stage_states(load_config(run_file))
    if as_json:
        out.print_json(json.dumps(states))
        return
    out.print(status_table(states))
    say_failures(states)


@main.command()
@run_file
@json_option
@click.option("--deep", is_flag=True, help="Decode every block, too, and look at its values.")
@click.option("--mend", is_flag=True, help="Let the next run make lost or changed blocks anew.")
@_explained
def verify(run_file: str, as_json: bool, deep: bool, mend: bool) -> int:
    """Read back: schema, counts, checksums, ledger against store."""
    from scalespec.audit import audit_run
    from scalespec.status import verify_run

    config = load_config(run_file)
    problems, checked = verify_run(config, mend=mend)
    more, decoded = audit_run(config) if deep else ([], 0)
    problems = problems + more
    if as_json:
        facts = {"checked": checked, "problems": problems}
        out.print_json(json.dumps(facts | ({"decoded": decoded} if deep else {})))
        return FAILED if problems else OK
    for problem in problems:
        say(problem, style="red")
    said = f", {decoded} blocks decoded" if deep else ""
    say(f"{checked} objects checked{said}, {len(problems)} problems")
    return FAILED if problems else OK


@main.command()
@run_file
@click.option("--yes", is_flag=True, help="Remove; without it only say what would go.")
@older_option
@_explained
def clean(run_file: str, yes: bool, older_than: float) -> None:
    """Remove what nothing in use names, but for what a run at work may have just written."""
    from scalespec.clean import clean_run

    removed, young = clean_run(load_config(run_file), remove=yes, older_than=older_than)
    say_cleaned(removed, young, older_than, removed=yes)


@main.command()
@click.argument("url")
@click.option("--obsid", type=int, help="One spectrum, drawn with its best fit.")
@click.option("-o", "--output", type=click.Path(), help="A .png, .pdf or .svg to draw.")
@_explained
def inspect(url: str, obsid: int | None, output: str | None) -> None:
    """Say what a store, model, catalog or run holds; draw one star with --obsid."""
    from scalespec.figures import PICTURES
    from scalespec.stages.inspect import draw_star, inspect_url

    if obsid is None:
        say(inspect_url(url))
        return
    target = output or f"{obsid}.png"
    check_target(target, [*PICTURES])
    say(draw_star(load_config(url), obsid, target))
    say(target)


@main.command()
@run_file
@click.option(
    "--port", type=click.IntRange(0, 65535), default=5006, show_default=True, help="0: any."
)
@click.option("--no-browser", is_flag=True, help="Only say the address.")
@_explained
def view(run_file: str, port: int, *, no_browser: bool) -> None:
    """Serve the catalog and its stars on localhost, to browse; Ctrl-C ends it."""
    from scalespec.viewer import view as serve

    def ready(url: str) -> None:
        say(f"{url} (Ctrl-C ends it)")
        if not no_browser:
            webbrowser.open(url)

    serve(load_config(run_file), port=port, ready=ready)


@main.command()
@click.argument("files", nargs=-1, required=True, type=click.Path())
@click.option("--model", "models", multiple=True, required=True, help="A model; several: best χ².")
@label_output
@click.option("--survey", default="lamost_lrs", show_default=True)
@_explained
def label(files: tuple[str, ...], models: tuple[str, ...], output: str, survey: str) -> int:
    """Label a few files, folders or globs, with no run file; 3 if one of them has no labels."""
    from scalespec.stages import label as stage

    check_target(output, [*stage.WRITERS])
    table = stage.label_files(files, models=models, survey=survey)
    stage.write_labels(table, output)
    say(stage.label_text(table))
    failed, why = stage.without_labels(table)
    for line in why:
        say(line, to=err, style="red")
    say(f"{len(table)} rows, {failed} without labels: {output}")
    return PARTLY if failed else OK


@main.command("information")
@click.argument("model")
@click.option("--label", "labels", multiple=True, help="Of the star, as teff=5000; else mid-range.")
@click.option("--snr", type=float, multiple=True, default=(20.0, 50.0, 100.0, 200.0))
@click.option("--resolving-power", type=float, help="R of the spectra; else the model's.")
@click.option("--wavelength", type=float, nargs=2, help="Range [Å, vacuum]; else the model's.")
@click.option("-o", "--output", type=click.Path(), help="A .png, .pdf or .svg to draw.")
@_explained
def information_verb(model: str, labels: tuple[str, ...], output: str | None, **kind: Any) -> None:
    """Say what a survey could measure: Cramér-Rao bounds of MODEL's labels."""
    from scalespec.figures import PICTURES, to_picture
    from scalespec.stages.information import Survey, bounds_figure, measurable, parse_labels

    form = check_target(output, [*PICTURES]) if output else ""
    table = measurable(model, parse_labels(labels), Survey(**kind))
    say(table.to_string(index=False, float_format=lambda value: f"{value:.4g}"))
    if output:
        Path(output).write_bytes(to_picture(bounds_figure(table, model), form))
        say(output)


def _config(path: str, limit: int | None) -> Any:
    config = load_config(path)
    if limit is None or config.ingest is None:
        return config
    ingest = config.ingest.model_copy(update={"limit": limit})
    return config.model_copy(update={"ingest": ingest})


def _run(
    path: str,
    verbs: tuple[str, ...],
    *,
    limit: int | None,
    log: str | None,
    metrics: str | None,
    **options: Any,
) -> int:
    from scalespec.journal import Journal
    from scalespec.run import run as run_config

    config = _config(path, limit)
    stopping = Stopping()
    with drawn() as draw, Journal(config.run.name, log=log or "", metrics=metrics or "") as keep:

        def listener(progress: Any) -> None:
            draw(progress)
            keep(progress)
            stopping.hear(progress)

        summary = run_config(config, verbs=verbs, listener=listener, stop=stopping, **options)
    for stage, blocks in summary.failed.items():
        for index, why in sorted(blocks.items()):
            say(f"{stage}: block {index} failed: {why}", to=err, style="red")
    if summary.failed:
        say("the rest is stored; run again with --retry-failed to take these again", to=err)
    if summary.stopped:
        left = f"stopped, {summary.left} blocks of this stage left"
        say(f"{left}; the same command goes on from here", to=err)
    done = f"{summary.resumed} blocks were done, {summary.done} done now"
    say(f"{done}: {config.run.workspace}")
    if "report" in (verbs or config.stages()) and not summary.stopped:
        from scalespec.stages.folders import report_url

        say(f"report: {report_url(config)}/index.html")
    return summary.exit_code


if __name__ == "__main__":
    main()
