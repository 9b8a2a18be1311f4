"""The whole way on a mock survey, from FITS files to candidates, and a report against the truth."""

import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from time import perf_counter
from typing import Any, TextIO

from astrid_dist.engine.clusters import open_engine
from astrid_dist.engine.events import Observer
from astrid_dist.engine.observers import progress
from astrid_dist.stages.comparison import compare
from astrid_dist.stages.mock import Settings as MockSettings
from astrid_dist.stages.report import write_report
from astrid_dist.stages.run import run_stage
from astrid_dist.store.opening import open_survey


def run_demo(
    directory: Path | str,
    cluster: str | None = None,
    *,
    sky: Mapping[str, Any] | None = None,
    observers: Iterable[Observer] | None = None,
    out: TextIO | None = None,
) -> Path:
    """Make a mock survey, find what changed in it, and compare that with the truth.

    Running it again goes on where it was stopped; another `sky` needs another directory.

    Parameters
    ----------
    directory : path
        Folder for the FITS files, the products and the report.
    cluster : str, optional
        Cluster file, ``"serial"``, or this machine's cores if left out.
    sky : mapping, optional
        Settings of the mock stage that differ from its own, such as ``{"seed": 7}``.
    observers : iterable of Observer, optional
        Who watches; a progress bar (or JSON lines) on standard error if left out.
    out : text file, optional
        Where the lines for the reader go; standard output if left out.

    Returns
    -------
    Path
        The report, one HTML file that needs nothing else.
    """
    folder, out = Path(directory), out or sys.stdout
    folder.mkdir(parents=True, exist_ok=True)
    mock = MockSettings(output=str(folder / "truth.zarr"), files=str(folder / "fits"), **(sky or {}))
    url = {name: str(folder / f"{name}.zarr") for name in ("survey", "reference", "difference", "candidates")}
    seconds: dict[str, float] = {}
    with open_engine(cluster) as engine:

        def stage(name: str, **settings: Any) -> None:
            started = perf_counter()
            run_stage(name, settings, engine, list(observers) if observers is not None else [progress()])
            seconds[name] = perf_counter() - started

        stage("mock", **mock.model_dump())
        stage("ingest", paths=[mock.files], output=url["survey"], survey="generic")
        templates, search = _seasons(url["survey"], mock)
        stage("reference", survey=url["survey"], output=url["reference"], epochs=templates)
        stage(
            "difference",
            survey=url["survey"],
            reference=url["reference"],
            output=url["difference"],
            epochs=search,
        )
        stage("detect", difference=url["difference"], output=url["candidates"])
    started = perf_counter()
    comparison = compare(mock.output, url["reference"], url["difference"], url["candidates"])
    seconds["compare"] = perf_counter() - started
    report = folder / "report.html"
    report.write_text(write_report(comparison, url, seconds), encoding="utf-8")
    print(_farewell(folder, report, comparison, sum(seconds.values())), file=out)
    return report


def _seasons(survey: str, mock: MockSettings) -> tuple[list[str], list[str]]:
    """Sources of the template epochs, and of those that are searched."""
    last = mock.mock_survey().mjd(mock.bands[-1], mock.template_epochs - 1)
    templates: list[str] = []
    search: list[str] = []
    for dataset in open_survey(survey).values():
        for source, mjd, valid in zip(
            dataset["source"].to_numpy(), dataset["mjd"].to_numpy(), dataset["valid"].to_numpy(), strict=True
        ):
            if valid:
                (templates if mjd < last + 0.5 else search).append(str(source))
    return templates, search


def _farewell(folder: Path, report: Path, comparison: Any, seconds: float) -> str:
    found = len(comparison.real)
    return f"""
{len(comparison.candidates)} candidates in {comparison.epochs} images, {found} of them real; {seconds:.0f} s.

Report:  {report.resolve()}

Go on in Python:
  import astrid_dist as astrid
  cand = astrid.open_candidates("{folder}/candidates.zarr")
  cand.where(abs(cand.snr) > 10, drop=True).to_dataframe()
  best = cand.isel(candidate=int(abs(cand.snr).argmax("candidate")))
  field = astrid.open_difference("{folder}/difference.zarr")[f"{{best.field.item()}}/{{best.band.item()}}"]
  field.astrid.light_curve(x=best.x, y=best.y).to_dataframe()

or on the command line:
  astrid status {folder}/difference.zarr
  astrid verify {folder}/difference.zarr"""
