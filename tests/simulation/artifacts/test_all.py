"""What holds for every kind of artifact."""

from dataclasses import replace

import numpy as np
import pytest

from astrid_dist.simulation.artifacts import ARTIFACTS
from astrid_dist.simulation.artifacts.base import Site
from astrid_dist.simulation.canvas import Canvas
from astrid_dist.simulation.philox import stream, uniforms
from astrid_dist.surveys.profile import Camera
from astrid_dist.taxonomy import BOGUS, KINDS
from tests.simulation.artifacts.views import difference, make_view

KEY = stream(9, "artifacts")
PLANES = ("science", "science_variance", "template", "template_variance", "mask", "template_mask")
FIELD = ((150.0, 150.0, 2e5), (130.3, 171.8, 3e4), (170.0, 140.5, 1e4))


def put(view, kind, item, x, y, canvas=None):
    artifact = ARTIFACTS[kind]
    canvas = canvas or Canvas.empty(*view.shape)
    draws = uniforms(KEY, [item], artifact.n_draws)[0]
    star = view.stars[0] if artifact.where == "star" else None
    made = artifact.put(canvas, view, Site(x, y, draws, KEY, item, star))
    return made, canvas


def same(a, b, **tolerance):
    for name in PLANES:
        np.testing.assert_allclose(getattr(a, name), getattr(b, name), **tolerance, err_msg=name)


def test_every_bogus_kind_is_made():
    bogus = {kind for kind, name in KINDS.items() if name in BOGUS}
    assert set(ARTIFACTS) == bogus | {"template contamination"}
    assert [a.number for a in ARTIFACTS.values()] == list(range(1, 22))
    assert all(kind == a.kind and len(a.description) > 60 for kind, a in ARTIFACTS.items())


@pytest.mark.parametrize("kind", ARTIFACTS)
def test_the_same_draws_and_item_give_the_same_whatever_came_before(kind):
    view = make_view((301, 301), stars=FIELD)
    first = put(view, kind, 4, 150.0, 150.0)
    put(view, kind, 5, 150.0, 150.0)
    again = put(view, kind, 4, 150.0, 150.0)
    assert first[0].parameters == again[0].parameters
    same(first[1], again[1], rtol=0)


@pytest.mark.parametrize("kind", [k for k in ARTIFACTS if k != "edge"])
def test_a_stamp_shows_what_the_frame_has_there(kind):
    frame = make_view((301, 301), stars=FIELD)
    if kind == "saturated star":
        # bleeding that runs out of the window is lost to it
        frame = replace(frame, camera=Camera(full_well=15000.0))
    top, left = 90, 101
    part = slice(top, top + 121), slice(left, left + 99)
    stamp = replace(
        frame,
        science=frame.science[part].copy(),
        template=frame.template[part].copy(),
        stars=tuple(replace(s, x=s.x - left, y=s.y - top) for s in frame.stars),
    )
    for item in (1, 2, 3):
        if kind == "saturated star" and item != 3:
            continue
        whole, there = put(frame, kind, item, 150.0, 150.0)
        made, here = put(stamp, kind, item, 150.0 - left, 150.0 - top)
        tolerance = 1e-2 if kind in ("cloud", "satellite trail") else 2e-3
        same(here, there[part], rtol=1e-3, atol=tolerance * max(1.0, float(np.nanmax(here.science)) / 1e3))
        if kind != "bad column":
            assert made.flux == pytest.approx(whole.flux, rel=1e-6, nan_ok=True)


@pytest.mark.parametrize("kind", ARTIFACTS)
@pytest.mark.parametrize("u", [1e-9, 0.5, 1 - 1e-9])
def test_extreme_draws_are_finite_numbers(kind, u):
    view = make_view(noise=True)
    artifact = ARTIFACTS[kind]
    canvas = Canvas.empty(*view.shape)
    star = view.stars[0] if artifact.where == "star" else None
    made = artifact.put(canvas, view, Site(40.0, 40.0, np.full(artifact.n_draws, u), KEY, 1, star))
    assert all(np.isfinite(value) for value in made.parameters.values())
    for name in PLANES[:4]:
        assert not np.isinf(getattr(canvas, name)).any()
        assert np.isfinite(getattr(canvas, name)).all() or kind in ("edge", "bad column")


CHANGE_WHAT_IS_THERE = ("saturated star", "flat-field residual", "cloud", "bad column")


@pytest.mark.parametrize("kind", [kind for kind in ARTIFACTS if kind not in CHANGE_WHAT_IS_THERE])
def test_artifacts_add_to_what_is_on_the_canvas(kind):
    view = make_view(stars=((40.0, 40.0, 1e5),))
    _, alone = put(view, kind, 7, 40.0, 40.0)
    both = Canvas.empty(*view.shape)
    put(view, "hot pixel", 8, 40.0, 40.0, both)
    _, before = put(view, "hot pixel", 8, 40.0, 40.0)
    put(view, kind, 7, 40.0, 40.0, both)
    np.testing.assert_allclose(both.science, alone.science + before.science, rtol=1e-4, atol=0.05)


@pytest.mark.parametrize("kind", [kind for kind in ARTIFACTS if kind not in ("edge", "bad column")])
def test_pixels_without_data_spoil_no_others(kind):
    view = make_view(noise=True)
    view.science[30:50, 43] = np.nan
    view.template[10:20] = np.nan
    _, canvas = put(view, kind, 3, 40.0, 40.0)
    for name in PLANES[:4]:
        seen = view.science if name.startswith("science") else view.template
        assert np.isfinite(getattr(canvas, name)[np.isfinite(seen)]).all(), name


@pytest.mark.parametrize("kind", ARTIFACTS)
def test_rates_are_expectations(kind):
    rate = ARTIFACTS[kind].rate
    camera = Camera()
    small, large = rate(camera, 512.0**2, 60.0, 10), rate(camera, 2048.0**2, 60.0, 160)
    assert 0 < small <= large < 5000


@pytest.mark.parametrize("kind", [kind for kind, a in ARTIFACTS.items() if not a.extended])
def test_far_away_artifacts_leave_a_window_alone(kind):
    view = make_view(stars=((-400.0, -300.0, 2e5),))
    _, canvas = put(view, kind, 3, -400.0, -300.0)
    assert not any(getattr(canvas, name).any() for name in PLANES)


@pytest.mark.parametrize(
    "kind", [k for k in ARTIFACTS if k not in ("noise peak", "charge transport", "sky residual")]
)
def test_some_of_every_kind_pass_a_cut_of_five(kind):
    view = make_view(stars=((40.0, 40.0, 4e5),), noise=True)
    without = difference(view, Canvas.empty(*view.shape)).score
    assert np.abs(without).max() < 5.5
    place = (60.0, 38.0) if ARTIFACTS[kind].where != "star" else (40.0, 40.0)
    if kind == "edge":
        place = (70.0, 38.0)
    found = 0
    for item in range(40):
        _, canvas = put(view, kind, item, *place)
        score = difference(view, canvas).score
        found += np.nanmax(np.abs(score)) > 5.5
        if found == 2:
            return
    # a wrong flat is seen where the sky is brighter than here
    assert found == 1
    assert kind == "flat-field residual"
