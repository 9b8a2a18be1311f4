"""Judge scored candidates by the truth of their survey; write figures, a table of strata and a page.

It has no shards: `run` does everything. The output is a folder with ``metrics.json``, ``strata.csv``,
``report.html`` and ``run.json``. Nothing is fitted here.
"""

import json
from collections.abc import Callable
from hashlib import sha256
from typing import TYPE_CHECKING, Any

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from astrid_dist.errors import InputError
from astrid_dist.flags import UNUSABLE
from astrid_dist.stages.comparison import compare, searched
from astrid_dist.stages.evaluation_report import evaluation_report
from astrid_dist.stages.judged import Judged
from astrid_dist.stages.judging import Figures, figures
from astrid_dist.stages.run_folder import run_folder
from astrid_dist.store.locations import Location
from astrid_dist.store.opening import open_difference, open_truth
from astrid_dist.store.templates import product_header

if TYPE_CHECKING:
    import pandas as pd

METRICS, STRATA, REPORT, RUN = "metrics.json", "strata.csv", "report.html", "run.json"


class Settings(BaseModel):
    """What a job file holds."""

    model_config = ConfigDict(extra="forbid")

    candidates: str = Field(description="URL of candidates that detect found, with a model or without")
    truth: str = Field(description="URL of the truth of their survey: a mock's, or the injected survey")
    known: str | None = Field(
        default=None, description="URL of the truth of what changed before injection; it is left out"
    )
    output: str = Field(description="URL of the folder to write")
    threshold: float | None = Field(
        default=None,
        ge=0,
        le=1,
        description="probability from which a candidate is accepted; by default the model's own threshold,"
        " or 0.5 where it has none",
    )
    least_snr: float = Field(
        default=5.0, ge=2, description="true |SNR| of sources that are to be found; fainter ones do not count"
    )
    cell_arcsec: float = Field(default=60.0, gt=0, description="side of the cells of the sky that folds keep")
    examples: int = Field(default=12, ge=0, description="pictures of the worst errors, of each kind")
    seed: int = Field(default=1, ge=0, description="of folds and resamples")


def run(settings: Settings, say: Callable[[str], None] = print) -> None:
    """Judge, write, and print the headline.

    Raises
    ------
    ConfigError, InputError
        Settings, candidates or truth that do not fit.
    ResumeConflictError
        The output holds another evaluation.
    """
    output = Location.parse(settings.output)
    header = product_header(Location.parse(settings.candidates))
    inputs = header["inputs"]
    with run_folder(output, "evaluate", RUN) as folder:
        said = settings.model_dump(mode="json", exclude={"output"})
        digest = sha256(json.dumps([said, header["digest"]]).encode()).hexdigest()
        folder.record(digest, "an evaluation of other settings or candidates")
        judged = judge(settings, inputs)
        images = searched(settings.candidates)
        found = figures(judged, megapixels_of(inputs["difference"], images))
        found["inputs"] = {**said, **inputs}
        objects = output.objects()
        objects.put(METRICS, json.dumps(_plain(found), indent=1).encode())
        objects.put(STRATA, _table(found).encode())
        objects.put(REPORT, evaluation_report(judged, found, inputs, settings.examples).encode())
        folder.keep({"digest": digest})
    for line in headline(found):
        say(line)
    say(f"{output / REPORT}")


def judge(settings: Settings, inputs: dict[str, Any]) -> Judged:
    """Compare and label.

    Raises
    ------
    InputError
        Nothing in the candidates is where the truth says that something is.
    """
    found = compare(settings.truth, inputs["reference"], inputs["difference"], settings.candidates)
    known = open_truth(settings.known).to_dataframe() if settings.known else None
    threshold = own_threshold(found.candidates) if settings.threshold is None else settings.threshold
    judged = Judged.of(found, threshold, settings.least_snr, known, settings.cell_arcsec, settings.seed)
    if not judged.real.any():
        raise InputError(
            f"none of the {len(judged.candidates)} candidates of {settings.candidates} is where "
            f"{settings.truth} says that a source of SNR {settings.least_snr:g} is: give the truth of the "
            "survey that they were found in, or a lower least_snr"
        )
    return judged


def own_threshold(candidates: "pd.DataFrame") -> float:
    """The least probability that detection accepted by the model's own threshold; 0.5 where it has none."""
    if "accepted" not in candidates:
        return 0.5
    accepted = candidates["accepted"].to_numpy(bool)
    p = candidates["p_real"].to_numpy(float)
    return float(p[accepted].min()) if accepted.any() else float(np.nextafter(np.nanmax(p), 2))


def megapixels_of(difference: str, images: set[tuple[str, int]]) -> float:
    """Good pixels of images of a difference, in millions."""
    total, products = 0, open_difference(difference)
    for group, epoch in sorted(images):
        image = products[group].isel(epoch=epoch)
        good = ((image["mask"] & int(UNUSABLE)) == 0) & np.isfinite(image["score"])
        total += int(good.sum().to_numpy())
    return total / 1e6


def headline(found: Figures) -> list[str]:
    """What is printed: each score, of candidates and end to end."""
    lines = [
        f"{found['images']} images, {found['megapixels']:.1f} megapixels; {found['real']} real and "
        f"{found['bogus']} bogus candidates, {found['ignored']} neither for sure; {found['sources']} sources",
        f"{'':<12}{'AUC':>8}{'precision':>11}{'recall':>8}{'false/image':>13}{'sources found':>15}",
    ]
    for name, ranks in found["ranking"].items():
        ends = found["end_to_end"][name]
        lines.append(
            f"{name:<12}{ranks['auc']:>8.4f}{ranks['precision']:>11.3f}{ranks['recall']:>8.3f}"
            f"{ends['false_per_image'][0]:>13.3f}{ends['recall'][0]:>15.3f}"
        )
    return lines


def _table(found: Figures) -> str:
    lines = ["stratum,value,sources,recall,low,high,detected"]
    for row in found["strata"]:
        numbers = [*row["recall"], row["detected"]]
        value = str(row["value"]).replace('"', "'")
        lines.append(
            f'{row["stratum"]},"{value}",{row["sources"]},' + ",".join(f"{one:.5f}" for one in numbers)
        )
    return "\n".join([*lines, ""])


def _plain(value: Any) -> Any:
    """As JSON has it: NaN is null."""
    if isinstance(value, dict):
        return {key: _plain(one) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(one) for one in value]
    if isinstance(value, (float, np.floating)):
        return float(value) if np.isfinite(value) else None
    return value
