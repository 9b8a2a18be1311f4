"""What a calibration is fitted to, and the fit: temperatures, an offset, and a threshold with a guarantee."""

import json
from dataclasses import dataclass, replace
from hashlib import sha256
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar

from astrid_dist.errors import InputError
from astrid_dist.evaluation import calibration as judge
from astrid_dist.evaluation.guarantee import Certified, certify
from astrid_dist.evaluation.metrics import prior_weights
from astrid_dist.evaluation.scaling import fit_scaling
from astrid_dist.stages.comparison import searched
from astrid_dist.stages.labelled import Labelled, columns_of, label_candidates
from astrid_dist.stages.labels import IGNORED, sky_cells
from astrid_dist.stages.scoring import CLASS_COLUMNS, conditions, kept_model, surveys_of
from astrid_dist.store.ledger import Ledger
from astrid_dist.store.locations import Location
from astrid_dist.taxonomy import CLASSES

if TYPE_CHECKING:
    from astrid_dist.learning.calibration import Calibration
    from astrid_dist.learning.ensemble import Ensemble
    from astrid_dist.stages.calibrate import Settings

Floats = NDArray[np.float64]
#: Least and largest temperature of the classes.
_TEMPERATURES = (0.05, 20.0)


@dataclass(frozen=True)
class Examples:
    """What a calibration is fitted to; log odds and classes are those that the model told without it."""

    table: dict[str, NDArray[Any]]
    """Columns of candidates that are real or bogus for sure."""
    logit: Floats
    real: NDArray[np.bool_]
    cells: NDArray[np.int64]
    classes: Floats
    """(k, class) probabilities of the candidates whose class is known, and ..."""
    codes: NDArray[np.int64]
    """... (k,) which it is."""
    false_image: NDArray[np.int64]
    """Image of each bogus example, in their order."""
    images: int
    conditions: dict[str, Any]
    ignored: int

    @property
    def digest(self) -> str:
        """16 hex digits of all that is fitted to."""
        whole = sha256(json.dumps([self.images, self.conditions], sort_keys=True).encode())
        for part in (self.logit, self.real, self.cells, self.classes, self.codes, self.false_image):
            whole.update(np.ascontiguousarray(part).tobytes())
        return whole.hexdigest()[:16]


@dataclass(frozen=True)
class Made:
    """A calibration and how good it is."""

    calibration: "Calibration"
    certified: Certified
    unseen: Floats
    """(n,) probabilities of examples by the fit that did not see their place."""
    scores: dict[str, dict[str, float]]


def read_examples(settings: "Settings", model: "Ensemble") -> Examples:
    """Candidates with what the model told of them, and where false ones are.

    Raises
    ------
    InputError
        As `label_candidates`; the candidates were asked for at another prior.
    """
    from astrid_dist.learning.ensemble import logit

    where = Location.parse(settings.candidates)
    given = label_candidates(
        settings.candidates,
        settings.truth,
        settings.known,
        settings.model,
        model,
        settings.least_snr,
        settings.examples,
    )
    job = Ledger(where).jobs()[-1]
    if job["settings"]["prior"] is not None:
        raise InputError(f"{where} was made with a prior of its own: detect again without `prior`")
    table = columns_of(given.known)
    told = replace(model, calibration=None).real(table["p_unet"], table)["p_real"]
    seen = np.isfinite(told)
    images = {image: number for number, image in enumerate(sorted(searched(settings.candidates)))}
    bogus = given.known[seen & ~given.real]
    classes, codes = _classes(given, kept_model(settings.candidates, job["settings"]["model"]))
    return Examples(
        {name: values[seen] for name, values in table.items()},
        logit(told[seen]),
        given.real[seen],
        sky_cells(given.known, settings.cell_arcsec)[seen],
        classes,
        codes,
        np.array([images[one] for one in zip(bogus["group"], bogus["epoch"], strict=True)], np.int64),
        len(images),
        conditions(
            job["settings"], surveys_of(job["settings"]["difference"], [group for group, _ in images])
        ),
        given.ignored,
    )


def _classes(given: Labelled, used: "Ensemble") -> tuple[Floats, NDArray[np.int64]]:
    """Class probabilities without calibration, of candidates whose class is known, and which it is."""
    names = list(CLASSES[:-1])
    certain = given.table["cause"].isin(names).to_numpy() & (given.label != IGNORED)
    certain &= given.table[list(CLASS_COLUMNS)].notna().all(axis=1).to_numpy()
    rows = given.table[certain]
    told = np.log(np.clip(rows[list(CLASS_COLUMNS)].to_numpy(np.float64), 1e-30, None))
    before = used.calibration.class_temperature if used.calibration is not None else 1.0
    return _softmax(told * before), np.array([names.index(one) for one in rows["cause"]], np.int64)


def make(examples: Examples, settings: "Settings") -> Made:
    """The calibration of all examples, and what fits to other folds of the sky tell of each."""
    from astrid_dist.learning.calibration import Calibration, Guarantee
    from astrid_dist.learning.out_of_fold import folds_of
    from astrid_dist.learning.trees import sigmoid

    logit, real, prior = examples.logit, examples.real, settings.prior
    fold = folds_of(examples.cells, real, settings.folds, settings.seed)
    unseen = np.empty(len(real))
    for one in np.unique(fold):
        out = fold == one
        unseen[out] = _fitted(logit[~out], real[~out], prior).p(logit[out])
    scaling = _fitted(logit, real, prior)
    calibration = Calibration(
        scaling.temperature, scaling.offset, class_temperature(examples.classes, examples.codes), prior
    )
    # As detect writes it. Which order candidates have is not fitted, so that these may be the same ones.
    told = sigmoid(calibration.logit(logit)).astype(np.float32)
    certified = certify(
        told[~real],
        examples.false_image,
        examples.images,
        limit=settings.limit,
        cap=settings.cap,
        confidence=settings.confidence,
    )
    if certified:
        shown = Guarantee(
            max(certified.threshold, 0.0),  # of -inf all may pass
            settings.limit,
            settings.confidence,
            settings.cap,
            certified.bound,
            examples.images,
            examples.conditions,
        )
        calibration = replace(calibration, guarantee=shown)
    found = {"before": _scores(sigmoid(logit), real, prior), "after": _scores(unseen, real, prior)}
    return Made(calibration, certified, unseen, found)


def _fitted(logit: Floats, real: NDArray[np.bool_], prior: float) -> Any:
    return fit_scaling(logit, real, prior_weights(real, prior), offset=True)


def class_temperature(told: Floats, codes: NDArray[np.int64]) -> float:
    """Temperature by which class probabilities (k, class) have the least log loss; 1 without examples."""
    if not len(codes):
        return 1.0
    log = np.log(np.clip(told, 1e-30, None))
    rows = np.arange(len(codes))

    def loss(log_temperature: float) -> float:
        p = _softmax(log / np.exp(log_temperature))[rows, codes]
        return float(-np.log(np.clip(p, 1e-30, None)).mean())

    low, high = np.log(_TEMPERATURES)
    return float(np.exp(minimize_scalar(loss, bounds=(low, high), method="bounded").x))


def _softmax(log: Floats) -> Floats:
    p = np.exp(log - log.max(axis=1, keepdims=True, initial=-np.inf))
    return np.asarray(p / p.sum(axis=1, keepdims=True))


def log_loss(p: NDArray[Any], real: NDArray[np.bool_], prior: float) -> float:
    """Mean of -log of what was told of the truth, at a prior; the prior itself where nothing was told."""
    told = np.clip(np.nan_to_num(np.asarray(p, np.float64), nan=prior), 1e-7, 1 - 1e-7)
    return float(np.average(-np.log(np.where(real, told, 1 - told)), weights=prior_weights(real, prior)))


def _scores(p: Floats, real: NDArray[np.bool_], prior: float) -> dict[str, float]:
    found = judge.calibration(p, real, prior=prior)
    return {
        "log_loss": log_loss(p, real, prior),
        "ece": found.ece,
        "ece_by_chance": found.ece_by_chance[0],
        "adaptive_ece": found.adaptive_ece,
        "brier": found.brier.score,
    }
