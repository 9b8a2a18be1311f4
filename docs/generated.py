"""Tables of the documentation that must not be typed by hand: layouts, commands, benchmarks."""

import json
import re
from functools import partial
from pathlib import Path

ROOT = Path(__file__).parent.parent


def fill_tables(app, docname, source):
    """Replace ``<!-- table: NAME -->`` in a page by the table of that name (a Sphinx source-read hook)."""
    for name, table in TABLES.items():
        marker = f"<!-- table: {name} -->"
        if marker in source[0]:
            source[0] = source[0].replace(marker, table())


def _markdown(columns, rows):
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join("| " + " | ".join(str(cell) for cell in line) + " |" for line in lines)


def products():
    """Every variable of every product, from the table that creates them."""
    from astrid_dist.store import layouts

    parts = []
    for product, variables in layouts.PRODUCTS.items():
        group = "`<survey>/<split>`" if product == "samples" else "`<field>/<band>`"
        where = "at its root" if product in layouts.TABLES else f"in each group {group}"
        rows = [
            [
                f"`{one.name}`",
                ", ".join(one.dims),
                one.dtype,
                "µs since 1970-01-01" if one.unit == layouts.TIME_UNITS else one.unit,
                one.long_name,
            ]
            for one in variables.values()
        ]
        parts += [f"### {product}", f"Variables {where}:"]
        parts.append(_markdown(["variable", "dimensions", "type", "unit", "meaning"], rows))
    return "\n\n".join(parts)


def flags():
    """Bits of the masks."""
    from astrid_dist.flags import UNUSABLE, Flag

    rows = [[f"`{one.name}`", one.value, "yes" if one & UNUSABLE else "no"] for one in Flag]
    return _markdown(["bit", "value", "left out of measurements"], rows)


def profiles():
    """Survey profiles that ship with the package."""
    from astrid_dist.surveys.profile import load_profile, profile_names

    found = [load_profile(name) for name in profile_names()]
    rows = [[f"`{p.name}`", p.description, p.pixel_scale_arcsec, p.psf_box()] for p in found]
    return _markdown(["profile", "what", "arcsec per pixel", "PSF box, pixels"], rows)


def quality():
    """Metrics of a subtraction with the generic thresholds."""
    from astrid_dist.imaging.quality import METRICS
    from astrid_dist.surveys.profile import resolve_thresholds

    generic = resolve_thresholds("generic")
    rows = []
    for one in METRICS.values():
        bounds = generic.of(one.name)
        ranges = [_range(getattr(bounds, name)) if bounds else "" for name in ("green", "yellow", "orange")]
        weight = ("hard" if one.hard else "soft") if bounds else "not judged"
        rows.append([f"`{one.name}`", one.long_name, one.unit, weight, *ranges])
    return _markdown(["metric", "what", "unit", "weight", "green", "yellow", "orange"], rows)


def _range(limits):
    low, high = limits
    if low is None:
        return f"≤ {high:g}"
    return f"≥ {low:g}" if high is None else f"{low:g} to {high:g}"


def benchmarks():
    """What `make bench` measured last in this checkout."""
    path = ROOT / "build" / "bench.json"
    if not path.is_file():
        return "*No measurement in this checkout yet: run `make bench`, then build the documentation again.*"
    rows = [
        [one["name"], _number(one["value"]), one["unit"], one.get("against") or "", _number(one.get("ratio"))]
        for one in json.loads(path.read_text())
    ]
    return _markdown(["benchmark", "value", "unit", "against", "ratio"], rows)


def picture():
    """A triplet of the demo, once it has been made."""
    if not (ROOT / "docs" / "_static" / "triplet.png").is_file():
        return ""
    return """```{image} _static/triplet.png
:alt: Science, reference, difference and score around a transient
```"""


def catalogue(name):
    """A table or gallery of the catalogue pages."""
    import catalogue_pages

    made = getattr(catalogue_pages, name)()
    return made if isinstance(made, str) else _markdown(*made)


def escape_bars(app, what, name, obj, options, lines):
    """In docstrings a bar is an absolute value, never a reST substitution (an autodoc hook)."""
    lines[:] = ["``".join(_escape_odd(line.split("``"))) for line in lines]


def short_types(app, what, name, obj, options, signature, returns):
    """Types of arrays as one reads them (an autodoc hook); shapes and units are in the docstrings."""
    return _short(signature), _short(returns)


def _short(types):
    if types is None:
        return None
    types = re.sub(r"~?\b(numpy|typing)\.", "", types)
    types = re.sub(r"ndarray\[tuple\[Any, \.\.\.\], dtype\[(\w+)\]\]", r"NDArray[\1]", types)
    return re.sub(r"[\w.]*_Buffer \| .*?_NestedSequence\[complex \| bytes \| str\]", "ArrayLike", types)


def _escape_odd(parts):
    return [part if i % 2 else part.replace("|", r"\|") for i, part in enumerate(parts)]


def _number(value):
    return "" if value is None else f"{value:.4g}" if isinstance(value, int | float) else value


TABLES = {
    "picture": picture,
    "products": products,
    "flags": flags,
    "profiles": profiles,
    "quality": quality,
    "benchmarks": benchmarks,
    "artifacts": partial(catalogue, "artifacts"),
    "artifact gallery": partial(catalogue, "artifact_gallery"),
    "populations": partial(catalogue, "populations"),
    "population gallery": partial(catalogue, "population_gallery"),
}
