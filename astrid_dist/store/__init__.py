"""Data at rest: where products lie, how their arrays are laid out, written, opened and verified."""
