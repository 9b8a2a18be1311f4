"""Populations of changing sources, each in the file of its physics."""
