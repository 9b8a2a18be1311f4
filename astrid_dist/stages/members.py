"""Train a deep ensemble: networks that differ by their seed alone, put together and measured as one.

Each member is a run of its own, in ``member-0`` and so on, that may also have been trained elsewhere with the
same settings. The output is a folder with ``ensemble.zip`` and ``run.json``.
"""

import json
from collections.abc import Callable
from dataclasses import replace
from hashlib import sha256
from typing import TYPE_CHECKING

from astrid_dist.stages.run_folder import run_folder
from astrid_dist.stages.training_results import MODEL, champion_value, code_version, measured
from astrid_dist.store.locations import Location

if TYPE_CHECKING:
    from astrid_dist.learning.distributed import Work
    from astrid_dist.learning.ensemble import Ensemble
    from astrid_dist.stages.train import Settings
    from astrid_dist.stages.training_data import Data

FILE, RUN = "ensemble.zip", "run.json"


def run_members(settings: "Settings", say: Callable[[str], None]) -> None:
    """Train every member, or go on; register each, and all together; errors as `train.run`."""
    from astrid_dist.learning.ensemble import Ensemble, ensemble_bytes
    from astrid_dist.learning.registry import find, load
    from astrid_dist.learning.tracking import start_run, tracking_uri
    from astrid_dist.stages import train

    output = Location.parse(settings.output)
    uri = tracking_uri(settings.tracking, output.folder)
    where = train.artifacts_of(settings, output)
    with run_folder(output, "train", RUN) as folder:
        work, data = train.prepared(settings, output, uri)
        said = [train.run_digest(settings, data), settings.members]
        digest = sha256(json.dumps(said).encode()).hexdigest()
        record = folder.record(digest, "an ensemble of other settings or samples")
        if not record:
            base = settings.base
            if base is not None and not base.endswith((".pt", ".zip")):
                base = find(uri, base)  # members may become what it is named now
            run_id = start_run(uri, settings.experiment, output.key.rpartition("/")[2] or "ensemble", where)
            record = {"digest": digest, "run": run_id, "base": base}
            folder.keep(record)
        shared = {"members": 1, "base": record["base"], "tracking": uri, "artifacts": str(where)}
        unets = []
        for number in range(settings.members):
            own = {"seed": settings.seed + number, "output": str(output / f"member-{number}")}
            say(f"member {number}, seed {own['seed']}")
            train.run(settings.model_copy(update={**shared, **own}), say)
            folder.lease.check()
            unets.append(load("", str(output / f"member-{number}" / MODEL)))
        ensemble = Ensemble(tuple(unets))
        output.objects().put(FILE, ensemble_bytes(ensemble))
        if "registered" not in record:
            work = replace(work, run=record["run"])
            record["registered"] = _publish(settings, work, data, ensemble)
            folder.keep(record)
    say(f"{output / FILE}: {settings.members} networks")
    say(record["registered"])


def _publish(settings: "Settings", work: "Work", data: "Data", ensemble: "Ensemble") -> str:
    """How good all are together, and where they stand in the registry. May be done again."""
    from astrid_dist.learning.committee import Committee
    from astrid_dist.learning.registry import load_ensemble, model_name, promote, register
    from astrid_dist.learning.tracking import Tracker
    from astrid_dist.stages.training_data import data_digest

    tracker = Tracker(work.tracking, work.run, work.output)
    tracker.describe(settings.model_dump(mode="json"), code_version())
    found = measured(Committee(ensemble.unets), data.validation, work).metrics()
    tracker.summary({f"best_{name}": value for name, value in found.items()})
    best, name = found[settings.metric], settings.name or model_name(settings.survey)
    digest = data_digest(data.validation)
    tags = {"data": digest, f"val_{settings.metric}": repr(best), "weights": ensemble.networks_digest}
    version = register(work.tracking, work.run, ensemble, name, tags | code_version())
    value = champion_value(work, settings.metric)
    verdict = promote(work.tracking, name, version, settings.metric, best, digest, value, load_ensemble)
    tracker.finish()
    return str(verdict)
