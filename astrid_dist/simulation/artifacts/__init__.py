"""Artifacts of optics, detectors, air and processing, each in the file of its cause."""
