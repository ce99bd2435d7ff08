"""Our FITS parser held against astropy's."""

import numpy as np

from scalespec.surveys.fits import parse_fits, parse_fits_astropy


def assert_parsed_as_astropy_does(data, path, *, text_width=True):
    """Our parser's HDUs are astropy's, bit for bit; text is as wide, where that is asked."""
    for ours, theirs in zip(parse_fits(data), parse_fits_astropy(data), strict=True):
        assert ours.name == theirs.name, path
        assert ours.header == theirs.header, path
        assert type(ours.data) is type(theirs.data), path
        columns = ours.data if isinstance(ours.data, dict) else {"": ours.data}
        others = theirs.data if isinstance(theirs.data, dict) else {"": theirs.data}
        assert list(columns) == list(others), path
        for name, column in columns.items():
            if column is None:
                continue
            assert column.shape == others[name].shape, (path, name)
            if column.dtype.kind == "S" and not text_width:
                assert np.array_equal(column, others[name]), (path, name)
            else:
                assert column.dtype == others[name].dtype, (path, name)
                assert column.tobytes() == others[name].tobytes(), (path, name)
