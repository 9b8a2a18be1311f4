"""Bits of the data masks, one table for every layer."""

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


def cf_attributes() -> dict[str, object]:
    """CF ``flag_masks`` and ``flag_meanings`` of the mask variable."""
    return {
        "flag_masks": [int(flag) for flag in Flag],
        "flag_meanings": " ".join(str(flag.name).lower() for flag in Flag),
    }
