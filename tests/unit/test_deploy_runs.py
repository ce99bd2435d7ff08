"""Run files and commands under deploy/: planned and parsed as the program does, nothing is run."""

import re
import shlex
from pathlib import Path

import click
import pytest
import yaml

from scalespec import status
from scalespec.cli import main
from scalespec.config import load_config
from scalespec.errors import ScalespecError
from scalespec.stages import VERBS
from scalespec.surveys import SURVEYS

ROOT = Path(__file__).resolve().parents[2]
DEPLOY = ROOT / "deploy"
RUNS = sorted((DEPLOY / "runs").glob("*.toml"))
PAGES = [ROOT / "README.md", DEPLOY / "README.md", DEPLOY / "tutorial-apogee.md", *RUNS]


@pytest.fixture
def plan(monkeypatch):
    """`scalespec plan` of a run file, as if a thousand spectra lay where it looks for them."""
    described = status.survey_of

    def survey_of(table):  # one that a file describes, which only its data brings along
        return SURVEYS["lamost_lrs"] if table.survey == "table" else described(table)

    monkeypatch.setattr(status, "survey_of", survey_of)
    monkeypatch.setattr(status, "check_inputs", lambda _: None)
    monkeypatch.setattr(status, "count_inputs", lambda _: (1000, 41_000_000))
    monkeypatch.setattr(status, "count_spectra", lambda _: 1000)
    monkeypatch.setattr(status, "made_anew", lambda _: {})
    monkeypatch.setattr(status, "arm_names", lambda _: ())
    monkeypatch.setattr(status, "read_spectra", lambda *_: {})

    def planned(path):
        try:
            config = load_config(path)
            found = status.plan_run(config)
        except ScalespecError as error:
            return [str(error)]
        problems = [f"{one['stage']} has no blocks" for one in found if one["blocks"] < 1]
        return problems + [f"{verb} is no verb" for verb in config.stages() if verb not in VERBS]

    return planned


@pytest.mark.parametrize("path", RUNS, ids=lambda path: path.name)
def test_run_files_can_be_planned(plan, path):
    assert plan(path) == []


PLANTED = [
    (r"\[run\]", "[run]\nspectra_per_blok = 3", "spectra_per_blok"),
    ("workspace =", "workspaces =", "workspace"),
    (r"steps = \[", 'steps = ["polish", ', "polish"),
    ('survey = "(?!table)', 'survey = "hubble_', "hubble_"),
    (r"\nlabels = \[", "\nlabels = 3 # [", "labels"),
    (r'\ncatalog = "(?=\w+"\nlabels)', '\ncatalog = "no_', "no_"),
]


@pytest.mark.parametrize(
    ("path", "old", "new", "said"),
    [(path, *error) for path in RUNS for error in PLANTED if re.search(error[0], path.read_text())],
    ids=lambda value: value.name if isinstance(value, Path) else "",
)
def test_an_error_planted_in_a_run_file_is_found(plan, tmp_path, path, old, new, said):
    copy = tmp_path / path.name
    copy.write_text(re.sub(old, new, path.read_text(), count=1))
    assert said in "\n".join(plan(copy))


def commands(text):
    """What a page tells its reader to type."""
    for line in text.splitlines():
        if found := re.search(r"(?:^|[#`&] *|  |: )scalespec ([a-z]+ [^`]*)", line):
            yield shlex.split(re.split(r"\s{2,}", found[1])[0], comments=True)


def refused(words):
    """What the program says of a command, which is not run; run files are found by their names."""
    words = ["1" if word == "OBSID" else word for word in words]  # any star
    words = [
        str(DEPLOY / "runs" / Path(word).name).replace("/run.toml", "/laptop.toml")
        if word.endswith(".toml")
        else word
        for word in words
    ]
    command = main.get_command(click.Context(main), words[0])
    if command is None:
        return f"no verb {words[0]}"
    try:
        command.make_context(words[0], words[1:])
    except click.exceptions.Exit:  # --help
        return ""
    except click.UsageError as error:
        return error.format_message()
    return ""


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_commands_that_are_named_are_commands(path):
    assert {" ".join(c): why for c in commands(path.read_text()) if (why := refused(c))} == {}


def test_every_page_but_one_that_is_mounted_names_its_command():
    silent = [path.name for path in PAGES if not list(commands(path.read_text()))]
    assert set(silent) <= {"compose.toml"}


def container_commands():
    services = yaml.safe_load((DEPLOY / "compose" / "compose.yaml").read_text())["services"]
    yield from (one["command"] for one in services.values() if one["command"][0] == "scalespec")
    yield yaml.safe_load((DEPLOY / "kubernetes" / "rayjob.yaml").read_text())["spec"][
        "entrypoint"
    ].split()


@pytest.mark.parametrize("words", list(container_commands()), ids=lambda words: words[1])
def test_containers_run_commands_of_the_program(words):
    assert refused(words[1:]) == ""


@pytest.mark.parametrize(
    ("command", "said"),
    [
        ("run laptop.toml --enginee dask", "--enginee"),
        ("runn laptop.toml", "no verb runn"),
        ("run lapdog.toml", "does not exist"),
        ("mock demo --n-spectra many", "many"),
        ("run", "Missing argument"),
    ],
)
def test_a_command_that_would_not_run_is_found(command, said):
    (words,) = commands(f"  scalespec {command}  # so to speak")
    assert said in refused(words)
