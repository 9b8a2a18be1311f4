"""What stands at the top of a run's page and of a model's: trained on what, how, how well. Markdown."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from astrid_dist.learning.sampling import Sampling

#: Metrics that are said in words, and how.
WORDS = {
    "auc": "AUC {:.4f}",
    "precision": "precision {:.3f}",
    "recall": "recall {:.3f} (at p_real 0.5)",
    "iou": "mean IoU {:.3f}",
    "position_px": "places within {:.2f} px (median)",
    "loss": "loss {:.3f}",
}


def run_note(
    settings: Mapping[str, Any],
    weights: int,
    groups: Mapping[str, Sequence[Mapping[str, Any]]],
    counts: Mapping[str, Mapping[str, Any]],
    found: Mapping[str, Mapping[str, float]] | None = None,
    verdict: str = "",
) -> str:
    """The note of a run, of which the results may not be there yet.

    Parameters
    ----------
    settings : mapping
        Of the train stage.
    weights : int
        Numbers in the model.
    groups, counts : mapping
        By ``training`` and ``validation``: `astrid_dist.learning.composition.digests` and ``composition``.
    found : mapping, optional
        By ``validation`` and ``test``: metrics of the model that was kept.
    verdict : str
        Where it stands in the registry.
    """
    rows = [(f"on {name} samples", _metrics(metrics)) for name, metrics in (found or {}).items()]
    if not found:
        rows = [("result", "not there yet: it trains, or was stopped; the same command goes on")]
    rows += [("trained on", _data(groups["training"], counts["training"]))]
    rows += [("validated on", _data(groups["validation"], counts["validation"]))]
    rows += [("how", _how(settings, weights))]
    head = f"**{verdict}**\n\n" if verdict else ""
    lines = ["| | |", "|---|---|", *(f"| {name} | {text} |" for name, text in rows)]
    return head + "\n".join(lines) + "\n\n" + _classes(counts, (found or {}).get("validation"))


def model_note(model: str, found: Mapping[str, float], data: str) -> str:
    """The note of a version of a model, ``NAME/version``; `data` says which samples it was measured on."""
    return (
        f"{_metrics(found)} on the validation samples `{data}`.\n\n"
        f"Use it: `astrid run jobs/detect.yaml difference=URL model={model} output=URL`, or in Python\n\n"
        f'```\nimport mlflow\nmodel = mlflow.pyfunc.load_model("models:/{model}")\n'
        "told = model.predict(pixels)  # (n, visit, plane, y, x) float32, noise sigmas, any size\n```\n"
    )


def _data(groups: Sequence[Mapping[str, Any]], counts: Mapping[str, Any]) -> str:
    ratio = counts["synthetic_to_real"]
    made = "all made" if ratio is None else f"{ratio:.3g} made for each real one"
    where = ", ".join(f"{one['group']} of {one['url']}" for one in groups)
    return f"{counts['samples']} samples, {made}: {where}"


def _how(settings: Mapping[str, Any], weights: int) -> str:
    begun = f"from {settings['base']}" if settings["base"] else f"a new {settings['size']} model"
    if settings["tune"] == "heads":
        begun += ", heads alone"
    default = Sampling().model_dump(mode="json")
    drawn = [f"{name} {value}" for name, value in settings["sampling"].items() if value != default[name]]
    workers = settings["workers"]
    by = f"{workers} worker{'' if workers == 1 else 's'}"
    parts = [
        f"{begun} ({weights / 1e6:.2g} million weights)",
        f"at most {settings['epochs']} epochs, batches of {settings['batch']} on {by}",
        f"rate {settings['rate']:g}, seed {settings['seed']}",
        f"best by {settings['metric']}",
    ]
    if drawn:
        parts += ["drawn by " + ", ".join(drawn)]
    steps = [one if isinstance(one, str) else next(iter(one)) for one in settings["augment"]]
    return "; ".join(parts + ([f"augmented by {', '.join(steps)}"] if steps else []))


def _metrics(found: Mapping[str, float]) -> str:
    """Those that are numbers, in words."""
    return ", ".join(
        text.format(found[name])
        for name, text in WORDS.items()
        if math.isfinite(found.get(name, float("nan")))
    )


def _classes(counts: Mapping[str, Mapping[str, Any]], found: Mapping[str, float] | None) -> str:
    """Samples of each class, and which share of them is told as what it is."""
    trained, validated = (counts[name]["class"] for name in ("training", "validation"))
    lines = ["| class | trained on | validated on | told as such |", "|---|---|---|---|"]
    for name in dict.fromkeys([*trained, *validated]):
        share = (found or {}).get(f"recall_{name}")
        told = "" if share is None else f"{100 * share:.0f} %"
        lines.append(f"| {name} | {trained.get(name, 0)} | {validated.get(name, 0)} | {told} |")
    return "\n".join(lines) + "\n"
