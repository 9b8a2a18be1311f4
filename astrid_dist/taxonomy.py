"""What a change on the sky, or on the detector, can be: one table for every layer.

A *kind* is what physics makes (a population or an artifact); a *class* is what a model tells apart. Codes are
positions in these tuples, and products store them: append, never reorder.
"""

from types import MappingProxyType

#: Classes of real changes, then of bogus ones; a target mask has one bit for each, in this order.
REAL = ("transient", "variable", "moving")
BOGUS = (
    "dipole",
    "psf_residual",
    "cosmic_ray",
    "bad_pixel",
    "trail",
    "ghost",
    "edge",
    "noise",
)
#: `unknown` is bogus of a kind that nobody made, such as a detection between two images without a change.
CLASSES = (*REAL, *BOGUS, "unknown")

#: Class of every kind.
KINDS = MappingProxyType(
    {
        "SN Ia": "transient",
        "SN II": "transient",
        "SN IIn": "transient",
        "SN IIb": "transient",
        "SN Ib": "transient",
        "SN Ic": "transient",
        "SN Ic-BL": "transient",
        "SLSN": "transient",
        "TDE": "transient",
        "kilonova": "transient",
        "dwarf nova": "transient",
        "M-dwarf flare": "transient",
        "microlensing": "transient",
        "RR Lyrae": "variable",
        "Cepheid": "variable",
        "eclipsing binary": "variable",
        "Mira": "variable",
        "AGN": "variable",
        "asteroid": "moving",
        "comet": "moving",
        "cosmic-ray track": "cosmic_ray",
        "cosmic-ray worm": "cosmic_ray",
        "misregistration": "dipole",
        "PSF mismatch": "psf_residual",
        "flux-scale error": "psf_residual",
        "saturated star": "psf_residual",
        "satellite trail": "trail",
        "glint train": "trail",
        "hot pixel": "bad_pixel",
        "bad column": "bad_pixel",
        "flat-field residual": "noise",
        "sky residual": "noise",
        "ghost": "ghost",
        "crosstalk": "ghost",
        "charge transport": "psf_residual",
        "edge": "edge",
        "cloud": "psf_residual",
        "elongated PSF": "psf_residual",
        "template contamination": "transient",
        "noise peak": "noise",
        "dark current": "noise",
        "null detection": "unknown",
    }
)

#: Where a source may be put. ``host``: on a galaxy's light at a physical offset; ``nucleus``: in its middle;
#: ``star``: on a star; ``near star``: beside a bright one; ``edge``: near the border of data; ``empty``: sky.
ENVIRONMENTS = ("empty", "host", "nucleus", "star", "near star", "edge")
#: Where a sample comes from: made, found where nothing changed, an alert of a survey, a vote of people.
ORIGINS = ("synthetic", "null detection", "mined", "label")
#: Who says whether a sample is real: who made it, a catalogue of what is known to be there, a model, people.
LABELLERS = ("maker", "catalogue", "model", "people")
#: Why a source could not be put in; empty where it could.
REASONS = ("", "no site", "masked", "saturated", "no flux", "outside", "no subtraction")

#: What the numbers of a sample stand for, by variable; each number is a position.
CODES = MappingProxyType(
    {
        "class": CLASSES,
        "kind": tuple(KINDS),
        "origin": ORIGINS,
        "environment": ENVIRONMENTS,
        "reason": REASONS,
        "labeller": LABELLERS,
    }
)


def class_code(name: str) -> int:
    """Position of a class in `CLASSES`."""
    return CLASSES.index(name)


def class_bit(name: str) -> int:
    """Bit of a class in a target mask; 0 for `unknown`, which marks no pixel."""
    return 0 if name == "unknown" else 1 << CLASSES.index(name)


def kind_code(name: str) -> int:
    """Position of a kind in `KINDS`."""
    return tuple(KINDS).index(name)


def cf_codes(variable: str) -> dict[str, object]:
    """CF ``flag_values`` and ``flag_meanings`` of a variable of `CODES`; in a word, blanks become ``_``."""
    names = CODES[variable]
    return {
        "flag_values": list(range(len(names))),
        "flag_meanings": " ".join(name.replace(" ", "_") or "none" for name in names),
    }


def cf_bits() -> dict[str, object]:
    """CF ``flag_masks`` and ``flag_meanings`` of a target mask."""
    named = [name for name in CLASSES if class_bit(name)]
    return {"flag_masks": [class_bit(name) for name in named], "flag_meanings": " ".join(named)}
