"""The host table of a set of samples: which tiles of which epochs its stamps were cut from."""

from math import nan

import numpy as np
from numpy.typing import NDArray

from astrid_dist.stages.selection import epochs_of_quality
from astrid_dist.stages.synthetic.sets import SampleSet
from astrid_dist.stages.synthetic.settings import Settings
from astrid_dist.store.layouts import TILE
from astrid_dist.store.locations import Location
from astrid_dist.store.reading import ProductReader
from astrid_dist.store.writing import ProductWriter, ShardDigest


def write_hosts(output: Location, settings: Settings, one: SampleSet) -> dict[str, ShardDigest]:
    """Write the table whole; returns what was written, by `<group>/<variable>`."""
    hosts, names = one.hosts, np.array(one.hosts.groups, object)
    survey = Location.parse(settings.survey[one.survey])
    ids = {group: ProductReader(survey, group).read("epoch_id") for group in set(names[hosts.group].ravel())}
    epoch_id = np.array(
        [
            [ids[names[g]][e] for g, e in zip(*pair, strict=True)]
            for pair in zip(hosts.group, hosts.epoch, strict=True)
        ],
        object,
    )
    columns = {
        "host_epoch_id": epoch_id,
        "host_epoch": hosts.epoch.astype(np.int32),
        "host_mjd": hosts.mjd,
        "host_field": np.array([names[g].rpartition("/")[0] for g in hosts.group[:, 0]], object),
        "host_x": (hosts.column * TILE + (TILE - 1) / 2).astype(np.float32),
        "host_y": (hosts.row * TILE + (TILE - 1) / 2).astype(np.float32),
        "host_cell": hosts.cell,
        "host_night": hosts.night.astype(np.int32),
        "host_quality": _quality(settings, one),
        "host_groups": one.groups.astype(np.int32),
    }
    writer = ProductWriter(output, one.name)
    return {f"{one.name}/{name}": writer.write(name, {}, values) for name, values in columns.items()}


def _quality(settings: Settings, one: SampleSet) -> NDArray[np.float32]:
    """Quality of the subtraction of each host's first visit; NaN where nobody judged it."""
    found = np.full(len(one.hosts), nan, np.float32)
    if not settings.difference:
        return found
    location = Location.parse(settings.difference[one.survey])
    for number, group in enumerate(one.hosts.groups):
        reader = ProductReader(location, group)
        indices = epochs_of_quality(reader, "all")
        source = reader.read("survey_epoch", epoch=slice(0, reader.epochs))
        quality = reader.read("quality", epoch=slice(0, reader.epochs))
        known = {int(source[k]): float(quality[k]) for k in indices}
        here = one.hosts.group[:, 0] == number
        found[here] = [known.get(int(epoch), nan) for epoch in one.hosts.epoch[here, 0]]
    return found
