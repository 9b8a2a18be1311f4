"""Which samples an epoch of training has: balanced, from strong to weak, real and synthetic in a ratio."""

from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from astrid_dist.errors import InputError
from astrid_dist.learning.catalogue import Catalogue
from astrid_dist.simulation.philox import stream, uniforms
from astrid_dist.taxonomy import CODES, ORIGINS

Rows = NDArray[np.int64]

#: What samples can be balanced by.
TRAITS = ("class", "kind", "origin", "survey", "band", "snr")
#: Origin of what was made; all others were seen by a telescope.
SYNTHETIC = ORIGINS.index("synthetic")


def value_at(schedule: "Schedule", epoch: int) -> float:
    """A number, or pairs (epoch, value) between which it changes linearly, and beyond which it stays."""
    if isinstance(schedule, (int, float)):
        return float(schedule)
    epochs, values = zip(*schedule, strict=True)
    return float(np.interp(epoch, epochs, values))


def _in_order(schedule: Any) -> Any:
    if not isinstance(schedule, (int, float)):
        epochs = [epoch for epoch, _ in schedule]
        if not epochs or sorted(set(epochs)) != epochs:
            raise ValueError(f"a schedule is pairs (epoch, value) with growing epochs, not {schedule}")
    return schedule


Schedule = Annotated[float | tuple[tuple[float, float], ...], AfterValidator(_in_order)]


class Sampling(BaseModel):
    """What is drawn for an epoch of training; each usable sample once, where nothing is set."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    balance: tuple[str, ...] = Field(
        default=(), description="class, kind, origin, survey, band, snr, or several"
    )
    shares: dict[str, Annotated[float, Field(ge=0)]] = Field(
        default_factory=dict,
        description="how many samples of a value, as 'dipole' or 'dipole, ztf', where others have 1; 0: none",
    )
    repeats: int = Field(
        default=1, ge=1, description="how often a sample of a scarce kind may come in one epoch"
    )
    real: Schedule | None = Field(default=None, description="share of samples in a batch that were not made")
    snr: Schedule | None = Field(default=None, description="least signal to noise, by epoch")
    snr_edges: tuple[float, ...] = Field(default=(5.0, 10.0, 20.0, 50.0), description="bins for balance: snr")
    samples: int | None = Field(
        default=None, ge=1, description="most samples in an epoch; others come in the next"
    )

    @model_validator(mode="after")
    def _sensible(self) -> "Sampling":
        if unknown := [one for one in self.balance if one not in TRAITS]:
            raise ValueError(f"balance by {unknown} is not possible; there are {', '.join(TRAITS)}")
        if self.shares and not self.balance:
            raise ValueError("shares are given: say in `balance` of what")
        if list(self.snr_edges) != sorted(set(self.snr_edges)) or not self.snr_edges:
            raise ValueError(f"snr_edges {self.snr_edges} do not grow")
        if self.real is not None:
            values = [self.real] if isinstance(self.real, (int, float)) else [v for _, v in self.real]
            if not all(0 <= value <= 1 for value in values):
                raise ValueError(f"real is {self.real}: a share lies between 0 and 1")
        return self


@dataclass(frozen=True, eq=False)
class Stream:
    """Samples of an epoch of which every batch has the same share."""

    share: float
    rows: Rows
    """Of the catalogue, growing; a row is here as often as it comes in the epoch."""
    copies: Rows
    """How often the row came before."""


@dataclass(frozen=True, eq=False)
class Draw:
    """What an epoch has of a catalogue."""

    catalogue: Catalogue
    sampling: Sampling
    seed: int

    def streams(self, epoch: int) -> list[Stream]:
        """The samples of an epoch; which ones depends on the seed and the epoch alone.

        An epoch has as many samples as are usable, or fewer if the scarcest kind, `repeats` times over, is
        not enough for its share.

        Raises
        ------
        InputError
            Nothing is usable, or nothing of a kind that has a share.
        """
        usable = self._usable(epoch)
        codes, shares = self._cells
        drawn = []
        for fraction, mask in self._fractions(epoch, usable):
            counts = np.bincount(codes[mask], minlength=len(shares))
            wanted = np.where(counts > 0, shares, 0.0)
            if not wanted.any():
                raise InputError(
                    f"epoch {epoch}: the samples that are left have no share: {self.sampling.shares}"
                )
            drawn.append((fraction, mask, counts, fraction * wanted / wanted.sum()))
        most = min(
            float(np.min(self.sampling.repeats * counts[part > 0] / part[part > 0]))
            for _, _, counts, part in drawn
        )
        total = min(most, float(usable.sum())) * (1 + 1e-12)
        key = stream(self.seed, f"samples of epoch {epoch}")
        found = []
        for fraction, mask, counts, part in drawn:
            quota = np.where(part > 0, np.floor(total * part), 0).astype(np.int64)
            rows, copies = _copied(np.flatnonzero(mask), codes[mask], quota, counts, key)
            found.append(Stream(fraction, rows, copies))
        return found

    def _usable(self, epoch: int) -> NDArray[np.bool_]:
        """(row,) what takes part in an epoch."""
        usable = self.catalogue.usable
        if not usable.any():
            raise InputError(f"{self._all}: {len(usable)} samples, none usable: {self._why(~usable)}")
        if self.sampling.snr is None:
            return usable
        least = value_at(self.sampling.snr, epoch)
        strong = usable & ~(self._strength < least)
        if not strong.any():
            best = np.nanmax(self._strength[usable])
            raise InputError(f"epoch {epoch}: no sample has SNR {least:g}, the strongest has {best:.3g}")
        return strong

    def _fractions(self, epoch: int, usable: NDArray[np.bool_]) -> list[tuple[float, NDArray[np.bool_]]]:
        """Shares of a batch, and (row,) what each is filled with."""
        if self.sampling.real is None:
            return [(1.0, usable)]
        real = value_at(self.sampling.real, epoch)
        made = self.catalogue.columns["origin"] == SYNTHETIC
        parts = [(real, usable & ~made, "real"), (1 - real, usable & made, "synthetic")]
        for share, mask, name in parts:
            if share > 0 and not mask.any():
                raise InputError(
                    f"epoch {epoch}: {share:.0%} of the samples are to be {name}, of which {self._all} has"
                    " none usable: add a product that has, or change `real`"
                )
        return [(share, mask) for share, mask, _ in parts if share > 0]

    @cached_property
    def _strength(self) -> NDArray[np.float32]:
        """(row,) at the visit where it is largest; NaN unknown."""
        return np.asarray(np.fmax.reduce(self.catalogue.strength, axis=1))

    @cached_property
    def _cells(self) -> tuple[Rows, NDArray[np.float64]]:
        """(row,) code of what a sample is balanced by, and the share of each code."""
        if not self.sampling.balance:
            return np.zeros(len(self.catalogue), np.int64), np.ones(1)
        codes, names = traits(self.catalogue, self.sampling)
        if unknown := sorted(set(self.sampling.shares) - set(names)):
            by = ", ".join(self.sampling.balance)
            raise InputError(
                f"shares are stated for {unknown}, of which {self._all} has no sample; by {by} there are"
                f" {', '.join(names)}"
            )
        usable = self.catalogue.usable
        shares = np.array([self.sampling.shares.get(name, 1.0) for name in names])
        for code in np.flatnonzero((np.bincount(codes[usable], minlength=len(names)) == 0) & (shares > 0)):
            empty = codes == code
            raise InputError(
                f"{names[code]!r} has {empty.sum()} samples in {self._all}, none usable: {self._why(empty)};"
                f" make some, or state `shares: {{{names[code]}: 0}}`"
            )
        return codes, shares

    @property
    def _all(self) -> str:
        return ", ".join(map(str, self.catalogue.groups))

    def _why(self, rows: NDArray[np.bool_]) -> str:
        put = self.catalogue.columns["injectable"][rows]
        return f"{(~put).sum()} could not be put in, {put.sum()} have weight 0"


def traits(catalogue: Catalogue, sampling: Sampling) -> tuple[Rows, list[str]]:
    """(row,) codes of what `sampling` balances by, and their names; codes without samples are left out."""
    columns = [_trait(catalogue, name, sampling.snr_edges) for name in sampling.balance]
    sizes = [len(words) for _, words in columns]
    together = np.ravel_multi_index(
        [codes % size for (codes, _), size in zip(columns, sizes, strict=True)], sizes
    )
    found, codes = np.unique(together, return_inverse=True)
    names = [
        ", ".join(words[place] for place, (_, words) in zip(places, columns, strict=True))
        for places in zip(*np.unravel_index(found, sizes), strict=True)
    ]
    return codes.astype(np.int64), names


def _trait(catalogue: Catalogue, name: str, edges: tuple[float, ...]) -> tuple[Rows, list[str]]:
    """(row,) codes of one trait, and what they stand for."""
    columns = catalogue.columns
    if name in CODES:
        return columns[name].astype(np.int64), [*CODES[name], "unknown"]
    if name == "survey":
        return columns["survey"], ["unknown", *catalogue.surveys]
    strength = np.nan_to_num(catalogue.strength, nan=-1)
    if name == "band":
        best = strength.argmax(axis=1)[:, None]
        return np.take_along_axis(columns["band"], best, axis=1)[:, 0], ["unknown", *catalogue.bands]
    largest = strength.max(axis=1)
    codes = np.where(largest < 0, 0, 1 + np.searchsorted(edges, largest, side="right"))
    between = [f"{low:g} to {high:g}" for low, high in pairwise(edges)]
    return codes, ["unknown", f"below {edges[0]:g}", *between, f"from {edges[-1]:g}"]


def _copied(rows: Rows, codes: Rows, quota: Rows, counts: Rows, key: np.uint64) -> tuple[Rows, Rows]:
    """Exactly `quota` rows of every code, each as often as any other or once more; and how often before."""
    whole, extra = np.divmod(quota, np.maximum(counts, 1))
    by_chance = np.lexsort((uniforms(key, rows, 1)[:, 0], codes)) if extra.any() else np.argsort(codes)
    first = np.cumsum(counts) - counts
    place = np.empty(len(rows), np.int64)
    place[by_chance] = np.arange(len(rows)) - first[codes[by_chance]]
    times = whole[codes] + (place < extra[codes])
    copied = np.repeat(rows, times)
    return copied, np.arange(len(copied)) - np.repeat(np.cumsum(times) - times, times)
