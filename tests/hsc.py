"""Alert packets of the LSST pipelines (Subaru HSC, g), subtracted anew from their own PSFs and variances.

Their `psfFlux / psfFluxErr` comes from another subtraction (Alard & Lupton 1998, noise decorrelated) written
by other people: what S_corr says at the same place can be held against it.
"""

import tarfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from io import BytesIO
from pathlib import Path
from typing import Any

import fastavro
import numpy as np
from astropy.io import fits
from numpy.typing import NDArray
from scipy import ndimage

from astrid_dist.imaging import zogy
from astrid_dist.imaging.masks import noise_moments, source_free, squared
from astrid_dist.imaging.noise import neighbour_correlation, predicted_score_std

ARCHIVE = "hsc_cosmos_lsstpipe/alerts.tar.xz"
#: Seeing of these visits, pixels of 0.168 arcsec; pixels so near to the alert are not called empty.
FWHM_PX, NEAR_PX = 5.0, 8
Image = NDArray[np.float32]


@dataclass(frozen=True)
class Cutout:
    """One image of a packet."""

    image: Image
    """nJy, sky-subtracted."""
    variance: Image
    """nJy²."""
    psf: NDArray[np.float64]
    """Unit sum; sides differ."""
    place: tuple[float, float]
    """x and y of the alert, pixels."""

    @classmethod
    def read(cls, data: bytes) -> "Cutout":
        """From FITS bytes. The WCS has the alert at its reference pixel, counted from 1."""
        with fits.open(BytesIO(data)) as hdus:
            header = hdus[0].header
            image, variance = (hdus[name].data.astype(np.float32) for name in ("PRIMARY", "UNCERT"))
            psf = hdus["PSFIMAGE"].data.astype(np.float64)
        return cls(image, variance, psf, (header["CRPIX1"] - 1, header["CRPIX2"] - 1))

    @cached_property
    def sigma(self) -> float:
        """Background noise of a pixel: the variance plane away from sources, nJy."""
        return float(np.sqrt(np.median(self.variance[self.quiet])))

    @cached_property
    def quiet(self) -> NDArray[np.bool_]:
        """Source-free pixels; the half of the least variance where nearly none is."""
        found = source_free(self.image, float(np.sqrt(np.median(self.variance))), FWHM_PX)
        if np.count_nonzero(found) < 50:
            found = self.variance <= np.median(self.variance)
        return np.asarray(found)

    def boxed(self, side: int) -> NDArray[np.float64]:
        """The PSF amid zeros; its middle pixel stays the middle."""
        height, width = self.psf.shape
        return np.pad(self.psf, [((side - height) // 2,) * 2, ((side - width) // 2,) * 2])


@dataclass(frozen=True)
class Alert:
    """A packet, subtracted anew."""

    dipole: bool
    """Flagged so by the pipeline that sent it."""
    said: float
    """psfFlux / psfFluxErr of the packet."""
    said_flux: float
    """nJy, as its error."""
    said_err: float
    score: float
    """S_corr at the alert's place."""
    flux: float
    """PSF flux there, nJy."""
    flux_err: float
    contrast: float
    """Brightest template pixel within 8 px over its noise."""
    science: Cutout
    template: Cutout
    scores: Image
    quiet: NDArray[np.bool_]
    """Source-free pixels of both images away from the alert."""


def packets(realdata: Path) -> Iterator[Mapping[str, Any]]:
    """Packets by name, read from the archive as it lies."""
    with tarfile.open(realdata / ARCHIVE) as archive:
        names = sorted(name for name in archive.getnames() if name.endswith(".avro"))
        for name in names:
            stream = archive.extractfile(name)
            assert stream is not None
            yield from fastavro.reader(stream)  # type: ignore[misc]


def measure(packet: Mapping[str, Any]) -> Alert:
    """Subtract the template from the science cutout. Both are calibrated, so their flux ratio is 1."""
    new, ref = (Cutout.read(packet[f"cutout{name}"]) for name in ("Science", "Template"))
    side = max(*new.psf.shape, *ref.psf.shape) | 1  # odd
    plan = zogy.plan_subtraction(
        new.boxed(side), ref.boxed(side), new.sigma, ref.sigma, 1.0, shape=new.image.shape
    )
    made = zogy.subtract(new.image, ref.image, new.variance, ref.variance, plan)
    flux = _between_pixels(made.score * made.sigma_flux, new.place, 3)
    error = _between_pixels(made.sigma_flux, new.place, 1)
    near = np.zeros(new.image.shape, bool)
    near[round(new.place[1]), round(new.place[0])] = True
    near = squared(near, NEAR_PX)
    source = packet["diaSource"]
    return Alert(
        bool(source["isDipole"]),
        source["psfFlux"] / source["psfFluxErr"],
        source["psfFlux"],
        source["psfFluxErr"],
        flux / error,
        flux,
        error,
        float(ref.image[near].max() / ref.sigma),
        new,
        ref,
        made.score,
        new.quiet & ref.quiet & ~near,
    )


def _between_pixels(image: Image, place: tuple[float, float], order: int) -> float:
    x, y = place
    return float(ndimage.map_coordinates(image.astype(np.float64), [[y], [x]], order=order)[0])


@dataclass(frozen=True)
class Noise:
    """Of all cutouts together, away from alerts and from what the template shows."""

    correlation_n: float
    """Of neighbouring pixels, science."""
    correlation_r: float
    std_n: float
    """Of pixels, in units of what their variance plane says."""
    std_r: float
    score_std: float
    predicted_std: float
    """Of the score, from the four figures above."""


def noise_of(alerts: list[Alert]) -> Noise:
    """Correlation of neighbours in the given images, and what it does to S_corr."""
    empty = _mosaic([one.quiet & _blank(one.template) for one in alerts], False)
    planes = {
        name: _mosaic([getattr(one, name).image / getattr(one, name).sigma for one in alerts], np.nan)
        for name in ("science", "template")
    }
    correlations = [neighbour_correlation(plane, empty) for plane in planes.values()]
    spreads = [noise_moments(plane, empty)[1] for plane in planes.values()]
    predicted = []
    for one in alerts[::10]:
        side = max(*one.science.psf.shape, *one.template.psf.shape) | 1
        psfs = [cutout.boxed(side).astype(np.float32) for cutout in (one.science, one.template)]
        sigmas = one.science.sigma, one.template.sigma
        real = [told * spread for told, spread in zip(sigmas, spreads, strict=True)]
        predicted.append(predicted_score_std(*psfs, *sigmas, 1.0, *correlations, *real))  # type: ignore[misc]
    score_std = noise_moments(_mosaic([one.scores for one in alerts], np.nan), empty)[1]
    return Noise(*correlations, *spreads, score_std, float(np.median(predicted)))


def _blank(template: Cutout) -> NDArray[np.bool_]:
    """Pixels where a deep template, smoothed by its seeing, shows less than 3 sigma."""
    width = FWHM_PX / 3
    smooth = ndimage.gaussian_filter(template.image, width) * np.float32(2 * np.sqrt(np.pi) * width)
    return np.asarray(np.abs(smooth) < 3 * template.sigma)


def _mosaic(images: list[NDArray[Any]], between: float) -> NDArray[Any]:
    """Images of any shape in one column with a gap between them, so that no pixel has a false neighbour."""
    width = max(one.shape[1] for one in images)
    return np.concatenate(
        [np.pad(one, [(0, 10), (0, width - one.shape[1])], constant_values=between) for one in images]
    )


@dataclass(frozen=True)
class Agreement:
    """How S_corr and the packets' significance compare over some alerts."""

    n: int
    ratio: float
    """Median of |S_corr| over |psfFlux / psfFluxErr|."""
    correlation: float
    """Of the two absolute values."""
    signs: float
    """Share with the same sign."""
    within: float
    """Share whose ratio lies within 20 % of 1."""
    error_ratio: float
    """Median of our flux error over theirs."""


def agreement(alerts: list[Alert]) -> Agreement:
    """Compare some alerts."""
    ours, theirs = (np.array([getattr(one, name) for one in alerts]) for name in ("score", "said"))
    ratio = np.abs(ours / theirs)
    return Agreement(
        len(alerts),
        float(np.median(ratio)),
        float(np.corrcoef(np.abs(ours), np.abs(theirs))[0, 1]),
        float(np.mean(ours * theirs > 0)),
        float(np.mean(np.abs(ratio - 1) < 0.2)),
        float(np.median([one.flux_err / one.said_err for one in alerts])),
    )
