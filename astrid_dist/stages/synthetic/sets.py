"""Which sets of samples a job makes, and from which hosts: worked out alike by driver and workers."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from astrid_dist.errors import ConfigError
from astrid_dist.stages.blocks import field_shape
from astrid_dist.stages.selection import epochs_digest, epochs_of_quality, groups_of
from astrid_dist.stages.synthetic.catalogue import environments_of, known_kinds
from astrid_dist.stages.synthetic.host_table import (
    FieldEpochs,
    HostTable,
    hosts_of_groups,
    possible_hosts,
    split_hosts,
)
from astrid_dist.stages.synthetic.instrument import band_of_group
from astrid_dist.stages.synthetic.settings import Settings
from astrid_dist.stages.synthetic.strata import (
    Assignment,
    Stratum,
    assignment,
    environment_shares,
    largest_remainder,
    make_strata,
)
from astrid_dist.store.locations import Location
from astrid_dist.store.reading import ProductReader
from astrid_dist.store.sample_layout import SAMPLE_GROUP, STAMP
from astrid_dist.store.templates import product_header


@dataclass(frozen=True)
class SampleSet:
    """Samples of one survey and split."""

    survey: int
    """Position among the job's surveys."""
    name: str
    """``<survey>/<split>``"""
    number: int
    hosts: HostTable
    """Those that are used, in the order of use."""
    groups: NDArray[np.int64]
    """(n,) groups of samples made from each."""
    split_by: str

    def host_of(self, group: int) -> int:
        """Row of the host that a group of samples is made from."""
        return int(np.searchsorted(np.cumsum(self.groups), group, side="right"))


def resolve(settings: Settings) -> tuple[dict[str, Any], dict[str, Any]]:
    """What a job is resolved to when it is planned, and its inputs.

    Returns
    -------
    resolved : dict
        ``names`` of the surveys, ``epochs`` by survey and group.
    inputs : dict
        Digests of what it is made from.
    """
    names: list[str] = []
    epochs: list[dict[str, list[int]]] = []
    inputs: dict[str, Any] = {"surveys": []}
    for k, (url, reference_url) in enumerate(zip(settings.survey, settings.reference, strict=True)):
        survey, reference = Location.parse(url), Location.parse(reference_url)
        there = set(groups_of(reference, "reference", ["*"]))
        groups = [group for group in groups_of(survey, "survey", settings.fields) if group in there]
        if not groups:
            raise ConfigError(f"nothing to inject into: no chosen group of {survey} is in {reference}")
        chosen, digests = {}, {}
        for group in groups:
            reader = ProductReader(survey, group)
            _check_group(settings, reader, f"{survey}/{group}")
            # A job that goes on keeps its epochs, whatever has come since.
            before = settings.resolved.get("epochs")
            indices = before[k].get(group, []) if before else _epochs_of(settings, k, reader, group)
            if indices:
                chosen[group], digests[group] = indices, epochs_digest(reader, indices)
        if not chosen:
            raise ConfigError(
                f"{survey}: no epoch is valid and of quality {settings.quality}; say quality=all to use"
                " what is left on purpose"
            )
        epochs.append(chosen)
        names.append(str(ProductReader(survey, next(iter(chosen))).attributes.get("survey", "survey")))
        header = product_header(reference)
        inputs["surveys"].append(
            {
                "survey": str(survey),
                "epochs": digests,
                "reference": str(reference),
                "digest": header["digest"],
            }
        )
    for k, name in enumerate(names):
        if name in names[:k]:
            names[k] = f"{name}-{names[:k].count(name) + 1}"
    return {"names": names, "epochs": epochs}, inputs


def _check_group(settings: Settings, reader: ProductReader, where: str) -> None:
    height, width = field_shape(reader, "image")
    if min(height, width) < STAMP:
        raise ConfigError(
            f"{where} is {width} x {height} pixels, too small for a stamp of {STAMP}: choose other fields="
        )
    sizes = reader.sizes("psf")
    if min(sizes["v"], sizes["u"]) < 3:
        raise ConfigError(f"{where} has no PSF: ingest it again, sources cannot be painted without one")
    if settings.visits > 1:
        try:
            band_of_group(reader)
        except ConfigError as error:
            said = f"{where}: {settings.visits} visits need light curves; {error}, or choose other fields="
            raise ConfigError(said) from error


def _epochs_of(settings: Settings, k: int, reader: ProductReader, group: str) -> list[int]:
    """Epochs of a group that may be used, by their own validity and the verdict of their difference."""
    valid = np.flatnonzero(reader.read("valid", epoch=slice(0, reader.epochs))).tolist()
    if not settings.difference:
        return [int(index) for index in valid]
    difference = Location.parse(settings.difference[k])
    if group not in groups_of(difference, "difference", ["*"]):
        return []
    made = ProductReader(difference, group)
    good = epochs_of_quality(made, settings.quality)
    source = made.read("survey_epoch", epoch=slice(0, made.epochs))
    return sorted({int(source[index]) for index in good} & set(valid))


def sample_sets(settings: Settings) -> list[SampleSet]:
    """The sets of a resolved job, in order; nothing is read but the times of epochs."""
    return list(_sets(settings.model_dump_json()))


@lru_cache(2)
def _sets(said: str) -> tuple[SampleSet, ...]:
    settings = Settings.model_validate_json(said)
    names, epochs = settings.resolved["names"], settings.resolved["epochs"]
    splits = [name for name, share in settings.splits.items() if share > 0]
    shares = [settings.splits[name] for name in splits]
    per_survey = largest_remainder([1.0] * len(names), settings.samples)
    if settings.samples < len(splits) * len(names):
        raise ConfigError(
            f"samples={settings.samples}: {len(splits)} splits ({', '.join(splits)}) of {len(names)} surveys"
            f" need {len(splits) * len(names)} at least; give more, or splits={{train: 1}}"
        )
    made = []
    for k, name in enumerate(names):
        hosts = possible_hosts(_fields(settings, k, epochs[k]), settings.visits, settings.mix_bands)
        split, by = split_hosts(hosts, settings.splits, settings.split_by, settings.seed)
        numbers = largest_remainder(shares, int(per_survey[k]))
        if not numbers.all():  # every split gets a sample
            numbers = 1 + largest_remainder(shares, int(per_survey[k]) - len(splits))
        for one, number in zip(splits, numbers.tolist(), strict=True):
            groups = -(-number // SAMPLE_GROUP)
            what = f"{name}/{one}"
            rows = hosts_of_groups(hosts.bands, split[one], groups, settings.bands, settings.seed, what)
            used, first, count = np.unique(rows, return_index=True, return_counts=True)
            order = np.argsort(first, kind="stable")
            made.append(SampleSet(k, what, number, hosts[used[order]], count[order], by))
    return tuple(made)


def _fields(settings: Settings, k: int, epochs: Mapping[str, list[int]]) -> list[FieldEpochs]:
    survey = Location.parse(settings.survey[k])
    found = []
    for group, indices in epochs.items():
        reader = ProductReader(survey, group)
        mjd = reader.read("mjd", epoch=slice(0, reader.epochs))
        chosen = np.asarray(indices, np.int64)
        found.append(FieldEpochs(group, field_shape(reader, "image"), chosen, np.asarray(mjd)[chosen]))
    return found


def strata_of(settings: Settings) -> tuple[Stratum, ...]:
    """Strata of every set of a job."""
    kinds = settings.kinds or known_kinds()
    mix = settings.mix
    if settings.kinds and mix == Settings.model_fields["mix"].default:
        own = environments_of(settings.kinds)
        mix = {name: share for name, share in mix.items() if any(name == own[kind][0] for kind in own)}
    shares = {
        kind: environment_shares(places, settings.environments or None)
        for kind, (_, places) in environments_of(kinds).items()
    }
    return make_strata(mix, kinds, shares, settings.snr, settings.snr_bins, settings.negative)


def assignment_of(settings: Settings, name: str, number: int) -> Assignment:
    """Strata of the samples of a set."""
    return assignment(strata_of(settings), number, settings.seed, name)
