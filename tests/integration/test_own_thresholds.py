"""What a user's own profile says of quality is kept in the survey and judged by; a job may say otherwise."""

from pathlib import Path

import astrid_dist as astrid
from astrid_dist.engine.serial import SerialEngine
from astrid_dist.stages.run import run_stage

PROFILE = """
name: strict
extends: generic
pixel_scale_arcsec: 0.7
seeing_arcsec: {typical: 1.5, worst: 4.0}
depth: {r: 30.0}
quality:
  elongation: {green: [null, 1.5], yellow: [null, 1.6], orange: [null, 1.7]}
  depth_lost: {green: [null, 0.1], yellow: [null, 0.2], orange: [null, 0.3]}
"""


def test_a_profile_of_the_users_own_is_judged_by(mock_survey: Path, tmp_path: Path) -> None:
    profile = tmp_path / "strict.yaml"
    profile.write_text(PROFILE)
    survey, reference = f"{tmp_path}/survey.zarr", f"{tmp_path}/reference.zarr"
    frames = [str(mock_survey / "fits" / f"f0000_r_e{index:04d}.fits.fz") for index in (0, 1, 2, 5)]
    engine = SerialEngine()
    run_stage("ingest", {"paths": frames, "output": survey, "survey": str(profile), "field": "F"}, engine)
    profile.unlink()  # it need not be there any more
    run_stage("reference", {"survey": survey, "output": reference, "epochs": "best:3"}, engine)
    verdicts = []
    for number, thresholds in enumerate(({}, {"depth_lost": None})):
        output = f"{tmp_path}/difference{number}.zarr"
        given = {"survey": survey, "reference": reference, "output": output, "thresholds": thresholds}
        run_stage("difference", given, engine)
        cube = astrid.open_difference(output)["F/r"]
        verdicts.append(str(cube["verdict"].values[-1]))
        assert cube.attrs["thresholds"]["elongation"]["orange"] == [None, 1.7]
        if not thresholds:
            assert "shallower than nominal" in str(cube["reason"].values[-1])
    assert verdicts[0] == "red"
    assert verdicts[1] in ("green", "yellow")
