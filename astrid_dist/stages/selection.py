"""Which groups and which epochs of a survey a job takes, resolved to epoch ids when it is planned."""

import hashlib
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from fnmatch import fnmatch
from typing import Annotated, Any

import numpy as np
from pydantic import BeforeValidator

from astrid_dist.errors import ConfigError
from astrid_dist.stages.best_epochs import best_epochs
from astrid_dist.store.locations import Location
from astrid_dist.store.reading import ProductReader, checked_attributes, group_names
from astrid_dist.surveys.thresholds import COLOURS


def _as_list(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


def _as_epochs(value: Any) -> Any:
    names = isinstance(value, list | tuple) and all(isinstance(one, str) for one in value)
    if isinstance(value, str | dict) or names:
        return value
    raise ValueError(
        f"{value!r} names no epochs: write all, best:5, or source names or epoch ids, as [a.fits, b.fits]"
    )


def _as_quality(value: Any) -> Any:
    if value in ("all", *_LEAST):
        return value
    raise ValueError(f"{value!r} is no quality: write all, or {', '.join(_LEAST)}")


#: Settings of a least verdict, and how good that is.
_LEAST = {f"min={colour}": COLOURS.index(colour) for colour in reversed(COLOURS[1:])}
#: Setting: epochs of a difference by verdict: ``all``, ``min=green``, ``min=yellow`` or ``min=orange``.
Quality = Annotated[str, BeforeValidator(_as_quality)]
#: Setting: shell patterns of ``<field>/<band>`` groups; one alone needs no brackets.
Groups = Annotated[list[str], BeforeValidator(_as_list)]
#: Setting: which epochs; a resolved job holds indices by group.
Epochs = Annotated[str | list[str] | dict[str, list[int]], BeforeValidator(_as_epochs)]

#: Scalars of an epoch that planning and tasks look at.
COLUMNS = (
    "epoch_id", "source", "time", "mjd", "exptime", "zeropoint", "fwhm", "valid", "n_stars", "verdict", "sky",
    "elongation", "psf_chi2", "limiting_mag",
)  # fmt: skip


def groups_of(location: Location, product: str, patterns: Sequence[str]) -> list[str]:
    """Names of the ``<field>/<band>`` groups that match any shell pattern, sorted.

    Raises
    ------
    ConfigError
        A pattern matches nothing; names those there are.
    IncompleteProductError
        The product is not finished (a survey may grow).
    """
    checked_attributes(location, product)
    there = list(group_names(location))
    for pattern in patterns:
        if not any(fnmatch(group, pattern) for group in there):
            close = get_close_matches(pattern, there, 3) or there[:5]
            raise ConfigError(
                f"{location} has no group like {pattern!r}; it has {', '.join(close) or 'none yet'}"
            )
    return [group for group in there if any(fnmatch(group, pattern) for pattern in patterns)]


def epoch_row(reader: ProductReader, index: int) -> dict[str, Any]:
    """Scalars of one epoch as plain Python values."""
    return {name: _plain(reader.read(name, epoch=index)) for name in COLUMNS}


def epoch_table(reader: ProductReader) -> list[dict[str, Any]]:
    """One row per committed epoch, plain Python values, with its ``index``."""
    count = reader.epochs
    columns = {name: reader.read(name, epoch=slice(0, count)).tolist() for name in COLUMNS}
    return [
        {name: values[index] for name, values in columns.items()} | {"index": index} for index in range(count)
    ]


def _plain(value: Any) -> Any:
    return value.item() if hasattr(value, "item") else value


def choose_epochs(
    reader: ProductReader, wanted: str | Sequence[str] | Mapping[str, Sequence[int]], group: str
) -> list[int]:
    """Indices of a group's epochs, in the survey's order (an index, once given, is never reused).

    Parameters
    ----------
    reader : ProductReader
        The survey's group.
    wanted : str, sequence of str or mapping
        ``"all"``; ``"best:N"``, the N deepest that are fit; source names or epoch ids (comma-separated or a
        list); or what a resolved job holds, indices by group.
    group : str
        For messages, and to look up a mapping.

    Raises
    ------
    ConfigError
        Names an epoch that is not there, is not valid, or stands for several.
    """
    if isinstance(wanted, Mapping):
        return list(wanted.get(group, []))
    valid = np.flatnonzero(reader.read("valid", epoch=slice(0, reader.epochs)))
    if not valid.size:
        raise ConfigError(f"{reader.location}/{group} has no valid epoch yet")
    if wanted == "all":
        return [int(index) for index in valid]
    if isinstance(wanted, str) and wanted.startswith("best:"):
        return best_of(reader, wanted)[0]
    rows = [row for row in epoch_table(reader) if row["valid"]]
    names = [part.strip() for part in wanted.split(",")] if isinstance(wanted, str) else list(wanted)
    return sorted({_named(rows, name, f"{reader.location}/{group}") for name in names})


def best_of(reader: ProductReader, wanted: str) -> tuple[list[int], dict[int, str]]:
    """Indices that ``best:N`` takes of a group, and why it leaves out each other valid epoch."""
    try:
        number = int(wanted.removeprefix("best:"))
    except ValueError:
        number = 0
    if number < 1:
        raise ConfigError(f"epochs={wanted!r}: write best:N with N at least 1, as best:5")
    return best_epochs(reader, [row for row in epoch_table(reader) if row["valid"]], number)


def _named(rows: Sequence[Mapping[str, Any]], name: str, where: str) -> int:
    for matches in (
        [row for row in rows if name in (row["epoch_id"], row["source"])],
        [row for row in rows if row["source"].rsplit("/", 1)[-1].split("[")[0] == name],
        [row for row in rows if name and (row["epoch_id"].startswith(name) or name in row["source"])],
    ):
        if len(matches) == 1:
            return int(matches[0]["index"])
        if matches:
            several = ", ".join(str(row["source"]) for row in matches[:4])
            raise ConfigError(
                f"{where}: {name!r} stands for {len(matches)} epochs ({several}); name one exactly"
            )
    sources = [str(row["source"]) for row in rows]
    close = get_close_matches(name, sources, 3) or sources[:5]
    raise ConfigError(
        f"{where} has no valid epoch {name!r}; it has {', '.join(close)}. "
        "Where only epochs of one group are named, say which: fields=<field>/<band>"
    )


def epochs_of_quality(reader: ProductReader, quality: str) -> list[int]:
    """Indices of a difference group's valid epochs whose verdict is at least as good as asked.

    Parameters
    ----------
    reader : ProductReader
        Group of a difference.
    quality : str
        A `Quality` setting. With ``all`` red ones are taken too, whatever their verdict.
    """
    valid = reader.read("valid", epoch=slice(0, reader.epochs))
    if quality == "all":
        return [int(index) for index in np.flatnonzero(valid)]
    verdicts = reader.read("verdict", epoch=slice(0, reader.epochs)).tolist()
    good = COLOURS[_LEAST[quality] :]
    return [index for index, verdict in enumerate(verdicts) if valid[index] and verdict in good]


def resolved(epochs: str | Sequence[str] | Mapping[str, Sequence[int]]) -> dict[str, list[int]]:
    """Indices by group of a planned job; `ConfigError` for settings that were never planned."""
    if not isinstance(epochs, Mapping):
        raise ConfigError(
            f"a planned job names its epochs by group, these settings say {epochs!r}: plan first"
        )
    return {group: list(indices) for group, indices in epochs.items()}


def epochs_digest(reader: ProductReader, indices: Sequence[int]) -> str:
    """sha256 over the epoch ids chosen: what a job depends on, however the survey grows meanwhile."""
    ids = reader.read("epoch_id", epoch=slice(0, reader.epochs))
    digest = hashlib.sha256()
    for index in indices:
        digest.update(f"{ids[index]}\n".encode())
    return digest.hexdigest()
