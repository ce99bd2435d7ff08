"""``[publish]``: one catalog, in the forms that people open, and what is cut out of it."""

from typing import Literal

from pydantic import Field, model_validator

from scalespec.config.table import Table

Format = Literal["fits", "votable", "hats"]


class ProductTable(Table):
    """``[publish.products.NAME]``: the rows of the catalog that a condition chooses."""

    where: str
    """Condition on columns of the catalog, as ``fe_h < -2 and snr > 20``; null fails it."""
    trusted: tuple[str, ...] = ()
    """Labels whose recommended cut the rows must pass, too."""
    columns: tuple[str, ...] = ()
    """Columns kept; empty: those of the catalog."""
    description: str = ""
    """What it is, for the data model."""


class PublishTable(Table):
    """``[publish]``: one catalog. ``catalog.parquet`` is always written."""

    columns: tuple[str, ...] = ()
    """Columns of the catalog; empty: all of them. ``labels`` and ``label_cov`` stand for groups."""
    formats: tuple[Format, ...] = ("fits",)
    """Beside Parquet: ``catalog.fits``, ``catalog.vot``, and ``hats/``, Parquet cut by HEALPix that
    LSDB opens (wants the package hats)."""
    single_file_rows: int = Field(default=5_000_000, ge=0)
    """Catalogs of more rows have no FITS and no VOTable: those are read whole."""
    partition_rows: int = Field(default=250_000, ge=1)
    """Most rows of a HATS partition."""
    covariance: Literal["full", "compact", "none"] = "full"
    """``label_cov``; or ``label_corr``, 16 bits an element, which gives it back to 1/32767 of the
    errors; or neither."""
    best_fit: bool = False
    """Also write the best fit of every spectrum, as ``best_fit.zarr`` beside the catalog."""
    products: dict[str, ProductTable] = Field(default_factory=dict)
    """Subsets of the catalog, each a Parquet file and, as FITS is asked for, FITS."""

    @model_validator(mode="after")
    def _names_are_files(self) -> "PublishTable":
        for name in self.products:
            if not name.replace("_", "").replace("-", "").isalnum():
                raise ValueError(f"products: {name!r} becomes a file: use letters, digits, _ and -")
        return self
