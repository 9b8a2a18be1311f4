"""A run as MLflow remembers it: trained on what, how, how well. A server that goes away stops nothing.

What cannot be sent is kept as a small object beside the output, and sent before whatever comes next.
"""

import contextlib
import json
import logging
import math
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from astrid_dist.errors import ConfigError, StorageError
from astrid_dist.store.locations import Location

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from mlflow import MlflowClient

#: Object beside the output with epochs that wait for the server.
SPOOL = "tracking/waiting.json"
#: Longest text that MLflow keeps as a parameter.
LONGEST = 6000


class TrackingError(StorageError):
    """The MLflow server or data base cannot be reached, or refuses."""


def tracking_uri(asked: str | None, output: Location) -> str:
    """Where runs are tracked: what was asked for, or a data base in the output's folder.

    Raises
    ------
    ConfigError
        The output is a bucket, where no data base can lie, and nothing was asked for.
    """
    if asked or (asked := os.environ.get("MLFLOW_TRACKING_URI")):
        before, relative, path = asked.partition("sqlite:///")
        if relative and not before:  # workers stand in other folders
            return f"sqlite:///{Path(path).absolute()}"
        return asked
    if output.path is None:
        raise ConfigError(
            f"{output} is no folder, so MLflow's data base cannot lie in it: give tracking, the URL of an"
            " MLflow server or sqlite:///<file>"
        )
    output.path.mkdir(parents=True, exist_ok=True)
    return f"sqlite:///{output.path}/mlflow.db"


@contextlib.contextmanager
def mlflow_errors(uri: str) -> Iterator[None]:
    """Whatever MLflow raises, as `TrackingError`."""
    from mlflow.exceptions import MlflowException

    try:
        yield
    except (MlflowException, OSError) as error:
        if isinstance(error, TrackingError):
            raise
        said = str(error).splitlines()[0][:300]
        raise TrackingError(
            f"MLflow at {uri} failed: {said}; see that it runs, then run the same again"
        ) from error


def client_of(uri: str) -> "MlflowClient":
    """A client that gives up soon: training does not wait for a server that is gone."""
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "20")
    for name in ("AWS_REQUEST_CHECKSUM_CALCULATION", "AWS_RESPONSE_CHECKSUM_VALIDATION"):
        os.environ.setdefault(name, "when_required")  # R2 knows no others
    from mlflow import MlflowClient

    logging.getLogger("mlflow").setLevel(logging.WARNING)  # tables that it makes are its own affair
    return MlflowClient(uri, uri)


def start_run(uri: str, experiment: str, name: str, artifacts: Location) -> str:
    """Begin a run and return its id; `artifacts` is where a new experiment in a data base keeps files.

    Raises
    ------
    TrackingError
        MLflow cannot be reached.
    """
    with mlflow_errors(uri):
        client = client_of(uri)
        found = client.get_experiment_by_name(experiment)
        if found is not None:
            number = str(found.experiment_id)
        else:
            own = uri.startswith("sqlite")  # a server has its own place for them
            number = client.create_experiment(experiment, artifact_location=str(artifacts) if own else None)
        return str(client.create_run(number, run_name=name).info.run_id)


class Tracker:
    """Sends what belongs to one run.

    Parameters
    ----------
    uri : str
        Of MLflow.
    run : str
        Id of the run.
    output : Location
        Beside which epochs wait that could not be sent.
    """

    def __init__(self, uri: str, run: str, output: Location) -> None:
        self.uri, self.run = uri, run
        self._client = client_of(uri)
        self._objects = output.objects()
        waiting = self._objects.get(SPOOL)
        self._waiting: list[dict[str, Any]] = json.loads(waiting) if waiting else []
        self._sent: set[int] | None = None

    @property
    def waiting(self) -> int:
        """Epochs that could not be sent yet."""
        return len(self._waiting)

    def epoch(self, metrics: Mapping[str, float]) -> bool:
        """Send the metrics of an epoch, ``epoch`` among them, once however often this is called; False if
        they wait. Raises nothing of MLflow's.
        """
        record = {"time": int(time.time() * 1000), "values": dict(metrics)}
        waiting = [*self._waiting, record]
        done = 0
        try:
            for one in waiting:
                self._send(one)
                done += 1
        except TrackingError:
            pass
        self._keep(waiting[done:])
        return not self._waiting

    def catch_up(self, history: Sequence[Mapping[str, float]]) -> None:
        """Send all epochs that MLflow has not; raises `TrackingError`."""
        for one in [*self._waiting, *({"time": int(time.time() * 1000), "values": dict(h)} for h in history)]:
            self._send(one)
        self._keep([])

    def describe(self, settings: Mapping[str, Any], tags: Mapping[str, str]) -> None:
        """Parameters and tags."""
        from mlflow.entities import Param, RunTag

        with mlflow_errors(self.uri):
            self._client.log_batch(
                self.run,
                params=[Param(name, _text(value)) for name, value in flat(settings).items()],
                tags=[RunTag(name, value[:LONGEST]) for name, value in tags.items()],
            )

    def datasets(self, context: str, groups: Sequence[Mapping[str, Any]], counts: Mapping[str, Any]) -> None:
        """What it is trained or validated on: digest of each group, and what it is made of."""
        from mlflow.entities import Dataset, DatasetInput, InputTag

        inputs = []
        for one in groups:
            digest = one["digest"] or one["inputs_digest"]
            dataset = Dataset(
                name=f"{one['group']} ({context})"[:500],
                digest=digest[:36],
                source_type="zarr",
                source=json.dumps({"uri": f"{one['url']}#{one['group']}"}),
                profile=json.dumps({"samples": one["samples"], "job": one["job"], "digest": digest}),
            )
            inputs.append(DatasetInput(dataset, [InputTag("mlflow.data.context", context)]))
        with mlflow_errors(self.uri):
            self._client.log_inputs(self.run, inputs)
            self._client.log_dict(
                self.run, {"groups": list(groups), "composition": dict(counts)}, f"data/{context}.json"
            )

    def note(self, text: str) -> None:
        """What stands at the top of the run's page, Markdown."""
        with mlflow_errors(self.uri):
            self._client.set_tag(self.run, "mlflow.note.content", text)

    def model_note(self, name: str, version: str, text: str, about: str) -> None:
        """What stands at the top of a model version's page, Markdown, and beside the model's name."""
        with mlflow_errors(self.uri):
            self._client.update_model_version(name, version, text)
            self._client.update_registered_model(name, about)

    def figures(self, drawn: Mapping[str, "Figure"]) -> None:
        """Pictures, by name."""
        with mlflow_errors(self.uri):
            for name, figure in drawn.items():
                figure.patch.set_alpha(1.0)  # MLflow shows them on a page of unknown colour
                self._client.log_figure(self.run, figure, f"figures/{name}.png")

    def summary(self, values: Mapping[str, float]) -> None:
        """Numbers of the whole run; those that are not finite are left out."""
        with mlflow_errors(self.uri):
            for name, value in values.items():
                if math.isfinite(value):
                    self._client.log_metric(self.run, name, float(value), step=0)

    def finish(self, status: str = "FINISHED") -> None:
        """Say how it ended."""
        with mlflow_errors(self.uri):
            self._client.set_terminated(self.run, status)

    def page(self) -> str:
        """Where to see the run."""
        if self.uri.startswith("http"):
            with mlflow_errors(self.uri):
                number = self._client.get_run(self.run).info.experiment_id
            return f"{self.uri.rstrip('/')}/#/experiments/{number}/runs/{self.run}"
        return f"run {self.run}; to see it: mlflow server --backend-store-uri {self.uri}"

    def _send(self, record: Mapping[str, Any]) -> None:
        from mlflow.entities import Metric

        values = record["values"]
        step = int(values["epoch"])
        with mlflow_errors(self.uri):
            if self._sent is None:
                self._sent = {one.step for one in self._client.get_metric_history(self.run, "epoch")}
            if step in self._sent:
                return
            metrics = [Metric(name, float(value), record["time"], step) for name, value in values.items()]
            self._client.log_batch(self.run, metrics=metrics)
            self._sent.add(step)

    def _keep(self, waiting: list[dict[str, Any]]) -> None:
        if waiting != self._waiting:
            self._objects.put(SPOOL, json.dumps(waiting).encode())
            self._waiting = waiting


def flat(settings: Mapping[str, Any], before: str = "") -> dict[str, Any]:
    """Nested settings with dotted names."""
    found: dict[str, Any] = {}
    for name, value in settings.items():
        if isinstance(value, Mapping) and value:
            found |= flat(value, f"{before}{name}.")
        else:
            found[f"{before}{name}"] = value
    return found


def _text(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 3]}..."
