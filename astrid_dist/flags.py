"""Bits of the data masks and of star lists, one table for every layer."""

from enum import IntFlag


class Flag(IntFlag):
    """Why a pixel cannot be trusted; stored as ``uint16`` in every product's ``mask``."""

    NO_DATA = 1
    BAD = 2
    SATURATED = 4
    BLEED = 8
    COSMIC_RAY = 16
    TRAIL = 32
    EDGE = 64
    CROSSTALK = 128
    SPIKE = 256
    INTERPOLATED = 512
    INJECTED = 1024


#: Pixels that carry no usable signal; everything that measures leaves them out.
UNUSABLE = (
    Flag.NO_DATA | Flag.BAD | Flag.SATURATED | Flag.BLEED | Flag.COSMIC_RAY | Flag.TRAIL | Flag.CROSSTALK
)


class StarFlag(IntFlag):
    """Why a star of a list is left out of PSF, matching or flux ratio; 0 is a clean star."""

    BLENDED = 1
    SATURATED = 2
    EDGE = 4
    MASKED = 8
    EXTENDED = 16
    SHARP = 32
    CENTROID = 64


def cf_attributes(flags: type[IntFlag]) -> dict[str, object]:
    """CF ``flag_masks`` and ``flag_meanings`` of a variable that holds such bits."""
    return {
        "flag_masks": [int(flag) for flag in flags],
        "flag_meanings": " ".join(str(flag.name).lower() for flag in flags),
    }
