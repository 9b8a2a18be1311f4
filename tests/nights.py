"""A difference product of a few nights whose epochs are good and bad for known causes, tile maps included."""

import numpy as np

from astrid_dist.imaging.quality import METRICS, combine, judge
from astrid_dist.store.layouts import EPOCHS_PER_CHUNK, PRODUCTS
from astrid_dist.store.locations import Location
from astrid_dist.store.templates import commit_epochs, create_group, create_product, grow, set_state
from astrid_dist.store.writing import ProductWriter
from astrid_dist.surveys.profile import resolve_thresholds
from astrid_dist.surveys.thresholds import COLOURS

FIELDS = ("f1/g", "f2/r")
SIDE = 1536
#: 2020-01-01, evening, at a telescope where it is dark from 2 h to 13 h UTC.
FIRST_EVENING = 58849 + 1
FINE = {
    "score_std": 1.01, "score_mean": 0.0, "peaks": 30.0, "peaks_raw": 32.0, "displacement": 0.01,
    "residual_ratio": 0.03, "bad_fraction": 0.02, "depth_lost": 0.1, "limiting_mag": 20.7, "seeing": 1.8,
    "transparency": 0.98, "matched_fraction": 0.9, "n_matched": 240.0, "sky": 410.0, "sky_ratio": 1.0,
    "elongation": 1.1, "dx": 0.02,
}  # fmt: skip
TROUBLES = {
    "clouded": {"transparency": 0.3, "depth_lost": 1.3, "limiting_mag": 19.5},
    "shifted": {"displacement": 0.31, "peaks": 700.0, "residual_ratio": 0.13},
    "moonlit": {"sky_ratio": 8.0, "sky": 3300.0, "depth_lost": 0.9, "limiting_mag": 19.9},
}


def make(url, epochs=4, nights=2):
    """Write it: of every field and night `epochs` epochs, the second one in trouble, the last quarantined."""
    location = Location.parse(url)
    create_product(location, "difference")
    thresholds, rng = resolve_thresholds("ztf"), np.random.default_rng(3)
    for number, group in enumerate(FIELDS):
        sizes = {"epoch": 0, "y": SIDE, "x": SIDE, "v": 15, "u": 15}
        create_group(location, "difference", group, sizes, {"survey": "ztf", "pixel_scale_arcsec": 1.01})
        grow(location, "difference", group, epochs * nights)
        writer = ProductWriter(location, group)
        rows = []
        for index in range(epochs * nights):
            night, turn = divmod(index, epochs)
            trouble = TROUBLES[list(TROUBLES)[(night + number) % 3]] if turn == 1 else {}
            mjd = FIRST_EVENING + night + (2.5 + 10 * turn / epochs + 0.01 * number) / 24
            rows.append(_epoch(writer, index, FINE | trouble, mjd, thresholds, rng, turn == epochs - 1))
        columns = {name: [row[name] for row in rows] for name in rows[0]}
        assert len(rows) <= EPOCHS_PER_CHUNK
        writer.write_scalars(columns, 0)
        commit_epochs(location, group, len(rows))
    set_state(location, "complete")
    return str(location)


def _epoch(writer, index, metrics, mjd, thresholds, rng, quarantined):
    """Write the tile maps of one epoch; its values per epoch come from them as in the stage."""
    tiles = [{name: value * (1 + 0.01 * rng.normal()) for name, value in metrics.items()} for _ in range(9)]
    row = {
        "epoch_id": f"{index:08x}", "source": f"night/{index:03d}.fits[1]", "mjd": mjd, "fwhm": 1.8,
        "time": int((mjd - 40587) * 86400e6), "exptime": 30.0, "survey_epoch": index,
        "valid": not quarantined,
    }  # fmt: skip
    if quarantined:
        values = {f"quality_{name}": np.nan for name in METRICS}
        return row | values | {"verdict": "quarantined", "reason": "not on the grid <x>", "quality": np.nan}
    stored = [n for n, v in PRODUCTS["difference"].items() if v.dims[-1] == "tile_x" and n in METRICS]
    for name in stored:
        if name in metrics:
            plane = np.array([tile[name] for tile in tiles], np.float32).reshape(1, 3, 3)
            writer.write(name, {"epoch": slice(index, index + 1), **WHOLE}, plane)
    codes = [COLOURS.index(judge(tile, thresholds).verdict) for tile in tiles]
    writer.write(
        "tile_verdict",
        {"epoch": slice(index, index + 1), **WHOLE},
        np.array(codes, np.int8).reshape(1, 3, 3),
    )
    whole = combine([(tile, 1.0) for tile in tiles])
    judged = judge(whole, thresholds)
    values = {f"quality_{name}": whole.get(name, np.nan) for name in METRICS}
    return row | values | {"verdict": judged.verdict, "reason": judged.reason, "quality": judged.score}


WHOLE = {"tile_y": slice(0, 3), "tile_x": slice(0, 3)}
