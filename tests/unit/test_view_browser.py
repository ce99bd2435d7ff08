"""The viewer and the report as a person has them: in a real headless Chromium, wide and narrow."""

import shutil
from dataclasses import replace
from urllib.parse import quote

import numpy as np
import pytest
from astropy.io import fits
from chromium import PROGRAM, chromium
from matplotlib.image import imread

from scalespec.stages import folders
from scalespec.stages.publish import publish
from scalespec.stages.report import write_report
from scalespec.store.catalog import open_catalog
from scalespec.store.spectra import read_spectra

pytest.importorskip("bokeh")
pytestmark = pytest.mark.skipif(not PROGRAM, reason="no chromium on this machine")

from viewing import elsewhere, look, served  # noqa: E402

SCRIPT = "<script>alert(1)</script>"
FIRST = 2**55
"""The obsid of row 0: more than a JavaScript number holds exactly."""
WIDTHS = pytest.mark.parametrize(("width", "height"), [(1440, 900), (400, 800)])


@pytest.fixture(scope="module")
def config(tiny, _one_tiny_run, tmp_path_factory):
    """A published run in a workspace of its own."""
    work = tmp_path_factory.mktemp("view") / "work"
    left_out = shutil.ignore_patterns("catalog", "report")
    shutil.copytree(_one_tiny_run.config.run.workspace, work, ignore=left_out)
    table = _one_tiny_run.config.run.model_copy(update={"workspace": str(work)})
    run = replace(_one_tiny_run, config=_one_tiny_run.config.model_copy(update={"run": table}))
    tiny.run_stage(publish(run.config))
    return run.config


@pytest.fixture(scope="module")
def site(config):
    with served(config) as url:
        yield url


@pytest.fixture(scope="module")
def browser():
    with chromium() as running:
        yield running


@pytest.fixture(scope="module")
def report(config):
    """The report's file; made once, for drawing takes seconds."""
    return write_report(config)


@pytest.fixture
def page(browser):
    with browser.page() as tab:
        yield tab


@pytest.fixture(scope="module")
def catalog(browser, site):
    """The catalog's page, wide, one tab for all tests that do not mind what was chosen before."""
    with browser.page() as tab:
        look(tab, f"{site}/")
        yield tab


@pytest.fixture(scope="module")
def good(browser, site):
    """The page of a good star."""
    with browser.page() as tab:
        look(tab, f"{site}/star?obsid={FIRST + 7}")
        yield tab


@WIDTHS
def test_the_catalog_fits_its_window_and_needs_no_other_machine(browser, site, width, height):
    with browser.page(width, height) as page:
        look(page, f"{site}/")
        assert page.errors == []
        assert page.value("document.documentElement.scrollWidth") <= width
        assert elsewhere(page, site, site.replace("http", "ws")) == []
        assert any("bokeh.min.js" in url for url in page.fetched)
        assert "20 spectra, 19 with labels" in page.value("kit.text()")


def test_a_tap_on_a_star_shows_its_spectrum(catalog, config):
    table = open_catalog(folders.catalog_url(config)).to_table().to_pandas()
    star = table[(table["fit_status"] == 0) & (table["row"] > 4)].iloc[2]
    obsid, row = int(star["obsid"]), int(star["row"])
    assert str(obsid) not in catalog.value("kit.root('head').text")
    ends = catalog.value(
        "['x_range', 'y_range'].map((r) => kit.root('diagram')[r]).map((r) => [r.start, r.end])"
    )
    assert ends[0][0] > ends[0][1], "hot stars are on the left"
    assert ends[1][0] > ends[1][1], "giants are at the top"
    left, right, top, bottom = catalog.value("kit.frame('diagram')")
    across = (star["teff"] - ends[0][0]) / (ends[0][1] - ends[0][0])
    up = (star["logg"] - ends[1][0]) / (ends[1][1] - ends[1][0])
    catalog.click(float(left + across * (right - left)), float(bottom - up * (bottom - top)))
    catalog.until(f"kit.root('head').text.includes('obsid {obsid}')")
    catalog.settle()
    store = f"{folders.spectra_url(config)}/spectra.zarr"
    spectrum = read_spectra(store, row, row + 1)
    good = spectrum["ivar"].to_numpy()[0] > 0
    drawn = np.array(catalog.value("kit.column('spectrum', 'flux').map((v) => v == v ? v : null)"))
    assert np.array_equal(np.equal(drawn, None), ~good)
    np.testing.assert_array_equal(
        drawn[good].astype(np.float32), spectrum["flux"].to_numpy()[0][good]
    )
    assert catalog.errors == []


def test_a_good_star_says_so_with_its_masks_and_its_like(good):
    text = good.value("kit.text()")
    assert f"obsid {FIRST + 7}" in text
    assert "A good fit: nothing is flagged." in text
    assert "10 of 200 pixels did not count" in text
    assert "OUTSIDE" in text
    assert "Neighbors in label space" in text
    near = good.value("kit.all().filter((e) => e.href && e.href.includes('star?')).length")
    assert near == 6
    assert good.errors == []


def test_pixels_that_did_not_count_are_grey(good, tmp_path):
    good.value("kit.all().find((e) => e.tagName == 'CANVAS').scrollIntoView()")
    good.settle()
    good.picture(tmp_path / "seen.png")
    seen = (imread(tmp_path / "seen.png")[:, :, :3] * 255).round()
    left, right, top, _ = good.value("kit.frame('spectrum')")
    log = 3.7 + 1e-4 * np.array([45, 100])  # of the 200 pixels, 40 to 49 have no weight
    ends = 10 ** (3.7 + 1e-4 * np.array([0, 199]))
    places = left + (10**log - ends[0]) / (ends[1] - ends[0]) * (right - left)
    lost, kept = (seen[int(top) + 4, int(place)] for place in places)
    assert lost.tolist() == [0xE6, 0xE8, 0xEB]
    assert kept.tolist() == [255, 255, 255]


@WIDTHS
def test_a_broken_spectrum_says_why_and_draws_nothing(browser, site, width, height):
    with browser.page(width, height) as page:
        look(page, f"{site}/star?obsid={FIRST + 3}")
        text = page.value("kit.text()")
        assert "No spectrum: corrupt: bad CRC" in text
        assert "gzip stream or checksum broken" in text
        assert page.value("kit.canvases()") == 0
        assert page.errors == []
        assert page.value("document.documentElement.scrollWidth") <= width


def test_a_script_in_a_header_stays_text(page, site):
    look(page, f"{site}/star?obsid={FIRST + 5}")
    text = page.value("kit.text()")
    assert SCRIPT in text
    assert "tiny <b>run</b>" in text  # the run's name
    assert page.value("kit.all().filter((e) => e.tagName == 'B').length") == 0
    assert page.value("document.title") == "tiny <b>run</b>"
    assert page.value("alerted") is False
    assert page.errors == []


def test_a_script_in_an_address_stays_text(page, site):
    asked = "<img src=x onerror=alert(1)>"
    look(page, f"{site}/star?obsid={quote(asked)}")
    assert f"'{asked}' is no obsid" in page.value("kit.text()")
    assert page.value("kit.all().filter((e) => e.tagName == 'IMG').length") == 0
    assert page.value("alerted") is False
    assert page.errors == []


def test_the_keyboard_alone_finds_a_star_and_the_next_one(catalog):
    for _ in range(40):  # past the controls of the catalog
        catalog.press("Tab")
        if catalog.value("kit.focus().tagName == 'INPUT'"):
            break
    catalog.value("kit.focus().select()")
    catalog.type(str(FIRST + 8))
    catalog.press("Enter", "\r")
    catalog.until(f"kit.root('head').text.includes('obsid {FIRST + 8}')")
    for label, row in (("Previous", 7), ("Next", 8), ("Next", 9)):
        for _ in range(40):
            if catalog.value(f"kit.focus().textContent.includes('{label} star')"):
                break
            catalog.press("Tab")
        catalog.press("Enter", "\r")
        catalog.until(f"kit.root('head').text.includes('obsid {FIRST + row}')")
    assert catalog.errors == []


def test_every_control_and_figure_has_a_name(catalog):
    names = catalog.names("textbox", "combobox", "button", "figure", "region")
    assert ("textbox", "obsid") in names
    assert ("button", "Next star →") in names
    boxes = [name for role, name in names if role == "combobox"]
    assert boxes == ["show", "go to an example", "across", "up", "color", "look at"]
    drawn = [name for role, name in names if role == "figure"]
    assert len(drawn) == 4
    assert drawn[0].startswith("18 stars, log g [dex] against Teff [K].")
    assert all(name for _, name in names)


def test_other_axes_and_groups_are_drawn_when_chosen(catalog):
    catalog.value("kit.root('across').value = 'fe_h'; 1")
    catalog.until("kit.root('diagram').below[0].axis_label == '[Fe/H] [dex]'")
    catalog.value("kit.root('kind').value = 'fit.AT_BOUND'; 1")
    catalog.until("kit.root('count').text.includes('1 stars drawn')")
    catalog.value("kit.root('kind').value = 'all'; 1")
    catalog.until("kit.root('count').text.includes('20 spectra, 1 of which')")
    assert catalog.errors == []


@WIDTHS
def test_the_report_fits_its_window_and_needs_no_network(browser, report, width, height):
    with browser.page(width, height) as page:
        page.open(f"file://{report}")
        page.settle()
        assert page.errors == []
        assert page.value("document.documentElement.scrollWidth") <= width
        assert elsewhere(page, f"file://{report}") == []
        assert page.value("[...document.images].every((one) => one.naturalWidth > 0)")
        assert page.value("document.images.length") >= 10


@pytest.mark.slow
@pytest.mark.parametrize("stop", ["interrupt", "terminate"])
def test_a_script_in_a_fits_header_stays_text_from_file_to_page(line, browser, tmp_path, stop):
    """The whole line, as commands: ingest to publish, then view until Ctrl-C or SIGTERM."""
    files = tmp_path / "files"
    shutil.copytree(line.survey / "files", files)
    work = line.workspace(tmp_path / "run")
    work.change(f"{line.survey}/files", str(files))
    path = next(p for p in sorted(files.rglob("*.fits*")) if _readable(p))
    with fits.open(path) as hdus:
        hdus[0].header["DESIG"] = SCRIPT
        obsid = int(hdus[0].header["OBSID"])
        hdus.writeto(tmp_path / path.name)
    (tmp_path / path.name).replace(path)
    code, said = work.call("run", "--engine", "local")
    assert code == 0, said
    with work.start("view", "--port", "0", "--no-browser") as viewer:
        viewer.until(lambda: "(Ctrl-C ends it)" in viewer.said)
        url = next(word for word in viewer.said.split() if word.startswith("http://127.0.0.1:"))
        with browser.page() as page:
            look(page, f"{url}star?obsid={obsid}")
            text = page.value("kit.text()")
            assert f"obsid {obsid}" in text
            assert SCRIPT in text
            assert page.value("alerted") is False
            assert page.errors == []
        getattr(viewer, stop)()
        assert viewer.ended() == 0
        assert "Traceback" not in viewer.said


def _readable(path):
    """Whether it is one of the made-up survey's healthy files."""
    try:
        with fits.open(path) as hdus:
            return "OBSID" in hdus[0].header and hdus[-1].data is not None
    except (OSError, ValueError, TypeError):
        return False
