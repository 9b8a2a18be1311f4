"""What a model says of alert packets, as a table: the columns of `COLUMNS`, a row for every packet."""

import csv
import io
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from math import isfinite
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from astrid_dist.errors import ConfigError
from astrid_dist.formats.packets import Packet, Refused, read_packets
from astrid_dist.stages.packet_stamps import ScorePlane, problem, stamp_of
from astrid_dist.stages.scoring import CLASS_COLUMNS, choose_model
from astrid_dist.store.locations import Location
from astrid_dist.store.sample_layout import PLANES, STAMP

if TYPE_CHECKING:
    from astrid_dist.learning.ensemble import Ensemble
    from astrid_dist.learning.inference import Device

Columns = dict[str, NDArray[Any]]

#: Columns of the table. `offset_x` and `offset_y` are where the model sees the object, pixels from the pixel
#: of the alert, each with the error `offset_err`; `uncertainty` is the entropy of p_real in nats, `epistemic`
#: the part on which the networks of a model disagree; `reason` says why there is no score.
COLUMNS = (
    "candid", "object", "ra", "dec", "p_real", *CLASS_COLUMNS, "offset_x", "offset_y", "offset_err",
    "uncertainty", "epistemic", "reason", "source",
)  # fmt: skip
#: Packets that are looked at together.
BATCH = 64
#: Seconds between two lines of progress where there is no terminal.
_EVERY_S = 10.0


@dataclass(frozen=True)
class Scored:
    """How many packets have a score, how many have a reason instead, and what to know of the model."""

    scored: int
    not_scored: int
    warnings: tuple[str, ...]


def score_packets(
    paths: Sequence[str],
    model: str,
    to: str,
    *,
    tracking: str | None = None,
    survey: str | None = None,
    score: ScorePlane = "absent",
    samples: int = 0,
    prior: float | None = None,
    device: "Device" = "auto",
    say: Callable[[str], None] = lambda said: print(said, file=sys.stderr),
) -> Scored:
    """Score alert packets, each once, and write a CSV file.

    Parameters
    ----------
    paths : sequence of str
        Files, folders, patterns or URLs.
    model : str
        ``NAME``, ``NAME@alias`` or ``NAME/version`` of the registry, or a file (``*.pt``, ``*.zip``).
    to : str
        Path or URL of the table, ``*.csv``; it appears whole or not at all.
    tracking : str, optional
        URL of MLflow; by default as for a job whose output lies where `to` does.
    survey : str, optional
        Name of the survey that the model is told; by default ztf or lsst, by schema.
    score : str
        What stands for the score plane, as `astrid_dist.stages.packet_stamps.stamp_of`.
    samples : int
        Of Monte Carlo dropout; 0: each network is asked once.
    prior : float, optional
        Share of real alerts that p_real is to hold for; needs a calibrated model.
    device : str
        auto, cpu or cuda.
    say : callable
        Told how far it is, in words.

    Raises
    ------
    ConfigError
        A path stands for nothing; no such model; a package is missing; `to` is no CSV file.
    InputError, StorageError
        The model is damaged; MLflow or the place of the table cannot be reached.
    """
    if not to.endswith(".csv"):
        raise ConfigError(f"the table {to!r} must end in .csv")
    folder, _, name = to.rpartition("/")
    chosen = choose_model(model, tracking, Location.parse(to))
    told = _Table(chosen.ensemble, score, samples, prior, device)
    started = said = time.monotonic()
    for batch in _batches(paths, survey):
        told.add(batch, survey)
        if time.monotonic() - said > _EVERY_S:
            said = time.monotonic()
            done = told.scored + told.not_scored
            say(f"{done:,} packets, {done / (said - started):.0f} a second, {told.not_scored:,} not scored")
    Location.parse(folder or ".").objects().put(name, told.text.getvalue().encode())
    return Scored(told.scored, told.not_scored, chosen.warnings)


def _batches(paths: Sequence[str], survey: str | None) -> Iterator[list[Packet | Refused]]:
    """Packets in their order, a second one of the same alert and what cannot be looked at refused."""
    seen: dict[tuple[str, int], str] = {}
    batch: list[Packet | Refused] = []
    for one in read_packets(paths):
        if isinstance(one, Packet):
            alert = survey or one.survey, one.candid
            why = problem(one) or (f"the same alert as in {seen[alert]}" if alert in seen else "")
            seen.setdefault(alert, one.source)
            batch.append(Refused(one.source, why, one.candid, one.object_id) if why else one)
        else:
            batch.append(one)
        if len(batch) == BATCH:
            yield batch
            batch = []
    if batch:
        yield batch


class _Table:
    """Rows as they are written."""

    def __init__(
        self,
        ensemble: "Ensemble",
        score: ScorePlane,
        samples: int,
        prior: float | None,
        device: "Device",
    ) -> None:
        self._ensemble, self._score = ensemble, score
        self._samples, self._prior, self._device = samples, prior, device
        self.text = io.StringIO()
        self._rows = csv.DictWriter(self.text, COLUMNS, restval="", lineterminator="\n")
        self._rows.writeheader()
        self.scored = self.not_scored = 0

    def add(self, batch: Sequence[Packet | Refused], survey: str | None) -> None:
        """Ask about packets and write their rows, and those of refused ones, in order."""
        packets = [one for one in batch if isinstance(one, Packet)]
        told: Columns = {}
        if packets:
            stamps = np.array([stamp_of(one, self._score).pixels for one in packets])
            told = ask(
                self._ensemble, stamps, [one.band for one in packets],
                [survey or one.survey for one in packets],
                samples=self._samples, prior=self._prior, device=self._device,
            )  # fmt: skip
        number = 0
        for one in batch:
            row: dict[str, Any] = {
                "candid": "" if one.candid is None else one.candid,
                "object": one.object_id,
                "source": one.source,
            }
            if isinstance(one, Packet):
                row |= {"ra": f"{one.ra:.7f}", "dec": f"{one.dec:.7f}"}
                row |= {name: _text(float(values[number])) for name, values in told.items()}
                number += 1
            else:
                row["reason"] = one.reason
            self._rows.writerow(row)
        self.scored += len(packets)
        self.not_scored += len(batch) - len(packets)


def _text(value: float) -> str:
    return f"{value:.6g}" if isfinite(value) else ""


def ask(
    ensemble: "Ensemble",
    stamps: NDArray[np.float16],
    bands: Sequence[str],
    surveys: Sequence[str],
    *,
    samples: int = 0,
    prior: float | None = None,
    device: "Device" = "cpu",
) -> Columns:
    """What a model says of the candidates in the middle of stamps of packets.

    Parameters
    ----------
    ensemble : Ensemble
    stamps : (n, plane, v, u)
        Noise sigmas, planes as `astrid_dist.stages.packet_stamps.planes_of`.
    bands, surveys : (n,) names
    samples, prior, device
        As `score_packets`.

    Returns
    -------
    dict of (n,) arrays
        Those of `COLUMNS` that a model fills.
    """
    import torch

    from astrid_dist.learning.committee import voices
    from astrid_dist.learning.inference import choose_device, codes_of
    from astrid_dist.learning.uncertainty import decompose

    pixels = np.full((len(stamps), 1, len(PLANES), STAMP, STAMP), np.nan, np.float32)
    pixels[:, 0, : stamps.shape[1]] = stamps
    codes = [codes_of(ensemble.config, survey, [band]) for survey, band in zip(surveys, bands, strict=True)]
    place = choose_device(device)
    inputs = {
        "pixels": torch.from_numpy(pixels).to(place),
        "band": torch.tensor([band for band, _ in codes]).to(place),
        "survey": torch.tensor([survey for _, survey in codes]).to(place),
    }
    real, classes, position, variance = [], [], [], []
    for network, within in voices(ensemble.unets, samples, seed=0):
        with within(), torch.inference_mode():
            told = network.to(place)(**inputs)
        real.append(told.real.sigmoid().cpu().numpy())
        classes.append(told.classes.softmax(1).cpu().numpy())
        position.append(told.position.cpu().numpy())
        variance.append((2 * told.log_sigma).exp().cpu().numpy())
    unknown = decompose(np.clip(real, 0, 1))
    p_real = ensemble.real(unknown.mean, {}, prior)["p_real"]
    kinds = np.mean(classes, axis=0)
    if ensemble.calibration is not None:
        kinds = ensemble.calibration.classes(kinds, prior)
    offset = np.mean(position, axis=0)
    spread = np.mean(variance, axis=0) + np.var(position, axis=0)
    return {
        "p_real": p_real,
        **{name: kinds[:, number] for number, name in enumerate(CLASS_COLUMNS)},
        "offset_x": offset[:, 0],
        "offset_y": offset[:, 1],
        "offset_err": np.sqrt(spread.mean(1)),
        "uncertainty": decompose(p_real[None]).total,
        "epistemic": unknown.epistemic,
    }
