"""The only rooms that know Zarr, Parquet or an object store."""
