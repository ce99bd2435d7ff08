"""The run file: what is refused, how a wrong one is explained, and what a digest tells apart."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scalespec.config import STAGES, PreprocessTable, RayTable, digest, load_config, parse_config
from scalespec.errors import ConfigError
from scalespec.store.listing import list_files

RUN = '[run]\nname = "a"\nworkspace = "work"\n'
INGEST = '[ingest]\nfiles = "raw/*.fits.gz"\n'
FIT = '[preprocess]\n[infer]\nmodels = ["m.npz"]\n[fit]\n'
APOGEE = '[crossmatch.apogee]\ncatalog = "labels.fits"\n'


def test_a_minimal_run_file_has_the_defaults_of_the_house():
    config = parse_config(RUN + INGEST)
    assert config.run.spectra_per_block == 4096
    assert config.engine.dask.workers == config.engine.ray.workers == 2
    assert config.stages() == ("ingest",)


def test_stages_come_in_the_order_of_the_data():
    pairs = '[calibrate.pairs]\ncatalog = "pairs.parquet"\n'
    ages = '[ages]\nisochrones = "grid.h5"\nbrightness = "logg"\n'
    text = RUN + "[report]\n[publish]\n[derive]\n" + ages + pairs + FIT + APOGEE + INGEST
    absent = ("train", "posterior", "binaries", "compare")
    assert parse_config(text).stages() == tuple(s for s in STAGES if s not in absent)


def test_every_wrong_key_is_named_at_once_with_its_value():
    text = """
        [run]
        name = "a"
        spectra_per_block = 0
        [ingest]
        filez = "raw"
        [preprocess]
        wavelength_min_angstrom = -1.0
        continuum = {width_angstrom = "wide"}
        [cluster]
        nodes = 3
    """
    with pytest.raises(ConfigError) as caught:
        parse_config(text, "my.toml")
    first, *lines = str(caught.value).splitlines()
    assert first == f"my.toml: {len(lines)} wrong"
    starts = sorted(line.split(":")[0].strip() for line in lines)
    assert starts == [
        "cluster",
        "ingest.filez = 'raw'",
        "preprocess.continuum.width_angstrom = 'wide'",
        "preprocess.wavelength_min_angstrom = -1.0",
        "run.spectra_per_block = 0",
        "run.workspace",
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (RUN + "[ingest]\n", "give either files or catalog"),
        (RUN + '[ingest]\nfiles = "a"\ncatalog = "b"\n', "give either files or catalog"),
        (RUN + '[ingest]\nfiles = "a"\nwhere = "snrg > 10"\n', "give catalog, too"),
        (
            RUN + INGEST + "[preprocess]\nwavelength_max_angstrom = 680\n",
            "min_angstrom = 3750 must be below wavelength_max_angstrom = 680; both are in Å",
        ),
        (RUN + '[train]\nlabels = ["teff"]\n', "give either library or catalog"),
        (RUN + '[train]\nlabels = ["teff", "teff"]\nlibrary = "l"\n', "different names"),
        (RUN + "[preprocess]\n", r"\[preprocess\] wants a \[ingest\] table"),
        (RUN + INGEST + FIT.replace("[infer]", "[infre]"), "infre"),
        (RUN + INGEST + "[preprocess]\n[infer]\n", "wants models"),
        (RUN + INGEST + FIT + "[report]\n", r"wants a \[publish\] table"),
        (RUN + '[train]\nlabels = ["t"]\ncatalog = "apogee"\n', r"\[crossmatch.apogee\]"),
        (
            RUN
            + INGEST
            + APOGEE
            + 'columns = { t = "T" }\n[train]\nlabels = ["t"]\ncatalog = "apogee"\n',
            "matched stars",
        ),
        (
            RUN
            + INGEST
            + APOGEE
            + 'columns = { t = "T" }\n[train]\nlabels = ["t", "g"]\ncatalog = "apogee"\n',
            r"train\.labels: crossmatch\.apogee\.columns takes over no \['g'\], only \['t'\]",
        ),
        (
            RUN
            + INGEST
            + APOGEE
            + 'columns = { t = "T" }\n[preprocess]\n[compare]\nlabels = ["t"]\nextra = ["k"]\n'
            + 'catalog = "apogee"\n[compare.models.elm]\ninputs = "both"\n',
            r"compare\.extra: crossmatch\.apogee\.columns takes over no \['k'\]",
        ),
        (
            RUN + INGEST + FIT + '[publish]\n[report]\nreferences = ["gaia"]\n',
            r"no \[crossmatch.gaia\]",
        ),
        (
            RUN + INGEST + FIT.replace("[fit]", 'inputs = "gaia"\n'),
            r"infer.inputs = 'gaia' wants a",
        ),
        (RUN + INGEST + FIT + '[derive]\ncolor = "gaia.bp_rp"\n', r"\[crossmatch.gaia\]"),
        (RUN + INGEST + APOGEE + FIT + '[derive]\ncolor = "apogee.bp_rp"\n', "no 'bp_rp', only"),
        ("[run", "not TOML"),
    ],
)
def test_tables_that_do_not_fit_together_are_refused(text, message):
    with pytest.raises(ConfigError, match=message):
        parse_config(text)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (RUN + INGEST + 'survye = "apogee"\n', "survye = 'apogee': .*: did you mean survey"),
        (RUN + "[preproces]\n", "preproces: .*: did you mean preprocess"),
        (RUN + "[preprocess.continuum]\nmethd = 1\n", "methd = 1: .*: did you mean method"),
        (RUN + APOGEE + "[crossmatch.gaia]\ncolums = 1\n", "colums = 1: .* did you mean columns"),
        (RUN + INGEST + "color = 1\n", "color = 1: Extra inputs are not permitted$"),
    ],
)
def test_an_unknown_key_is_said_with_those_that_are_like_it(text, message):
    with pytest.raises(ConfigError, match=message):
        parse_config(text)


AGES = '[ages]\nisochrones = "i"\n'
GAIA = '[crossmatch.gaia]\ncatalog = "g"\ncolumns = { k = "K", plx = "P", plx_err = "E" }\n'
BY_K = AGES + 'magnitude = "gaia.k"\nparallax = "gaia.plx"\n'


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (BY_K, r"ages.magnitude = 'gaia.k' wants a \[crossmatch.gaia\] table"),
        (GAIA + BY_K + 'reddening = "gaia.ebv"\n', "ages.reddening = 'gaia.ebv'.* no 'ebv', only"),
        (GAIA + BY_K.replace("gaia.plx", "bailer.plx"), r"ages.parallax.*\[crossmatch.bailer\]"),
        # the error of a parallax is wanted, too
        (GAIA.replace("plx_err", "plx_e") + BY_K, "ages.parallax = 'gaia.plx_err'.* no 'plx_err'"),
    ],
)
def test_columns_that_ages_are_made_of_are_there(text, message):
    with pytest.raises(ConfigError, match=message):
        parse_config(RUN + INGEST + FIT + text)
    assert parse_config(RUN + INGEST + FIT + GAIA + BY_K).ages.magnitude == "gaia.k"


SOURCE = '[preprocess]\nsource = "library.zarr"\n'
LIBRARY = "[preprocess]\n[preprocess.library]\nn_spectra = 9\n"
ON_MATCHED = '[train]\nlabels = ["teff"]\ncatalog = "apogee"\n'
INFER = '[infer]\nmodels = ["m.npz"]\n'


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            SOURCE + INGEST,
            r"^preprocess.source gives.*and \[ingest\] would.*leave out preprocess.s",
        ),
        (LIBRARY + INGEST, r"^\[preprocess.library\] gives.*and \[ingest\] would"),
        (SOURCE + INFER, r"and \[infer\] would"),
        (SOURCE + ON_MATCHED, "and train.catalog would"),
        (
            SOURCE + '[compare]\nlabels = ["teff"]\ncatalog = "a"\nmodels = {m = {}}\n',
            "and compare.catalog would",
        ),
        (
            SOURCE + INGEST + APOGEE + INFER + "[fit]\n[publish]\n",
            r"\[ingest\], \[crossmatch\], \[infer\], \[fit\], \[publish\] would",
        ),
    ],
)
def test_rows_of_a_source_are_not_joined_with_those_of_a_survey(text, said):
    """Row n of a library and row n of a survey are two stars."""
    with pytest.raises(ConfigError) as caught:
        parse_config(RUN + text)
    (line,) = str(caught.value).splitlines()[1:]
    assert re.search(said, line.strip())


def test_a_source_is_preprocessed_learned_from_compared_and_reported():
    train = '[train]\nlabels = ["teff"]\nlibrary = "library.zarr"\n'
    compare = '[compare]\nlabels = ["teff"]\nmodels = { ridge = {} }\n'
    stages = parse_config(RUN + SOURCE + train + compare + "[report]\n").stages()
    assert stages == ("preprocess", "train", "report", "compare")


def test_paths_are_relative_to_the_run_file_and_urls_are_left_alone(tmp_path):
    text = (
        RUN
        + '[ingest]\nfiles = ["raw/*.gz", "@list.txt", "/abs/x", "s3://b/p", "@s3://b/l"]\n'
        + '[crossmatch.train]\ncatalog = "labels.csv"\n'  # any name will do, also a verb's
        + 'columns = { teff = "Teff" }\n'
        + '[preprocess]\n[train]\nlabels = ["teff"]\ncatalog = "train"\n'
        + '[infer]\nmodels = ["m.npz"]\nwhere = "teff > 1"\n'
    )
    (tmp_path / "run.toml").write_text(text)
    config = load_config(tmp_path / "run.toml")
    here = str(tmp_path)
    assert config.run.workspace == f"{here}/work"
    assert config.ingest.files == (
        f"{here}/raw/*.gz",
        f"@{here}/list.txt",
        "/abs/x",
        "s3://b/p",
        "@s3://b/l",
    )
    assert config.crossmatch["train"].catalog == f"{here}/labels.csv"
    assert config.train.catalog == "train"  # the name of a table, not a path
    assert config.infer.models == (f"{here}/m.npz",)
    assert config.infer.where == "teff > 1"


def test_paths_within_inner_tables_are_relative_to_the_run_file_too(tmp_path):
    text = (
        RUN + INGEST + '[preprocess]\nvelocity = { templates = "v" }\n[infer]\nmodels = ["m"]\n'
        '[fit]\n[crossmatch.models]\ncatalog = "c"\ntraining = { library = "l", fill = 3 }\n'
        '[ages]\nisochrones = "iso/grid.h5"\nbrightness = "logg"\n'
        '[publish]\n[report]\nisochrones = "iso.csv"\n'
        '[calibrate.pairs]\ncatalog = "p"\n[calibrate.clusters]\ncatalog = "k"\n'
    )
    (tmp_path / "run.toml").write_text(text)
    config = load_config(tmp_path / "run.toml")
    named = [
        *(config.preprocess.velocity.templates, config.crossmatch["models"].catalog),
        *(config.crossmatch["models"].training.library, config.ages.isochrones),
        *(config.report.isochrones, config.calibrate.pairs.catalog),
        config.calibrate.clusters.catalog,
    ]
    wanted = ["v", "c", "l", "iso/grid.h5", "iso.csv", "p", "k"]
    assert named == [f"{tmp_path}/{name}" for name in wanted]


@pytest.mark.parametrize("files", ["raw/*.gz", "raw", "raw/a.gz", "../dr[10] */raw/*.gz"])
def test_a_run_file_in_a_folder_whose_name_looks_like_a_glob_finds_its_files(tmp_path, files):
    folder = tmp_path / "dr[10] *"
    (folder / "raw").mkdir(parents=True)
    (folder / "raw" / "a.gz").touch()
    other = tmp_path / "dr1 x" / "raw"  # what the name would stand for
    other.mkdir(parents=True)
    (other / "b.gz").touch()
    (folder / "run.toml").write_text(RUN + INGEST.replace("raw/*.fits.gz", files))
    config = load_config(folder / "run.toml")
    found = [] if files.startswith("..") else [str(folder / "raw" / "a.gz")]
    assert [one.url for one in list_files(config.ingest.files)] == (found or [str(other / "b.gz")])
    assert config.run.workspace == str(folder / "work")


def test_a_file_that_is_no_text_is_refused_by_name(tmp_path):
    (tmp_path / "run.toml").write_bytes(b"\xff\xfe\x00")
    for name in ("run.toml", "missing.toml"):
        with pytest.raises(ConfigError, match=f"{name}: cannot be read"):
            load_config(tmp_path / name)


def test_a_config_cannot_be_changed():
    config = parse_config(RUN)
    with pytest.raises(ValueError, match="frozen"):
        config.run.seed = 2


@given(
    st.dictionaries(st.text(), st.integers() | st.floats(allow_nan=False) | st.text(), max_size=5)
)
def test_a_digest_does_not_depend_on_the_order_of_keys(table):
    backwards = dict(reversed(table.items()))
    assert digest(table) == digest(backwards)
    assert len(digest(table)) == 16


def test_a_digest_tells_any_setting_apart():
    tables = [
        PreprocessTable(),
        PreprocessTable(spike_sigma=7.0),
        PreprocessTable(continuum={"width_angstrom": 60.0}),
        PreprocessTable(windows=("TELLURIC",)),
    ]
    assert len({digest(table) for table in tables}) == len(tables)
    assert digest(PreprocessTable()) == digest(PreprocessTable(spike_sigma=6.0))
    assert digest("a", "b") != digest("ab") != digest(["a", "b"])


@pytest.mark.parametrize(
    "text",
    [
        "[fit]\nvsini_kms = [30, 5]",
        "[fit]\nlsf_kms = [-3, 5]",
        "[fit]\nprior = { c_fe = [0, -0.1] }",
        "[fit]\nprior = { c_fe = [nan, 0.1] }",
        "[preprocess.continuum]\npixels = [[5000, 5000]]",
        "[preprocess.continuum]\nchips = [[5000, inf]]",
        "[train]\nlibrary = 'l'\nlabels = ['a']\nmodel = 'cannon'\nwindows = { a = [[43, 42]] }",
    ],
)
def test_ranges_and_priors_that_cannot_be_are_refused_where_they_stand(text):
    key = re.search(r"(\w+) = [{[]+.*$", text)[1]
    said = "limit first|greater than or equal to 0|greater than 0|a finite number"
    with pytest.raises(ConfigError, match=rf"{key}.*({said})"):
        parse_config(RUN + INGEST + text + "\n")


def test_labels_of_a_fit_are_those_that_are_learned():
    text = RUN + INGEST + "[preprocess]\n[train]\nlibrary = 'l'\nlabels = ['a']\nleeway = 1\n"
    text += "[infer]\n[fit]\ntied = { si_fe = 'mg_fe' }\nprior = { leeway_1 = [0, 2] }\n"
    with pytest.raises(ConfigError, match=r"\[fit\] names \['mg_fe', 'si_fe'\], which are not in"):
        parse_config(text)


def crossmatch_of(text):
    return parse_config(RUN + INGEST + f"[crossmatch.a]\n{text}\n").crossmatch["a"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "give either catalog or sources"),
        ('catalog = "a"\nsources = ["b"]', "give either catalog or sources"),
        ('catalog = "a"\ncolumns = { row = "t" }', r"columns: \['row'\] are names of ours"),
        ('catalog = "a"\nkey = { obsid = "t", name = "id" }', r"key: one id joins, got \['name'"),
        ('catalog = "a"\nra = ""', "ra and dec go together"),
        ('catalog = "a"\nra = ""\ndec = ""', "nothing to match by"),
        ('catalog = "a"\nunits = { logg = "dex" }', r"units: \['logg'\] are none of"),
        # a Gaia id without its release; a DR2 id under another name; kinds that never join
        ('catalog = "a"\nkey = { source_id = "id" }', "say their release, key_kind = 'gaia_dr3'"),
        (
            'catalog = "a"\nkey = { source_id = "gaia_dr2_id" }\nkey_kind = "gaia_dr3"',
            "'gaia_dr2_id' says DR2, key_kind says 'gaia_dr3'",
        ),
        (
            'catalog = "a"\nkey = { source_id = "APOGEE_ID" }\nkey_kind = "twomass"',
            "our 'source_id' is one of .*'APOGEE_ID' is 'twomass': they never join",
        ),
        ('sources = ["b"]\nreference = "b"', "reference: 'b' is one of the sources itself"),
        ('sources = ["b"]', r"'b' is no \[crossmatch\.b\] table with a catalog before it"),
        ('catalog = "a"\ntraining = { fill = 5 }', "fill and library go together"),
        ('catalog = "a"\ntraining = { cells = { teff = 0 } }', "sizes, above 0"),
    ],
)
def test_a_crossmatch_that_cannot_be_meant_is_refused(text, message):
    with pytest.raises(ConfigError, match=message):
        crossmatch_of(text)


@pytest.mark.parametrize("kind", ["gaia_dr2", "gaia_dr3"])
def test_a_gaia_key_says_its_release(kind):
    table = crossmatch_of(f'catalog = "a"\nkey = {{ source_id = "id" }}\nkey_kind = "{kind}"')
    assert table.key_kind == kind


def test_agreement_wants_a_reference_that_stands_before_it():
    before = '[crossmatch.b]\ncatalog = "b"\n[crossmatch.high]\ncatalog = "c"\n'
    text = 'sources = ["b"]\nchoose = "agreement"\n'
    with pytest.raises(ConfigError, match="wants a reference to agree with"):
        parse_config(RUN + INGEST + before + "[crossmatch.a]\n" + text)
    text += 'reference = "high"\n'
    assert parse_config(RUN + INGEST + before + "[crossmatch.a]\n" + text).crossmatch["a"].sources
    with pytest.raises(ConfigError, match="'b' is no"):
        parse_config(RUN + INGEST + "[crossmatch.a]\n" + text + before)


STORE = """
[run]
name = "t"
workspace = "s3://bucket/work"
[ingest]
files = ["s3://lamost/dr10/**", "s3://other/x?region=eu-1", "here/*.fits"]
[store]
"""


def test_store_options_go_with_every_url_that_has_none_of_its_own(tmp_path):
    path = tmp_path / "run.toml"
    path.write_text(
        STORE + 'endpoint = "http://127.0.0.1:8333"\nprofile = "me"\nanonymous = true\n'
    )
    config = load_config(path)
    query = "?endpoint=http://127.0.0.1:8333&profile=me&anonymous=true"
    assert config.run.workspace == "s3://bucket/work" + query
    assert config.ingest.files == (
        "s3://lamost/dr10/**" + query,
        "s3://other/x?region=eu-1",
        f"{tmp_path}/here/*.fits",
    )


def test_a_run_file_without_store_options_has_plain_urls(tmp_path):
    path = tmp_path / "run.toml"
    path.write_text(STORE)
    assert load_config(path).run.workspace == "s3://bucket/work"


@pytest.mark.parametrize(
    "line", ['codec = "gzip"', "lossy_bits = 30", "lossy_bits = 0", 'token = "x"']
)
def test_wrong_store_settings_are_refused(line):
    with pytest.raises(ConfigError, match=r"store\."):
        parse_config(STORE + line)


def test_a_url_with_a_secret_is_refused_and_not_repeated():
    text = STORE.replace("region=eu-1", "aws_secret_access_key=hush")
    with pytest.raises(ConfigError, match="s3://other/x: unknown options") as caught:
        parse_config(text)
    assert "hush" not in str(caught.value)


def test_a_worker_holds_a_part_of_a_gpu_or_whole_ones():
    assert [RayTable(gpus_per_worker=n).gpus_per_worker for n in (0, 0.25, 1, 2)] == [0, 0.25, 1, 2]
    with pytest.raises(ValueError, match=r"1\.5: Ray shares one GPU, or gives whole ones"):
        RayTable(gpus_per_worker=1.5)
