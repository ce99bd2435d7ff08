"""The run files of a made-up survey."""

from collections.abc import Sequence
from importlib.util import find_spec

from scalespec.stages.mock_records import CATALOGS
from scalespec.store import paths

RUN_FILE = """\
# A made-up survey; every key is explained in scalespec/config/.
[run]
name = "mock, emulator from the {learned}"
workspace = "{workspace}"
seed = {seed}
spectra_per_block = {spectra_per_block}

[ingest]
survey = "{survey}"
files = "{files}"

[preprocess]
continuum = {{ passes = 3 }}  # slopes of dust and temperature leave no trace in the lines

[crossmatch.apogee]
catalog = "{catalog}"
pmra = "pmra"
pmdec = "pmdec"
epoch = {epoch}
star_id = "apogee_id"
columns = {{ {columns} }}
where = "teff > 3900 and teff < 7000"  # stars that this emulator is for

[train]
{source}
labels = [{labels}]
rounds = [0, 10, 30, 60, 100]

[infer]

[fit]

[publish]
formats = [{formats}]

[report]
truth = "{truth}"
"""
FORMATS = ("fits", "votable", *(("hats",) if find_spec("hats") else ()))
"""Forms that the catalog is published in, those that this installation can write."""
SOURCES = {
    "library": 'library = "{library}"  # noiseless spectra over the range of FGK stars',
    "catalog": 'catalog = "apogee"  # matched stars, with their noise and the catalog\'s labels\n'
    "hidden = 16  # some hundred stars with noisy labels know no more",
}
"""What an emulator learns from, as a line of ``[train]``."""


def run_file(
    labels: Sequence[str],
    *,
    seed: int = 1,
    spectra_per_block: int = 128,
    source: str = "library",
    survey: str = "lamost_lrs",
    folder: str = "",
) -> str:
    """Return the text of a run file for a made-up survey.

    Parameters
    ----------
    labels : sequence of str
        What to measure.
    seed, spectra_per_block : int
        As in ``[run]``.
    source : {"library", "catalog"}
        What the emulator learns from: the theoretical library, or matched stars.
    survey : str
        Whose format the files have.
    folder : str
        URL of the survey, where the run file will not lie in its folder (in an object store).
    """

    def place(*parts: str) -> str:
        return paths.join(folder, *parts) if folder else "/".join(parts)

    taken = [column for label in labels for column in (label, f"{label}_err")]
    return RUN_FILE.format(
        seed=seed,
        spectra_per_block=spectra_per_block,
        survey=survey,
        workspace=place("work"),
        files=place("files", "**", "*.fits*"),
        catalog=place(f"{CATALOGS[0].name}.parquet"),
        truth=place("truth.parquet"),
        source=SOURCES[source].format(library=place("library", "spectra.zarr")),
        formats=", ".join(f'"{name}"' for name in FORMATS),
        learned={"library": "library", "catalog": "matched stars"}[source],
        epoch=CATALOGS[0].epoch,
        columns=", ".join(f'{column} = "{column}"' for column in taken),
        labels=", ".join(f'"{label}"' for label in labels),
    )
