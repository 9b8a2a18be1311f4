"""Synthetic detections look like real ones of their kind, by what tells the kinds apart."""

import numpy as np
import pytest

from astrid_dist.engine.serial import SerialEngine
from astrid_dist.stages.run import run_stage
from tests.real_samples import ASTEROID, DIPOLE, TRACK, opposite, real_rows, sharpness, sheet, synthetic_rows
from tests.small_survey import small_survey

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:Found a SIMPLE card"),  # of some real packets
]
MOST = 20


@pytest.fixture(scope="module")
def url(tmp_path_factory):
    """Samples of the kinds that there are real ones of."""
    made = small_survey()
    output = str(tmp_path_factory.mktemp("beside") / "samples.zarr")
    kinds = ["asteroid", "misregistration", "cosmic-ray track", "cosmic-ray worm", "hot pixel", "bad column"]
    mix = {"moving": 0.1, "dipole": 0.6, "cosmic_ray": 0.2, "bad_pixel": 0.1}
    settings = {
        "survey": made.survey, "reference": made.reference, "output": output, "samples": 768, "way": "fast",
        "kinds": kinds, "mix": mix, "splits": {"train": 1.0}, "negative": 0.0, "snr": [10, 100],
    }  # fmt: skip
    run_stage("inject", settings, SerialEngine())
    return output


@pytest.fixture(scope="module")
def real(realdata):
    return real_rows(realdata, MOST)


@pytest.fixture(scope="module")
def made(url):
    return {kind: planes for kind, (planes, _, _) in synthetic_rows(url, MOST).items()}


def median(measure, planes):
    return float(np.median([measure(plane) for plane in planes]))


def test_a_dipole_has_both_signs_and_an_asteroid_one(real, made):
    dipoles, points = real[DIPOLE][:, 2], real[ASTEROID][:, 2]
    assert median(opposite, dipoles) > 0.5 > 0.3 > median(opposite, points)
    assert median(opposite, made["misregistration"][:, 2]) > 0.5
    assert median(opposite, made["asteroid"][:, 2]) < 0.3


def test_a_particle_is_sharper_than_a_star(real, made):
    assert median(sharpness, real[TRACK][:, 0]) > 2
    assert median(sharpness, made["cosmic-ray track"][:, 0]) > 2 > median(sharpness, made["asteroid"][:, 0])


def test_real_and_synthetic_stand_on_one_sheet(realdata, url):
    assert sheet(realdata, url, most=2).startswith(b"\x89PNG")
