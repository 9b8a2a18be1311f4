"""A threshold that keeps false positives per image under a limit, with a guarantee that needs no model.

The loss of an image is min(false positives, cap). Thresholds are tested from the strictest down, each against
"the mean loss is above the limit", and the first that cannot be rejected ends it: Learn-then-Test by
fixed-sequence testing (Angelopoulos et al. 2021, arXiv:2110.01052). No correction for many tests is needed,
and since a looser threshold never has fewer false positives, the scores of the false positives themselves may
be the sequence (Bates et al. 2021, arXiv:2101.02703, theorem 1).

The guarantee: of all calibration sets that could have been drawn, in at least `confidence` of them the
threshold's true mean loss is at most the limit. It holds for any distribution of the loss, and any dependence
within an image. It rests on one thing: the calibration images and those to come are exchangeable, independent
draws of the same survey, conditions and processing. Epochs of one field repeat its stars and are not; take
one of each field, or know that the guarantee is for those fields. Of a night unlike all before it says
nothing.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import xlogy
from scipy.stats import binom

from astrid_dist.errors import InputError

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
#: Of losses (..., n) between 0 and 1, a limit of their mean, and a confidence.
PValue = Callable[[Floats, float, float], Floats]

#: Largest bet, as a share of the one that may lose all: 0.75 certifies more where losses are heavy-tailed, 1
#: where they are rare.
_BOLDEST = 0.9
#: Thresholds tested at once.
_BLOCK = 64


@dataclass(frozen=True)
class Certified:
    """A threshold with its guarantee, or none."""

    #: Candidates pass at or above it; infinite where nothing could be certified, -inf where all may pass.
    threshold: float
    #: Upper bound of the mean of min(false positives, cap) per image there, at the confidence, and the
    #: observed mean; NaN without a threshold.
    bound: float
    mean: float
    images: int
    #: Without a threshold: images that would do for the strictest if all were like these; None where no
    #: number would.
    images_needed: int | None
    limit: float
    confidence: float
    cap: int

    def __bool__(self) -> bool:
        """Whether there is a threshold."""
        return self.threshold < np.inf

    def __str__(self) -> str:
        """One sentence."""
        what, sure = (
            f"mean of min(false positives, {self.cap}) per image",
            f"{self.confidence:.0%} confidence",
        )
        if self:
            at = "without a threshold" if self.threshold == -np.inf else f"at {self.threshold:g}"
            measured = f"{self.mean:.3g} on {self.images} images"
            return f"{at} the {what} is at most {self.bound:.3g} with {sure} ({measured})"
        needed = "no number" if self.images_needed is None else f"about {self.images_needed}"
        return (
            f"no threshold keeps the {what} within {self.limit:g} with {sure}: {self.images} images, "
            f"{needed} would do"
        )


def betting(losses: ArrayLike, limit: float, confidence: float = 0.95) -> Floats:
    """p-value of "the mean loss is above the limit", from a bet against it.

    One side of the hedged capital of Waudby-Smith & Ramdas (2024, JRSS B 86, 1), with their predictable
    plug-in bets: each image multiplies the capital by 1 + bet (limit - loss), which cannot grow on average
    while the mean is
    above the limit. The largest capital on the way counts (Ville's inequality), so that the order of images,
    fixed beforehand, matters a little.

    Parameters
    ----------
    losses : (..., n) array_like
        Between 0 and 1, in the order of images.
    limit : float
        Of their mean, between 0 and 1.
    confidence : float
        That bets are tuned for; the p-value holds for any.

    Returns
    -------
    (...) float64
    """
    x = np.asarray(losses, np.float64)
    n = x.shape[-1]
    number = np.arange(1, n + 1)
    mean = (0.5 + np.cumsum(x, axis=-1)) / (number + 1)
    variance = (0.25 + np.cumsum((x - mean) ** 2, axis=-1)) / (number + 1)
    before = np.concatenate([np.full((*x.shape[:-1], 1), 0.25), variance[..., :-1]], axis=-1)
    bet = np.minimum(np.sqrt(2 * np.log(1 / (1 - confidence)) / (n * before)), _BOLDEST / (1 - limit))
    capital = np.cumsum(np.log1p(bet * (limit - x)), axis=-1).max(axis=-1)
    return np.asarray(np.exp(-np.maximum(capital, 0)))


def hoeffding_bentkus(losses: ArrayLike, limit: float, confidence: float = 0.95) -> Floats:
    """The same by the inequalities of Hoeffding and Bentkus, whichever says more (Bates et al. 2021).

    It looks at the mean alone, so that a spread below that of yes or no is no help to it. Arguments as for
    `betting`.
    """
    x = np.asarray(losses, np.float64)
    n, mean = x.shape[-1], x.mean(axis=-1)
    a = np.minimum(mean, limit)
    divergence = xlogy(a, a / limit) + xlogy(1 - a, (1 - a) / (1 - limit))
    bentkus = np.e * binom.cdf(np.ceil(n * mean - 1e-9), n, limit)
    return np.asarray(np.minimum(np.minimum(np.exp(-n * divergence), bentkus), 1))


def certify(
    score: ArrayLike,
    image: ArrayLike,
    images: int,
    *,
    limit: float = 1.0,
    cap: int = 20,
    confidence: float = 0.95,
    thresholds: ArrayLike | None = None,
    p_value: PValue = betting,
) -> Certified:
    """The lowest threshold that keeps the mean of min(false positives, cap) per image at or under `limit`.

    Parameters
    ----------
    score : (n,) array_like
        Scores of the false positives of all images; which ones are false must not depend on the threshold.
    image : (n,) array_like of int
        Image of each, 0 to `images` - 1.
    images : int
        Calibration images, those without false positives too.
    limit, cap : float, int
        Of the mean loss per image, and of the loss of one image.
    confidence : float
        Of the guarantee.
    thresholds : (k,) array_like, optional
        A grid fixed before the images were seen; by default the distinct scores, the finest one.
    p_value : callable
        `betting`, or its peer `hoeffding_bentkus`.

    Returns
    -------
    Certified
        With threshold -inf where all candidates may pass, and inf where nothing could be certified; it is
        false then.

    Raises
    ------
    InputError
        Arrays that do not fit, a NaN score, an image outside the range, or a limit that is no test.

    Examples
    --------
    >>> certify([0.5, 0.2], [0, 7], images=40).images_needed
    67
    """
    s, i = np.asarray(score, np.float64), np.asarray(image, np.int64)
    if s.ndim != 1 or s.shape != i.shape:
        raise InputError(f"scores {s.shape}, images {i.shape}: both must be (n,)")
    if np.isnan(s).any():
        raise InputError(f"{int(np.isnan(s).sum())} scores are NaN: leave out candidates that never pass")
    if images < 1 or (len(i) and not (i.min() >= 0 and i.max() < images)):
        raise InputError(f"false positives in images outside 0 to {images - 1}: number the images from 0")
    if not (0 < limit < cap and 0 < confidence < 1):
        raise InputError(
            f"limit {limit}, cap {cap}, confidence {confidence}: 0 < limit < cap, 0 < confidence < 1"
        )
    grid = np.append(s, -np.inf) if thresholds is None else np.asarray(thresholds, np.float64)
    tested = np.append(np.inf, np.unique(grid)[::-1])
    kept, strictest = 0, np.zeros(images)
    best = strictest
    for start, losses in _losses(s, i, images, tested, cap):
        passed = p_value(losses, limit / cap, confidence) <= 1 - confidence
        if start == 0:
            strictest = losses[min(1, len(losses) - 1)]
        count = int(np.argmin(np.append(passed, False)))
        if count:
            kept, best = start + count - 1, losses[count - 1]
        if count < len(losses):
            break
    if kept == 0:  # that nothing passes at infinity is known without images
        needed = _images_needed(strictest, limit / cap, confidence, p_value)
        return Certified(np.inf, np.nan, np.nan, images, needed, limit, confidence, cap)
    bound, mean = cap * _bound(best, confidence, p_value), cap * float(best.mean())
    return Certified(float(tested[kept]), bound, mean, images, None, limit, confidence, cap)


def _losses(
    score: Floats, image: Ints, images: int, tested: Floats, cap: int
) -> Iterator[tuple[int, Floats]]:
    """First index and (thresholds, images) losses as shares of the cap, block by block from the strictest."""
    passes_from = np.searchsorted(-tested, -score)  # the strictest threshold that each passes
    order = np.argsort(passes_from, kind="stable")
    passes_from, image = passes_from[order], image[order]
    count = np.zeros(images, np.int64)
    for start in range(0, len(tested), _BLOCK):
        size = min(_BLOCK, len(tested) - start)
        first, last = np.searchsorted(passes_from, [start, start + size])
        new = np.zeros((size, images), np.int64)
        np.add.at(new, (passes_from[first:last] - start, image[first:last]), 1)
        counts = count + np.cumsum(new, axis=0)
        count = counts[-1]
        yield start, np.minimum(counts, cap) / cap


def _bound(losses: Floats, confidence: float, p_value: PValue) -> float:
    """Least limit that would be certified, by bisection: p falls as the limit rises."""
    low, high = 0.0, 1.0
    for _ in range(20):
        middle = (low + high) / 2
        low, high = (low, middle) if p_value(losses, middle, confidence) <= 1 - confidence else (middle, high)
    return high


def _images_needed(losses: Floats, limit: float, confidence: float, p_value: PValue) -> int | None:
    """Images that certify the limit if these losses repeat themselves; None if 2^16 of them do not."""
    low, high = 0, 1
    while p_value(np.resize(losses, high), limit, confidence) > 1 - confidence:
        if high == 2**16:
            return None
        low, high = high, high * 2
    while high - low > 1:
        middle = (low + high) // 2
        enough = p_value(np.resize(losses, middle), limit, confidence) <= 1 - confidence
        low, high = (low, middle) if enough else (middle, high)
    return high
