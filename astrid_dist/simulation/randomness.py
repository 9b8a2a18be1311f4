"""Random numbers keyed by what they are for, never by who draws them or when."""

import zlib

import numpy as np


def generator(seed: int, stage: str, *item: int) -> np.random.Generator:
    """Counter-based generator that belongs to one item of one stage.

    The same ``(seed, stage, item)`` gives the same numbers whatever else is drawn, in any order and on
    any number of workers: the key is hashed by ``numpy.random.SeedSequence`` (its ``spawn_key``) and
    feeds a Philox-4x64 counter generator (Salmon et al. 2011).

    Parameters
    ----------
    seed : int
        Root seed of the job, not negative.
    stage : str
        What the numbers are for, for example ``"stars"``.
    *item : int
        Which one: field, band, epoch, object; not negative.

    Examples
    --------
    >>> float(generator(1, "stars", 4).random()) == float(generator(1, "stars", 4).random())
    True
    >>> float(generator(1, "stars", 4).random()) == float(generator(1, "stars", 5).random())
    False
    """
    key = (zlib.crc32(stage.encode()), *item)
    return np.random.Generator(np.random.Philox(np.random.SeedSequence(seed, spawn_key=key)))
