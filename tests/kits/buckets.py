"""Runs in a bucket, as a command starts them: files and workspace are s3:// URLs."""

from pathlib import Path

from scalespec.config import load_config
from scalespec.store import paths


def upload(run_file: Path, bucket: str) -> str:
    """Put a run's survey files and label catalog into a bucket; return its run file's text there.

    Parameters
    ----------
    run_file : Path
        Of the run on disk.
    bucket : str
        ``s3://bucket/prefix?options``.
    """
    config = load_config(run_file)
    files = Path(config.ingest.files)
    for path in sorted(files.rglob("*.fits*")):
        there = paths.join(bucket, "files", str(path.relative_to(files)))
        paths.write_bytes(there, path.read_bytes())
    labels = config.crossmatch["apogee"].catalog
    paths.write_bytes(paths.join(bucket, "labels.parquet"), Path(labels).read_bytes())
    text = run_file.read_text()
    for old, new in (
        ('workspace = "work"', f'workspace = "{paths.join(bucket, "work")}"'),
        (str(files), paths.join(bucket, "files")),
        (labels, paths.join(bucket, "labels.parquet")),
    ):
        assert old in text, f"{run_file} has no {old}"
        text = text.replace(old, new)
    return text
