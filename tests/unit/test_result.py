"""FitResult: rows, errors, flags."""

import numpy as np
import pytest

from scalespec.optimize.result import NOT_FITTED, FitResult, FitStatus


def numbered(n: int, first: int = 0) -> FitResult:
    """Rows whose numbers say which row they are."""
    result = FitResult.empty(n, 2)
    result.labels[:] = first + np.arange(n)[:, None]
    result.label_cov[:] = np.array([[4.0, 1.0], [1.0, 9.0]])
    result.rv[:] = first + np.arange(n)
    return result


def test_empty_rows_hold_no_numbers_and_one_status():
    result = FitResult.empty(3, 2, status=FitStatus.BAD_SPECTRUM)
    assert len(result) == 3
    assert np.isnan(result.labels).all()
    assert np.isnan(result.label_cov).all()
    assert (result.status == FitStatus.BAD_SPECTRUM).all()
    assert not result.fitted.any()


def test_dtypes_are_those_of_the_catalog():
    result = FitResult.empty(1, 2)
    assert {name: str(getattr(result, name).dtype) for name in vars(result)} == {
        "labels": "float32",
        "label_cov": "float32",
        "rv": "float32",
        "rv_err": "float32",
        "chi2": "float32",
        "n_used": "int32",
        "n_steps": "int32",
        "at_bound": "uint64",
        "prior_dominated": "uint64",
        "distance": "float32",
        "training_distance": "float32",
        "widths": "float32",
        "width_err": "float32",
        "dof": "int32",
        "status": "uint32",
    }


def test_label_err_is_the_root_of_the_diagonal():
    np.testing.assert_array_equal(numbered(2).label_err, [[2.0, 3.0], [2.0, 3.0]])


def test_concatenate_keeps_order_and_take_picks_rows():
    both = FitResult.concatenate([numbered(2), numbered(0), numbered(3, first=2)])
    np.testing.assert_array_equal(both.rv, np.arange(5))
    np.testing.assert_array_equal(both.take(np.array([4, 0])).labels[:, 0], [4, 0])
    np.testing.assert_array_equal(both.take(both.rv > 2).rv, [3, 4])
    np.testing.assert_array_equal(both.take(slice(1, 3)).rv, [1, 2])


def test_concatenate_refuses_no_parts():
    with pytest.raises(ValueError, match=r"no results to concatenate"):
        FitResult.concatenate([])


def test_raise_flag_keeps_the_others():
    result = FitResult.empty(3, 1)
    result.raise_flag(FitStatus.AT_BOUND, np.array([0, 1]))
    result.raise_flag(FitStatus.LOW_SNR, np.array([False, True, True]))
    wanted = [FitStatus.AT_BOUND, FitStatus.AT_BOUND | FitStatus.LOW_SNR, FitStatus.LOW_SNR]
    np.testing.assert_array_equal(result.status, np.array(wanted, np.uint32))


@pytest.mark.parametrize(
    ("flag", "fitted"),
    [
        (FitStatus(0), True),
        (FitStatus.MAX_STEPS | FitStatus.AT_BOUND | FitStatus.POOR_FIT, True),  # labels, to doubt
        (FitStatus.OUT_OF_DOMAIN | FitStatus.LOW_SNR, True),
        (FitStatus.NO_PIXELS | FitStatus.LOW_SNR, False),  # one such bit is enough
        (FitStatus.NONFINITE, False),
        (FitStatus.NOT_SELECTED, False),
    ],
)
def test_fitted_says_which_rows_hold_labels(flag: FitStatus, fitted: bool):
    assert FitResult.empty(1, 1, status=flag).fitted[0] == fitted
    assert bool(flag & NOT_FITTED) != fitted


def test_status_bits_differ_and_fit_uint32():
    values = [flag.value for flag in FitStatus]
    assert len(set(values)) == len(values)
    assert all(value.bit_count() == 1 and value < 1 << 32 for value in values)
