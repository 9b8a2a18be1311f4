"""The samples of a training job: which groups, opened, and whether something can be learned of them."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import TYPE_CHECKING

from astrid_dist.errors import InputError
from astrid_dist.store.locations import Location
from astrid_dist.store.reading import group_names

if TYPE_CHECKING:
    from astrid_dist.learning.catalogue import Catalogue


@dataclass(frozen=True)
class Data:
    """Groups of each split, and their columns."""

    train: "Catalogue"
    validation: "Catalogue"
    test: "Catalogue | None"


def chosen_groups(
    samples: str | list[str], validation: list[str], survey: str | None
) -> tuple[list[str], list[str], list[str]]:
    """Groups to train, validate and test on, by whole URLs: workers stand in other folders."""
    named = [samples] if isinstance(samples, str) else samples
    splits: dict[str, list[str]] = {"train": [], "val": [], "test": []}
    for source in named:
        url, _, group = source.partition("#")
        location = Location.parse(url)
        for one in [group] if group else group_names(location):
            of_survey, _, split = one.partition("/")
            if survey in (None, of_survey) and (group or split in splits):
                splits["train" if group else split].append(f"{location}#{one}")
    found = [whole_source(one) for one in validation] or splits["val"]
    of = f" of {survey}" if survey else ""
    for what, there in (("train", splits["train"]), ("val", found)):
        if not there:
            raise InputError(
                f"{', '.join(named)}: no group {what!r}{of}: make some, or name groups as URL#group"
            )
    if both := sorted(set(splits["train"]) & set(found)):
        raise InputError(f"{', '.join(both)}: trained on and validated on, which would tell nothing")
    return splits["train"], found, splits["test"]


def whole_source(source: str) -> str:
    """A source of samples by its whole URL: workers and trials stand in other folders."""
    url, mark, group = source.partition("#")
    if not url:
        raise InputError(f"samples {source!r} name no product")
    return f"{Location.parse(url)}{mark}{group}"


def open_data(
    train: Sequence[str],
    validation: Sequence[str],
    test: Sequence[str],
    surveys: Sequence[str] | None = None,
    bands: Sequence[str] | None = None,
) -> Data:
    from astrid_dist.learning.catalogue import Catalogue

    def opened(names: Sequence[str]) -> Catalogue:
        return Catalogue.open(names, surveys, bands)

    return Data(opened(train), opened(validation), opened(test) if test else None)


def need_both(catalogue: "Catalogue", without: str, instead: str) -> None:
    """Raise `InputError` where what is usable is all real or all bogus."""
    real = catalogue.columns["label"][catalogue.usable] >= 0.5
    if real.all() or not real.any():
        raise InputError(
            f"{', '.join(map(str, catalogue.groups))}: {real.sum()} real and {(~real).sum()} bogus samples;"
            f" without both {without}: add samples, or {instead}"
        )


def absent_classes(catalogue: "Catalogue") -> str:
    """Which classes it has no sample of, in words; '' if it has all."""
    from astrid_dist.learning.composition import composition
    from astrid_dist.learning.unet import MODEL_CLASSES

    there = composition(catalogue)["class"]
    absent = [name for name in MODEL_CLASSES if name not in there]
    return f"no samples of {', '.join(absent)}: the model will not know them" if absent else ""


def data_digest(catalogue: "Catalogue") -> str:
    from astrid_dist.learning.composition import digests

    claims = [
        [one["group"], one["samples"], one["digest"] or one["inputs_digest"]] for one in digests(catalogue)
    ]
    return sha256(json.dumps(claims).encode()).hexdigest()[:16]
