"""The whole way on a mock survey, from FITS files to scored candidates, and a report against the truth."""

import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from time import perf_counter
from typing import Any, TextIO

from astrid_dist.engine.clusters import open_engine
from astrid_dist.engine.events import Observer
from astrid_dist.engine.observers import progress
from astrid_dist.engine.protocol import Engine
from astrid_dist.stages import train
from astrid_dist.stages.comparison import compare
from astrid_dist.stages.mock import Settings as MockSettings
from astrid_dist.stages.report import write_report
from astrid_dist.stages.run import run_stage
from astrid_dist.store.opening import open_survey

#: Samples made, and how a model is trained on them: minutes on two cores.
LEARNING: Mapping[str, Any] = {
    "samples": 6144,
    "size": "small",
    "epochs": 6,
    "batch": 64,
    "rate": 4e-3,
    "sides": [31, 43],
    "augment": ["flip", {"jitter": {"px": 0.5}}],
}


def run_demo(
    directory: Path | str,
    cluster: str | None = None,
    *,
    sky: Mapping[str, Any] | None = None,
    learning: Mapping[str, Any] | None = LEARNING,
    observers: Iterable[Observer] | None = None,
    out: TextIO | None = None,
) -> Path:
    """Make a mock survey, train on it, find what changed in it, and compare that with the truth.

    Running it again goes on where it was stopped; another `sky` needs another directory.

    Parameters
    ----------
    directory : path
        Folder for the FITS files, the products and the report.
    cluster : str, optional
        Cluster file, ``"serial"``, or this machine's cores if left out.
    sky : mapping, optional
        Settings of the mock stage that differ from its own, such as ``{"seed": 7}``.
    learning : mapping, optional
        ``samples``, how many are made, and settings of the train stage; None: candidates are not scored.
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
    products = ("survey", "reference", "difference", "samples", "candidates")
    url = {name: str(folder / f"{name}.zarr") for name in products}
    seconds: dict[str, float] = {}

    def stage(engine: Engine, name: str, **settings: Any) -> None:
        started = perf_counter()
        run_stage(name, settings, engine, list(observers) if observers is not None else [progress()])
        seconds[name] = perf_counter() - started

    pair = {name: url[name] for name in ("survey", "reference")}
    with open_engine(cluster) as engine:
        stage(engine, "mock", **mock.model_dump())
        stage(engine, "ingest", paths=[mock.files], output=url["survey"], survey="generic")
        templates, search = _seasons(url["survey"], mock)
        stage(engine, "reference", survey=url["survey"], output=url["reference"], epochs=templates)
        stage(engine, "difference", **pair, output=url["difference"], epochs=search)
        if learning is not None:
            number = learning.get("samples", LEARNING["samples"])
            made = {"samples": number, "shard_samples": 1024, "way": "fast", "known": mock.output}
            stage(engine, "inject", **pair, **made, output=url["samples"])
    model: dict[str, Any] = {}
    run = None
    if learning is not None:  # Dask has given its cores back: Ray takes them
        started, run = perf_counter(), str(folder / "training")
        said = {**learning, "samples": url["samples"], "output": run}
        train.run(train.Settings(**said), lambda line: print(line, file=out))
        seconds["train"], model = perf_counter() - started, {"model": "astrid@champion"}
    with open_engine(cluster) as engine:
        stage(engine, "detect", difference=url["difference"], output=url["candidates"], **model)
    started = perf_counter()
    comparison = compare(mock.output, url["reference"], url["difference"], url["candidates"])
    seconds["compare"] = perf_counter() - started
    report = folder / "report.html"
    report.write_text(write_report(comparison, url, seconds, run), encoding="utf-8")
    print(_farewell(folder, report, comparison, sum(seconds.values()), run is not None), file=out)
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


def _farewell(folder: Path, report: Path, comparison: Any, seconds: float, scored: bool) -> str:
    found, cut = len(comparison.real), "cand.p_real > 0.9" if scored else "abs(cand.snr) > 10"
    return f"""
{len(comparison.candidates)} candidates in {comparison.epochs} images, {found} of them real; {seconds:.0f} s.

Report:  {report.resolve()}

Go on in Python:
  import astrid_dist as astrid
  cand = astrid.open_candidates("{folder}/candidates.zarr")
  cand.where({cut}, drop=True).to_dataframe()
  best = cand.isel(candidate=int(abs(cand.snr).argmax("candidate")))
  field = astrid.open_difference("{folder}/difference.zarr")[f"{{best.field.item()}}/{{best.band.item()}}"]
  field.astrid.light_curve(x=best.x, y=best.y).to_dataframe()

or on the command line:
  astrid status {folder}/difference.zarr
  astrid verify {folder}/difference.zarr"""
