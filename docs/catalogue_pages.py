"""Of the catalogue pages: tables, as header and rows, and galleries, as Markdown."""

import catalogue

from astrid_dist.simulation.artifacts import ARTIFACTS
from astrid_dist.simulation.populations import POPULATIONS
from astrid_dist.surveys.profile import load_profile
from astrid_dist.taxonomy import KINDS

#: Exponents of units; a hyphen is a minus there.
_POWERS = str.maketrans({"-": "⁻", "1": "¹", "2": "²", "3": "³"})


def artifacts():
    """How often each artifact happens, is seen, and passes a cut."""
    found = catalogue.measured()["artifacts"]
    surveys = [load_profile(name) for name in ("ztf", "lsst", "decam")]
    rows = []
    for kind, artifact in ARTIFACTS.items():
        one = found[kind]
        shares = [_percent(one[name], one["drawn"]) for name in ("seen", "kept")]
        rates = [_number(_rate_on_detector(artifact, survey)) for survey in surveys]
        rows.append(
            [
                f"[{kind}](#{catalogue.slug(kind)})",
                KINDS[kind].replace("_", " "),
                *rates,
                one["drawn"],
                *shares,
            ]
        )
    header = ["kind", "class", *(survey.name for survey in surveys), "drawn", "seen", "kept"]
    return header, rows


def _rate_on_detector(artifact, survey, stars_per_deg2=1000.0):
    camera = survey.camera
    pixels = camera.detector_px[0] * camera.detector_px[1]
    area = pixels * (survey.pixel_scale_arcsec / 3600) ** 2
    return artifact.rate(camera, pixels, camera.exptime_s, stars_per_deg2 * area)


def artifact_gallery():
    """Every artifact with its physics and some samples."""
    found = catalogue.measured()["artifacts"]
    parts = []
    for kind, artifact in ARTIFACTS.items():
        peaks = ["no data" if value is None else f"{value:+.1f}" for value in found[kind]["peaks"]]
        parts += [f"### {kind}", artifact.description]
        if peaks:
            picture = f"../build/catalogue/artifact-{catalogue.slug(kind)}.png"
            parts += [f"![Samples: {kind}]({picture})", f"S_corr: {', '.join(peaks)}."]
        else:
            parts.append(f"None of the {found[kind]['drawn']} drawn could be seen.")
    return "\n\n".join(parts)


def populations():
    """Rates, numbers, places and colours of every population."""
    found = catalogue.measured()["populations"]
    rows = []
    for kind, one in POPULATIONS.items():
        known = found[kind]
        count = _number(one.expected(22.0) if one.expected else one.present(22.0))
        unit = one.rate.unit.translate(_POWERS).replace(" ", "\u00a0")
        rows.append(
            [
                f"[{kind}](#{catalogue.slug(kind)})",
                KINDS[kind],
                f"{_number(one.rate.value)}\u00a0{unit}",
                f"{count} a year" if one.expected else count,
                f"{_percent(known['kept'], known['seen'])} of {known['seen']}",
            ]
        )
    return ["kind", "class", "rate", "per square degree", "kept"], rows


def population_gallery():
    """Every population with its physics, light curves and a sequence of stamps."""
    found = catalogue.measured()["populations"]
    parts = []
    for kind, one in POPULATIONS.items():
        known, name = found[kind], catalogue.slug(kind)
        parts += [
            f"### {kind}",
            f"{one.description} Rate: {one.rate.source}. Put on: {_places(one)}. {_colours(known)}.",
            f"![Light curves: {kind}](../build/catalogue/curves-{name}.png)",
            f"![Visits: {kind}](../build/catalogue/sequence-{name}.png)",
            f"Band {known['band']}; days {', '.join(f'{day:g}' for day in known['days'])}; "
            f"true SNR {', '.join(f'{value:+.0f}' for value in known['snr'])}.",
        ]
    return "\n\n".join(parts)


def _places(population):
    return ", ".join(f"{name} {100 * share:.0f} %" for name, share in population.environments.items())


def _colours(known):
    return ", ".join(
        f"{name} = {middle:+.2f} ({low:+.2f} to {high:+.2f})"
        for name, (low, middle, high) in known["colours"].items()
    )


def _number(value):
    return f"{value:,.0f}" if value >= 10 else f"{value:.2g}"


def _percent(part, whole):
    return f"{100 * part / whole:.0f} %" if whole else "–"
