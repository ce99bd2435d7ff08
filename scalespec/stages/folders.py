"""Where each stage of a run keeps its things: one digest per stage, made of all that it depends on.

A stage's digest covers its own table, the digests upstream, the inputs' identity, the checksums of
models and the code's format version. A changed setting so gets a new folder beside the old one, and
redoes what depends on it and nothing else.
"""

from typing import Literal

from scalespec.config import PreprocessTable, RunConfig, RunTable, StoreTable, digest
from scalespec.errors import ConfigError, StoreError
from scalespec.plan import Block
from scalespec.schema import FORMAT_VERSION
from scalespec.stages import matched
from scalespec.stages.identities import checksums, identities, identity
from scalespec.stages.segments import Segment, is_planned, read_segments
from scalespec.store import paths
from scalespec.store.ledger import Ledger, stage_url


def _name(url: str) -> str:
    """Return the digest that a folder is named by."""
    return url.partition("?")[0].rstrip("/").rpartition("/")[2]


def plan_url(config: RunConfig) -> str:
    """Return the folder of the lists of inputs.

    With entries added at the end of ``[ingest] files`` it is the folder of the shorter list, if
    that was planned before: the plan grows (`segments`).
    """
    table, entries = config.ingest, entries_of(config)

    def folder(n: int) -> str:
        named = table.model_copy(update={"files": entries[:n]}) if table and entries else table
        name = digest(named, config.run.spectra_per_block, FORMAT_VERSION)
        return stage_url(config.run.workspace, "plan", name)

    found = [folder(n) for n in range(len(entries), 0, -1)] or [folder(0)]
    planned = (url for url in found if len(found) > 1 and is_planned(url))
    return next(planned, found[0])


def entries_of(config: RunConfig) -> tuple[str, ...]:
    """Return the run file's ``[ingest] files`` as a tuple."""
    files = config.ingest.files if config.ingest else ()
    return (files,) if isinstance(files, str) and files else tuple(files)


def planned_segments(config: RunConfig) -> tuple[Segment, ...]:
    """Return the segments of the run's plan, in the order of their rows; none before ingest."""
    return read_segments(plan_url(config), entries_of(config))


def planned_blocks(config: RunConfig) -> list[Block]:
    """Return the blocks of the run's spectra, in every stage from raw to catalog."""
    return [block for segment in planned_segments(config) for block in segment.blocks]


def raw_url(config: RunConfig) -> str:
    """Return the folder of the raw spectra.

    Raises
    ------
    StoreError
        If the inputs are not planned yet.
    """
    url = plan_url(config)
    segments = read_segments(url, entries_of(config))
    if not segments:
        raise StoreError(f"{url}: no inputs are planned yet: run ingest first")
    first = segments[0].sha256  # those added later leave the folder where it is
    description = config.ingest.description if config.ingest else ""
    described = identity(description) if description else ""
    name = digest(_name(url), first, _bytes(config), described, FORMAT_VERSION)
    return stage_url(config.run.workspace, "raw", name)


def _bytes(config: RunConfig) -> tuple[str, int | None]:
    """Return how pixels are kept: part of what the stores' bytes depend on."""
    return config.store.codec, config.store.lossy_bits


def theory_url(config: RunConfig) -> str:
    """Return the folder of the theory that is made to be preprocessed.

    Raises
    ------
    StoreError
        If the run file asks for none.
    """
    if config.preprocess is None or config.preprocess.library is None:
        raise StoreError("no [preprocess.library] table: there is no theory")
    size, table = config.run.spectra_per_block, config.preprocess.library
    name = digest(table, size, config.run.seed, FORMAT_VERSION)
    return stage_url(config.run.workspace, "theory", name)


def source_url(config: RunConfig) -> str:
    """Return the store that is preprocessed instead of what [ingest] read; "" if none is."""
    table = config.preprocess
    if table is None:
        return ""
    return paths.join(theory_url(config), "spectra.zarr") if table.library else table.source


def spectra_url(config: RunConfig) -> str:
    """Return the folder of the preprocessed spectra."""
    if config.preprocess and (source := source_url(config)):
        made = config.preprocess.library is not None
        there = _name(theory_url(config)) if made else identity(paths.join(source, "zarr.json"))
        parts = [there, config.run.spectra_per_block, config.run.seed]
        settings = _other_bytes(config)
    else:
        parts = [_name(raw_url(config))]  # made of blocks, and of how pixels are kept, too
        settings = _other_noise(config)
    name = digest(
        config.preprocess, *parts, *_templates(config.preprocess), *settings, FORMAT_VERSION
    )
    return stage_url(config.run.workspace, "spectra", name)


def spectra_store(config: RunConfig) -> str:
    """Return the store of the preprocessed spectra."""
    return paths.join(spectra_url(config), "spectra.zarr")


def _other_bytes(config: RunConfig) -> list[object]:
    """Return how pixels are kept, as a further part of a digest; nothing where that is as usual."""
    usual = StoreTable()
    return [] if _bytes(config) == (usual.codec, usual.lossy_bits) else [_bytes(config)]


def _other_noise(config: RunConfig) -> list[object]:
    """Return the seed of simulated noise, as a further part; nothing without, or where usual."""
    usual = RunTable.model_fields["seed"].default
    noisy = config.preprocess is not None and "simulate" in config.preprocess.steps
    return [config.run.seed] if noisy and config.run.seed != usual else []


def _templates(table: PreprocessTable | None) -> list[str]:
    """Return what tells the spectra or the model that velocities are measured by."""
    url = table.velocity.templates if table and table.velocity else ""
    store = paths.join(url, "zarr.json") if url else ""
    return identities(store) if store and paths.exists(store) else checksums(url)


def matches_url(config: RunConfig, catalog: str) -> str:
    """Return the folder of the matches with one label catalog.

    Raises
    ------
    ConfigError
        If the run file has no such catalog.
    """
    if catalog not in (config.crossmatch or {}):
        raise ConfigError(f"'{catalog}' wants a [crossmatch.{catalog}] table")
    table = (config.crossmatch or {})[catalog]
    upstream: str | list[str] = [
        _matched(config, one) for one in (*table.sources, *filter(None, [table.reference]))
    ]
    if table.catalog:
        upstream = identity(table.catalog)
    name = digest(table, upstream, config.run.seed, _name(raw_url(config)), FORMAT_VERSION)
    return stage_url(config.run.workspace, f"matches/{catalog}", name)


def training_url(config: RunConfig, catalog: str) -> str:
    """Return the folder of the dense training store of one label catalog.

    Its rows are the matches whose spectra are preprocessed: a block that failed in either stage and
    is done later makes it another store. Of matches that are not learned from it knows nothing.

    Raises
    ------
    StoreError
        If the catalog is not matched yet.
    """
    spectra = spectra_url(config)
    there, size = sorted(Ledger(spectra).done()), config.run.spectra_per_block
    matches = _matched(config, catalog)
    if (stop := learned_until(config, catalog)) is not None:
        there = [index for index in there if index * size < stop]
        rows = matched.rows_checksum(matches_url(config, catalog), stop)
        matches = digest((config.crossmatch or {})[catalog], rows)
    library = (config.crossmatch or {})[catalog].training.library
    filled = identities(paths.join(library, "zarr.json") if library else "")
    name = digest(matches, _name(spectra), there, *filled, FORMAT_VERSION)
    return stage_url(config.run.workspace, f"matches/{catalog}/train", name)


def learned_until(config: RunConfig, catalog: str) -> int | None:
    """Return the row before which a catalog's matches are learned from; None: all rows."""
    table = config.train
    if table is None or table.catalog != catalog or not table.segments:
        return None
    return planned_segments(config)[: table.segments][-1].stop


def _matched(config: RunConfig, catalog: str) -> str:
    """Return what names the matches with one catalog: settings and rows, for blocks may come late.

    Raises
    ------
    StoreError
        If the catalog is not matched yet.
    """
    url = matches_url(config, catalog)
    if not (checksum := matched.checksum(url)):
        raise StoreError(f"{url}: no matches with '{catalog}' yet: run crossmatch first")
    return digest(_name(url), checksum)


def library_url(config: RunConfig) -> str:
    """Return the folder of the preprocessed theoretical library."""
    if config.train is None:
        raise StoreError("no [train] table: there is no library")
    size = config.run.spectra_per_block
    library = identity(paths.join(config.train.library, "zarr.json"))
    parts = [config.train.library, library, size, _bytes(config), *_templates(config.preprocess)]
    name = digest(config.preprocess, *parts, *_other_noise(config), FORMAT_VERSION)
    return stage_url(config.run.workspace, "model/library", name)


def model_url(config: RunConfig) -> str:
    """Return the folder of the trained model."""
    if config.train is None:
        raise StoreError("no [train] table: there is no trained model")
    table = config.train
    if table.teacher:
        (source,) = checksums(table.teacher)
    else:
        learned = training_url(config, table.catalog) if table.catalog else library_url(config)
        source = _name(learned)
    # Files by their bytes, as The Payne's npz.
    files = (*checksums(table.gradients), *checksums(table.adapt))
    settings = table.model_dump(mode="json", exclude={"segments"})  # `source` knows of them
    name = digest(settings, config.run.seed, source, *files, FORMAT_VERSION)
    return stage_url(config.run.workspace, "model", name)


PixelPart = Literal["pieces", "pixels"]
PIXEL_PARTS: tuple[PixelPart, ...] = ("pieces", "pixels")


def pixels_url(config: RunConfig, part: PixelPart) -> str:
    """Return the folder of spectra cut by pixels, or of what was learned of each pixel."""
    return stage_url(config.run.workspace, f"model/{part}", _name(model_url(config)))


def model_urls(config: RunConfig) -> tuple[str, ...]:
    """Return the models that infer and fit use: those named, else the trained one."""
    named = config.infer.models if config.infer else ()
    return named or (model_url(config),)


def first_url(config: RunConfig) -> str:
    """Return the folder of the first labels."""
    models = checksums(*model_urls(config))
    table = config.infer
    selecting = table is not None and (table.where or table.inputs)
    matches = [_matched(config, c) for c in config.crossmatch or {}] if selecting else []
    parts = [_name(spectra_url(config)), models, matches, config.run.seed]
    name = digest(table, *parts, FORMAT_VERSION)
    return stage_url(config.run.workspace, "first", name)


def best_url(config: RunConfig) -> str:
    """Return the folder of the fitted labels."""
    name = digest(config.fit, _name(first_url(config)), FORMAT_VERSION)
    return stage_url(config.run.workspace, "best", name)


def posterior_url(config: RunConfig) -> str:
    """Return the folder of draws from the posteriors of chosen stars.

    A block that is fitted later may hold one of them: it makes another folder.
    """
    if config.posterior is None:
        raise StoreError("no [posterior] table: nothing is drawn")
    best = best_url(config)
    there = sorted(Ledger(best).done())
    name = digest(config.posterior, _name(best), there, config.run.seed, FORMAT_VERSION)
    return stage_url(config.run.workspace, "posterior", name)


def binaries_url(config: RunConfig) -> str:
    """Return the folder of what fits of two stars say of chosen ones.

    A block that is fitted later changes the threshold: it makes another folder.
    """
    table, best = config.binaries, best_url(config)
    if table is None:
        raise StoreError("no [binaries] table: no star is asked for a companion")
    matches = [_matched(config, c) for c in config.crossmatch or {}] if table.where else []
    there = sorted(Ledger(best).done())
    parts = [_name(best), matches, identity(table.isochrone), there, config.run.seed]
    name = digest(table, *parts, FORMAT_VERSION)
    return stage_url(config.run.workspace, "binaries", name)


def singles_url(config: RunConfig) -> str:
    """Return the folder of the mock single stars that tell what chance gains."""
    return paths.join(binaries_url(config), "singles")


def calibrated_url(config: RunConfig) -> str:
    """Return the folder of the calibrated labels.

    A block that is fitted later changes every trend: it makes another folder.
    """
    table, best = config.calibrate, best_url(config)
    if table is None:
        raise StoreError("no [calibrate] table: nothing is calibrated")
    inputs = [identity(one.catalog) for one in (table.pairs, table.clusters) if one]
    matches = [_matched(config, name) for name in table.references]
    there = sorted(Ledger(best).done())
    name = digest(table, _name(best), matches, inputs, there, config.run.seed, FORMAT_VERSION)
    return stage_url(config.run.workspace, "calibrated", name)


def derived_url(config: RunConfig) -> str:
    """Return the folder of what repeats, colors and residuals tell of the stars.

    A block that is fitted later adds visits to stars of others: it makes another folder.
    """
    table, best = config.derive, best_url(config)
    if table is None:
        raise StoreError("no [derive] table: nothing is derived")
    matches = [_matched(config, table.color.partition(".")[0])] if table.color else []
    name = digest(table, _name(best), matches, sorted(Ledger(best).done()), FORMAT_VERSION)
    return stage_url(config.run.workspace, "derived", name)


def ages_url(config: RunConfig) -> str:
    """Return the folder of the stars' ages."""
    table = config.ages
    if table is None:
        raise StoreError("no [ages] table: no star is dated")
    labels = best_url(config)
    if config.calibrate is not None and table.calibrated:
        labels = calibrated_url(config)
    named = filter(None, (table.magnitude, table.parallax, table.reddening))
    catalogs = sorted({name.partition(".")[0] for name in named})
    matches = [_matched(config, name) for name in catalogs]
    name = digest(table, _name(labels), matches, identity(table.isochrones), FORMAT_VERSION)
    return stage_url(config.run.workspace, "ages", name)


def catalog_url(config: RunConfig) -> str:
    """Return the folder of the published catalog."""
    matches = [_matched(config, catalog) for catalog in config.crossmatch or {}]
    planned = [segment.sha256 for segment in planned_segments(config)]
    best = [_name(best_url(config))]
    best += [_name(binaries_url(config))] if config.binaries else []
    best += [_name(calibrated_url(config))] if config.calibrate else []
    best += [_name(derived_url(config))] if config.derive else []
    best += [_name(ages_url(config))] if config.ages else []
    name = digest(config.publish, *best, matches, planned, FORMAT_VERSION)
    return stage_url(config.run.workspace, "catalog", name)


def report_url(config: RunConfig) -> str:
    """Return the folder of the report: on the catalog, or on the spectra where none is made."""
    shown = catalog_url(config) if config.publish else spectra_url(config)
    truth = identity(config.report.truth) if config.report and config.report.truth else ""
    lines = identities(config.report.isochrones) if config.report else []
    name = digest(config.report, truth, _name(shown), config.run.name, *lines, FORMAT_VERSION)
    return stage_url(config.run.workspace, "report", name)


def compared_url(config: RunConfig) -> str:
    """Return the store of labelled spectra that models are compared on.

    Raises
    ------
    StoreError
        If there is no [compare] table, or its catalog is not matched yet.
    """
    if config.compare is None:
        raise StoreError("no [compare] table: nothing is compared")
    if config.compare.source:
        return config.compare.source
    if config.compare.catalog:
        return paths.join(training_url(config, config.compare.catalog), "train.zarr")
    return spectra_store(config)


def compare_url(config: RunConfig) -> str:
    """Return the folder of the comparison of models."""
    source = compared_url(config)
    known = config.compare is not None and config.compare.source
    there = identity(paths.join(source, "zarr.json")) if known else _name(source.rpartition("/")[0])
    # Blocks are numbered by models in their order, which a digest of a table does not see.
    order = list(config.compare.models) if config.compare is not None else []
    leakage = config.compare.leakage if config.compare is not None else None
    broken = paths.join(leakage.broken, "zarr.json") if leakage and leakage.broken else ""
    parts = [order, there, config.run.seed, *identities(broken)]
    name = digest(config.compare, *parts, FORMAT_VERSION)
    return stage_url(config.run.workspace, "compare", name)
