"""The pipeline on real frames, and the figures that say how well it did; shared by a test and a benchmark."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.stats import chi2

import astrid_dist as astrid
from astrid_dist.engine.serial import SerialEngine
from astrid_dist.flags import StarFlag
from astrid_dist.stages.run import run_stage


@dataclass(frozen=True)
class RealSet:
    """A set of real frames and how it is differenced."""

    name: str
    patterns: tuple[str, ...]
    reference: str | list[str]

    def paths(self, realdata: Path) -> list[str]:
        """Files of the set."""
        return [str(path) for pattern in self.patterns for path in sorted(realdata.glob(pattern))]


SETS = (
    RealSet("decam_epochs", ("decam_epochs/testcase4/images/decam",), "best:1"),
    RealSet(
        "sfft_decam",
        ("sfft_decam_obs04_obs18/input_data/*mini*",),
        [f"DEC-OBS18{letter}.mini.fits.gz" for letter in "abcde"],
    ),
)


@dataclass(frozen=True)
class Figures:
    """What the difference of one epoch says of itself."""

    group: str
    source: str
    verdict: str
    reason: str
    n_matched: int
    offset_px: tuple[float, float]
    offset_err_px: tuple[float, float]
    score_mean: float
    """On source-free pixels, before renormalisation, as `score_std`."""
    score_std: float
    peaks: int
    megapixels: float

    @property
    def density(self) -> tuple[float, float, float]:
        """Peaks of |S_corr| >= 5 per megapixel, and its 68 % Poisson interval (Garwood 1936)."""
        n = self.peaks
        low = chi2.ppf(0.16, 2 * n) / 2 if n else 0.0
        high = chi2.ppf(0.84, 2 * (n + 1)) / 2
        return n / self.megapixels, low / self.megapixels, high / self.megapixels


def difference(chosen: RealSet, realdata: Path, folder: Path) -> list[Figures]:
    """Ingest, reference, difference and detect a set; figures of every epoch outside its own reference."""
    survey, reference = str(folder / "survey.zarr"), str(folder / "reference.zarr")
    output, candidates = str(folder / "difference.zarr"), str(folder / "candidates.zarr")
    engine = SerialEngine()
    ingest = {"paths": chosen.paths(realdata), "survey": "decam", "output": survey, "field": "F"}
    run_stage("ingest", ingest, engine)
    run_stage("reference", {"survey": survey, "output": reference, "epochs": chosen.reference}, engine)
    run_stage("difference", {"survey": survey, "reference": reference, "output": output}, engine)
    run_stage("detect", {"difference": output, "output": candidates}, engine)
    found = astrid.open_candidates(candidates).to_dataframe()
    product = astrid.open_difference(output)
    templates = astrid.open_reference(reference)
    figures = []
    for group, cube in product.items():
        members = set(templates[group].attrs["reference"]["epoch_ids"])
        for epoch in range(cube.sizes["epoch"]):
            row = cube.isel(epoch=epoch)
            if str(row["epoch_id"].values) in members:
                continue
            maps = {name: float(row[name].mean()) for name in ("dx", "dy", "dx_err", "dy_err")}
            peaks = int((found["epoch_id"] == str(row["epoch_id"].values)).sum())
            figures.append(
                Figures(
                    group,
                    str(row["source"].values).rsplit("/", 1)[-1],
                    str(row["verdict"].values),
                    str(row["reason"].values),
                    int(row["n_matched"]),
                    (maps["dx"], maps["dy"]),
                    (maps["dx_err"], maps["dy_err"]),
                    float(row["score_mean"].mean()),
                    float(row["score_std"].mean()),
                    peaks,
                    float(np.isfinite(row["score"].values).sum()) / 1e6,
                )
            )
    return figures


def star_curve(folder: Path, group: str) -> tuple[float, float]:
    """Scatter and median error (fractions) of the brightest usable star's flux on the reference's scale.

    The difference's flux plus the star's own in the reference, epoch by epoch.
    """
    template = astrid.open_reference(str(folder / "reference.zarr"))[group]
    cube = astrid.open_difference(str(folder / "difference.zarr"))[group]
    flags, x, y, flux = (template[f"star_{name}"].values for name in ("flags", "x", "y", "flux"))
    height, width = template.sizes["y"], template.sizes["x"]
    unfit = int(StarFlag.SATURATED | StarFlag.EDGE | StarFlag.EXTENDED | StarFlag.SHARP)
    inside = (x > 15) & (x < width - 15) & (y > 15) & (y < height - 15) & ((flags & unfit) == 0)
    star = int(np.flatnonzero(inside)[0])
    curve = cube.astrid.light_curve(x=float(x[star]), y=float(y[star])).compute()
    total = float(flux[star]) + curve["flux"].values
    return float(np.nanstd(total) / flux[star]), float(np.nanmedian(curve["flux_err"]) / flux[star])
