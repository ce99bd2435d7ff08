"""Which stars are two, by the stage: who is asked, what is refused, what is found and shown."""

from dataclasses import replace

import numpy as np
import pytest
from own_blocks import run_blocks_of_their_own
from pages import Reader
from pairs_run import LABELS, NORMALIZATION, OBSID, single_model, write_pairs

from scalespec.config import BinariesTable, EngineTable, FitTable, RayTable, parse_config
from scalespec.errors import ConfigError, StageError
from scalespec.optimize.fit import FitOptions
from scalespec.run import run
from scalespec.stages import binaries as the_stage
from scalespec.stages import emulators, folders, two_stars
from scalespec.stages.binaries import binaries, threshold_of
from scalespec.stages.binaries_page import binaries as page
from scalespec.stages.columns import BINARY_STATUS, NOTES
from scalespec.stages.emulators import load_ready
from scalespec.stages.joining import join_block
from scalespec.stages.publish import catalog_sources, read_pieces
from scalespec.stages.two_stars import (
    BinaryStatus,
    compare_fits,
    draw_mocks,
    mock_singles,
    pairs_of,
    read_sequence,
)
from scalespec.status import plan_run, stage_states, verify_run
from scalespec.store.catalog import read_parts
from scalespec.store.model import save_model

N, ROWS, RATE, MOCKS = 84, 42, 0.05, 60
BEFORE = ("infer", "fit")
NOT_ASKED, TWO_STARS = int(BinaryStatus.NOT_ASKED), int(BinaryStatus.TWO_STARS)
TABLE = f"""
[binaries]
isochrone = "{{root}}/isochrone.csv"
where = "teff < 6150 and snr > 40"
false_positive_rate = {RATE}
mocks = {MOCKS}
q_starts = [0.75]
"""


@pytest.fixture(scope="module")
def fitted(tmp_path_factory):
    """A run of dwarfs, a third of them pairs, as far as the fit."""
    made = write_pairs(tmp_path_factory.mktemp("pairs"), N, TABLE, rows=ROWS)
    assert run(made.config, verbs=BEFORE, engine="local").exit_code == 0
    return made


@pytest.fixture(scope="module")
def found(fitted):
    """The same, its stars asked for companions, and the table of them."""
    assert run(fitted.config, verbs=("binaries",), engine="local").exit_code == 0
    return fitted, read_parts(folders.binaries_url(fitted.config)).to_pandas()


def changed(config, **tables):
    return config.model_copy(update=tables)


def test_singles_pass_for_two_at_the_rate_asked_and_pairs_are_found(found):
    made, stars = found
    two, asked = np.isfinite(made.q), stars["binary_status"] & NOT_ASKED == 0
    singles, pairs = stars[asked & ~two], stars[asked & two]
    assert len(singles) > 40
    assert len(pairs) > 20
    n = len(singles)
    # Both the threshold and the count are of stars drawn by chance: 3 sigma of both.
    chance = 3 * np.sqrt(RATE * (1 - RATE) * (1 / n + 1 / MOCKS))
    assert abs(singles["binary_accepted"].mean() - RATE) <= chance
    # Of 318 such pairs 96 % are found, 99 % of those over 50 km/s, 0.7 pixels.
    apart = np.abs(made.dv[pairs["row"]]) > 50
    assert apart.sum() > 15
    assert pairs["binary_accepted"][apart].mean() > 0.9
    assert pairs["binary_accepted"].mean() > 0.75
    best = pairs[pairs["binary_accepted"]]
    off = best["binary_q"] - made.q[best["row"]]
    assert np.median(np.abs(off)) < 0.05
    assert np.median(np.abs(off / best["binary_q_err"])) < 1.4
    dv = best["binary_dv"] - made.dv[best["row"]]
    assert np.median(np.abs(dv)) < 10


def test_every_row_has_its_place_and_those_not_asked_are_unknown(found):
    made, stars = found
    assert stars["row"].tolist() == list(range(N))
    assert stars["obsid"].tolist() == [OBSID + row for row in range(N)]
    assert stars["designation"][7] == "spec-7.fits"
    best = read_parts(folders.best_url(made.config)).to_pandas()
    asked = stars["binary_status"] & NOT_ASKED == 0
    assert (asked == (best["teff"] < 6150)).all()
    assert 0 < asked.sum() < N
    unknown = stars[~asked]
    assert unknown[["binary_gain", "binary_q", "binary_teff_2", "binary_rv"]].isna().all(axis=None)
    assert not unknown["binary_accepted"].any()
    known = stars[asked]
    assert (known["binary_gain"] > known["binary_threshold"]).equals(known["binary_accepted"])
    taken = known["binary_status"] & TWO_STARS != 0
    assert taken.equals(known["binary_accepted"])
    cooler = known["binary_teff_2"] < known["binary_teff"]
    assert cooler[known["binary_q"] < 0.99].all()
    gain = known["binary_single_chi2"] - known["binary_chi2"]
    np.testing.assert_allclose(known["binary_gain"], gain, rtol=1e-3, atol=2e-3)
    for name in (*LABELS, "q", "dv"):
        assert (known[f"binary_{name}_err"] >= 0).all()


def test_what_is_found_of_stars_and_mocks_does_not_hang_on_blocks(found, monkeypatch):
    """Three rows as a block of their own, of those that were found among 42."""
    made, stars = found
    steps = binaries(made.config)
    chosen, singles, pairs = (next(steps) for _ in range(3))
    rows = read_parts(chosen.url)["row"].to_numpy()
    some, whole = rows[rows < ROWS][:3], read_parts(singles.url).to_pandas()
    mocks, draws = singles.read(pairs.blocks[0])
    here = np.isin(draws["row"], some)
    again = singles.compute(singles.setup(), (mocks.isel(spectrum=here), draws[here])).to_pandas()
    before = whole[whole["row"].isin(some)]
    assert again[["row", "mock"]].to_numpy().tolist() == before[["row", "mock"]].to_numpy().tolist()
    # float32 products of other sizes add up in another order
    np.testing.assert_allclose(again["binary_gain"], before["binary_gain"], atol=0.02)
    data = pairs.read(pairs.blocks[0])
    few = np.isin(data.best["row"], some)
    data = replace(data, spectra=data.spectra.isel(spectrum=few), best=data.best[few])
    other = pairs.compute(pairs.setup(), data).to_pandas()
    there = other[other["row"].isin(some)]
    same = stars[stars["row"].isin(some)]
    assert (there["binary_status"].to_numpy() == same["binary_status"].to_numpy()).all()
    np.testing.assert_allclose(there["binary_gain"], same["binary_gain"], rtol=1e-3, atol=0.02)


def test_mocks_are_as_many_as_wanted_whatever_the_blocks():
    rows = np.arange(3000)
    for share in (0.1, 1.0, 2.4):
        number = draw_mocks(rows, share, seed=1)
        assert number.sum() == pytest.approx(3000 * share, abs=3 * np.sqrt(3000 / 4))
        halves = [draw_mocks(half, share, seed=1) for half in (rows[:700], rows[700:])]
        assert (np.concatenate(halves) == number).all()
    assert (draw_mocks(rows, 0.1, seed=2) != draw_mocks(rows, 0.1, seed=1)).any()


def test_mocks_have_noise_and_masks_of_their_stars(found):
    """Of pixels that share noise so much more of it, white, as says as little."""
    *_, singles, _ = binaries(found[0].config)
    bench, (spectra, best) = singles.setup(), singles.read(singles.blocks[0])
    n = spectra.sizes["spectrum"]
    shared = spectra.assign(noise_correlation=("spectrum", np.full(n, 4.0, np.float32)))
    white, wide = (
        mock_singles(bench, one, best, seed=1)["flux"].to_numpy() for one in (spectra, shared)
    )
    ivar = spectra["ivar"].to_numpy()
    noise = wide - white  # twice the noise, less it once
    assert (noise[ivar == 0] == 0).all()
    assert (noise * np.sqrt(ivar))[ivar > 0].std() == pytest.approx(1, abs=0.02)
    again = mock_singles(bench, spectra.isel(spectrum=[3]), best.iloc[[3]], seed=1)["flux"]
    np.testing.assert_allclose(again.to_numpy()[0], white[3], atol=1e-5)
    other = mock_singles(bench, spectra, best, seed=2)["flux"].to_numpy()
    assert (other - white)[ivar > 0].std() > 1.3 * noise[ivar > 0].std()  # of two noises


def test_the_threshold_is_a_quantile_of_all_mocks(found):
    made, stars = found
    url = folders.singles_url(made.config)
    gain = read_parts(url)["binary_gain"].to_numpy()
    assert len(gain) == pytest.approx(MOCKS, abs=24)
    threshold = threshold_of(url, made.config.binaries)
    assert (gain > threshold).mean() == pytest.approx(RATE, abs=1 / len(gain))
    assert stars["binary_threshold"].dropna().unique() == pytest.approx([threshold])


def test_run_plan_status_and_verify_know_the_stage(found):
    config = found[0].config
    planned = {one["stage"]: one for one in plan_run(changed(config, ingest=None))}
    assert planned["binaries"]["engine"] == "ray"
    states = {state["stage"]: state for state in stage_states(config)}
    assert [states[name]["done"] for name in ("binaries singles", "binaries")] == [2, 2]
    assert states["binaries"]["rows"] == N
    counted = states["binaries"]["counts"]
    stars = found[1]
    assert counted["TWO_STARS"] == stars["binary_accepted"].sum()
    problems, _ = verify_run(config)
    assert not [line for line in problems if "binaries" in line]


def test_the_catalog_has_gain_ratio_and_status(found):
    made, stars = found
    config = made.config
    sources = catalog_sources(config)
    block = folders.planned_blocks(config)[1]
    rows = join_block(read_pieces(block, sources))
    here = stars[block.start : block.stop]
    names = [n for n in rows.column_names if n.startswith("binary_")]
    assert names == ["binary_gain", "binary_q", "binary_status"]
    asked = (here["binary_status"] & NOT_ASKED == 0).to_numpy()
    for name in names[:2]:
        assert (rows[name].is_valid().to_numpy() == asked).all()
        assert rows.schema.field(name).metadata[b"description"]
    assert rows["binary_status"].to_pylist() == here["binary_status"].tolist()
    assert NOTES["binary_status"] == BINARY_STATUS
    known = {f"{flag.value} {flag.name}" for flag in BinaryStatus}
    assert known == set(BINARY_STATUS)


def test_a_page_counts_the_pairs_and_draws_the_gains(found, undrawn):
    made, stars = found
    read = Reader(page(made.config))
    assert len(read.pictures) == 1
    asked = stars["binary_status"] & NOT_ASKED == 0
    assert f"{asked.sum()} stars were fitted as two: {stars['binary_accepted'].sum()}" in read.text
    assert "TWO_STARS" in read.text


def test_blocks_read_no_more_than_their_own(fitted, monkeypatch):
    table = fitted.config.binaries.model_copy(
        update={"where": "row in (1, 29)", "mocks": 20, "dv_starts_kms": (60.0,)}
    )
    config = changed(fitted.config, binaries=table)
    few = FitOptions(max_steps=2)
    monkeypatch.setattr(two_stars, "fit_options", lambda _: few)  # what they find is no matter
    names = run_blocks_of_their_own(binaries(config), monkeypatch)
    assert names == ["binaries chosen", "binaries singles", "binaries"]
    found = read_parts(folders.binaries_url(config))["binary_status"].to_numpy()
    assert np.flatnonzero(found & NOT_ASKED == 0).tolist() == [1, 29]  # none in the second block
    assert len(found) == N


def test_stars_of_the_main_sequence_are_asked_for_where_nothing_is_said(fitted):
    table = fitted.config.binaries.model_copy(update={"where": ""})
    config = changed(fitted.config, binaries=table)
    stage = next(binaries(config))
    columns = {name: values.copy() for name, values in stage.read(stage.blocks[0]).items()}
    columns["teff"][:3] = 7000.0, np.nan, 5500.0
    columns["logg"][2:5] = 3.7, np.nan, 4.4
    columns["model"][5] = -1
    rows = stage.compute(None, columns)["row"].to_pylist()
    assert rows == [4, *range(6, ROWS)]


@pytest.mark.parametrize(("gpus", "wanted"), [(0.5, "cuda"), (0, "cpu")])
def test_models_lie_where_actors_hold_gpus(found, gpus, wanted, monkeypatch):
    asked = []
    monkeypatch.setattr(emulators, "device_here", lambda device: asked.append(device) or "cpu")
    engine = EngineTable(ray=RayTable(gpus_per_worker=gpus))
    chosen, *stages = binaries(changed(found[0].config, engine=engine))
    assert set(asked) == {"cpu"}  # the driver checks models on its processor
    assert chosen.gpus == 0
    for stage in stages:
        asked.clear()
        stage.setup()
        assert asked == [wanted]
        assert stage.gpus == gpus


@pytest.mark.parametrize(
    ("condition", "error", "message"),
    [
        ("tef > 5000", ConfigError, "binaries.where: .*tef is no column; did you mean one of teff"),
        ("teff", ConfigError, "binaries.where: .*not a condition"),
        ("teff < 0", StageError, "binaries.where chooses none of the fitted stars"),
    ],
)
def test_conditions_that_choose_nothing_are_said(fitted, tiny, condition, error, message):
    table = fitted.config.binaries.model_copy(update={"where": condition})
    with pytest.raises(error, match=message):
        tiny.run_stage(binaries(changed(fitted.config, binaries=table)))


def test_each_star_is_two_of_the_model_that_it_was_fitted_with(found, tmp_path):
    """Half of the stars are taken for those of a second model, which is the first once more."""
    made, stars = found
    save_model(str(tmp_path / "same"), single_model())
    spectra, best, pairs = few_stars(made.config, (str(tmp_path / "same"),), made.config.fit)
    best = best.assign(model=[0, 1] * 3)
    mixed = compare_fits(pairs, spectra, best, made.config.binaries, made.config.fit, threshold=5.0)
    stored = stars["binary_gain"][best["row"]]
    np.testing.assert_allclose(mixed.gain, stored, rtol=1e-3, atol=0.02)


def test_priors_and_scatter_are_those_of_the_fit(found):
    made = found[0]
    fit = FitTable(rv_range_kms=60.0, scatter=0.05, prior={"fe_h": (-0.2, 1e-4)}, max_steps=20)
    spectra, best, pairs = few_stars(made.config, (), fit)
    compared = compare_fits(pairs, spectra, best, made.config.binaries, fit, threshold=5.0)
    for one in (compared.single, compared.composite):
        assert np.abs(one.labels[:, 2] + 0.2).max() < 0.01
    for model in (pairs[0].single, pairs[0].double):
        assert model.scatter.numpy() == pytest.approx(0.05)


def few_stars(config, models, fit):
    """Six stars that are asked, and the run's models with others, alone and twice."""
    *_, stage = binaries(config)
    chosen = stage.read(stage.blocks[0])
    head = chosen.spectra.isel(spectrum=slice(6))
    urls = (*config.infer.models, *models)
    ready = load_ready(urls, head["wavelength"].to_numpy(), dict(head.attrs))
    table = config.binaries
    return head, chosen.best.iloc[:6], pairs_of(ready, table, fit, read_sequence(table.isochrone))


RUN = '[run]\nname = "a"\nworkspace = "w"\n'
STAGES = '[ingest]\nfiles = "f"\n[preprocess]\n[infer]\nmodels = ["m"]\n'
ISOCHRONE = '[binaries]\nisochrone = "i.csv"\n'


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "isochrone: Field required"),
        ('isochrone = "i"\nmocks = 500', "mocks = 500 tell no rate of 0.001: at least 1000 do"),
        ('isochrone = "i"\nq_range = [0.5, 1.5]', "not within 0 to 1: q = M2 / M1"),
        ('isochrone = "i"\nq_starts = [0.2]', "name some within q_range"),
        ('isochrone = "i"\nq_starts = []', "name some within q_range"),
        ('isochrone = "i"\ndv_starts_kms = [900]', "name some up to dv_kms"),
        ('isochrone = "i"\nfalse_positive_rate = 0.0', "greater than 0"),
    ],
)
def test_tables_that_cannot_be_are_refused(text, message):
    with pytest.raises(ConfigError, match=message):
        parse_config(RUN + f"[binaries]\n{text}")


@pytest.mark.parametrize(
    "setting",
    ["fixed = { vmic = 1.0 }", 'tied = { a = "b" }', "robust = 5.0", "vsini_kms = [0, 90]"],
)
def test_fits_with_other_parameters_are_refused_with_the_cure(setting):
    name = setting.partition(" ")[0]
    message = rf"\[binaries\] knows no fits with {name}: .*a run file of its own"
    with pytest.raises(ConfigError, match=message):
        parse_config(RUN + STAGES + f"[fit]\n{setting}\n" + ISOCHRONE)


def test_a_model_learned_of_normalized_spectra_is_refused_before_it_is_learned():
    stages = STAGES.replace('models = ["m"]', "") + "[fit]\n" + ISOCHRONE
    train = '[train]\nlabels = ["teff", "logg"]\n'
    with pytest.raises(ConfigError, match="only spectra over the true continuum allow"):
        parse_config(RUN + stages + train + 'library = "l"\n')
    assert parse_config(RUN + stages + train + 'teacher = "t"\n').binaries
    with pytest.raises(ConfigError, match=r"\[binaries\] wants a \[fit\] table"):
        parse_config(RUN + STAGES + ISOCHRONE)


@pytest.fixture
def of_the_tiny_run(tiny_run, fitted):
    """A run whose model is normalized as its data are."""
    table = BinariesTable(isochrone=fitted.config.binaries.isochrone)
    return changed(tiny_run.config, binaries=table)


def test_a_condition_may_be_on_what_other_catalogs_know(of_the_tiny_run):
    table = of_the_tiny_run.binaries.model_copy(update={"where": "apogee_teff > 0 and snr > 0"})
    config = changed(of_the_tiny_run, binaries=table)
    (block, *_) = folders.planned_blocks(config)
    columns = the_stage._read_columns(block, the_stage._sources(config, table))
    chosen = the_stage._choose(None, columns, table, read_sequence(table.isochrone))
    assert chosen["row"].to_pylist() == [0, 6]  # of matches 0, 3, 6, one is unreadable


def test_a_model_that_is_normalized_is_refused_in_plan_and_at_the_start(of_the_tiny_run):
    assert NORMALIZATION["method"] == "gaussian"
    why = "the light of two stars adds up over the true continuum"
    config = of_the_tiny_run
    for call in (
        lambda: plan_run(changed(config, ingest=None, crossmatch=None, report=None)),
        lambda: run(config, verbs=("binaries",), engine="local"),
        lambda: next(binaries(config)),
    ):
        with pytest.raises(ConfigError, match=why):
            call()


def test_an_isochrone_that_is_not_there_or_none_is_said_before_the_first_stage(fitted, tmp_path):
    (tmp_path / "none.csv").write_text("mass,teff\n1,5000\n")
    for name, why in (("gone.csv", "not found"), ("none.csv", "no column 'logg'")):
        table = fitted.config.binaries.model_copy(update={"isochrone": str(tmp_path / name)})
        with pytest.raises(ConfigError, match=rf"binaries\.isochrone: .*{why}"):
            run(changed(fitted.config, binaries=table), verbs=("infer", "binaries"), engine="local")


def test_a_main_sequence_beyond_the_model_is_no_matter_of_the_continuum(fitted, tmp_path):
    (tmp_path / "cold.csv").write_text("mass,teff,logg\n0.1,2800,5.1\n0.2,3200,5.0\n")
    table = fitted.config.binaries.model_copy(update={"isochrone": str(tmp_path / "cold.csv")})
    with pytest.raises(ConfigError, match="no star of the main sequence has teff in") as told:
        next(binaries(changed(fitted.config, binaries=table)))
    assert "continuum" not in str(told.value)
