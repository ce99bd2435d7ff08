"""The whole run file: read, checked, with paths made absolute; and digests of its parts."""

import difflib
import hashlib
import json
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args, get_origin
from urllib.parse import parse_qsl

from pydantic import BaseModel, ValidationError, model_validator

from scalespec.config.ages import AgesTable
from scalespec.config.binaries import BinariesTable
from scalespec.config.calibrate import CalibrateTable
from scalespec.config.compare import CompareTable
from scalespec.config.crossmatch import CrossmatchTable
from scalespec.config.derive import DeriveTable
from scalespec.config.inputs import BUCKET_OPTIONS, IngestTable, RunTable, StoreTable
from scalespec.config.locations import resolve_paths
from scalespec.config.models import FitTable, InferTable, TrainTable
from scalespec.config.outputs import EngineTable, ReportTable
from scalespec.config.posterior import PosteriorTable
from scalespec.config.preprocess import PreprocessTable
from scalespec.config.publish import PublishTable
from scalespec.config.table import Table
from scalespec.errors import ConfigError

STAGES = (
    *("ingest", "preprocess", "crossmatch", "train", "infer", "fit", "posterior", "binaries"),
    *("calibrate", "derive", "ages", "publish", "report", "compare"),
)
"""The verbs that `scalespec run` knows, in the order of the data."""
SURVEY_TABLES = (
    *("ingest", "crossmatch", "infer", "fit", "posterior", "binaries"),
    *("calibrate", "derive", "ages", "publish"),
)
"""Tables that go by the rows of what [ingest] read."""
NOT_OF_PAIRS = ("fixed", "tied", "kinds", "robust", "vsini_kms", "lsf_kms")
"""Settings of [fit] that fits of two stars do not have, or whose chi2 does not compare."""


class RunConfig(Table):
    """A whole run file; a stage runs if its table is there."""

    run: RunTable
    store: StoreTable = StoreTable()
    ingest: IngestTable | None = None
    preprocess: PreprocessTable | None = None
    crossmatch: dict[str, CrossmatchTable] | None = None
    train: TrainTable | None = None
    infer: InferTable | None = None
    fit: FitTable | None = None
    posterior: PosteriorTable | None = None
    binaries: BinariesTable | None = None
    calibrate: CalibrateTable | None = None
    derive: DeriveTable | None = None
    ages: AgesTable | None = None
    publish: PublishTable | None = None
    report: ReportTable | None = None
    compare: CompareTable | None = None
    engine: EngineTable = EngineTable()

    @model_validator(mode="after")
    def _stages_fit_together(self) -> "RunConfig":
        self._source_stands_alone()
        wanted: dict[str, tuple[str, ...]] = {
            "preprocess": ("ingest",),
            "crossmatch": ("ingest",),
            "infer": ("preprocess",),
            "fit": ("infer",),
            "posterior": ("fit",),
            "binaries": ("fit",),
            "calibrate": ("fit",),
            "derive": ("fit",),
            "ages": ("fit",),
            "publish": ("infer",),
            "report": ("publish",) if self.fit is not None else ("preprocess",),
        }
        if self.preprocess is not None and (self.preprocess.source or self.preprocess.library):
            wanted["preprocess"] = ()
        for stage, needs in wanted.items():
            for need in needs:
                if getattr(self, stage) is not None and getattr(self, need) is None:
                    raise ValueError(f"[{stage}] wants a [{need}] table")
        if self.infer is not None and not self.infer.models and self.train is None:
            raise ValueError("[infer] wants models = [...] or a [train] table")
        self._labels_are_learned()
        self._catalogs_are_there()
        if self.train is not None and self.train.catalog and self.preprocess is None:
            raise ValueError("[train] on matched stars wants a [preprocess] table")
        self._pages_are_possible()
        self._pairs_are_possible()
        if self.compare is not None and not self.compare.source and self.preprocess is None:
            raise ValueError("[compare] wants a source, or a [preprocess] table")
        self._sources_come_before()
        return self

    def _labels_are_learned(self) -> None:
        """Refuse labels of ``[fit]`` that the model which the run trains will not have."""
        train, other = self.train, self.infer is not None and self.infer.models
        if self.fit is None or train is None or other or train.adapt:
            return  # other models say their labels where they lie
        if unknown := self.fit.unknown([*train.labels, *train.leeway_labels]):
            raise ValueError(f"[fit] names {unknown}, which are not in train.labels")

    def _source_stands_alone(self) -> None:
        """Refuse tables that would take row n of other spectra for the survey's row n."""
        table = self.preprocess
        if table is None or not (table.source or table.library):
            return
        key = "preprocess.source" if table.source else "[preprocess.library]"
        wrong = [f"[{name}]" for name in SURVEY_TABLES if getattr(self, name) is not None]
        wrong += ["train.catalog"] if self.train is not None and self.train.catalog else []
        wrong += ["compare.catalog"] if self.compare is not None and self.compare.catalog else []
        if wrong:
            raise ValueError(
                f"{key} gives spectra that are not the survey's, and {', '.join(wrong)} would "
                f"join them with the survey's stars, row by row: leave out {key}, or keep it in "
                "a run file of its own, without these"
            )

    def _catalogs_are_there(self) -> None:
        """Refuse names of catalogs that are not matched, and of columns that they lack."""
        known = self.crossmatch or {}
        for key, catalog in self._catalogs_named():
            if catalog not in known:
                raise ValueError(f"{key} wants a [crossmatch.{catalog}] table")
        for key, name in self._columns_named():
            catalog, _, column = name.partition(".")
            if catalog not in known:
                raise ValueError(f"{key} = '{name}' wants a [crossmatch.{catalog}] table")
            there = known[catalog].columns
            # What catalogs that are put together know is seen only when they are read.
            if known[catalog].catalog and column not in there:
                raise ValueError(
                    f"{key} = '{name}': crossmatch.{catalog}.columns takes over no '{column}', "
                    f"only {sorted(there)}"
                )
        for key, catalog, names in self._labels_named():
            there = known[catalog].columns
            if known[catalog].catalog and (lacking := [n for n in names if n not in there]):
                raise ValueError(
                    f"{key}: crossmatch.{catalog}.columns takes over no {lacking}, only "
                    f"{sorted(there)}"
                )

    def _labels_named(self) -> Iterator[tuple[str, str, tuple[str, ...]]]:
        """Yield every key that names labels of a crossmatch table, the table, and the labels."""
        if self.train is not None and self.train.catalog:
            yield "train.labels", self.train.catalog, self.train.labels
            yield "train.network.inputs", self.train.catalog, self.train.network.inputs
        if self.compare is not None and self.compare.catalog:
            yield "compare.labels", self.compare.catalog, self.compare.labels
            yield "compare.extra", self.compare.catalog, self.compare.extra

    def _catalogs_named(self) -> Iterator[tuple[str, str]]:
        """Yield every key that names a crossmatch table, as it is written, and the name."""
        named = {
            "train.catalog": self.train.catalog if self.train else "",
            "infer.inputs": self.infer.inputs if self.infer else "",
            "compare.catalog": self.compare.catalog if self.compare else "",
        }
        yield from ((f"{key} = '{name}'", name) for key, name in named.items() if name)
        for name in self.calibrate.references if self.calibrate else ():
            yield f"calibrate.references.{name}", name

    def _columns_named(self) -> Iterator[tuple[str, str]]:
        """Yield every key that names a column of a crossmatch table, and the name."""
        if self.derive is not None and self.derive.color:
            yield "derive.color", self.derive.color
        if (table := self.ages) is None:
            return
        for key in ("magnitude", "parallax", "reddening"):
            if name := getattr(table, key):
                yield f"ages.{key}", name
        if table.brightness == "m_k":
            yield "ages.parallax", f"{table.parallax}_err"

    def _pages_are_possible(self) -> None:
        if self.publish is not None and self.publish.best_fit and self.fit is None:
            raise ValueError("publish.best_fit wants a [fit] table: nothing else makes spectra")
        if self.report is None:
            return
        if self.report.truth_where and not self.report.truth:
            raise ValueError("report.truth_where selects rows of the truth: give truth, too")
        for name in self.report.references:
            if name not in (self.crossmatch or {}):
                raise ValueError(f"report.references names no [crossmatch.{name}] table")

    def _pairs_are_possible(self) -> None:
        """Refuse fits and models whose stars cannot be told from two."""
        if self.binaries is None or self.fit is None:
            return
        if wrong := [name for name in NOT_OF_PAIRS if getattr(self.fit, name)]:
            raise ValueError(
                f"[binaries] knows no fits with {', '.join(wrong)}: leave that out of [fit], or "
                "give [binaries] a run file of its own that does, with this workspace: all before "
                "the fit is shared"
            )
        train, other = self.train, self.infer is not None and self.infer.models
        if train is not None and not (other or train.teacher or train.adapt):
            raise ValueError(
                "[binaries] adds the light of two stars, which only spectra over the true "
                "continuum allow; what [train] learns of a library or catalog is normalized as "
                "[preprocess] normalizes: name an emulator of theory in infer.models, or learn "
                "from one with train.teacher or train.adapt"
            )

    def _sources_come_before(self) -> None:
        catalogs: set[str] = set()
        for name, table in (self.crossmatch or {}).items():
            for source in (*table.sources, *filter(None, [table.reference])):
                if source not in catalogs:
                    raise ValueError(
                        f"crossmatch.{name}: '{source}' is no [crossmatch.{source}] table with a "
                        "catalog before it"
                    )
            if table.catalog:
                catalogs.add(name)

    @model_validator(mode="after")
    def _urls_have_no_secret(self) -> "RunConfig":
        for text in self.texts():
            if not text.removeprefix("@").startswith("s3://"):
                continue
            path, _, query = text.partition("?")
            if "=" in query and (wrong := set(dict(parse_qsl(query))) - BUCKET_OPTIONS):
                raise ValueError(
                    f"{path}: unknown options {sorted(wrong)}; known are {sorted(BUCKET_OPTIONS)}"
                )
        return self

    def numbers_of(self, catalog: str) -> frozenset[str]:
        """Return the columns of a crossmatch table that some stage counts with."""
        labels = [names for _, name, names in self._labels_named() if name == catalog]
        columns = [name.partition(".") for _, name in self._columns_named()]
        beside = [column for name, _, column in columns if name == catalog]
        return frozenset(beside).union(*labels)

    def stages(self) -> tuple[str, ...]:
        """Return the verbs whose tables are there, in order."""
        return tuple(name for name in STAGES if getattr(self, name) is not None)

    def texts(self) -> frozenset[str]:
        """Return every string of the run file; all paths that it names are among them."""
        return frozenset(_texts(self.model_dump()))


def digest(*parts: Any) -> str:
    """Return 16 hex digits that name everything in `parts`: tables, strings, numbers.

    Examples
    --------
    >>> digest({"a": 1}, "x") == digest({"a": 1}, "x") != digest({"a": 2}, "x")
    True
    """
    plain = [_plain(p.model_dump(mode="json") if isinstance(p, BaseModel) else p) for p in parts]
    text = json.dumps(plain, sort_keys=True, separators=(",", ":"), default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _texts(value: Any) -> Iterator[str]:
    """Yield every string in a value."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for inner in value.values():
            yield from _texts(inner)
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from _texts(inner)


def _plain(value: Any) -> Any:
    """Return a value without the options of its buckets: an endpoint that moves changes nothing."""
    if isinstance(value, dict):
        return {key: _plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    return value.partition("?")[0] if isinstance(value, str) and "s3://" in value else value


SECRET = re.compile("secret|token|password|key_id|access_key", re.IGNORECASE)


def _meant(loc: tuple[int | str, ...]) -> str:
    """Return which keys may be meant by one that is not known.

    Examples
    --------
    >>> _meant(("ingest", "survye")), _meant(("crossmatch", "apogee", "colums"))
    (': did you mean survey?', ': did you mean columns?')
    >>> _meant(("ingest", "color"))
    ''
    """
    close = difflib.get_close_matches(str(loc[-1]), sorted(set(_keys(RunConfig, loc[:-1]))))
    return f": did you mean {' or '.join(close)}?" if close else ""


def _keys(kind: Any, loc: tuple[int | str, ...]) -> Iterator[str]:
    """Yield the keys of the tables that may stand at a place of the run file."""
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        if not loc:
            yield from kind.model_fields
        elif field := kind.model_fields.get(str(loc[0])):
            yield from _keys(field.annotation, loc[1:])
        return
    # of dict[str, Table] the place takes a name, of tuple[Table, ...] a number, of a union nothing
    inner = loc[1:] if get_origin(kind) in (dict, tuple) and loc else loc
    for member in get_args(kind):
        yield from _keys(member, inner)


def _complaint(error: Any) -> str:
    where = ".".join(str(part) for part in error["loc"])
    if SECRET.search(where):
        return f"  {where}: no place for a secret: credentials come from the environment"
    message = error["msg"].removeprefix("Value error, ")
    if error["type"] == "extra_forbidden":
        message += _meant(error["loc"])
    value = error.get("input")
    if where and not isinstance(value, dict | BaseModel):
        return f"  {where} = {value!r}: {message}"
    return f"  {where}: {message}" if where else f"  {message}"


def parse_config(text: str, name: str = "run file") -> RunConfig:
    r"""Read a run file's text; every wrong key is reported at once.

    Parameters
    ----------
    text : str
        TOML.
    name : str
        What to call it in messages.

    Raises
    ------
    ConfigError
        If it is not TOML, or a table or key is wrong.

    Examples
    --------
    >>> parse_config('[run]\nname = "a"\nworkspace = "work"').run.spectra_per_block
    4096
    """
    try:
        return RunConfig.model_validate(tomllib.loads(text))
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{name}: not TOML: {error}") from error
    except ValidationError as error:
        problems = error.errors(include_url=False)
        lines = [_complaint(problem) for problem in problems]
        raise ConfigError(f"{name}: {len(lines)} wrong\n" + "\n".join(lines)) from error


def load_config(path: str | Path) -> RunConfig:
    """Read a run file; paths in it are relative to its own folder, buckets are as [store] says.

    Raises
    ------
    ConfigError
        If it is missing, not TOML, or a table or key is wrong.
    """
    path = Path(path)
    try:
        text = path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read as a run file: {error}") from error
    config = parse_config(text, path.name)
    base = path.resolve().parent
    tables = config.model_dump(exclude_unset=True)
    return RunConfig.model_validate(resolve_paths(tables, base, config.store.query()))
