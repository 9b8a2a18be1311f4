"""What a mock exposure really holds: one row for every changing object in every epoch."""

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from astrid_dist.simulation.mock import Scene, defects_at, make_header, sources_at
from astrid_dist.simulation.sources import Source
from astrid_dist.simulation.survey import Conditions, MockSurvey, conditions

Array = NDArray[np.float64]

#: An object this close to the frame's edge is not injectable: its stamp would be cut, pixels.
INJECTABLE_EDGE_PX = 12.0
_ARTIFACT_KINDS = {"cosmic_ray": "muon track", "bad_pixel": "hot pixel"}
#: Half side of the stamp on which the SNR is summed, in FWHM.
_SNR_STAMP = 3.0


def truth_rows(survey: MockSurvey, scene: Scene, field: int, band: str, epoch: int) -> dict[str, Any]:
    """Columns of the truth about one epoch, one row per object on the grid.

    An object that does not shine yet has ``flux`` 0 and ``mag`` NaN: such rows say what a template
    holds, so the flux to expect in a difference follows from the rows of its epochs
    (`difference_flux`). ``snr`` is that of the object's whole flux in this exposure. Cosmic rays and
    hot pixels follow, never injectable, with their charge as ``flux``; ``mag`` and ``snr`` are NaN.

    Returns
    -------
    dict of equally long arrays
        ``id, epoch, mjd, x, y, ra, dec, flux, mag, snr, class, kind, host, injectable``; x, y on the
        field's grid, flux in electrons of this exposure.
    """
    rows = _source_rows(survey, scene, field, band, epoch)
    artifacts = _artifact_rows(survey, field, band, epoch)
    return {name: np.concatenate([rows[name], artifacts[name]]) for name in rows}


def _source_rows(survey: MockSurvey, scene: Scene, field: int, band: str, epoch: int) -> dict[str, Any]:
    state = conditions(survey, field, band, epoch)
    found = sources_at(survey, scene, field, epoch)
    places = np.array([source.position(state.mjd) for source in found]).reshape(-1, 2)
    on_grid = np.flatnonzero(((places > -0.5) & (places < survey.size_px - 0.5)).all(axis=1))
    found, places = [found[k] for k in on_grid], places[on_grid]
    magnitude = np.array([source.magnitude(band, state.mjd) for source in found], dtype=np.float64)
    flux = np.asarray(10 ** (-0.4 * (magnitude - state.zeropoint)))
    flux[flux < 1e-3] = 0.0
    ra, dec = sky_position(survey, field, places[:, 0], places[:, 1])
    u, v = state.to_frame(places[:, 0], places[:, 1])
    edge = np.minimum.reduce([u, v, survey.size_px - 1 - u, survey.size_px - 1 - v])
    snr, peak = _signal(survey, scene, band, state, found, u, v, flux)
    return {
        "id": np.array([source.id for source in found], dtype=np.int64),
        "epoch": np.full(len(found), epoch, dtype=np.int32),
        "mjd": np.full(len(found), state.mjd),
        "x": places[:, 0],
        "y": places[:, 1],
        "ra": ra,
        "dec": dec,
        "flux": flux.astype(np.float32),
        "mag": np.where(flux > 0, magnitude, np.nan).astype(np.float32),
        "snr": snr.astype(np.float32),
        "class": np.array([source.classification for source in found], dtype=object),
        "kind": np.array([source.kind for source in found], dtype=object),
        "host": np.array([f"g{s.host:04d}" if s.host >= 0 else "" for s in found], dtype=object),
        "injectable": (edge > INJECTABLE_EDGE_PX) & (peak < survey.gain * survey.saturation_dn),
    }


def _artifact_rows(survey: MockSurvey, field: int, band: str, epoch: int) -> dict[str, Any]:
    state = conditions(survey, field, band, epoch)
    parts = []
    for number, (name, defects) in enumerate(defects_at(survey, field, band, epoch).items()):
        x, y = state.to_grid(defects.x, defects.y)
        ra, dec = sky_position(survey, field, x, y)
        n = len(x)
        first = 10**9 * (2 + number) + 10**6 * field + 10**3 * epoch
        parts.append(
            {
                "id": first + np.arange(n, dtype=np.int64),
                "epoch": np.full(n, epoch, dtype=np.int32),
                "mjd": np.full(n, state.mjd),
                "x": x,
                "y": y,
                "ra": ra,
                "dec": dec,
                "flux": defects.charge.astype(np.float32),
                "mag": np.full(n, np.nan, np.float32),
                "snr": np.full(n, np.nan, np.float32),
                "class": np.full(n, name, dtype=object),
                "kind": np.full(n, _ARTIFACT_KINDS[name], dtype=object),
                "host": np.full(n, "", dtype=object),
                "injectable": np.zeros(n, dtype=bool),
            }
        )
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def sky_position(survey: MockSurvey, field: int, x: ArrayLike, y: ArrayLike) -> tuple[Array, Array]:
    """ICRS degrees of places on a field's grid (its first epoch's tangent plane)."""
    from astropy.io.fits import Header
    from astropy.wcs import WCS

    cards = make_header(survey, field, survey.bands[0], 0)
    wcs = WCS(Header([(keyword, value) for keyword, (value, _) in cards.items()]))
    ra, dec = wcs.all_pix2world(np.asarray(x), np.asarray(y), 0)
    return np.asarray(ra), np.asarray(dec)


def difference_flux(
    magnitudes: ArrayLike, template_magnitudes: ArrayLike, weights: ArrayLike, zeropoint: float
) -> Array:
    """Flux to expect in a difference image, in electrons at a zero point.

    Parameters
    ----------
    magnitudes : (object,) array_like
        True magnitudes in the science epoch; NaN where there is no light.
    template_magnitudes : (template epoch, object) array_like
        The same in the epochs that the template was made of; NaN as above.
    weights : (template epoch,) array_like
        Their weights in the template, summing to 1.
    zeropoint : float
        AB magnitude of 1 electron on the difference's flux scale; 23.9 gives microjansky.
    """
    science = 10 ** (-0.4 * (np.asarray(magnitudes, dtype=np.float64) - zeropoint))
    template = 10 ** (-0.4 * (np.asarray(template_magnitudes, dtype=np.float64) - zeropoint))
    mean = np.tensordot(np.asarray(weights, dtype=np.float64), np.nan_to_num(template), axes=1)
    return np.asarray(np.nan_to_num(science) - mean)


def _signal(
    survey: MockSurvey,
    scene: Scene,
    band: str,
    state: Conditions,
    found: list[Source],
    x: Array,
    y: Array,
    flux: Array,
) -> tuple[Array, Array]:
    """SNR by optimal photometry (Horne 1986) and peak electrons of each source in its frame.

    The noise is that of sky, read-out, the source, the constant stars and its host. A trail counts as a point
    source, which overstates its SNR by some 10% at a length of one FWHM.
    """
    step = np.arange(-np.ceil(_SNR_STAMP * state.psf.fwhm_px), np.ceil(_SNR_STAMP * state.psf.fwhm_px) + 1)
    dy, dx = np.meshgrid(step, step, indexing="ij")
    profile = state.psf(dx, dy)
    star_x, star_y = state.to_frame(scene.stars.x, scene.stars.y)
    star_flux = 10 ** (-0.4 * (scene.stars.magnitude(band) - state.zeropoint))
    galaxies = scene.galaxies
    snr, peak = np.zeros(len(found)), np.zeros(len(found))
    for k, source in enumerate(found):
        # faint stars matter only when close: a bright one's wings reach far
        near = np.hypot(star_x - x[k], star_y - y[k]) < 8 * state.psf.fwhm_px * (1 + star_flux / 3e5)
        light = np.full(dx.shape, state.sky)
        for s in np.flatnonzero(near):
            light += star_flux[s] * state.psf(dx + x[k] - star_x[s], dy + y[k] - star_y[s])
        if source.host >= 0:
            u, v = state.to_frame(galaxies.x[source.host], galaxies.y[source.host])
            host_flux = 10 ** (-0.4 * (galaxies.magnitude(band)[source.host] - state.zeropoint))
            light += host_flux * galaxies.light_at(source.host, dx + x[k] - u, dy + y[k] - v, state.psf)
        total = light + flux[k] * profile
        snr[k] = flux[k] * np.sqrt(np.sum(profile**2 / (total + survey.read_noise**2)))
        peak[k] = total.max()
    return snr, peak
