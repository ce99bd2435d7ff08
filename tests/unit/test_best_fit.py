"""Best fits as a store: what a block of it reads."""

from scalespec.stages.best_fit import best_fit_stages
from tests.kits.own_blocks import run_blocks_of_their_own


def test_blocks_read_their_own_only(tiny_run, tmp_path, monkeypatch):
    stages = best_fit_stages(tiny_run.config, str(tmp_path / "made"))
    assert run_blocks_of_their_own(stages, monkeypatch) == ["publish best fits"]
