"""What a model is trained on: counts of samples by what they are, and digests of where they come from."""

import json
from collections.abc import Iterator
from hashlib import sha256
from typing import Any

import numpy as np

from astrid_dist.learning.catalogue import Catalogue, Group
from astrid_dist.learning.sampling import SYNTHETIC, TRAITS, Rows, Sampling, traits
from astrid_dist.store.ledger import Ledger
from astrid_dist.store.templates import product_header


def composition(catalogue: Catalogue, rows: Rows | None = None) -> dict[str, Any]:
    """Samples by class, kind, origin, survey, band and SNR; plain JSON.

    Parameters
    ----------
    catalogue : Catalogue
        Samples.
    rows : (n,) int, optional
        Of them, repeated ones counted as often, as `astrid_dist.learning.sharing.Share.rows` has them; by
        default all that are usable.

    Returns
    -------
    dict
        ``samples``; ``left_out``: those that cannot be trained on, by reason; ``synthetic`` and ``real``
        (origin not synthetic), ``synthetic_to_real`` (None without real ones); and of each trait of
        `astrid_dist.learning.sampling.TRAITS` the counts by name, the most frequent first.
    """
    columns = catalogue.columns
    chosen = np.flatnonzero(catalogue.usable) if rows is None else rows
    synthetic = int((columns["origin"][chosen] == SYNTHETIC).sum())
    real = len(chosen) - synthetic
    put = columns["injectable"]
    found: dict[str, Any] = {
        "samples": len(chosen),
        "left_out": {
            "could not be put in": int((~put).sum()),
            "weight 0": int((put & ~(columns["weight"] > 0)).sum()),
        },
        "synthetic": synthetic,
        "real": real,
        "synthetic_to_real": synthetic / real if real else None,
    }
    for trait in TRAITS:
        codes, names = traits(catalogue, Sampling(balance=(trait,)))
        counts = np.bincount(codes[chosen], minlength=len(names))
        order = [code for code in np.argsort(-counts, kind="stable") if counts[code]]
        found[trait] = {names[code]: int(counts[code]) for code in order}
    return found


def digests(catalogue: Catalogue) -> list[dict[str, Any]]:
    """Where the samples come from, group by group; plain JSON.

    Returns
    -------
    list of dict
        ``url``, ``group``, ``survey``, ``samples``; ``job``, ``created`` and ``inputs_digest`` of the job
        that made them; ``digest``: of the values, from the ledger's digests of every shard, None where there
        is no ledger beside the product.
    """
    return [_digest(group) for group in catalogue.groups]


def _digest(group: Group) -> dict[str, Any]:
    header = product_header(group.location)
    claims = sorted(_claims(group))
    return {
        "url": str(group.location),
        "group": group.name,
        "survey": group.survey,
        "samples": group.samples,
        "job": header["job"],
        "created": header["created"],
        "inputs_digest": group.digest,
        "digest": sha256(json.dumps(claims).encode()).hexdigest() if claims else None,
    }


def _claims(group: Group) -> Iterator[tuple[str, list[Any], str]]:
    """Variable, region and digest of every shard that was written of a group."""
    ledger = Ledger(group.location)
    for stage in sorted({str(job["stage"]) for job in ledger.jobs()}):
        for marker in ledger.markers(stage):
            for name, claim in marker.get("shards", {}).items():
                if name.startswith(f"{group.name}/"):
                    yield name.removeprefix(f"{group.name}/"), claim["region"], claim["sha256"]
