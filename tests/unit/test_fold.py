import numpy as np
import pytest

from scalespec.kernels.fold import SIDE, fold, unfold


@pytest.mark.parametrize("dtype", [np.float32, np.uint32, np.int64])
def test_unfolding_is_the_inverse(dtype):
    values = np.random.default_rng(0).integers(0, 99, (3, 4096)).astype(dtype)
    image = fold(values)
    assert image.shape == (3, SIDE, SIDE)
    assert image.dtype == dtype
    np.testing.assert_array_equal(unfold(image), values)


def test_neighbors_stay_neighbors():
    """Oracle 2: steps of 1 along every row and at row turns."""
    image = fold(np.arange(4096))
    assert np.all(np.abs(np.diff(image, axis=1)) == 1)
    turns = [
        image[r + 1, -1 if r % 2 == 0 else 0] - image[r, -1 if r % 2 == 0 else 0]
        for r in range(SIDE - 1)
    ]
    assert set(turns) == {1}


def test_even_rows_run_left_to_right():
    assert fold(np.arange(12), width=4).tolist() == [[0, 1, 2, 3], [7, 6, 5, 4], [8, 9, 10, 11]]


def test_the_input_is_left_alone():
    values = np.arange(8)
    fold(values, width=4)[0, 0] = 99
    assert values[0] == 0


@pytest.mark.parametrize(("n", "width"), [(10, 4), (8, 0)])
def test_pixels_must_fill_whole_lines(n, width):
    with pytest.raises(ValueError, match="do not fill lines"):
        fold(np.arange(n), width=width)


def test_there_may_be_no_spectra():
    assert fold(np.zeros((0, 12)), width=4).shape == (0, 3, 4)
    assert unfold(np.zeros((0, 3, 4))).shape == (0, 12)


def test_an_image_has_two_dims():
    with pytest.raises(ValueError, match="lines and columns"):
        unfold(np.arange(4))
