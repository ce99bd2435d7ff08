"""Pure functions on NumPy arrays, batched over spectra: no files, no survey, no engine."""
