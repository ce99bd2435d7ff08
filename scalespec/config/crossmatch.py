"""``[crossmatch.NAME]``: labels of other surveys, and training sets made of them."""

from typing import Literal

from pydantic import Field, model_validator

from scalespec.config.table import Table

KeyKind = Literal["gaia_dr2", "gaia_dr3", "twomass", "obsid", "name"]
KEY_KINDS: dict[str, tuple[KeyKind, ...]] = {
    "source_id": ("gaia_dr2", "gaia_dr3"),
    "obsid": ("obsid",),
    "name": ("name",),
    "file": ("name",),
    "designation": ("twomass", "name"),
}
"""What our columns of identifiers may be; Gaia EDR3 ids are DR3 ids, DR2 ids are not."""
MATCH_NAMES = frozenset(
    ("row", "obsid", "star", "split", "separation_arcsec", "rank", "n_candidates", "by_id")
)
"""Columns of a table of matches that are no labels."""
RESERVED_NAMES = MATCH_NAMES | {
    *("right", "id", "tie", "cell", "ra", "dec", "pmra", "pmdec", "epoch", "magnitude"),
    *("own", "mutual", "spectrum_snr", "conflicting"),
}
"""Names that no label may have."""


class MagnitudeTable(Table):
    """``[crossmatch.NAME] magnitude``: matches must be about as bright as the spectrum's star."""

    ours: str
    """Column of our magnitudes, in the store or its index."""
    theirs: str
    """Column of the catalog's, in a band near to ours."""
    tolerance: float = Field(default=2.0, gt=0)
    """Pairs that differ by more are no candidates, in mag; an unknown magnitude rules out none."""


class TrainingSetTable(Table):
    """``[crossmatch.NAME] training``: which matched stars are learned from."""

    fractions: tuple[float, float, float] = (0.8, 0.1, 0.1)
    """Stars for training, for validation, and never learned from."""
    flatten: int = Field(default=0, ge=0)
    """Most training stars in a cell of `cells`; 0 takes all."""
    cells: dict[str, float] = Field(
        default_factory=lambda: {"teff": 250.0, "logg": 0.5, "fe_h": 0.25}
    )
    """Size of a cell in each label: the Kiel diagram and [Fe/H]."""
    outlier_sigma: float = Field(default=0.0, ge=0)
    """Leave out stars whose labels differ by more robust sigmas from what a cross-validated linear
    model of their spectra says; 0 keeps all."""
    folds: int = Field(default=5, ge=2)
    """Parts of that cross-validation, star by star."""
    library: str = ""
    """Spectra store with labels, on the same grid, that fills sparse cells."""
    fill: int = Field(default=0, ge=0)
    """Cells with fewer training stars than this are filled up from the library."""

    @model_validator(mode="after")
    def _library_and_fill(self) -> "TrainingSetTable":
        if bool(self.fill) != bool(self.library):
            raise ValueError("fill and library go together")
        if self.flatten and self.fill > self.flatten:
            raise ValueError(f"fill = {self.fill} is above flatten = {self.flatten}")
        if min(self.fractions) < 0 or abs(sum(self.fractions) - 1) > 1e-9:
            raise ValueError(f"fractions must be three shares of 1, got {self.fractions}")
        if not self.cells or min(self.cells.values()) <= 0:
            raise ValueError("cells wants labels and their sizes, above 0")
        return self


class CrossmatchTable(Table):
    """``[crossmatch.NAME]``: one label catalog, joined by id where ids exist, else by position.

    With `sources` it is no catalog of its own but the labels of other tables, put together.
    """

    catalog: str = ""
    """FITS, Parquet (a file or a folder), CSV(.gz), VOTable, or a HATS catalog."""
    sources: tuple[str, ...] = ()
    """Instead of a catalog: other ``[crossmatch.NAME]`` tables; the first that knows a star's label
    gives it."""
    reference: str = ""
    """Of the tables, the high-resolution one that the sources are compared with."""
    choose: Literal["priority", "agreement"] = "priority"
    """Order of the sources: as listed, or for each label by agreement with the reference."""
    radius_arcsec: float = Field(default=3.0, gt=0, le=300.0)
    """Greatest separation of a match on the sky."""
    mode: Literal["best", "all", "mutual"] = "best"
    """Each spectrum's nearest; that, and all candidates in ``pairs.parquet`` beside it; or only
    those that are each other's nearest."""
    key: dict[str, str] = Field(default_factory=dict)
    """Id join first: ``{ source_id = "GAIAEDR3_SOURCE_ID" }`` (our column = theirs)."""
    key_kind: KeyKind | None = None
    """What the catalog's identifiers are; Gaia's must say their release."""
    ra: str = "ra"
    """Column of right ascension, ICRS deg; empty for an id join alone."""
    dec: str = "dec"
    """Column of declination, ICRS deg."""
    pmra: str = ""
    """Column of proper motion in RA times cos(dec), mas/yr; empty if there is none."""
    pmdec: str = ""
    """Column of proper motion in declination, mas/yr."""
    epoch: float | str = 2016.0
    """Epoch of the catalog's positions, Julian year, or the column that says it; they are moved to
    each observation's."""
    magnitude: MagnitudeTable | None = None
    """Leaves out candidates of another brightness."""
    star_id: str = ""
    """Column that is the same for all rows of a star; without it a catalog row is a star."""
    columns: dict[str, str] = Field(default_factory=dict)
    """Labels taken over: ``{ teff = "TEFF", teff_err = "TEFF_ERR" }`` (our name = theirs); those of
    ours that end in ``_id`` are identifiers, kept to the last digit."""
    units: dict[str, str] = Field(default_factory=dict)
    """Units of the catalog's columns, by our name, where they are not ours: ``{ ra = "hourangle",
    teff = "dex(K)" }``."""
    missing: tuple[float, ...] = (-9999.0, -9999.99)
    """Values that mean "not known", besides NaN."""
    where: str = ""
    """Which rows of the catalog may be matched."""
    training: TrainingSetTable = TrainingSetTable()

    @model_validator(mode="after")
    def _can_be_meant(self) -> "CrossmatchTable":
        if bool(self.catalog) == bool(self.sources):
            raise ValueError("give either catalog or sources")
        if self.reference in self.sources:
            raise ValueError(f"reference: '{self.reference}' is one of the sources itself")
        if self.choose == "agreement" and not self.reference:
            raise ValueError("choose = 'agreement' wants a reference to agree with")
        if taken := sorted(RESERVED_NAMES & set(self.columns)):
            raise ValueError(f"columns: {taken} are names of ours: choose others")
        if len(self.key) > 1:
            raise ValueError(f"key: one id joins, got {sorted(self.key)}")
        if bool(self.ra) != bool(self.dec):
            raise ValueError("ra and dec go together")
        if self.catalog and not (self.ra or self.key):
            raise ValueError("nothing to match by: give key, or ra and dec")
        known = {"ra", "dec", "pmra", "pmdec", *self.columns}
        if unknown := sorted(set(self.units) - known):
            raise ValueError(f"units: {unknown} are none of {sorted(known)}")
        for ours, theirs in self.key.items():
            self._check_kind(ours, theirs)
        return self

    def _check_kind(self, ours: str, theirs: str) -> None:
        """Refuse a join of two kinds of identifiers."""
        kinds = KEY_KINDS.get(ours, ())
        if ours == "source_id" and self.key_kind is None:
            raise ValueError(
                f"key: '{theirs}' joins Gaia ids: say their release, key_kind = 'gaia_dr3' or "
                "'gaia_dr2'; one is never the other"
            )
        if self.key_kind is not None and kinds and self.key_kind not in kinds:
            raise ValueError(
                f"key: our '{ours}' is one of {kinds}, '{theirs}' is '{self.key_kind}': they "
                "never join"
            )
        if self.key_kind == "gaia_dr3" and "dr2" in theirs.lower().replace("_", ""):
            raise ValueError(f"key: '{theirs}' says DR2, key_kind says 'gaia_dr3'")
