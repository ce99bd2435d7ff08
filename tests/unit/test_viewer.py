"""What the viewer shows and says, without a browser; and that nobody else can reach it."""

import asyncio
import importlib.util
import os
import signal
import socket

import numpy as np
import psutil
import pytest

pytest.importorskip("bokeh")

from tornado.httpclient import HTTPClientError
from tornado.websocket import websocket_connect
from viewing import served

from scalespec.cli import main
from scalespec.errors import ConfigError, StoreError
from scalespec.optimize.result import FitStatus
from scalespec.schema import SpectrumStatus
from scalespec.stages.publish import publish
from scalespec.stages.samples import Rows
from scalespec.stages.star import read_star
from scalespec.viewer import choices, server, view, words
from scalespec.viewer.choices import Plane
from scalespec.viewer.pages import StarView, Viewed, whole

KIEL = Plane("teff", "logg", "fe_h")


@pytest.fixture(scope="module")
def config(tiny, _one_tiny_run):
    config = _one_tiny_run.config
    tiny.run_stage(publish(config))
    return config


@pytest.fixture(scope="module")
def viewed(config):
    return Viewed.of(config)


def rows_of(n, *, first=0):
    """Rows of a made-up catalog; every tenth is at a bound of Teff, every seventh unreadable."""
    row = np.arange(first, first + n)
    rng = np.random.default_rng(1)
    lost = row % 7 == 6
    columns = {
        name: np.where(lost, np.nan, rng.normal(size=n)) for name in ("teff", "logg", "fe_h")
    }
    columns |= {"row": row, "obsid": row, "snr": np.ones(n), "rv": np.ones(n)}
    columns |= {"chi2": np.full(n, 50.0), "n_used": np.full(n, 100), "dof": np.full(n, 25)}
    bound = (row % 10 == 9) & ~lost
    columns["at_bound"] = bound.astype(np.uint64)
    columns["prior_dominated"] = np.zeros(n, np.uint64)
    status = np.where(bound, FitStatus.AT_BOUND, 0) | np.where(lost, FitStatus.BAD_SPECTRUM, 0)
    columns["fit_status"] = status.astype(np.uint32)
    columns["spectrum_status"] = np.where(lost, SpectrumStatus.CORRUPT, 0).astype(np.uint32)
    return Rows(columns, ("teff", "logg", "fe_h"))


def test_a_browser_is_given_no_more_points_than_it_can_hold_and_the_same_ones(monkeypatch):
    monkeypatch.setattr(choices, "MOST_POINTS", 100)
    rows = rows_of(5000)
    shown = choices.points(rows, choices.TRUSTED, KIEL)
    assert len(shown) == 100
    again = choices.points(rows.take(np.arange(5000) % 10 != 9), choices.TRUSTED, KIEL)
    np.testing.assert_array_equal(again.columns["row"], shown.columns["row"])
    quarters = np.histogram(shown.columns["row"], 4, (0, 5000))[0]
    assert quarters.min() >= 10  # of 25 expected, 3.5 sigma below


@pytest.mark.parametrize(
    ("kind", "wanted"),
    [
        (choices.TRUSTED, lambda row: (row % 7 != 6) & (row % 10 != 9)),
        (choices.GOOD, lambda row: row % 7 != 6),  # a bound is of one label
        (choices.FITTED, lambda row: row % 7 != 6),
        (choices.ALL, lambda row: row >= 0),
        ("fit.AT_BOUND", lambda row: (row % 10 == 9) & (row % 7 != 6)),
        ("spectrum.CORRUPT", lambda row: row % 7 == 6),
    ],
)
def test_a_group_holds_the_rows_that_its_name_says(kind, wanted):
    rows = rows_of(140)
    assert kind in choices.kinds_of(rows)
    found = rows.columns["row"][choices.of_kind(rows, kind, KIEL)]
    assert found.tolist() == np.flatnonzero(wanted(np.arange(140))).tolist()


def test_trust_is_of_the_axes_that_are_shown():
    rows = rows_of(140)
    other = choices.of_kind(rows, choices.TRUSTED, Plane("logg", "fe_h", "teff"))
    assert int(other.sum()) == int((np.arange(140) % 7 != 6).sum())


def test_groups_say_how_many_they_are_and_empty_ones_are_not_offered():
    kinds = choices.kinds_of(rows_of(140))
    assert kinds["spectrum.CORRUPT"] == "spectrum flag CORRUPT (20)"
    assert "fit.STALLED" not in kinds


def test_without_teff_and_logg_the_first_labels_are_drawn():
    rows = rows_of(10)
    less = Rows(rows.columns, ("fe_h", "logg"))
    assert choices.first_plane(rows) == KIEL
    assert choices.first_plane(less) == Plane("fe_h", "logg", "fe_h")


def test_a_tap_means_the_nearest_point_if_one_is_near():
    x, y = np.array([5000.0, 5100, 7000]), np.array([4.0, 4.0, 1.0])
    spans = (4000.0, 5.0)
    assert choices.nearest(x, y, (5060.0, 4.0), spans) == 1
    assert choices.nearest(x, y, (6000.0, 2.5), spans) is None
    assert choices.nearest(x[:0], y[:0], (5000.0, 4.0), spans) is None


def test_stepping_goes_through_all_that_are_shown_and_back():
    shown = np.array([1, 4, 8, 9])
    row, seen = 1, []
    for _ in range(8):
        row = choices.step(shown, row, 1)
        seen.append(row)
    assert seen == [4, 8, 9, 1] * 2
    for before in reversed([1, *seen[:-1]]):
        row = choices.step(shown, row, -1)
        assert row == before
    assert choices.step(shown[:0], 3, 1) is None


def test_limits_leave_out_what_is_wild_and_what_is_not_a_number():
    values = np.concatenate([np.linspace(0, 1, 2000), [1e9, np.nan]])
    low, high = choices.limits(values)
    assert -0.1 < low < 0 < 1 < high < 1.1
    assert choices.limits(np.full(3, np.nan)) == (0.0, 1.0)
    assert choices.limits(np.array([2.0])) == (1.5, 2.5)


@pytest.mark.parametrize(
    ("text", "number"), [("12", 12), (" 12 ", 12), ("1e3", None), ("", None), ("٣", None)]
)
def test_a_number_is_one_of_plain_digits(text, number):
    assert whole(text) == number


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ("12", "No spectrum of this run has obsid 12."),
        ("-1", "&#x27;-1&#x27; is no obsid"),
        ("<b>", "&#x27;&lt;b&gt;&#x27; is no obsid"),
    ],
)
def test_an_obsid_of_no_star_is_answered_in_words(viewed, asked, said):
    star = StarView(viewed)
    star.search(asked)
    (message,) = (root for root in star.roots() if root.name == "message")
    assert message.visible
    assert said in message.text
    star.search(str(2**55 + 4))
    assert not message.visible
    assert star.row == 4


def test_a_row_that_is_none_is_answered_in_words(viewed):
    star = StarView(viewed)
    star.open("20")
    (message,) = (root for root in star.roots() if root.name == "message")
    assert "This run has no row &#x27;20&#x27;: it has 20 rows." in message.text
    star.open("3")  # the broken file
    assert (star.row, message.visible) == (3, False)


def test_the_pages_share_a_sample_of_the_whole_catalog(viewed):
    assert viewed.lead == "20 spectra, 19 with labels. "
    assert viewed.examples["A broken file"] == 3
    assert viewed.first in viewed.evidence.stars.columns["row"]


def test_labels_are_told_with_errors_trust_and_what_others_say(config, viewed):
    star = read_star(config, 9, viewed.evidence.models)
    html = words.labels_table(star)
    known = star.known
    assert f"{known['teff']:,.0f} ± {known['teff_err']:,.0f}" in html
    assert f"{known['first_teff']:,.0f}" in html
    assert f"{known['apogee_teff']:,.0f}" in html
    assert "by apogee" in html
    assert html.count("<tr>") == 1 + len(star.labels) + 1  # the head, and the velocity
    edge = words.labels_table(read_star(config, 6, viewed.evidence.models))
    assert edge.count("at its bound") == 1


def test_every_text_of_a_star_is_escaped(config, viewed, monkeypatch):
    star = read_star(config, 5, viewed.evidence.models)
    said = [words.star_head(star), words.labels_table(star), words.masks_table(star)]
    said += [words.facts_table(star), words.neighbors_table(star, viewed.evidence.stars, "s")]
    assert "<script" not in "".join(said)
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in said[3]
    monkeypatch.setitem(star.known, "reason", "<i>")
    star.spectrum["ivar"][:] = 0
    assert "No spectrum: &lt;i&gt;" in words.star_head(star)


def test_a_run_without_a_catalog_is_told_which_verb_makes_one(tiny_run):
    with pytest.raises(StoreError, match="run publish"):
        server.read_viewed(tiny_run.config)
    without = tiny_run.config.model_copy(update={"publish": None})
    with pytest.raises(ConfigError, match=r"no \[publish\] table"):
        server.read_viewed(without)


def test_a_machine_without_bokeh_is_told_what_to_install(config, monkeypatch):
    found = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "bokeh" else found(name)
    )
    with pytest.raises(ConfigError, match=r"pip install 'scalespec\[view\]'"):
        view(config, port=0, ready=print)


def test_a_port_that_is_taken_is_named():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(ConfigError, match=f"--port {port} is taken"):
            server.bind(port)


@pytest.fixture
def handlers():
    """Give signals back to pytest afterwards."""
    before = {n: signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_server_cleanly(config, handlers, number):
    told = []

    def ready(url):
        told.append(url)
        os.kill(os.getpid(), number)

    view(config, port=0, ready=ready)
    port = int(told[0].rstrip("/").rpartition(":")[2])
    with socket.socket() as again:  # nobody listens there any more
        assert again.connect_ex(("127.0.0.1", port)) != 0


def test_the_command_says_its_address_and_opens_a_browser_unless_told_not_to(
    config, handlers, tmp_path, tiny, monkeypatch
):
    from click.testing import CliRunner

    opened = []

    def look(url):
        opened.append(url)
        os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr("scalespec.cli.webbrowser.open", look)
    monkeypatch.setattr("scalespec.cli.load_config", lambda _: config)
    (tmp_path / "run.toml").touch()
    result = CliRunner().invoke(main, ["view", str(tmp_path / "run.toml"), "--port", "0"])
    assert result.exit_code == 0, result.output
    assert f"{opened[0]} (Ctrl-C ends it)" in result.stdout
    assert opened[0].startswith("http://127.0.0.1:")


def test_only_this_machine_and_only_its_own_pages_are_answered(config, monkeypatch):
    monkeypatch.setenv("BOKEH_ALLOW_WS_ORIGIN", "evil.example")
    monkeypatch.setenv("BOKEH_RESOURCES", "cdn")
    others = [
        one.address
        for addresses in psutil.net_if_addrs().values()
        for one in addresses
        if one.family == socket.AF_INET and not one.address.startswith("127.")
    ]
    with served(config) as url:
        port = int(url.rpartition(":")[2])
        listening = {
            c.laddr.ip for c in psutil.Process().net_connections("inet")
            if c.status == psutil.CONN_LISTEN and c.laddr.port == port
        }  # fmt: skip
        assert listening == {"127.0.0.1"}
        for address in others:
            with socket.socket() as outside:
                outside.settimeout(2)
                assert outside.connect_ex((address, port)) != 0
        asyncio.run(_origins(port))


async def _origins(port):
    from tornado.httpclient import AsyncHTTPClient, HTTPRequest

    page = await AsyncHTTPClient().fetch(f"http://127.0.0.1:{port}/")
    html = page.body.decode()
    assert "cdn." not in html
    assert 'src="/static/js/bokeh.min.js' in html
    token = html.partition('"token":"')[2].partition('"')[0]
    assert token

    async def knock(origin):
        asked = HTTPRequest(
            f"ws://127.0.0.1:{port}/ws",
            headers={"Origin": origin, "Sec-WebSocket-Protocol": f"bokeh, {token}"},
        )
        (await websocket_connect(asked)).close()

    for origin in (
        "http://evil.example",
        "http://evil.example:80",
        f"http://127.0.0.1.evil:{port}",
    ):
        with pytest.raises(HTTPClientError, match="403"):
            await knock(origin)
    await knock(f"http://localhost:{port}")
