"""Samples of rows: the same however rows come, spread evenly, and never larger than they may be."""

import numpy as np
import pytest

from scalespec.optimize.result import FitStatus
from scalespec.stages.samples import Rows, Sample, scrambled


def rows_of(start, stop, **columns):
    row = np.arange(start, stop)
    return Rows({"row": row, "value": row * 2.0} | columns, ())


def sampled(n, ends, together=1):
    sample = Sample(n, together=together)
    for start, stop in zip([0, *ends[:-1]], ends, strict=True):
        sample.add(rows_of(start, stop))
    return sample.rows()


def test_scrambled_numbers_are_the_published_sequence():
    # The first outputs of SplitMix64 seeded with 0, as its authors' C code prints them.
    wanted = [0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4, 0x06C45D188009454F]
    assert scrambled(np.arange(3)).tolist() == wanted


@pytest.mark.parametrize("ends", [[1000], [1, 999, 1000], [*range(7, 1000, 7), 1000]])
def test_a_sample_does_not_depend_on_how_rows_come(ends):
    least = np.sort(np.argsort(scrambled(np.arange(1000)))[:100])
    found = sampled(100, ends)
    assert found.columns["row"].tolist() == least.tolist()
    assert found.columns["value"].tolist() == (2.0 * least).tolist()


def test_a_few_rows_are_all_of_them_in_their_order():
    assert sampled(100, [30, 60]).columns["row"].tolist() == list(range(60))


def test_a_sample_is_spread_evenly_over_the_rows():
    row = sampled(5000, [20_000, 100_000]).columns["row"]
    counts = np.histogram(row, bins=10, range=(0, 100_000))[0]
    # A tenth of 5,000 draws without replacement: 500 with a standard deviation of 21.
    assert abs(counts - 500).max() < 5 * 21


def test_neighbors_are_taken_by_whole_chunks():
    row = sampled(96, [100, 1600], together=32).columns["row"]
    chunks, counts = np.unique(row // 32, return_counts=True)
    assert counts.tolist() == [32, 32, 32]
    assert set(chunks) == set(np.argsort(scrambled(np.arange(50)))[:3])


def test_no_more_than_twice_the_sample_is_held():
    sample = Sample(50)
    for start in range(0, 10_000, 20):
        sample.add(rows_of(start, start + 20))
        assert sum(map(len, sample._parts)) <= 100


def fitted(**columns):
    """Three stars with two labels."""
    made = {"row": np.arange(3), "teff": np.array([5000.0, 4000.0, np.nan]), "chi2": np.ones(3)}
    made |= {"logg": np.array([4.0, 2.0, np.nan]), "fit_status": np.zeros(3, np.uint32)}
    made |= {"n_used": np.full(3, 10, np.int32)}
    return Rows(made | columns, ("teff", "logg"))


def test_a_flag_of_one_label_leaves_the_others_to_be_trusted():
    flag = FitStatus.AT_BOUND | FitStatus.PRIOR_DOMINATED
    rows = fitted(
        fit_status=np.array([flag, 0, 0], np.uint32),
        at_bound=np.array([1, 0, 0], np.uint64),
        prior_dominated=np.array([0, 2, 0], np.uint64),
    )
    assert rows.good.tolist() == [True, True, False]
    assert rows.trusted("teff").tolist() == [False, True, False]
    assert rows.trusted("logg").tolist() == [True, False, False]
    assert rows.trusted().tolist() == [True, True, False]


def test_any_other_flag_is_of_the_whole_star():
    rows = fitted(fit_status=np.array([FitStatus.POOR_FIT, 0, 0], np.uint32))
    assert rows.trusted("teff").tolist() == [False, True, False]


def test_chi2_is_per_degree_of_freedom_where_they_are_known():
    assert fitted().chi2_dof.tolist() == [0.1] * 3
    assert fitted(dof=np.array([5, 0, 1])).chi2_dof.tolist() == [0.2, 1.0, 1.0]


def test_a_run_without_labels_has_no_fitted_star():
    assert not rows_of(0, 3).fitted.any()
    assert len(Rows({}, ())) == 0
