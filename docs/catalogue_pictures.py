"""Pictures of the catalogue pages: samples of an artifact; light curves and visits of a population."""

from functools import cache

import numpy as np

from astrid_dist.figures.canvas import BLUE, GREEN, INK, ORANGE, PURPLE, RED, legend, new_figure, png
from astrid_dist.figures.samples import sequence, strip, strip_png, wall
from astrid_dist.simulation.bands import band_of
from astrid_dist.simulation.philox import stream, uniforms
from astrid_dist.surveys.profile import load_profile

#: Surveys whose bands are drawn.
SURVEYS = ("lsst", "ztf")
COLOUR = {"u": PURPLE, "g": GREEN, "r": RED, "i": ORANGE, "z": "#8a5a2b", "y": INK}
#: Faintest peak of what is drawn, AB, and events of the third panel and of the colours.
LIMIT_MAG, CURVES, EVENTS = 22.0, 25, 400
#: Magnitudes shown below the brightest.
_DEEP = 7.0


def artifact_picture(pixels):
    """Science, template, difference and S_corr of some samples, three to a row."""
    strips = [strip(one) for one in pixels]
    return strip_png(wall([strips[k : k + 3] for k in range(0, len(strips), 3)]))


def sequence_picture(pixels):
    """Science above difference, visit by visit."""
    return strip_png(sequence(pixels))


def light_curves_picture(kind, population):
    """One event in the bands of two surveys and many in r; and colours at the reference moment.

    Returns
    -------
    bytes
        PNG.
    dict
        Colour of LSST's bands -> (16, 50, 84 %).
    """
    middle = population.draw(np.full((1, population.n_draws), 0.5), LIMIT_MAG)
    many = population.draw(uniforms(stream(1, kind), np.arange(EVENTS), population.n_draws), LIMIT_MAG)
    days, unit, factor = times(population, middle)
    figure, axes = new_figure(10.4, 2.7, 1, 3)
    for panel, survey in zip(axes, SURVEYS, strict=False):
        for name, band in bands_of(survey).items():
            draw(panel, days * factor, middle.magnitudes(band, days)[0], COLOUR[name], name)
        panel.set_title(f"one of the middle, {survey.upper()}", fontsize=9, color=INK)
        legend(panel, ncols=2, handlelength=1.2)
    red = many.magnitudes(bands_of("lsst")["r"], days)
    for curve in red[:CURVES]:
        draw(axes[2], days * factor, curve, BLUE, alpha=0.45, linewidth=0.8)
    axes[2].set_title(f"{CURVES} of them, LSST r", fontsize=9, color=INK)
    for panel in axes:
        panel.set_xlabel(unit, fontsize=9)
        seen = np.concatenate([line.get_ydata() for line in panel.lines])
        bright = np.nanmin(seen)
        panel.set_ylim(min(np.nanmax(seen), bright + _DEEP) + 0.3, bright - 0.3)
    axes[0].set_ylabel("AB magnitude", fontsize=9)
    return png(figure, dpi=90), colours(many)


@cache
def bands_of(survey):
    """Bands of a survey by name, from blue to red."""
    profile = load_profile(survey)
    return {name: band_of(profile, name) for name in COLOUR if name in profile.filters}


def times(population, events):
    """Days at which light curves are drawn, the axis' label, and its units in a day."""
    known = events.parameters
    if "period_d" in known and (population.always_there or "speed_arcsec_per_h" in known):
        first, last = 0.0, 2 * float(known["period_d"][0])
    else:
        first, last = population.span_days
    moment = "an arbitrary moment" if population.always_there else "the reference moment"
    unit, factor = ("hours", 24.0) if last - first < 2 else ("days", 1.0)
    return np.linspace(first, last, 400), f"{unit} since {moment}", factor


def draw(axes, x, magnitudes, colour, label="", linewidth=1.3, alpha=1.0):
    """A light curve where there is light."""
    shown = np.where(np.isfinite(magnitudes), magnitudes, np.nan)
    axes.plot(x, shown, color=colour, label=label or None, linewidth=linewidth, alpha=alpha)


def colours(events):
    """Colours of events at the reference moment, LSST's bands."""
    at = {name: events.magnitudes(bands_of("lsst")[name], np.zeros(1))[:, 0] for name in "gri"}
    found = {}
    for blue, red in ("gr", "ri"):
        with np.errstate(invalid="ignore"):
            difference = at[blue] - at[red]
        good = difference[np.isfinite(difference)]
        found[f"{blue} − {red}"] = [round(float(v), 2) for v in np.percentile(good, [16, 50, 84])]
    return found
