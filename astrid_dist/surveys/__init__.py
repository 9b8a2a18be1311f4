"""Instrument profiles: the numbers, header keywords and planes of each survey, as data files."""
