"""Files outside the package, as modules: benchmarks, deployment's scripts, modules beside tests."""

import importlib.util
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

ROOT = Path(__file__).resolve().parents[2]


def load(path: str | Path) -> ModuleType:
    """Run a file, named from the repository's root, as the module of its name; it stays loaded."""
    path = ROOT / path
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules[path.stem] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@contextmanager
def loaded(path: str | Path) -> Iterator[ModuleType]:
    """Run a file as `load` does, and forget it in the end."""
    module = load(path)
    try:
        yield module
    finally:
        del sys.modules[module.__name__]
