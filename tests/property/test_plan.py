"""What holds of every plan."""

from hypothesis import given
from hypothesis import strategies as st

from scalespec.plan import plan_blocks


@given(n_spectra=st.integers(0, 10_000), spectra_per_block=st.integers(1, 3_000))
def test_blocks_cover_every_spectrum_once(n_spectra, spectra_per_block):
    blocks = plan_blocks(n_spectra, spectra_per_block)
    covered = [i for block in blocks for i in range(block.start, block.stop)]
    assert covered == list(range(n_spectra))


@given(n_spectra=st.integers(0, 10_000), spectra_per_block=st.integers(1, 3_000))
def test_blocks_are_whole_shards_and_know_their_place(n_spectra, spectra_per_block):
    blocks = plan_blocks(n_spectra, spectra_per_block)
    for place, block in enumerate(blocks):
        assert block.index == place
        assert block.start == place * spectra_per_block
        assert block.size == spectra_per_block or block is blocks[-1]
