"""Augmentation of training samples: named transforms of batches, and chains of them.

::

    chain = Compose.read([{"flip": {}}, {"jitter": {"px": 0.5}}, {"noise": {"sigma": 0.3}}])
    batch = chain(batch, seed=7, items=items)

What a transform does to a sample depends on the seed, on the sample's item number and on nothing else: not on
the rest of the batch, its order or its size. Arrays in, arrays out: batches are NumPy's, files and devices
are the loader's.

`flip`, `turn`, `jitter` and `crop` move pixels (`geometry`, `shift`), `no_data` and `dropout` take some away
(`loss`), `gain`, `swap`, `background`, `flux_scale`, `noise` and `width` change what was observed (`light`,
`depth`), `Artifacts` adds patterns (`patterns`). The last five of them need the filters of the pair's
subtraction; a sample keeps FWHM, noise and flux ratio, so these are made for seeing discs (`pair`).
"""

from astrid_dist.simulation.augmentation.batch import PLANES, Batch
from astrid_dist.simulation.augmentation.compose import TRANSFORMS, Compose
from astrid_dist.simulation.augmentation.patterns import Artifacts, Patterns
from astrid_dist.simulation.augmentation.transform import Transform

__all__ = ["PLANES", "TRANSFORMS", "Artifacts", "Batch", "Compose", "Patterns", "Transform"]
