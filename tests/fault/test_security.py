"""Files that mean harm: each attack is stopped, and succeeds where its guard is taken away.

Every test shows both: the error where the guard is, and what the attack gets where it is not.
"""

import ast
import gzip
import io
import os
import pickle
import socket
import threading
import tracemalloc
import zipfile
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fitted_run import write_fitted

from scalespec.errors import ScalespecError, StoreError, SurveyFileError
from scalespec.kernels.where import where
from scalespec.plan import Block
from scalespec.run import run
from scalespec.stages import folders, page, report
from scalespec.status import verify_run
from scalespec.store import catalog, inflate, ledger, model, paths, tables
from scalespec.surveys.fits import read_fits
from scalespec.surveys.inflate import gunzip

ROOT = Path(__file__).resolve().parents[2]
BLOCK = Block("spectrum", 0, 0, 1)


@pytest.fixture
def unguarded(monkeypatch):
    """Take away the guard against names that lead out of their folder."""
    return lambda: monkeypatch.setattr(paths, "below", lambda name: name)


@pytest.fixture
def workspace(tmp_path):
    """A folder with a run's workspace, and something beside it that is none of its business."""
    secret = tmp_path / "private" / "parts"
    secret.mkdir(parents=True)
    pq.write_table(pa.table({"row": [42]}), secret.parent / "secret.parquet")
    (tmp_path / "work").mkdir()
    return tmp_path


# Names in records, manifests and catalogs


@pytest.mark.parametrize(
    "name",
    ["../x", "a/../../x", "/etc/passwd", "a//b", "./a", "s3://elsewhere/x", "a\nb", "", "a/.."],
)
def test_a_name_that_leads_out_of_its_folder_is_none(name):
    with pytest.raises(StoreError, match="leads out of its folder"):
        paths.below(name)


def test_ordinary_names_are_let_through():
    for name in ("parts/000001-ab.parquet", "spectra.zarr/flux/c/0/0", "3f19295930b88fe5", "..a"):
        assert paths.below(name) == name


def test_a_commit_cannot_name_a_part_outside_of_the_workspace(workspace, unguarded):
    url = str(workspace / "work" / "best" / "0123456789abcdef")
    record = {"rows": 1, "counts": {}, "attempt": "a", "start": 0, "stop": 1}
    record["objects"] = {"parts/../../../../private/secret.parquet": "0" * 64}
    ledger.write_json(paths.join(url, "commits", "000000.json"), record)
    (workspace / "work" / "best" / "0123456789abcdef" / "parts").mkdir()
    with pytest.raises(StoreError, match=r"no commit record of ours.*leads out"):
        catalog.read_part(url, BLOCK)
    unguarded()
    assert catalog.read_part(url, BLOCK)["row"].to_pylist() == [42]


def test_a_manifest_cannot_have_a_file_outside_hashed(workspace, unguarded):
    folder = workspace / "work" / "catalog"
    folder.mkdir()
    objects = {"../../private/secret.parquet": "0" * 64}
    manifest = {"objects": objects, "rows": 1, "missing_blocks": [], "columns": []}
    ledger.write_json(str(folder / "manifest.json"), manifest)
    with pytest.raises(StoreError, match="leads out"):
        catalog.verify_catalog(str(folder))
    unguarded()
    (told,) = catalog.verify_catalog(str(folder))
    hidden = (workspace / "private" / "secret.parquet").read_bytes()
    assert paths.sha256(hidden)[:12] in told  # it tells what the file is


def test_verify_hashes_nothing_outside_of_the_workspace(tmp_path, unguarded):
    stars = {"teff": np.full(8, 5000.0), "teff_err": np.ones(8)}
    config = write_fitted(tmp_path / "run", stars, labels=("teff",), tables="[publish]\n")
    assert run(config, verbs=("publish",), engine="local").exit_code == 0
    (tmp_path / "private").write_bytes(b"none of its business")
    url = paths.join(folders.catalog_url(config), "manifest.json")
    out = Path(os.path.relpath(tmp_path / "private", folders.catalog_url(config))).as_posix()
    ledger.write_json(url, ledger.read_json(url) | {"objects": {out: "0" * 64}})
    hidden = paths.sha256(b"none of its business")[:8]
    told = " ".join(verify_run(config)[0])
    assert "leads out" in told
    assert hidden not in told
    unguarded()
    assert hidden in " ".join(verify_run(config)[0])


def test_the_digest_in_use_cannot_be_a_folder_elsewhere(workspace, unguarded):
    ledger.write_json(str(workspace / "private" / "manifest.json"), {"objects": {}})
    record = {"digest": "../../private"}
    ledger.write_json(str(workspace / "work" / "catalog" / "current.json"), record)
    with pytest.raises(StoreError, match="leads out"):
        catalog.catalog_folder(str(workspace / "work"))
    unguarded()
    found = Path(catalog.catalog_folder(str(workspace / "work"))).resolve()
    assert found == workspace / "private"


def test_a_release_catalog_cannot_name_files_outside_of_its_root(workspace, unguarded):
    from scalespec.config import IngestTable
    from scalespec.stages.inputs import list_inputs
    from scalespec.surveys import SURVEYS

    rows = {"planid": ["../../private"], "obsdate": ["2011-10-24"]}
    rows |= {"lmjd": [55859], "spid": [1], "fiberid": [13]}
    pq.write_table(pa.table(rows), workspace / "release.parquet")
    table = IngestTable(catalog=str(workspace / "release.parquet"), root=str(workspace / "work"))
    with pytest.raises(StoreError, match="leads out"):
        list(list_inputs(table, SURVEYS["lamost_lrs"]))
    unguarded()
    (entry,) = list_inputs(table, SURVEYS["lamost_lrs"])
    assert "private" in entry.url


# Files that are more than they seem


def zeros(n):
    return gzip.compress(bytes(n), 9)


def test_a_gzipped_catalog_cannot_fill_the_memory(tmp_path, monkeypatch):
    bomb = tmp_path / "labels.csv.gz"
    bomb.write_bytes(gzip.compress(b"teff\n" + b"5000\n" * 2_000_000))
    monkeypatch.setattr(inflate, "ALWAYS_BYTES", 2**20)
    tracemalloc.start()
    with pytest.raises(StoreError, match="inflate to more than"):
        tables.read_table(str(bomb))
    assert tracemalloc.get_traced_memory()[1] < 2**23
    tracemalloc.stop()
    monkeypatch.setattr(inflate, "LARGEST_RATIO", 10**6)
    assert len(tables.read_table(str(bomb))["teff"]) == 2_000_000


def test_a_catalog_of_ordinary_ratio_is_read_whatever_its_size(tmp_path, monkeypatch):
    monkeypatch.setattr(inflate, "ALWAYS_BYTES", 0)
    text = "\n".join(["teff", *map(str, np.random.default_rng(1).normal(5000, 500, 10_000))])
    (tmp_path / "labels.csv.gz").write_bytes(gzip.compress(text.encode()))
    assert len(tables.read_table(str(tmp_path / "labels.csv.gz"))["teff"]) == 10_000


def test_a_gzipped_spectrum_cannot_fill_the_memory():
    bomb = zeros(2**28)
    assert len(bomb) < 2**19
    tracemalloc.start()
    with pytest.raises(SurveyFileError, match="gunzips to more than"):
        gunzip(bomb)
    assert tracemalloc.get_traced_memory()[1] < 2**27
    tracemalloc.stop()
    assert len(gunzip(bomb, limit_bytes=2**30)) == 2**28


def test_a_stream_of_endless_members_is_read_so_far_and_no_further():
    """Each member costs a copy of what follows it: a file of empty ones would take hours."""
    assert len(gunzip(gzip.compress(b"x") * 3000)) == 1024


@pytest.mark.parametrize("axes", [(10**9, 5), (2**31, 2**31), (-1, 5)])
def test_a_header_that_lies_about_its_size_gets_no_memory(axes):
    cards = [("SIMPLE", "T"), ("BITPIX", "-32"), ("NAXIS", "2")]
    cards += [(f"NAXIS{i + 1}", str(n)) for i, n in enumerate(axes)]
    header = "".join(f"{key:<8}= {value:>20}".ljust(80) for key, value in cards) + "END".ljust(80)
    data = header.ljust(2880).encode() + bytes(2880)
    tracemalloc.start()
    with pytest.raises(SurveyFileError):
        read_fits(data, cards=())
    assert tracemalloc.get_traced_memory()[1] < 2**25
    tracemalloc.stop()


def archive(*members):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as made:
        for name, data in members:
            made.writestr(name, data)
    return buffer.getvalue()


def npy(array):
    buffer = io.BytesIO()
    np.lib.format.write_array(buffer, np.asarray(array), allow_pickle=True)
    return buffer.getvalue()


def test_weights_that_unpack_to_more_than_any_model_are_refused(monkeypatch):
    bomb = archive(("w.npy", npy(np.zeros(2**21))))
    assert len(bomb) < 2**16
    monkeypatch.setattr(model, "LARGEST_BYTES", 2**20)
    tracemalloc.start()
    with pytest.raises(ScalespecError, match="bytes of weights unpacked"):
        model.unpack(bomb, "there")
    assert tracemalloc.get_traced_memory()[1] < 2**20
    tracemalloc.stop()
    monkeypatch.setattr(model, "LARGEST_BYTES", 2**30)
    assert model.unpack(bomb, "there")["w"].nbytes == 2**24


def test_weights_whose_header_lies_are_refused():
    header = b"{'descr': '<f8', 'fortran_order': False, 'shape': (1000000000000000,), }"
    lying = b"\x93NUMPY\x01\x00" + (len(header) + 1).to_bytes(2, "little") + header + b"\n"
    with pytest.raises(ScalespecError, match="no plain arrays"):
        model.unpack(archive(("w.npy", lying + bytes(64))), "there")


# Keys in the clear


def answering(server, seen):
    """Answer every request with a refusal; keep what was asked."""
    while True:
        try:
            connection, _ = server.accept()
        except OSError:  # closed: the test is over
            return
        with connection:
            seen.append(connection.recv(4096))
            connection.sendall(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n")


def test_no_request_leaves_this_machine_in_the_clear_unless_it_is_allowed(monkeypatch):
    """0.0.0.0 is this machine, too, yet not by a name that says so."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "somebody")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hush")
    seen = []
    with socket.create_server(("0.0.0.0", 0)) as server:
        threading.Thread(target=answering, args=(server, seen), daemon=True).start()
        url = f"s3://b/x?endpoint=http://0.0.0.0:{server.getsockname()[1]}"
        for address, expected in ((url, 0), (f"{url}&allow_http=true", 1)):
            with pytest.raises(StoreError):
                paths.read_bytes(address)
            assert len(seen) == expected
    assert b"somebody" in seen[0]
    assert b"hush" not in seen[0]


# Code in data


class Payload:
    """Unpickled, it leaves a mark."""

    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return Path.touch, (self.mark,)


def test_weights_that_hold_objects_are_not_unpickled(tmp_path, monkeypatch):
    mark = tmp_path / "done"
    bad = archive(("w.npy", npy(np.array([Payload(mark)], object))))
    with pytest.raises(ScalespecError, match="no plain arrays"):
        model.unpack(bad, "there")
    assert not mark.exists()
    load = np.load
    monkeypatch.setattr(np, "load", lambda file, **_: load(file, allow_pickle=True))
    model.unpack(bad, "there")
    assert mark.exists()


def test_a_condition_of_a_run_file_is_no_program(tmp_path):
    mark = tmp_path / "done"
    for text in (
        f"__import__('pathlib').Path({str(mark)!r}).touch() == 1",
        f"open({str(mark)!r}, 'w') == 1",
        "(lambda: 1)() == 1",
        "snr.__class__ == 1",
    ):
        with pytest.raises(ValueError, match=r".+"):
            where(text, {"snr": np.ones(3)})
    assert not mark.exists()


BANNED = {
    *("pickle", "cloudpickle", "dill", "marshal", "shelve", "joblib"),
    *("yaml", "subprocess", "pty", "code"),
}
CALLS = {"eval", "exec", "compile", "__import__", "os.system", "os.popen", "torch.load"}


def code_from_data(text):
    """What in a module could make code of data."""
    found = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names} & BANNED
        elif isinstance(node, ast.ImportFrom):
            found |= {(node.module or "").partition(".")[0]} & BANNED
        elif isinstance(node, ast.Call):
            found |= {ast.unparse(node.func)} & CALLS
            found |= {
                keyword.arg
                for keyword in node.keywords
                if keyword.arg in ("allow_pickle", "shell")
                and getattr(keyword.value, "value", None) is not False
            }
    return found


def test_no_module_makes_code_of_data():
    modules = sorted((ROOT / "scalespec").rglob("*.py"))
    assert len(modules) > 50
    found = {str(path.relative_to(ROOT)): code_from_data(path.read_text()) for path in modules}
    assert {name: what for name, what in found.items() if what} == {}


@pytest.mark.parametrize(
    "planted",
    [
        "import pickle",
        "from joblib import load",
        "eval(text)",
        "np.load(file, allow_pickle=True)",
        "torch.load(file)",
        "os.system(text)",
        "run(text, shell=True)",
    ],
)
def test_what_makes_code_of_data_is_found(planted):
    assert code_from_data(planted)


def test_a_ban_on_pickles_is_worth_something():
    """The payload above is one: unpickled, it does what it says."""
    assert pickle.loads(pickle.dumps(Payload(Path("/dev/null")))) is None


# The page


SCRIPT = '<script>alert("1")</script><img src=x onerror=alert(1)>'


class Dangers(HTMLParser):
    """Scripts, handlers and addresses elsewhere in a page."""

    def __init__(self, html):
        super().__init__()
        self.found = []
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        if tag in ("script", "iframe", "object", "embed", "link", "form", "base"):
            self.found.append(tag)
        self.found += [f"{tag} {name}" for name, _ in attrs if name.startswith("on")]
        for name, value in attrs:
            if name in ("src", "href") and not (value or "").startswith(("data:image/png;", "#")):
                self.found.append(f"{name}={value}")


@pytest.mark.parametrize(
    "html",
    [page.paragraph(SCRIPT, kind="bad"), page.table([SCRIPT], [[1.0]]), page.folded("", SCRIPT)],
)
def test_no_text_becomes_a_script_in_any_dress(html):
    assert Dangers(html).found == []
    assert "alert" in html


def test_no_text_of_a_run_becomes_a_script_of_its_page(tmp_path, undrawn, monkeypatch):
    stars = {"teff": np.full(8, 5000.0), "logg": np.full(8, 4.0), "fe_h": np.zeros(8)}
    stars |= {f"{name}_err": np.ones(8) for name in list(stars)}
    index = {"designation": np.array([SCRIPT] * 8, object)}
    config = write_fitted(tmp_path, stars, tables="[publish]\n[report]\n", index=index)
    config = config.model_copy(update={"run": config.run.model_copy(update={"name": SCRIPT})})
    many_pixels = ("Example spectra", "Mean residual")
    few = {name: make for name, make in report.OF_CATALOG.items() if name not in many_pixels}
    monkeypatch.setattr(report, "OF_CATALOG", few)
    assert run(config, verbs=("publish",), engine="local").exit_code == 0
    html = Path(report.write_report(config)).read_text()
    assert Dangers(html).found == []
    assert "alert" in html  # it is there, as text
    monkeypatch.setattr(page, "escape", str)
    assert {"script", "img onerror"} <= set(
        Dangers(Path(report.write_report(config)).read_text()).found
    )
