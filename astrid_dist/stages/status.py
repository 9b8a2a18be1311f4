"""What a ledger says of a product's jobs, in words: how far, what failed, what was quarantined, and why."""

from collections import Counter
from typing import Any

from astrid_dist.errors import ConfigError
from astrid_dist.store.layouts import TABLES
from astrid_dist.store.ledger import Ledger
from astrid_dist.store.locations import Location
from astrid_dist.store.reading import ProductReader, group_names
from astrid_dist.store.templates import METADATA, product_header

#: Groups that a status lists one by one.
MOST_GROUPS = 20


def _jobs(url: str) -> tuple[Ledger, list[dict[str, Any]]]:
    ledger = Ledger(Location.parse(url))
    jobs = ledger.jobs()
    if not jobs:
        raise ConfigError(f"{url} has no ledger with jobs: is it the output URL of a job?")
    return ledger, jobs


def describe_status(url: str) -> str:
    """The jobs of a product, oldest first: state, tasks with a marker, quarantined, set aside."""
    ledger, jobs = _jobs(url)
    lines = [f"{url}: {_state(url)}", *_contents(url)]
    for job in jobs:
        counts = Counter(
            marker["status"] for marker in ledger.markers(job["stage"]) if marker["config"] == job["digest"]
        )
        failed = list(ledger.failures(job["stage"]))
        finished = job["finished"]
        if finished:
            ended = f"finished {finished['time']}: {finished['tasks']} tasks, {finished['seconds']:.1f} s"
            lines.append(f"{job['id']}  {ended}")
        else:
            done = sum(counts.values())
            lines.append(
                f"{job['id']}  begun {job['created']}: {done} of {job['tasks']} tasks have their marker"
            )
            lines.append(f"  to go on: astrid resume {url}")
        if counts["quarantined"]:
            lines.append(f"  {counts['quarantined']} quarantined: astrid why {url}")
        if failed:
            lines.append(
                f"  {len(failed)} set aside, first {failed[0]['key']}: astrid why {url} {failed[0]['key']}"
            )
    return "\n".join(lines)


def _state(url: str) -> str:
    try:
        header = product_header(Location.parse(url))
    except ConfigError:
        return "nothing written yet"
    return f"{header['product']} product, {header['state']}"


def _contents(url: str) -> list[str]:
    """A line per group of a product: its epochs, how many are valid, its size; or how many samples."""
    location = Location.parse(url)
    if not location.objects().exists(METADATA) or product_header(location)["product"] in TABLES:
        return []
    groups = list(group_names(location))
    lines = []
    for group in groups[:MOST_GROUPS]:
        reader = ProductReader(location, group)
        if reader.attributes.get("planes"):
            sizes = reader.sizes("pixels")
            visits = f" of {sizes['visit']} visits" if sizes["visit"] > 1 else ""
            lines.append(f"  {group}: {sizes['sample']} samples{visits}, {sizes['v']} x {sizes['u']} pixels")
            continue
        height, width = reader.array("mask").shape[-2:]
        epochs = ""
        if "epochs" in reader.attributes:
            valid = int(reader.read("valid", epoch=slice(0, reader.epochs)).sum())
            epochs = f"{reader.epochs} epochs, {valid} valid, "
        lines.append(f"  {group}: {epochs}{height} x {width} pixels")
    return lines + ([f"  and {len(groups) - MOST_GROUPS} more groups"] if len(groups) > MOST_GROUPS else [])


def describe_reasons(url: str) -> str:
    """Every task that was set aside and every input that was quarantined, a line each."""
    ledger, jobs = _jobs(url)
    lines: list[str] = []
    for stage in dict.fromkeys(job["stage"] for job in jobs):
        lines.extend(
            f"set aside    {failure['key']}  after {failure['attempts']} attempts: {failure['error']}"
            for failure in ledger.failures(stage)
        )
        lines.extend(
            f"quarantined  {marker['key']}  {marker['reason']}"
            for marker in ledger.markers(stage)
            if marker["status"] == "quarantined"
        )
    return "\n".join(lines) or f"{url}: no task was set aside and nothing is quarantined"


def describe_key(url: str, key: str) -> str:
    """Everything that the ledger knows of one task.

    Raises
    ------
    ConfigError
        No task of that key has run; says how keys look.
    """
    ledger, jobs = _jobs(url)
    for stage in dict.fromkeys(job["stage"] for job in jobs):
        failure = ledger.failure(stage, key)
        if failure:
            worker = failure["worker"] or "a worker that died"
            return (
                f"{key} was set aside after {failure['attempts']} attempts, last on {worker}\n"
                f"{failure['error']}\n\n{failure['traceback']}"
            )
        marker = ledger.marker(stage, key)
        if marker:
            seconds = ", ".join(f"{name} {value:.2f} s" for name, value in marker["timings"].items())
            counts = ", ".join(f"{name} {value}" for name, value in marker["counts"].items())
            lines = [
                f"{key}: {marker['status']} {marker['finished']} on {marker['worker']}",
                f"  {seconds}",
                f"  {counts}",
            ]
            return "\n".join([*lines, *([f"  {marker['reason']}"] if marker["reason"] else [])])
    raise ConfigError(
        f"{url} knows no task {key!r}: keys look like f0423/g/e000017/y00x01; `astrid why {url}` lists some"
    )
