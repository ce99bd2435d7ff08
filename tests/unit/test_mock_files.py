"""Files of made-up surveys: astropy opens them, our readers find what the stars were."""

import gzip
import io
from pathlib import Path

import numpy as np
import pytest
import torch
from astropy.io import fits

from scalespec.kernels.observation_noise import Conditions
from scalespec.kernels.observation_surveys import INSTRUMENTS
from scalespec.models.base import Emulator, EmulatorSpec
from scalespec.schema import C_KMS, MaskBit, SpectrumStatus
from scalespec.stages import mock_files
from scalespec.stages.mock_files import (
    MOCK_SURVEYS,
    MODEL_POWER,
    MadeFiles,
    made_files,
    survey_grid,
    survey_model,
)
from scalespec.surveys import SURVEYS
from scalespec.surveys.lamost_files import file_path

N = 20


class Comb(Emulator):
    """Lines at 120 wavelengths, deeper in cooler stars; flat where `flat`."""

    def __init__(self, wavelength: np.ndarray, power: float | None, *, flat: bool = False) -> None:
        low, high = [4000.0, 0.0, -2.0], [7000.0, 5.0, 0.5]
        names = ("teff", "logg", "fe_h")
        super().__init__(EmulatorSpec("comb", names, low, high, wavelength, power))
        centers = torch.tensor(np.geomspace(2600, 16900, 120))
        x = (torch.tensor(np.array(wavelength)) / centers[:, None] - 1) * 2.3548 * (power or 1800)
        self.profile = torch.exp(-0.5 * x**2).sum(0).float() * (0.0 if flat else 1.0)

    def forward_scaled(self, x: torch.Tensor) -> torch.Tensor:
        return 1 - (0.4 - 0.3 * x[:, :1].float()) * self.profile


def comb(survey: str, *, flat: bool = False) -> Comb:
    grid, power = survey_grid(survey)
    return Comb(grid.wavelength, power, flat=flat)


def stars(n: int = N, *, seed: int = 3, **columns) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    made = {
        "teff": rng.uniform(4500, 6500, n),
        "logg": rng.uniform(1, 4.5, n),
        "fe_h": rng.uniform(-1, 0.3, n),
        "rv": rng.normal(0, 80, n),
        "g": rng.uniform(11, 15.5, n),
        "bp_rp": rng.uniform(0.5, 1.2, n),
        "ebv": rng.uniform(0, 0.4, n),
        "ra": 100 + rng.random(n),
        "dec": 20 + rng.random(n),
        "mjd": np.full(n, 58000.3),
        "plate": np.full(n, 3),
        "spectrum": 1500 + np.arange(n),
        "star": 1500 + np.arange(n),
        "source_id": 10**12 + np.arange(n),
    }
    return made | columns


@pytest.fixture(scope="module")
def made() -> dict[str, MadeFiles]:
    return {s: made_files(s, stars(), comb(s), seed=1, block=7) for s in MOCK_SURVEYS}


def opened(content: bytes) -> fits.HDUList:
    plain = gzip.decompress(content) if content[:2] == b"\x1f\x8b" else content
    return fits.open(io.BytesIO(plain))


@pytest.mark.parametrize("survey", MOCK_SURVEYS)
def test_astropy_finds_nothing_wrong_with_any_file(made, survey):
    for name, content in made[survey].files:
        with opened(content) as hdus:
            hdus.verify("exception")
            assert all(hdu.data is not None or hdu.header["NAXIS"] == 0 for hdu in hdus), name


@pytest.mark.parametrize("survey", MOCK_SURVEYS)
def test_every_spectrum_has_a_file_and_every_file_a_spectrum(made, survey):
    names = [name for name, _ in made[survey].files]
    rows = made[survey].spectra
    assert len(set(names)) == len(names)
    assert list(dict.fromkeys(rows["file"].tolist())) == names  # in the order of first rows
    assert len(set(zip(rows["file"].tolist(), rows["row"].tolist(), strict=True))) == N
    assert len(set(rows["obsid"].tolist())) == N
    assert all(len(column) == N for column in rows.values())
    assert np.all((rows["snr"] > 1) | rows.get("failed", np.zeros(N, bool)))


@pytest.mark.parametrize("survey", MOCK_SURVEYS)
def test_same_seed_and_block_give_the_same_bytes_and_others_do_not(made, survey):
    again = made_files(survey, stars(), comb(survey), seed=1, block=7)
    assert again.files == made[survey].files
    other = made_files(survey, stars(), comb(survey), seed=1, block=8)
    assert other.files[0][1] != made[survey].files[0][1]


def test_surveys_differ_in_their_chance():
    """One word of the seed is the survey: no two surveys have the same noise."""
    first = made_files("csst", stars(), comb("csst"), seed=1, block=7).spectra["throughput"]
    other = made_files("desi", stars(), comb("desi"), seed=1, block=7).spectra["throughput"]
    assert np.abs(np.corrcoef(first, other)[0, 1]) < 0.9


@pytest.mark.parametrize("survey", MOCK_SURVEYS)
def test_our_readers_read_them_back(made, survey):
    reader = SURVEYS[survey]
    groups, index = reader.read_block(reader.pieces(made[survey].files))
    root, rows = groups[""], made[survey].spectra
    assert set(index.reason) == {""}
    assert not np.any(root.status.to_numpy() & 0x7F)
    assert root.attrs["fallbacks"] == 0
    order = {obsid: i for i, obsid in enumerate(rows["obsid"].tolist())}
    at = [order[obsid] for obsid in root.obsid.to_numpy().tolist()]
    assert sorted(at) == list(range(N))
    known = stars()
    assert root.ra.to_numpy() == pytest.approx(known["ra"][at], abs=1e-6)
    assert root.dec.to_numpy() == pytest.approx(known["dec"][at], abs=1e-6)
    rv = root.rv.to_numpy()
    stated = np.isfinite(rv)
    # pipelines err by 5 km/s at an S/N of 20 and 2 at 100
    assert np.abs(rv - known["rv"][at])[stated].max(initial=0.0) < 25
    if survey in ("lamost_lrs", "apogee", "desi", "csst"):
        assert stated.mean() > 0.8
    # noise and spikes move a median of a thousand pixels by a per cent or two
    healthy = root.snr.to_numpy() > 5
    assert root.snr.to_numpy()[healthy] == pytest.approx(rows["snr"][at][healthy], rel=0.06)


def test_lamost_spectra_come_back_bit_for_bit(made):
    groups, _ = SURVEYS["lamost_lrs"].read_block(
        SURVEYS["lamost_lrs"].pieces(made["lamost_lrs"].files)
    )
    for row, (_, content) in enumerate(made["lamost_lrs"].files):
        with opened(content) as hdus:
            old = len(hdus) == 1
            flux = hdus[0].data[0] if old else hdus[1].data["FLUX"][0]
            ivar = hdus[0].data[1] if old else hdus[1].data["IVAR"][0]
            first = round((hdus[0].header["COEFF0"] - 3.5682) / 1e-4)
        here = slice(first, first + len(flux))
        spectrum = groups[""].isel(spectrum=row)
        assert np.array_equal(spectrum.flux.to_numpy()[here], flux)
        assert np.array_equal(spectrum.ivar.to_numpy()[here], ivar)


def test_lamost_layouts_are_mixed_or_as_asked(made):
    assert set(made["lamost_lrs"].spectra["layout"]) == {"image", "coadd"}
    assert set(made["lamost_mrs"].spectra["layout"]) == {"loglam", "wavelength"}
    pilot = made_files("lamost_lrs", stars(4), comb("lamost_lrs"), seed=1, block=0, layout="pilot")
    groups, _ = SURVEYS["lamost_lrs"].read_block(SURVEYS["lamost_lrs"].pieces(pilot.files))
    assert groups[""].obsid.to_numpy().tolist() == pilot.spectra["obsid"].tolist()
    assert np.all(pilot.spectra["obsid"] > 2**61)  # made from night, plan and fibre
    with opened(pilot.files[0][1]) as hdus:
        header, data = hdus[0].header, hdus[0].data
        assert "OBSID" not in header
        assert header["MJD"] == 58002
        assert header["SN_G"] > 0
        assert np.median(data[2]) == pytest.approx(1.0, abs=0.2)  # normalized, no wavelength
    for survey in ("lamost_lrs", "lamost_mrs"):
        with pytest.raises(ValueError, match="layout must be"):
            made_files(survey, stars(2), comb(survey), seed=1, block=0, layout="drawn")


def test_lines_are_where_the_stars_velocity_puts_them():
    """The center of a line's depth, in bright stars, in DESI's barycentric frame."""
    table = stars(8, g=np.full(8, 8.0), teff=np.full(8, 4600.0))
    made = made_files("desi", table, comb("desi"), seed=1, block=0)
    groups, _ = SURVEYS["desi"].read_block(SURVEYS["desi"].pieces(made.files))
    order = {obsid: i for i, obsid in enumerate(made.spectra["obsid"].tolist())}
    rv = table["rv"][[order[obsid] for obsid in groups[""].obsid.to_numpy().tolist()]]
    w, flux = groups["z"].wavelength.to_numpy(), groups["z"].flux.to_numpy()
    line = next(x for x in np.geomspace(2600, 16900, 120) if x > 8600)
    for row in range(8):
        if not np.all(groups["z"].ivar.to_numpy()[row, np.abs(w - line) < 8] > 0):
            continue  # a dead pixel in the line
        expected = line * np.sqrt((1 + rv[row] / C_KMS) / (1 - rv[row] / C_KMS))
        near = (np.abs(w - expected) < 8) & (groups["z"].ivar.to_numpy()[row] > 0)
        edges = np.polyfit(
            w[near][[0, 1, 2, -3, -2, -1]], flux[row, near][[0, 1, 2, -3, -2, -1]], 1
        )
        depth = np.clip(1 - flux[row, near] / np.polyval(edges, w[near]), 0, None) ** 2
        found = np.sum(depth * w[near]) / depth.sum()
        # flat fields err by 0.3 %, sky lines leave their residue: a tenth of a pixel's 0.8 Å
        assert found == pytest.approx(expected, abs=0.1)


def test_apogee_rows_of_one_star_are_visits_of_one_file():
    table = stars(
        5,
        star=np.array([7, 8, 7, 9, 7]),
        mjd=np.array([58000.3, 58000.3, 58031.3, 58000.3, 58090.2]),
    )
    for name in ("ra", "dec", "teff", "logg", "fe_h", "g", "ebv", "source_id"):
        table[name][[2, 4]] = table[name][0]
    table["rv"][[0, 2, 4]] = 10.0, 20.0, 30.0
    made = made_files("apogee", table, comb("apogee"), seed=1, block=2)
    assert len(made.files) == 3
    assert made.spectra["row"].tolist() == [2, 0, 3, 0, 4]
    with opened(made.files[0][1]) as hdus:
        assert hdus[0].header["NVISITS"] == 3
        assert hdus[1].data.shape == (5, 8575)
        assert [hdus[0].header[f"VHELIO{i}"] for i in (1, 2, 3)] == pytest.approx(
            [10, 20, 30], abs=0.3
        )
    reader = SURVEYS["apogee_visits"]
    groups, _ = reader.read_block(reader.pieces([made.files[0]]))
    assert groups[""].obsid.to_numpy()[1:].tolist() == made.spectra["obsid"][[2, 4]].tolist()
    assert groups[""].mjd.to_numpy() == pytest.approx(table["mjd"][[0, 2, 4]], abs=1e-6)


def test_apogee_headers_say_what_each_star_is(made):
    known = stars()
    for row, (_, content) in enumerate(made["apogee"].files):
        header = opened(content)[0].header
        assert header["RV_TEFF"] == pytest.approx(known["teff"][row])
        assert header["RA"] == pytest.approx(known["ra"][row], abs=1e-6)
        # G - H of black bodies against Vega's (9600 K), dust of up to 0.4 mag in E(B-V)
        x = 1.43878e8 / np.array([6217.6, 16620.0])
        bodies = [np.expm1(x[1] / t) / np.expm1(x[0] / t) for t in (known["teff"][row], 9600.0)]
        expected = 2.5 * np.log10(bodies[1] / bodies[0]) + 2.15 * known["ebv"][row]
        # Vega is no black body: its Balmer jump makes G a tenth brighter
        assert known["g"][row] - header["H"] == pytest.approx(expected, abs=0.25)


def test_apogee_sums_are_the_weighted_means_of_visits(made):
    several = next(c for _, c in made["apogee"].files if opened(c)[0].header["NVISITS"] == 3)
    with opened(several) as hdus:
        flux, error, mask = (hdus[i].data for i in (1, 2, 3))
    clean = np.all(mask[2:] == 0, axis=0) & np.isfinite(flux[0])
    visits, weight = flux[2:, clean], error[2:, clean] ** -2.0
    scale = np.median(visits, axis=1, keepdims=True) / np.median(visits[0])
    mean = np.sum(visits / scale * weight * scale**2, axis=0) / np.sum(weight * scale**2, axis=0)
    ratio = flux[0, clean] / mean
    assert np.abs(ratio - 1).max() < 0.25  # calibrations of visits differ by some per cent ...
    assert np.median(np.abs(np.diff(ratio))) < 1e-3  # ... smoothly
    assert np.median(error[0, clean]) < 0.7 * np.median(error[2, clean])
    assert np.all(np.isnan(flux[:2, :100]))
    assert np.all(flux[2:, :100] == 0)
    assert np.all(error[:, 400][mask[:, 400] & 1 > 0] > 1e10)


def test_mrs_sums_have_the_snr_of_all_exposures(made):
    for row, (_, content) in enumerate(made["lamost_mrs"].files):
        if made["lamost_mrs"].spectra["failed"][row]:
            continue
        with opened(content) as hdus:
            n = made["lamost_mrs"].spectra["exposures"][row]
            assert hdus[0].header["NEXP_B"] == n
            assert len(hdus) == 3 + 2 * n
            for arm in "BR":
                single = [h.header["SNR"] for h in hdus if h.name.startswith(f"{arm}-")]
                together = hdus[f"COADD_{arm}"].header["SNR"] / np.sqrt(np.sum(np.square(single)))
                # rebinning shares noise between neighbours, and each has less: 1.12 in real files
                assert 0.97 < together < 1.35


def test_mrs_exposures_run_both_ways_and_coadds_share_a_lattice(made):
    starts = set()
    for row, (_, content) in enumerate(made["lamost_mrs"].files):
        if made["lamost_mrs"].spectra["layout"][row] != "loglam":
            continue
        with opened(content) as hdus:
            for hdu in hdus[1:]:
                step = np.diff(hdu.data["LOGLAM"].astype(float))
                assert np.all(step < 0) if hdu.name.startswith("R-") else np.all(step > 0)
            lattice = hdus["COADD_B"].data["LOGLAM"].astype(float) / 1e-5
            assert np.abs(lattice - np.round(lattice)).max() < 0.05  # float32
            starts.add(round(lattice[0]))
    assert starts


def test_failed_exposures_are_said_to_be(monkeypatch):
    monkeypatch.setattr("scalespec.stages.mock_exposures.FAILED_FRACTION", 1.0)
    made = made_files("lamost_mrs", stars(4), comb("lamost_mrs"), seed=1, block=0)
    assert made.spectra["failed"].all()
    reader = SURVEYS["lamost_mrs"]
    groups, _ = reader.read_block(reader.pieces(made.files))
    assert np.all(groups[""].status.to_numpy() & SpectrumStatus.NO_SIGNAL.value > 0)


@pytest.mark.parametrize("survey", MOCK_SURVEYS)
def test_broken_pipelines_leave_no_weight(survey):
    table = stars(4, no_ivar=np.array([False, True, False, False]))
    made = made_files(survey, table, comb(survey), seed=1, block=0)
    reader = SURVEYS[survey]
    groups, _ = reader.read_block(reader.pieces(made.files))
    order = {obsid: i for i, obsid in enumerate(groups[""].obsid.to_numpy().tolist())}
    at = [order[obsid] for obsid in made.spectra["obsid"].tolist()]
    lost = groups[""].status.to_numpy()[at] & SpectrumStatus.NO_PIXELS.value > 0
    assert lost.tolist() == [False, True, False, False]


@pytest.mark.parametrize("survey", ["lamost_lrs", "lamost_mrs", "apogee", "gaia_xp"])
def test_wrong_ivar_is_written_on_demand(survey):
    flat = comb(survey, flat=True)
    honest = made_files(survey, stars(6), flat, seed=1, block=0)
    wrong = made_files(survey, stars(6), flat, seed=1, block=0, ivar_factor=4.0)
    reader = SURVEYS[survey]
    pair = [reader.read_block(reader.pieces(m.files))[0] for m in (honest, wrong)]
    arm = reader.arms[0].name
    first, second = (groups[arm].ivar.to_numpy() for groups in pair)
    both = (first > 0) & (second > 0)
    assert np.median(second[both] / first[both]) == pytest.approx(4.0, rel=1e-3)
    assert wrong.spectra["snr"] == pytest.approx(honest.spectra["snr"], rel=1e-3)


def test_csst_says_where_neighbours_fall(made):
    table = stars(200)
    many = made_files("csst", table, comb("csst"), seed=1, block=1)
    groups, _ = SURVEYS["csst"].read_block(SURVEYS["csst"].pieces(many.files))
    suspect = groups["gv"].mask.to_numpy() & MaskBit.SUSPECT.value > 0
    assert 0.05 < suspect.any(axis=1).mean() < 0.3
    assert made["csst"].files[0][0].startswith("csst")


def test_models_are_refused_where_they_cannot_serve():
    w = survey_grid("lamost_lrs")[0].wavelength
    cases = {
        "no made-up survey": ("lamost_hrs", Comb(w, 1800.0)),
        "even in their logarithm": ("lamost_lrs", Comb(np.linspace(3700, 9100, 9000), 1800.0)),
        "or finer": ("apogee", Comb(w, 1800.0)),
        "has no pixel": ("lamost_lrs", Comb(10 ** (4.1 + 1e-5 * np.arange(500)), 1800.0)),
    }
    for message, (survey, model) in cases.items():
        with pytest.raises(ValueError, match=message):
            made_files(survey, stars(2), model, seed=1, block=0)


def test_a_model_without_a_resolving_power_is_taken_as_it_is():
    grid, _ = survey_grid("lamost_lrs")
    unknown, known = (
        made_files("lamost_lrs", stars(3), Comb(grid.wavelength, p), seed=1, block=0)
        for p in (None, 1650.0)
    )
    reader = SURVEYS["lamost_lrs"]
    first, second = (reader.read_block(reader.pieces(m.files))[0][""] for m in (unknown, known))
    both = (first.ivar.to_numpy() > 0) & (second.ivar.to_numpy() > 0)
    ratio = first.flux.to_numpy()[both] / second.flux.to_numpy()[both]
    assert np.median(ratio) == pytest.approx(1.0, abs=0.01)


@pytest.mark.parametrize("survey", MOCK_SURVEYS)
def test_models_grids_cover_their_instruments_with_margins(survey):
    grid, power = survey_grid(survey)
    assert power == MODEL_POWER[survey]
    instrument = INSTRUMENTS.get(survey) or INSTRUMENTS[f"{survey}/coadd"]
    for arm in instrument.arms:
        w = arm.wavelength
        assert grid.wavelength[0] < w.min() * (1 - 500 / C_KMS)
        assert grid.wavelength[-1] > w.max() * (1 + 500 / C_KMS)
        assert max(r for _, r in arm.resolving) <= power
    assert grid.sigma_pixels(power) == pytest.approx(2.0)


def test_our_synthesis_comes_on_the_surveys_grid():
    model = survey_model("csst", ("teff", "logg", "fe_h"))
    grid, power = survey_grid("csst")
    assert model.spec.wavelength == pytest.approx(grid.wavelength)
    assert model.spec.resolving_power == power
    with pytest.raises(ValueError, match="no made-up survey"):
        survey_model("keck")


def structure(hdus: fits.HDUList) -> list[tuple]:
    """HDU kinds, names, image types and table columns: what readers rely on."""
    found = []
    for hdu in hdus:
        columns = (
            [(c.name, c.format, c.dim) for c in hdu.columns] if hasattr(hdu, "columns") else None
        )
        found.append((type(hdu).__name__, hdu.name, columns or hdu.header["BITPIX"]))
    return found


def test_apogee_files_are_built_as_dr17s(made, shared):
    for path in sorted((shared / "data/apogee").glob("apStar-dr17*")):
        with fits.open(path) as real, opened(made["apogee"].files[0][1]) as mock:
            assert structure(mock) == structure(real)
            for i in range(1, 8):
                ours, theirs = dict(mock[i].header), dict(real[i].header)
                assert all(
                    theirs[key] == ours[key] for key in ("CRVAL1", "CDELT1", "CRPIX1", "BUNIT")
                )
                assert mock[i].data.dtype == real[i].data.dtype
            ours = set(mock[0].header) - set(real[0].header) - {"ORIGIN"}
            assert not {key for key in ours if not key[-1].isdigit()}


def test_mrs_files_are_built_as_dr7s(made, shared):
    path = next((shared / "data/lamost/mrs").glob("med-58649*"))
    row = made["lamost_mrs"].spectra["layout"].tolist().index("loglam")
    with fits.open(path) as real, opened(made["lamost_mrs"].files[row][1]) as mock:
        shapes = [{x[1][:6].split("-")[0]: x[2] for x in structure(h)[1:]} for h in (real, mock)]
        assert shapes[0] == shapes[1]
        assert mock[0].name == real[0].name
        assert set(mock[0].header) <= set(real[0].header)
        for name in ("COADD_B", "COADD_R"):
            extra = set(mock[name].header) - set(real[name].header)
            assert extra == set()


def test_lamost_files_are_built_as_their_releases(shared):
    samples = {"pilot": "dr1_sample", "image": "dr7_mdwarfs", "coadd": "dr10_coadd"}
    for layout, folder in samples.items():
        path = min((shared / "data/lamost" / folder).glob("*.fits.gz"))
        made = made_files(
            "lamost_lrs", stars(1), comb("lamost_lrs"), seed=1, block=0, layout=layout
        )
        with fits.open(path) as real, opened(made.files[0][1]) as mock:
            for ours, theirs in zip(mock, real, strict=True):
                assert set(ours.header) <= set(theirs.header) | {"EXTNAME"}
            if layout == "coadd":
                lengths = [h["COADD"].header["NAXIS1"] // 24 for h in (mock, real)]
                forms = [
                    [(c.name, c.format.replace(str(n), "n")) for c in h["COADD"].columns]
                    for h, n in zip((mock, real), lengths, strict=True)
                ]
                assert forms[0] == forms[1]
            else:
                assert mock[0].data.dtype == real[0].data.dtype
                assert len(mock[0].data) == len(real[0].data) == 5
                assert mock[0].header["EXTEN0"] == real[0].header["EXTEN0"]


def test_xp_tables_are_built_as_the_matched_library(made, shared):
    path = next((shared / "data/gaia_xp_apogee").glob("*.fits.gz"))
    with fits.open(path) as real, opened(made["gaia_xp"].files[0][1]) as mock:
        theirs = [(c.name, c.format, c.dim) for c in real[1].columns]
        ours = [(c.name, c.format, c.dim) for c in mock[1].columns]
        assert ours[: len(theirs)] == theirs
        flux, error = mock[1].data["flux"], mock[1].data["flux_error"]
        assert np.median(flux, axis=1) == pytest.approx(1.0)
        # the real library's level at G = 12 is 2.4e-16 W/m²/nm
        g, level = mock[1].data["gaiaedr3_phot_g_mean_mag"], mock[1].data["medflux"]
        assert 0.6 < np.median(level / 10 ** (-0.4 * (g - 12))) / 2.4e-16 < 1.6  # of redder giants
        # neighbours' errors are alike: differences are a quarter of what white noise would give
        wiggles = flux[:, 1:-1] - 0.5 * (flux[:, 2:] + flux[:, :-2])
        width = wiggles / np.sqrt(1.5 * error[:, 1:-1] ** 2)
        assert np.percentile(np.abs(width[:, 100:140]), 68) < 0.8


def test_paths_are_the_releases(made):
    name = made["lamost_lrs"].files[0][0]
    assert Path(name).name == "spec-58000-MOCK000003V02_sp07-001.fits.gz"
    facts = {"mjd": 58000.3, "planid": "MOCK000003V02", "spid": 7, "fiberid": 1}
    assert name == file_path(facts)
    assert made["lamost_mrs"].files[0][0].startswith("20170904/MOCK000003V02/med-58000-")
    assert made["desi"].files[0][0].startswith("healpix/mock000007/bright/")


@pytest.mark.parametrize("even", [False, True])
def test_even_fibres_lie_all_in_the_middle_of_the_slit(monkeypatch, even):
    places = []

    def spy(**conditions):
        places.extend(conditions["slit"])
        return Conditions(**conditions)

    monkeypatch.setattr(mock_files, "Conditions", spy)
    made_files("lamost_lrs", stars(), comb("lamost_lrs"), seed=1, block=0, even_fibres=even)
    assert len(places) == N
    assert (np.ptp(places) == 0) == even
