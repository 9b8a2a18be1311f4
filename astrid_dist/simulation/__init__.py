"""What is put into the sky: star and galaxy counts, light curves, rendering, exposures, mock surveys.

Pure functions on arrays: no file, no Zarr, no cluster.
"""
