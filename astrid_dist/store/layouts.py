"""What each product holds: its variables, their dimensions, units and fill values, and how they are cut.

A shard is the unit of writing, a chunk the unit of reading. Images are cut into chunks of 256 pixels within
shards of at most 2048; everything else is small, so that one chunk is what one task writes.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

from astrid_dist.errors import ConfigError
from astrid_dist.flags import Flag, StarFlag, cf_attributes
from astrid_dist.store import sample_layout
from astrid_dist.taxonomy import CLASSES, CODES, cf_bits, cf_codes

#: Version of the layouts; a reader refuses a product of another one.
VERSION = 2
#: Side of a chunk, of the largest shard, of a quality tile and of a background mesh cell, pixels.
CHUNK, SHARD, TILE, MESH_BOX = 256, 2048, 512, 64
#: Stars kept per epoch.
STARS = 2000
#: Epochs in a chunk of the committed scalars, rows in a chunk of a table.
EPOCHS_PER_CHUNK, ROWS_PER_CHUNK = 4096, 65536

TIME_UNITS = "microseconds since 1970-01-01"
_FILLS: dict[str, Any] = {"f": float("nan"), "i": -1, "b": False, "s": ""}

Sizes = Mapping[str, int]


@dataclass(frozen=True)
class Variable:
    """One variable of a product."""

    name: str
    dims: tuple[str, ...]
    """Names of its dimensions, outermost first."""
    dtype: str
    """NumPy type without byte order (always little-endian), or ``string``."""
    unit: str
    """CF ``units``; empty for none, ``1`` for a pure number."""
    long_name: str
    fill: Any = None
    """Value of what was never written; set from the type unless given."""

    @property
    def fill_value(self) -> Any:
        """NaN for floats, -1 for signed integers, NO_DATA for masks, False, or the empty string."""
        return _FILLS[self.dtype[0]] if self.fill is None else self.fill

    @property
    def is_image(self) -> bool:
        """Whether it covers the pixels, and is sharded."""
        return "y" in self.dims or (self.is_sample and "v" in self.dims)

    @property
    def is_sample(self) -> bool:
        """Whether it belongs to the samples of a shard, and is cut where they are."""
        return self.dims[0] == "sample"

    @property
    def is_scalar(self) -> bool:
        """Whether it is one value per epoch, written by the committer alone."""
        return self.dims == ("epoch",)

    @property
    def attributes(self) -> dict[str, Any]:
        """CF attributes."""
        found: dict[str, Any] = {"long_name": self.long_name}
        if self.unit:
            found["units"] = self.unit
        if self.name == "time":
            found["calendar"] = "proleptic_gregorian"
        bits = {"mask": Flag, "star_flags": StarFlag}.get(self.name)
        if self.is_sample and self.name in CODES:
            return found | cf_codes(self.name)
        if self.name == "target":
            return found | cf_bits()
        return found | (cf_attributes(bits) if bits else {})

    def shape(self, sizes: Sizes) -> tuple[int, ...]:
        """Length of each dimension."""
        return tuple(sizes[dim] for dim in self.dims)

    def chunks(self, sizes: Sizes) -> tuple[int, ...]:
        """Length of a chunk along each dimension."""
        if self.is_sample and self.is_image:
            return (sizes["sample_chunk"], *(max(1, sizes[dim]) for dim in self.dims[1:]))
        if self.is_image:
            return tuple(1 if dim == "epoch" else CHUNK for dim in self.dims)
        return self.units(sizes)

    def units(self, sizes: Sizes) -> tuple[int, ...]:
        """Length of the unit of writing along each dimension: a shard of an image, else one chunk."""
        if self.is_scalar:
            return (EPOCHS_PER_CHUNK,)
        return tuple(_unit(dim, sizes) for dim in self.dims)


def _unit(dim: str, sizes: Sizes) -> int:
    """How much of a dimension one task writes."""
    if dim == "epoch":
        return 1
    if dim == "sample":
        return sizes["sample_shard"]
    if dim in ("candidate", "object"):
        return ROWS_PER_CHUNK
    if dim == "host":
        return max(1, min(ROWS_PER_CHUNK, sizes[dim]))
    axis = dim[-1]
    shard = min(SHARD, -(-sizes[axis] // CHUNK) * CHUNK) if axis in ("y", "x") else 0
    if dim in ("y", "x"):
        return shard
    if dim in ("tile_y", "tile_x"):
        return -(-shard // TILE)
    if dim in ("mesh_y", "mesh_x"):
        return shard // MESH_BOX
    return max(1, sizes[dim])


def complete_sizes(sizes: Sizes) -> dict[str, int]:
    """The sizes given, and those that follow from them: stars, tiles, mesh cells, shards of samples."""
    derived = (sample_layout.cuts(sizes) if "sample" in sizes else {}) | dict(sizes)
    for axis in ("y", "x"):
        if axis in sizes:
            derived[f"tile_{axis}"] = -(-sizes[axis] // TILE)
            derived[f"mesh_{axis}"] = -(-sizes[axis] // MESH_BOX)
    return {"star": STARS} | derived


def variables(product: str) -> dict[str, Variable]:
    """Variables of a product by name.

    Raises
    ------
    ConfigError
        If there is no such product.
    """
    if product not in PRODUCTS:
        raise ConfigError(f"no product is called {product!r}{close(product, PRODUCTS)}")
    return PRODUCTS[product]


def variable(product: str, name: str) -> Variable:
    """One variable of a product; a table may hold more columns: p_*, feature_*, and those of `OPTIONAL`.

    Raises
    ------
    ConfigError
        If the product has no such variable; names close matches.
    """
    there = variables(product)
    if name in there:
        return there[name]
    if product == "candidates" and name in OPTIONAL:
        return OPTIONAL[name]
    if product == "candidates" and name.startswith(("p_", "feature_")):
        return Variable(name, ("candidate",), "f4", "1", name.replace("_", " "))
    raise ConfigError(f"a {product} product has no variable {name!r}{close(name, there)}")


def close(name: str, there: Any) -> str:
    """The end of an error message: names like the one that is missing, or some of those there are."""
    names = [str(one) for one in there]
    found = get_close_matches(name, names, 3)
    if found:
        return f"; did you mean {' or '.join(map(repr, found))}?"
    return f"; it has {', '.join(sorted(names)[:8])}{', ...' if len(names) > 8 else ''}" if names else ""


def _table(dims: str, rows: str) -> list[Variable]:
    """Variables from lines of: name | dtype | unit | long name, all of one kind of dimensions."""
    found = []
    for line in rows.strip().splitlines():
        name, dtype, unit, long_name = (part.strip() for part in line.split("|"))
        fill = int(Flag.NO_DATA) if name == "mask" else 0 if dtype[0] == "u" else None
        found.append(Variable(name, tuple(dims.split()), dtype, unit, long_name, fill))
    return found


_IMAGES = """
    image | f4 | electron | counts of the exposure, sky included
    variance | f4 | electron2 | variance of image
    mask | u2 | | why a pixel cannot be trusted
"""
_PSF = "psf | f4 | 1 | point spread function, Legendre terms; the first sums to oversampling squared"
_SKY = """
    background | f4 | electron | sky level in a mesh cell of the whole frame
    background_rms | f4 | electron | sky noise in a mesh cell
"""
_STARS = """
    star_x | f8 | pixel | column of a star, brightest first
    star_y | f8 | pixel | row of a star
    star_flux | f4 | electron | flux of a star
    star_flux_err | f4 | electron | standard error of star_flux
    star_flags | u2 | | why a star is left out of PSF, matching or flux ratio
"""
_EPOCH = f"""
    epoch_id | string | | sha256 of shape, type and raw pixels before calibration
    source | string | | where the exposure came from
    time | i8 | {TIME_UNITS} | mid-exposure, UTC
    mjd | f8 | d | mid-exposure, modified Julian date, UTC
    exptime | f4 | s | exposure time
    zeropoint | f8 | mag | AB magnitude of one electron
    fwhm | f4 | pixel | full width at half maximum of the PSF
    valid | bool | | whether the epoch may be used
    verdict | string | | good, or what is wrong with it
    reason | string | | why it was set aside
"""
_TILES = """
    sigma_n | f4 | electron | noise of the science image
    sigma_r | f4 | electron | noise of the reference
    flux_ratio | f4 | 1 | flux scale of science over reference
    flux_ratio_err | f4 | 1 | standard error of flux_ratio
    F_S | f4 | 1 | normalisation of the score, ZOGY eq. 42
    dx | f4 | pixel | science minus reference, columns
    dy | f4 | pixel | science minus reference, rows
    dx_err | f4 | pixel | standard error of dx
    dy_err | f4 | pixel | standard error of dy
    offset_scatter | f4 | pixel | scatter of single stars in excess of centroid noise
    residual_sky | f4 | electron | median level taken out of the difference
    renormalisation | f4 | 1 | empirical factor applied to the score
    kernel_radius_px | f4 | pixel | reach of no data through the matched filter
    score_mean | f4 | 1 | mean of the raw score away from sources
    score_std | f4 | 1 | standard deviation of the raw score away from sources
    n_peaks | i4 | 1 | peaks of the score above threshold
    n_peaks_raw | i4 | 1 | the same before renormalisation
    flux_ratio_scatter | f4 | 1 | scatter of flux_ratio between stars beyond their noise, a fraction
    n_tile_stars | i4 | 1 | matched stars in the tile
    fwhm_n | f4 | pixel | full width at half maximum of the science PSF
    fwhm_r | f4 | pixel | full width at half maximum of the reference PSF
    correlation_n | f4 | 1 | correlation of the noise of neighbouring pixels, science
    correlation_r | f4 | 1 | correlation of the noise of neighbouring pixels, reference
    psf_chi2 | f4 | 1 | chi squared per degree of freedom of the PSF stars of the epoch
    match_chi2 | f4 | 1 | chi squared of star pixels in the difference
    displacement | f4 | pixel | displacement that stars still have in the difference
    psf_width_error | f4 | 1 | error of the PSF's width that stars show in the difference
    flux_left | f4 | 1 | flux that stars still have in the difference, of their own
    residual_ratio | f4 | 1 | light that stars leave in the difference, of their own
    residual_ratio_std | f4 | 1 | standard deviation of residual_ratio over stars
    bad_fraction | f4 | 1 | pixels without data, of all
    saturated_fraction | f4 | 1 | saturated and bleeding pixels, of all
    limiting_mag | f4 | mag | AB magnitude of a point source of SNR 5 in the difference
    limiting_flux | f4 | electron | flux of a point source of SNR 5 in the difference
    refined | i1 | 1 | whether the PSF of the pair was refined by its own stars
    tile_quality | f4 | 1 | quality of the tile, 0 to 1
    tile_verdict | i1 | | 0 red, 1 orange, 2 yellow, 3 green
"""
#: Metrics of a subtraction, as `astrid_dist.imaging.quality.METRICS` has them.
_QUALITY = """
    quality_score_std | f4 | 1 | standard deviation of the raw score away from sources
    quality_score_mean | f4 | 1 | mean of the raw score away from sources
    quality_peaks | f4 | Mpix-1 | peaks of S_corr above 5 per megapixel
    quality_peaks_raw | f4 | Mpix-1 | the same before renormalisation
    quality_displacement | f4 | pixel | displacement that stars still have in the difference
    quality_residual_ratio | f4 | 1 | light that stars leave in the difference, of their own
    quality_bad_fraction | f4 | 1 | pixels without usable data, of all
    quality_depth_lost | f4 | mag | nominal depth minus the difference's
    quality_transparency | f4 | 1 | flux ratio per ratio of exposure times
    quality_matched_fraction | f4 | 1 | matched stars, of those that could be
    quality_residual_ratio_std | f4 | 1 | standard deviation of residual_ratio over stars
    quality_match_chi2 | f4 | 1 | chi squared of star pixels in the difference
    quality_psf_width_error | f4 | 1 | error of the PSF's width that stars show in the difference
    quality_flux_left | f4 | 1 | flux that stars still have in the difference, of their own
    quality_dx | f4 | pixel | science minus reference, columns, before correction
    quality_dy | f4 | pixel | science minus reference, rows, before correction
    quality_offset_scatter | f4 | pixel | scatter of single stars in excess of centroid noise
    quality_flux_ratio | f4 | 1 | flux scale of science over reference
    quality_flux_ratio_scatter | f4 | 1 | scatter of flux_ratio between stars beyond their noise, a fraction
    quality_saturated_fraction | f4 | 1 | saturated and bleeding pixels, of all
    quality_limiting_mag | f4 | mag | AB magnitude of a point source of SNR 5 in the difference
    quality_seeing | f4 | arcsec | full width at half maximum of the science PSF
    quality_fwhm_n | f4 | pixel | full width at half maximum of the science PSF
    quality_elongation | f4 | 1 | major over minor axis of the science PSF
    quality_psf_chi2 | f4 | 1 | chi squared per degree of freedom of the PSF stars
    quality_n_matched | f4 | 1 | stars matched between science and reference
    quality_sky | f4 | electron | sky level of the science image
    quality_sky_ratio | f4 | 1 | sky per second over the field's median
    quality_sky_gradient | f4 | 1 | range of the sky over the image, in its noise per pixel
    quality_renormalisation | f4 | 1 | empirical factor applied to the score
    quality_correlation_n | f4 | 1 | correlation of the noise of neighbouring pixels, science
    quality_correlation_r | f4 | 1 | correlation of the noise of neighbouring pixels, reference
"""

#: Probabilities of each class that a network tells apart.
_CLASS_ROWS = "\n".join(
    f"p_{name} | f4 | 1 | probability of being {name.replace('_', ' ')}, of all classes"
    for name in CLASSES[:-1]
)


def _group(product: list[list[Variable]]) -> dict[str, Variable]:
    return {one.name: one for part in product for one in part}


PRODUCTS: dict[str, dict[str, Variable]] = {
    "survey": _group(
        [
            _table("epoch y x", _IMAGES),
            _table("epoch psf_term v u", _PSF),
            _table("epoch mesh_y mesh_x", _SKY),
            _table("epoch star", _STARS),
            _table("epoch", _EPOCH),
            _table(
                "epoch",
                """
                gain | f4 | electron / count | electrons per raw count
                read_noise | f4 | electron | read noise
                gain_estimated | bool | | whether the gain was measured in the pixels, for want of a header's
                sky | f4 | electron | median sky level
                n_stars | i4 | 1 | stars in the star list
                elongation | f4 | 1 | major over minor axis of the PSF
                psf_chi2 | f4 | 1 | median chi squared per degree of freedom of the PSF stars
                psf_stars | i4 | 1 | stars the PSF was made of; 0 where it is a Moffat
                limiting_mag | f4 | mag | AB magnitude of a point source of SNR 5
                bad_fraction | f4 | 1 | pixels without data, of all
                """,
            ),
            _table("epoch v u", "psf_residual | f4 | 1 | mean of what PSF stars leave, parts of their flux"),
            _table("epoch tile_y tile_x", "psf_chi2_map | f4 | 1 | chi squared of PSF stars in a tile"),
        ]
    ),
    "reference": _group(
        [
            _table("y x", _IMAGES),
            _table("y x", "n_epochs | u2 | 1 | epochs that entered the pixel"),
            _table("psf_term v u", _PSF),
            _table("mesh_y mesh_x", _SKY),
            _table("star", _STARS),
        ]
    ),
    "difference": _group(
        [
            _table(
                "epoch y x",
                """
                difference | f4 | electron | science minus reference, on the reference's flux scale
                score | f4 | 1 | S_corr, signed significance of a point source
                sigma_flux | f4 | electron | standard error of the PSF flux; score times it is that flux
                mask | u2 | | why a pixel cannot be trusted
                """,
            ),
            _table("epoch tile_y tile_x v u", "psf_d | f4 | 1 | point spread function of difference"),
            _table("epoch tile_y tile_x", _TILES),
            _table("epoch", _EPOCH),
            _table(
                "epoch",
                """
                survey_epoch | i4 | | index of the epoch in the survey
                quality | f4 | 1 | quality of the subtraction, 0 to 1
                n_matched | i4 | 1 | stars matched between science and reference
                reference_weight | f4 | 1 | weight of the epoch in its own reference; 0: no part of it
                """,
            ),
            _table("epoch", _QUALITY),
        ]
    ),
    "samples": _group([_table(dims, rows) for dims, rows in sample_layout.ROWS.items()]),
    "candidates": _group(
        [
            _table(
                "candidate",
                f"""
                x | f8 | pixel | column
                y | f8 | pixel | row
                ra | f8 | degree | right ascension, ICRS
                dec | f8 | degree | declination, ICRS
                x_err | f4 | pixel | standard error of x
                y_err | f4 | pixel | standard error of y
                field | string | | field
                band | string | | band
                epoch_id | string | | epoch it was found in
                source | string | | where that exposure came from
                epoch | i4 | | index of the epoch in the difference product
                time | i8 | {TIME_UNITS} | mid-exposure, UTC
                mjd | f8 | d | mid-exposure, modified Julian date, UTC
                flux | f4 | | PSF flux on the difference, in flux_unit
                flux_err | f4 | | standard error of flux, in flux_unit
                flux_unit | string | | uJy where a zero point is known, else electron
                snr | f4 | 1 | S_corr at the peak, signed
                chi2 | f4 | 1 | PSF fit, chi squared per degree of freedom
                mask | u2 | | mask bits within two pixels; trail on a streak
                fwhm | f4 | pixel | full width at half maximum on the difference
                fwhm_ratio | f4 | 1 | fwhm over that of the difference's PSF
                seeratio | f4 | 1 | fwhm over that of the science PSF
                aperture_flux | f4 | | flux within one PSF FWHM, aperture corrected, in flux_unit
                ixx | f4 | pixel2 | second moment along columns
                iyy | f4 | pixel2 | second moment along rows
                ixy | f4 | pixel2 | mixed second moment
                elongation | f4 | 1 | major over minor axis
                position_angle | f4 | degree | of the major axis, from +x to +y
                minor_ratio | f4 | 1 | width along the minor axis over that of the PSF
                spread_model | f4 | 1 | extent: 0 a point source, negative sharper, positive wider
                peak_ratio | f4 | 1 | brightest pixel over what the PSF fit says there
                dchi2_hit | f4 | 1 | chi squared that a particle hit saves against the PSF
                dipole_separation | f4 | pixel | between the lobes of the best positive-negative pair
                dipole_fraction | f4 | 1 | flux of the opposite lobe in the sum of both
                dipole_dchi2 | f4 | 1 | chi squared that a pair saves against one source
                translient | f4 | 1 | Z2 over S2: above 1 a shift explains more than a change of flux
                opposite_distance | f4 | pixel | to the nearest peak of the other sign, to 16 px
                opposite_ratio | f4 | 1 | its strength over this one's
                nneg | i2 | 1 | pixels of the other sign in 5 x 5
                nbad | i2 | 1 | pixels without data in 5 x 5
                sumrat | f4 | 1 | sum of pixels over sum of their absolute values in 5 x 5
                dsnrms | f4 | 1 | pixel of the difference over its noise
                ssnrms | f4 | 1 | PSF flux over its error from sky noise alone
                bad_distance | f4 | pixel | to the nearest pixel without usable signal, at most 16
                edge_distance | f4 | pixel | to the border of the field
                star_distance | f4 | pixel | to the nearest star of the reference's list
                star_ratio | f4 | 1 | flux of that star over this one's
                star_mag | f4 | mag | AB magnitude of that star
                streak_length | f4 | pixel | length of a trail
                streak_angle | f4 | degree | of a trail, from +x to +y
                streak_flux | f4 | | flux of a trail, in flux_unit
                found_by | string | | score: a peak of S_corr; model: of its pixels alone
                p_real | f4 | 1 | probability of being real
                uncertainty | f4 | 1 | entropy of p_real, nats: 0 is sure, 0.69 open
                aleatoric | f4 | 1 | entropy of p_unet, nats: the part that all networks tell
                epistemic | f4 | 1 | the rest, on which networks disagree; NaN of one that was asked once
                p_unet | f4 | 1 | probability of being real that the network says
                p_trees | f4 | 1 | probability of being real that trees on the other columns say
                {_CLASS_ROWS}
                model_x | f8 | pixel | column where the network sees it
                model_y | f8 | pixel | row where the network sees it
                model_position_err | f4 | pixel | standard error of model_x and model_y, each
                object | i8 | | detections at one position share it
                """,
            )
        ]
    ),
    "truth": _group(
        [
            _table(
                "object",
                """
                id | i8 | | number of the object
                source | string | | file it was put into
                epoch | i4 | | epoch it was put into
                field | string | | field
                band | string | | band
                mjd | f8 | d | mid-exposure, modified Julian date, UTC
                x | f8 | pixel | column
                y | f8 | pixel | row
                ra | f8 | degree | right ascension, ICRS
                dec | f8 | degree | declination, ICRS
                flux | f4 | electron | flux put in, signed
                mag | f4 | mag | AB magnitude
                snr | f4 | 1 | true signal to noise, its own shot noise included
                class | string | | class of the taxonomy
                kind | string | | population or artifact
                host | string | | host galaxy, if any
                injectable | bool | | whether it counts in completeness
                """,
            )
        ]
    ),
}

#: Columns of candidates that are there only where they mean something.
OPTIONAL: Mapping[str, Variable] = {
    one.name: one
    for one in _table(
        "candidate", "accepted | bool | | p_real reaches the threshold that limits false positives per image"
    )
}

#: Products that are one table at their root.
TABLES = frozenset({"candidates", "truth"})
