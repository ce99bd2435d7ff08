"""``[run]``, ``[ingest]`` and ``[store]``: the run itself, what it reads, how it stores."""

from typing import Literal
from urllib.parse import urlencode

from pydantic import Field, model_validator

from scalespec.config.table import Table

BUCKET_OPTIONS = frozenset({"endpoint", "region", "profile", "anonymous", "allow_http"})
"""What may stand in the query of an s3:// URL, and in ``[store]``; none of it is a secret."""


class RunTable(Table):
    """``[run]``: what holds for every stage."""

    name: str
    """Name of the run; it heads the report."""
    workspace: str
    """Folder or ``s3://`` prefix under which everything the run makes lies."""
    seed: int = Field(default=1, ge=0)
    """Seed of every random number."""
    spectra_per_block: int = Field(default=4096, ge=1)
    """Spectra per block: the unit of work, of storage (one Zarr shard) and of resuming."""


class IngestTable(Table):
    """``[ingest]``: survey files to raw spectra."""

    survey: str = "lamost_lrs"
    """Which reader: a key of ``scalespec.surveys.SURVEYS``."""
    description: str = ""
    """Of survey "table": a JSON file that says what its files' columns are."""
    files: str | tuple[str, ...] = ()
    """A glob, a folder, several of them, or ``@list.txt`` with one path a line. Of a folder, files
    at any depth are taken whose names are the survey's, as ``spec-*.fits*`` for LAMOST LRS."""
    catalog: str = ""
    """Instead of `files`: a release catalog whose rows name the files by the survey's path rule."""
    root: str = ""
    """Folder that the catalog's paths start from."""
    where: str = ""
    """Which rows of the catalog, as ``snrg > 10 and class == 'STAR'``."""
    source_id: str = ""
    """Column of the catalog with Gaia DR3 source ids, for files that do not know theirs; not for
    files of several stars, of which a row says one. Ids of DR2 are others: never name a column of
    those."""
    limit: int | None = Field(default=None, ge=1)
    """Only the first so many spectra; inputs that come later fill up what is left of it."""

    @model_validator(mode="after")
    def _one_source(self) -> "IngestTable":
        if bool(self.files) == bool(self.catalog):
            raise ValueError("give either files or catalog")
        for name in ("where", "source_id"):
            if getattr(self, name) and not self.catalog:
                raise ValueError(f"{name} asks for columns of a catalog: give catalog, too")
        return self


class StoreTable(Table):
    """``[store]``: how pixels are kept, and where a bucket is. Secrets have no place here.

    Credentials come from the standard chain of the process that reads or writes: environment, a
    web identity, the machine's role, or the `profile`'s files.
    """

    codec: Literal["blosc", "pcodec", "lz4", "none"] = "blosc"
    """Of flux, ivar and mask: LZ4 behind bit shuffling; pcodec is smaller and slower (and wants the
    package pcodec), lz4, behind byte shuffling, faster and larger."""
    lossy_bits: int | None = Field(default=None, ge=4, le=22)
    """Keep so many bits of the mantissa of flux and ivar: 12 are good to 1.2e-4 and halve what is
    stored. Recorded in the store's attributes. By default every bit is kept."""
    endpoint: str = ""
    """Address of an S3 server that is not AWS, as ``https://s3.example.org``. It and the following
    hold for every s3:// URL of this file that has no query of its own."""
    region: str = ""
    """Region of the buckets."""
    profile: str = ""
    """Profile of ~/.aws whose credentials are used, on every worker."""
    anonymous: bool = False
    """Send no credentials: public buckets."""
    allow_http: bool = False
    """Plain HTTP to an endpoint that is not this machine."""

    def query(self) -> str:
        """Return the options of a bucket as the query of a URL; "" if there are none."""
        options = {
            name: "true" if value is True else value
            for name in ("endpoint", "region", "profile", "anonymous", "allow_http")
            if (value := getattr(self, name))
        }
        return "?" + urlencode(options, safe=":/") if options else ""
