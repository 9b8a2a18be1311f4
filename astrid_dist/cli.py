"""The ``astrid`` command: parses, calls one function, prints."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from astrid_dist.errors import AstridError, ConfigError

if TYPE_CHECKING:
    from astrid_dist.engine.runner import RunSummary

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Find astronomical transients in time series of survey images, at scale.",
)

Cluster = Annotated[
    str | None,
    typer.Option(help="'local' (default), 'serial', or a cluster file such as clusters/local.yaml"),
]
Overrides = Annotated[
    list[str] | None, typer.Argument(help="key=value settings that override the job file's")
]
JobFile = Annotated[
    str, typer.Argument(help="job file, or the name of a shipped one such as jobs/difference.yaml")
]
OutputUrl = Annotated[str, typer.Argument(help="URL of the product a job writes or wrote")]


@app.command()
def init(directory: Annotated[Path, typer.Argument(help="folder to copy into; made if missing")]) -> None:
    """Copy the shipped job files, cluster files and schemas into DIRECTORY, to edit."""
    import shutil

    from astrid_dist.bundled import bundled

    copied = 0
    for kind in ("jobs", "clusters", "schemas"):
        for source in sorted(bundled(kind).iterdir()):
            target = directory / kind / source.name
            if target.exists():
                print(f"kept {target}: it is there already")
                continue
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, target)
            copied += 1
    print(f"copied {copied} files to {directory}; edit, then astrid run {directory}/jobs/reference.yaml")


@app.command()
def demo(
    directory: Annotated[Path, typer.Argument(help="folder for survey, products and report")] = Path("demo"),
    cluster: Cluster = None,
) -> None:
    """Make a mock survey, find its transients and write an HTML report that compares them with the truth."""
    from astrid_dist.stages.demo import run_demo

    run_demo(directory, cluster)


@app.command()
def ingest(
    paths: Annotated[list[str], typer.Argument(help="FITS files, folders, patterns or URLs")],
    survey: Annotated[str, typer.Option(help="survey profile: generic, decam, ztf, or a YAML file")],
    to: Annotated[str, typer.Option(help="URL of the survey cube; made or appended to")],
    field: Annotated[str | None, typer.Option(help="put every epoch into this field")] = None,
    band: Annotated[
        str | None, typer.Option(help="take only this band, or name it where headers do not")
    ] = None,
    grid: Annotated[str | None, typer.Option(help="FITS file whose pixel grid a new field takes")] = None,
    retry: Annotated[
        bool, typer.Option(help="try frames again whose pixels were quarantined before")
    ] = False,
    cluster: Cluster = None,
) -> None:
    """Read FITS epochs into a survey cube; bad ones are quarantined with their reason."""
    settings = {
        "paths": paths,
        "survey": survey,
        "output": to,
        "field": field,
        "band": band,
        "grid": grid,
        "retry": retry,
    }
    _run("ingest", {name: value for name, value in settings.items() if value is not None}, cluster)


@app.command()
def run(job: JobFile, overrides: Overrides = None, cluster: Cluster = None) -> None:
    """Run a job to its end, or go on with it where it was stopped."""
    from astrid_dist.stages import load_stage

    stage, settings = _load(job, overrides)
    whole = getattr(load_stage(stage), "run", None)
    if whole is None:
        _run(stage, settings, cluster)
    elif cluster is None:
        whole(settings)
    else:
        raise ConfigError(f"{stage} runs no tasks on {cluster}: leave --cluster out, and say `workers`")


@app.command()
def plan(job: JobFile, overrides: Overrides = None) -> None:
    """Say what a job would do: tasks, bytes, requests, memory, warnings. Writes nothing."""
    from astrid_dist.stages.run import plan_stage

    stage, settings = _load(job, overrides)
    planned = plan_stage(stage, settings)
    print(describe_plan(planned))


@app.command()
def status(url: OutputUrl) -> None:
    """Say how far the jobs of a product are, from its ledger alone."""
    from astrid_dist.stages.status import describe_status

    print(describe_status(url))


@app.command()
def resume(
    url: OutputUrl,
    cluster: Cluster = None,
    give_up: Annotated[
        bool, typer.Option(help="quarantine tasks that failed for good, and finish without them")
    ] = False,
) -> None:
    """Finish the job that was stopped on a product, exactly as it was planned."""
    from astrid_dist.stages.run import give_up_failed, unfinished_job
    from astrid_dist.stages.run import resume as resume_job

    unfinished_job(url)
    if give_up:
        for key in give_up_failed(url):
            print(f"given up: {key}")
    with _engine(cluster) as (engine, observers):
        _report(resume_job(url, engine, observers), url)


@app.command()
def verify(
    url: OutputUrl,
    redo: Annotated[
        bool, typer.Option(help="forget damaged shards, so that `astrid resume` writes them again")
    ] = False,
) -> None:
    """Read every shard of a product again and compare it with what its task wrote."""
    from astrid_dist.store.verifying import verify as verify_product

    report = verify_product(url)
    for problem in report.problems:
        print(f"{problem.key}  {problem.variable}: {problem.what}")
    print(f"{report.checked} shards, {report.bytes / 2**20:.1f} MiB read, {len(report.problems)} problems")
    if not report.problems:
        return
    if redo:
        from astrid_dist.stages.run import reopen_damaged

        opened = reopen_damaged(url, [problem.key for problem in report.problems])
        if opened:
            print(f"forgotten; to write them again: astrid resume {url}")
            return
    print(
        f"to write damaged shards again: astrid verify {url} --redo, then astrid resume {url}",
        file=sys.stderr,
    )
    raise typer.Exit(1)


@app.command()
def why(
    url: OutputUrl,
    key: Annotated[str | None, typer.Argument(help="key of a task, as status and run print it")] = None,
) -> None:
    """Say why tasks failed or epochs were quarantined; with a KEY, everything that is known of it."""
    from astrid_dist.stages.status import describe_key, describe_reasons

    print(describe_key(url, key) if key else describe_reasons(url))


@app.command()
def export(
    what: Annotated[str, typer.Argument(help="what to export: candidates")],
    url: Annotated[str, typer.Argument(help="URL of the product")],
    to: Annotated[str, typer.Option(help="file to write: .csv, .ecsv or .parquet")],
) -> None:
    """Write a table for other programs."""
    from astrid_dist.query.export import export_candidates

    if what != "candidates":
        raise ConfigError(f"cannot export {what!r}: there are candidates")
    print(f"{export_candidates(url, to)} candidates written to {to}")


@app.command()
def score(
    packets: Annotated[list[str], typer.Argument(help="Avro, Parquet, tar archives: files, folders, URLs")],
    model: Annotated[str, typer.Option(help="NAME, NAME@alias or NAME/version of the registry, or a file")],
    to: Annotated[str, typer.Option(help="CSV file to write, a row for every packet")],
    tracking: Annotated[str | None, typer.Option(help="URL of MLflow; by default beside the table")] = None,
    survey: Annotated[str | None, typer.Option(help="name the model knows the survey by")] = None,
    score_plane: Annotated[
        Literal["absent", "filtered"],
        typer.Option(help="S_corr, which packets lack: absent, or filtered for the difference's own"),
    ] = "absent",
    samples: Annotated[int, typer.Option(help="of Monte Carlo dropout; 0: the model as it is", min=0)] = 0,
    prior: Annotated[
        float | None, typer.Option(help="share of real alerts that p_real is to hold for", min=0, max=1)
    ] = None,
) -> None:
    """Say of alert packets how likely each is real, and of what class; needs no survey and no difference."""
    from astrid_dist.stages.score import score_packets

    told = score_packets(
        packets, model, to,
        tracking=tracking, survey=survey, score=score_plane, samples=samples, prior=prior,
    )  # fmt: skip
    for warning in told.warnings:
        print(f"warning: {warning}", file=sys.stderr)
    print(f"{told.scored} alerts scored, {told.not_scored} not (the column reason says why), in {to}")
    if not told.scored:
        raise typer.Exit(1)


@app.command()
def night(
    url: Annotated[str, typer.Argument(help="URL of the difference product")],
    night: Annotated[
        str | None, typer.Option(help="date of its evening, or an MJD in it; left out, the last one")
    ] = None,
    field: Annotated[str, typer.Option(help="which <field>/<band> groups, a shell pattern")] = "*",
    to: Annotated[Path, typer.Option(help="HTML file to write")] = Path("night.html"),
) -> None:
    """Write the page of a night: how good its subtractions are, and what is wrong with the others."""
    from astrid_dist.stages.night import night_page

    to.parent.mkdir(parents=True, exist_ok=True)
    to.write_text(night_page(url, night, [field]), encoding="utf-8")
    print(f"page of the night written to {to}")


@app.command()
def describe(
    url: Annotated[str, typer.Argument(help="URL of samples, or of the difference of an injected survey")],
    to: Annotated[Path, typer.Option(help="HTML file to write")] = Path("samples.html"),
) -> None:
    """Write the page of samples or of an injected survey: what it is made from, its balance, how it looks."""
    from astrid_dist.stages.injected_report import injected_report
    from astrid_dist.stages.sample_report import sample_report
    from astrid_dist.store.locations import Location
    from astrid_dist.store.templates import product_header

    if product_header(Location.parse(url))["product"] == "difference":
        text = injected_report(url)
    else:
        text = sample_report(url, lambda said: print(said, file=sys.stderr))
    to.parent.mkdir(parents=True, exist_ok=True)
    to.write_text(text, encoding="utf-8")
    print(f"page written to {to}")


def describe_plan(planned: Any) -> str:
    """A plan in words."""
    estimate = planned.estimate
    lines = [
        f"job       {planned.job.id}",
        f"output    {planned.job.output}",
        f"tasks     {estimate.tasks:,}",
        f"reads     {estimate.bytes_read / 2**20:,.1f} MiB before compression",
        f"writes    {estimate.bytes_written / 2**20:,.1f} MiB before compression",
        f"requests  {estimate.requests:,} (multipart uploads counted by part)",
        f"memory    {estimate.peak_memory_bytes / 2**20:,.0f} MiB at the peak of a task",
    ]
    return "\n".join([*lines, *(f"warning   {warning}" for warning in planned.warnings)])


def _load(job: str, overrides: list[str] | None) -> tuple[str, Any]:
    from astrid_dist.bundled import bundled
    from astrid_dist.engine.jobfile import load_job, validate
    from astrid_dist.stages import load_stage

    path = Path(job)
    if not path.exists():
        shipped = bundled("jobs") / (path.name if path.suffix else f"{path.name}.yaml")
        if not shipped.exists():
            names = ", ".join(sorted(one.name for one in bundled("jobs").iterdir()))
            raise ConfigError(f"there is no job file {job}; shipped are {names}")
        path = shipped
    name, raw, where = load_job(path, overrides or [])
    return name, validate(load_stage(name).Settings, raw, where)


@contextmanager
def _engine(cluster: str | None) -> Iterator[tuple[Any, list[Any]]]:
    from astrid_dist.engine.clusters import open_engine
    from astrid_dist.engine.observers import progress

    with open_engine(cluster) as engine:
        yield engine, [progress(sys.stderr), *([] if sys.stderr.isatty() else [_print_warnings])]


def _print_warnings(event: Any) -> None:
    """Say in words what a plan warns of, where no progress bar does."""
    for warning in getattr(event, "warnings", ()):
        print(f"warning: {warning}")


def _run(stage: str, settings: Any, cluster: str | None) -> None:
    from astrid_dist.stages.run import run_stage

    with _engine(cluster) as (engine, observers):
        summary = run_stage(stage, settings, engine, observers)
    _report(summary, settings["output"] if isinstance(settings, dict) else settings.output)


def _report(summary: "RunSummary", url: str) -> None:
    parts = [f"{summary.done} tasks done"]
    parts += [f"{summary.skipped} done before"] if summary.skipped else []
    parts += [f"{summary.quarantined} quarantined (astrid why {url})"] if summary.quarantined else []
    print(f"{url}: {', '.join(parts)} in {summary.seconds:.1f} s")
    if summary.quarantined and not (summary.done or summary.skipped):
        raise typer.Exit(1)


def main() -> None:
    """Entry point: errors that astrid_dist raises on purpose become one line and an exit status."""
    try:
        app()
    except AstridError as error:
        print(f"astrid: {error.kind} error: {error}", file=sys.stderr)
        sys.exit(2 if isinstance(error, ConfigError) else 1)


if __name__ == "__main__":
    main()
