"""Samples: the fast way says what the full way says, truth is what was put in, the same draw the same."""

from dataclasses import replace

import numpy as np
import pytest

from astrid_dist.errors import ConfigError
from astrid_dist.imaging.masks import source_free
from astrid_dist.stages.synthetic import stamps_job
from astrid_dist.stages.synthetic.draw import draw_samples
from astrid_dist.stages.synthetic.full import full_stamps
from astrid_dist.stages.synthetic.host import PAD, open_host
from astrid_dist.stages.synthetic.linear import linear_stamps
from astrid_dist.stages.synthetic.put import put_samples
from astrid_dist.stages.synthetic.settings import Settings
from astrid_dist.stages.synthetic.strata import Stratum
from astrid_dist.stages.tiles import Options
from astrid_dist.store.locations import Location
from astrid_dist.store.reading import group_names
from astrid_dist.taxonomy import KINDS, REASONS
from tests.small_survey import small_survey

#: Nothing that a subtraction measures anew once something was put in: what is left is linear.
PLAIN = Options(0.1, False, "never")


@pytest.fixture(scope="module")
def host():
    made = small_survey()
    survey = Location.parse(made.survey)
    return open_host(survey, Location.parse(made.reference), next(group_names(survey)), 4, 0, 0, PLAIN)


def draw(host, kinds, environment="empty", snr=(20.0, 200.0), negative=False, number=48, name="t"):
    strata = [Stratum(kinds[i % len(kinds)], environment, negative, snr, 1.0) for i in range(number)]
    return draw_samples(host, strata, 1, name, np.arange(number), 1, 1.0)


def made(host, drawn, way=linear_stamps):
    put = put_samples([host], 0, drawn)
    stamps = way(host, drawn, put) if way is linear_stamps else full_stamps(host, drawn, put, PLAIN)
    return put, stamps


POINTS = ("SN Ia", "TDE", "RR Lyrae", "asteroid", "comet")
LINEAR = (
    "cosmic-ray track", "cosmic-ray worm", "misregistration", "PSF mismatch", "flux-scale error",
    "satellite trail", "glint train", "hot pixel", "flat-field residual", "ghost", "crosstalk",
    "charge transport", "cloud", "elongated PSF", "template contamination", "dark current",
)  # fmt: skip


@pytest.mark.parametrize(
    ("kinds", "environment", "negative"),
    [
        (POINTS, "empty", False),
        (POINTS, "empty", True),
        (("RR Lyrae",), "star", True),
        (LINEAR, "star", False),
    ],
)
def test_the_fast_way_equals_the_full_way_where_nothing_is_measured_anew(host, kinds, environment, negative):
    snr = (5.0, 20.0) if kinds == ("RR Lyrae",) else (20.0, 200.0)
    drawn = draw(host, kinds, environment, snr, negative)
    put, fast = made(host, drawn)
    again, full = made(host, drawn, full_stamps)
    np.testing.assert_array_equal(put.flux, again.flux)
    ok = put.reason == 0
    assert ok.sum() > 12
    # The residual sky is measured anew: a level that differs a little. Flagged narrow hits are mended anew.
    for plane in range(4):
        apart = fast.pixels[ok][:, plane] - full.pixels[ok][:, plane]
        assert np.nanpercentile(np.abs(apart), 99) < 0.25, plane
        assert np.nanmean(np.isnan(fast.pixels[ok][:, plane]) != np.isnan(full.pixels[ok][:, plane])) < 1e-2


def test_numerically_equal_once_the_residual_sky_is_held(host, monkeypatch):
    from astrid_dist.stages import subtraction

    drawn = draw(host, POINTS)
    _, fast = made(host, drawn)
    inner = host.tile.within(host.science_planes.window)
    null = host.recipe.subtract(
        host.science_planes, host.template_full.planes, host.recipe.plan(host.science_planes.window.shape)
    )
    quiet = source_free(host.science_planes.image[inner], host.science_planes.sigma, host.pair.fwhm_px)
    sky = subtraction.residual_sky(null.difference[inner], quiet & host.template_full.quiet[inner])
    monkeypatch.setattr(subtraction, "residual_sky", lambda *_: sky)
    _, full = made(host, drawn, full_stamps)
    apart = np.abs(fast.pixels - full.pixels)[drawn.reason == 0]
    assert np.nanmax(apart[:, :2]) < 1e-4
    # Sources reach hundreds of sigmas; kernels of windows end at their margin, 1e-4 of their light beyond it.
    assert np.nanmax(np.abs(full.pixels[:, 2])) > 50
    assert np.nanmax(apart[:, 2]) < 5e-4 * np.nanmax(np.abs(full.pixels[:, 2]))
    assert np.nanmax(apart[:, 3]) < 5e-4 * np.nanmax(np.abs(full.pixels[:, 3]))


@pytest.mark.parametrize("environment", ["empty", "star", "host", "near star", "edge", "nucleus"])
def test_signal_to_noise_is_that_asked_for_and_the_score_shows_it(host, environment):
    drawn = draw(host, ("SN Ia",), environment, snr=(8.0, 30.0), number=400)
    put, stamps = made(host, drawn)
    ok = (put.reason == 0) & np.isfinite(stamps.peak)
    if environment in ("empty", "star"):
        assert ok.sum() > 100
    asked = 8 * (30 / 8) ** drawn.own[:, 3]
    np.testing.assert_allclose(put.snr[ok], asked[ok], rtol=1e-5)
    if environment == "empty":
        pulls = stamps.peak[ok] - put.snr[ok]
        assert abs(np.mean(pulls)) < 0.35  # a peak is the largest of its pixels
        assert 0.7 < np.std(pulls) < 1.25


def test_flux_is_conserved_into_the_difference(host):
    drawn = draw(host, ("SN Ia",), snr=(150.0, 300.0))
    put, stamps = made(host, drawn)
    null = linear_stamps(host, drawn, put_samples([host], 0, replace(drawn, reason=np.ones(48, np.int8))))
    ok = put.reason == 0
    light = (stamps.pixels[ok, 2] - null.pixels[ok, 2]).astype(float).sum(axis=(1, 2)) * host.sigma_d
    whole = np.isfinite(light)
    assert whole.sum() > 20
    assert np.median(light[whole] / put.flux[ok][whole]) == pytest.approx(1, abs=0.02)


def test_truth_masks_cover_their_objects(host):
    drawn = draw(host, ("SN Ia",), snr=(30.0, 300.0))
    put, stamps = made(host, drawn)
    ok = np.flatnonzero(put.reason == 0)
    row, column = np.indices((63, 63))
    for i in ok:
        x, y = put.x[i] - drawn.column[i] + 31, put.y[i] - drawn.row[i] + 31
        assert stamps.target[i, round(y), round(x)]
        assert 9 <= stamps.target[i].sum() < 300
        assert abs(np.mean(column[stamps.target[i]]) - x) < 1
        assert abs(np.mean(row[stamps.target[i]]) - y) < 1


def test_negative_sources_are_dark_in_the_difference_and_lie_in_the_template(host):
    drawn = draw(host, ("SN Ia",), snr=(30.0, 100.0), negative=True)
    put = put_samples([host], 0, drawn)
    ok = put.reason == 0
    assert np.all(put.flux[ok] < 0)
    assert put.canvas.template[ok].max() > 0
    assert not put.canvas.science.any()
    assert np.all(linear_stamps(host, drawn, put).peak[ok] < -20)


def test_a_star_cannot_lose_more_than_its_light(host):
    drawn = draw(host, ("RR Lyrae",), "star", snr=(2000.0, 3000.0), negative=True)
    put, _ = made(host, drawn)
    assert np.all(put.reason[drawn.reason == 0] == REASONS.index("no flux"))
    assert not put.canvas.science.any()


def test_samples_do_not_depend_on_who_is_made_with_them(host):
    drawn = draw(host, tuple(kind for kind in KINDS if kind not in ("edge", "null detection")), number=60)
    _, together = made(host, drawn)
    part = [7, 31, 59]
    alone = draw_samples(host, [drawn.strata[i] for i in part], 1, "t", np.array(part), 1, 1.0)
    _, apart = made(host, alone)
    np.testing.assert_array_equal(apart.pixels, together.pixels[part])
    np.testing.assert_array_equal(apart.target, together.target[part])


def test_what_lies_near_the_border_shows_no_data_beyond_it(host):
    drawn = draw(host, ("SN Ia",), "edge")
    put, stamps = made(host, drawn)
    ok = put.reason == 0
    assert ok.any()
    missing = np.isnan(stamps.pixels[ok, 2]).mean(axis=(1, 2))
    assert np.median(missing) > 0.2
    inside = (drawn.column[ok] >= PAD) & (drawn.column[ok] < host.science.shape[1] - PAD)
    assert inside.all()


def test_detections_where_nothing_changed_are_kept_as_bogus(host):
    drawn = draw(host, ("noise peak",), number=10)
    put, stamps = made(host, drawn)
    assert not put.canvas.science.any()
    heights = np.abs(stamps.peak[put.reason == 0])
    assert np.all((heights > 2.9) & (heights < 5.5))


def test_a_group_of_samples_holds_every_variable(host):
    made_of = small_survey()
    settings = Settings(
        survey=made_of.survey, reference=made_of.reference, output="memory://samples", samples=300,
        way="fast", splits={"train": 1}, difference=made_of.difference,
    )  # fmt: skip
    planned = Settings.model_validate(stamps_job.plan(settings).job.settings)
    one = stamps_job.sample_sets(planned)[0]
    strata, where = stamps_job.strata_of(planned), stamps_job.assignment_of(planned, one.name, one.number)
    items = np.arange(256, 300)
    columns, _ = stamps_job.make_group(planned, one, where.of(items), strata, items)
    assert columns["pixels"].shape == (44, 1, 4, 63, 63)
    ok = columns["injectable"]
    assert ok.mean() > 0.7
    assert np.all(columns["weight"][ok] == 1)
    assert np.all(columns["weight"][~ok] == 0)
    assert not columns["target"][~ok].any()
    np.testing.assert_array_equal(columns["item"], items)


def test_stored_samples_may_be_augmented_and_say_so(host):
    made_of = small_survey()
    asked = {
        "survey": made_of.survey, "reference": made_of.reference, "output": "memory://samples", "samples": 40,
        "way": "fast", "splits": {"train": 1}, "mix": {"transient": 1}, "snr": (30, 100),
    }  # fmt: skip
    columns = []
    for augment in ([], [{"flip": {}}]):
        settings = Settings.model_validate(stamps_job.plan(Settings(**asked, augment=augment)).job.settings)
        one, strata = stamps_job.sample_sets(settings)[0], stamps_job.strata_of(settings)
        where, items = stamps_job.assignment_of(settings, one.name, one.number), np.arange(40)
        columns.append(stamps_job.make_group(settings, one, where.of(items), strata, items)[0])
    plain, flipped = columns
    ok = plain["injectable"]
    np.testing.assert_array_equal(plain["flux"], flipped["flux"])
    np.testing.assert_allclose(np.abs(plain["offset_x"][ok]), np.abs(flipped["offset_x"][ok]), atol=1e-6)
    turned = (plain["pixels"] != flipped["pixels"]).any(axis=(1, 2, 3, 4))
    assert 0.4 < turned.mean() < 1  # one in four is flipped along neither axis
    same = np.isclose(plain["peak"], flipped["peak"], atol=0.1, equal_nan=True)  # of rounded pixels
    assert same[ok].all()
    with pytest.raises(ConfigError, match="flop"):
        stamps_job.plan(Settings(**asked, augment=[{"flop": {}}]))
