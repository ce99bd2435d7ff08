"""Where each stage of a run keeps its things: one digest per stage, made of all that it depends on.

A stage's digest covers its own table, the digests upstream, the inputs' identity, the checksums of
models and the code's format version. A changed setting so gets a new folder beside the old one, and
redoes what depends on it and nothing else.
"""

from scalespec.config import RunConfig, digest
from scalespec.errors import StoreError
from scalespec.schema import FORMAT_VERSION
from scalespec.store import paths
from scalespec.store.ledger import Ledger, read_json, stage_url


def _name(url: str) -> str:
    """Return the digest that a folder is named by."""
    return url.partition("?")[0].rstrip("/").rpartition("/")[2]


def plan_url(config: RunConfig) -> str:
    """Return the folder of the list of inputs."""
    table = config.ingest
    size = config.run.spectra_per_block
    return stage_url(config.run.workspace, "plan", digest(table, size, FORMAT_VERSION))


def raw_url(config: RunConfig) -> str:
    """Return the folder of the raw spectra.

    Raises
    ------
    StoreError
        If the inputs are not planned yet.
    """
    plan = read_json(paths.join(plan_url(config), "plan.json"))
    return stage_url(
        config.run.workspace, "raw", digest(_name(plan_url(config)), plan["sha256"], FORMAT_VERSION)
    )


def spectra_url(config: RunConfig) -> str:
    """Return the folder of the preprocessed spectra."""
    name = digest(config.preprocess, _name(raw_url(config)), FORMAT_VERSION)
    return stage_url(config.run.workspace, "spectra", name)


def matches_url(config: RunConfig, catalog: str) -> str:
    """Return the folder of the matches with one label catalog."""
    table = (config.crossmatch or {})[catalog]
    name = digest(
        table, identity(table.catalog), config.run.seed, _name(raw_url(config)), FORMAT_VERSION
    )
    return stage_url(config.run.workspace, f"matches/{catalog}", name)


def training_url(config: RunConfig, catalog: str) -> str:
    """Return the folder of the dense training store of one label catalog.

    Its rows are the matches whose spectra are preprocessed: a block that failed in either stage and
    is done later makes it another store.

    Raises
    ------
    StoreError
        If the catalog is not matched yet.
    """
    spectra = spectra_url(config)
    there = sorted(Ledger(spectra).done())
    name = digest(_matched(config, catalog), _name(spectra), there, FORMAT_VERSION)
    return stage_url(config.run.workspace, f"matches/{catalog}/train", name)


def _matched(config: RunConfig, catalog: str) -> str:
    """Return what names the matches with one catalog: settings and rows, for blocks may come late.

    Raises
    ------
    StoreError
        If the catalog is not matched yet.
    """
    url = matches_url(config, catalog)
    table = paths.join(url, "matches.parquet")
    if not paths.exists(table):
        raise StoreError(f"{url}: no matches with '{catalog}' yet: run crossmatch first")
    return digest(_name(url), paths.sha256(paths.read_bytes(table)))


def library_url(config: RunConfig) -> str:
    """Return the folder of the preprocessed theoretical library."""
    if config.train is None:
        raise StoreError("no [train] table: there is no library")
    size = config.run.spectra_per_block
    library = identity(paths.join(config.train.library, "zarr.json"))
    name = digest(config.preprocess, config.train.library, library, size, FORMAT_VERSION)
    return stage_url(config.run.workspace, "model/library", name)


def model_url(config: RunConfig) -> str:
    """Return the folder of the trained model."""
    if config.train is None:
        raise StoreError("no [train] table: there is no trained model")
    table = config.train
    source = training_url(config, table.catalog) if table.catalog else library_url(config)
    name = digest(table, config.run.seed, _name(source), FORMAT_VERSION)
    return stage_url(config.run.workspace, "model", name)


def model_urls(config: RunConfig) -> tuple[str, ...]:
    """Return the models that infer and fit use: those named, else the trained one."""
    named = config.infer.models if config.infer else ()
    return named or (model_url(config),)


def first_url(config: RunConfig) -> str:
    """Return the folder of the first labels."""
    from scalespec.store.model import checksum  # with torch, which earlier stages do without

    models = [checksum(url) for url in model_urls(config)]
    table = config.infer
    selecting = table is not None and table.where
    matches = [_matched(config, c) for c in config.crossmatch or {}] if selecting else []
    name = digest(
        table, _name(spectra_url(config)), models, matches, config.run.seed, FORMAT_VERSION
    )
    return stage_url(config.run.workspace, "first", name)


def best_url(config: RunConfig) -> str:
    """Return the folder of the fitted labels."""
    name = digest(config.fit, _name(first_url(config)), FORMAT_VERSION)
    return stage_url(config.run.workspace, "best", name)


def catalog_url(config: RunConfig) -> str:
    """Return the folder of the published catalog."""
    matches = [_matched(config, catalog) for catalog in config.crossmatch or {}]
    name = digest(config.publish, _name(best_url(config)), matches, FORMAT_VERSION)
    return stage_url(config.run.workspace, "catalog", name)


def report_url(config: RunConfig) -> str:
    """Return the folder of the report."""
    truth = identity(config.report.truth) if config.report and config.report.truth else ""
    name = digest(config.report, truth, _name(catalog_url(config)), config.run.name, FORMAT_VERSION)
    return stage_url(config.run.workspace, "report", name)


def identity(url: str) -> str:
    """Return what tells one state of an input file from another: its size and time of change.

    Raises
    ------
    StoreError
        If there is no such file.
    """
    entries = paths.list_files(url)
    if not entries:
        raise StoreError(f"{url}: no such file")
    return digest([(entry.size, entry.modified) for entry in entries])
