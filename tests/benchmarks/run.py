"""Run the benchmarks, print a table, write build/bench.json: ``python -m tests.benchmarks.run [NAME ...]``.

A benchmark is a function of a ``bench_*.py`` file beside this one, registered in its ``BENCHMARKS`` under the
name of its figure; it returns ``{name, value, unit, against, ratio}`` (or a list of them). Figures are the
machine's own: compare the ratios, which were measured in one run.
"""

import importlib
import json
import os
import platform
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

Result = dict[str, Any]
HERE = Path(__file__).resolve().parent


def benchmarks() -> dict[str, Callable[[], Result | list[Result]]]:
    """Every registered benchmark by name."""
    found: dict[str, Callable[[], Result | list[Result]]] = {}
    for path in sorted(HERE.glob("bench_*.py")):
        found.update(importlib.import_module(f"tests.benchmarks.{path.stem}").BENCHMARKS)
    return found


def main(only: list[str]) -> int:
    """Run the benchmarks named, or all; returns the exit status."""
    known = benchmarks()
    unknown = [name for name in only if name not in known]
    if unknown:
        print(f"no benchmark is called {', '.join(unknown)}; there are {', '.join(known)}", file=sys.stderr)
        return 2
    print(f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}")
    print(f"{'name':<24} {'value':>12} {'unit':<12} {'ratio':>8}  against")
    results: list[Result] = []
    for name in only or known:
        made = known[name]()
        for result in made if isinstance(made, list) else [made]:
            results.append(result)
            ratio = "" if result["ratio"] is None else f"{result['ratio']:.3g}"
            figure = f"{result['name']:<24} {result['value']:>12.4g} {result['unit']:<12} {ratio:>8}"
            print(f"{figure}  {result['against']}", flush=True)
    target = HERE.parent.parent / "build" / "bench.json"
    target.parent.mkdir(exist_ok=True)
    # Figures of benchmarks that were not run this time stay.
    kept = json.loads(target.read_text()) if target.exists() else []
    fresh = {result["name"] for result in results}
    target.write_text(
        json.dumps([old for old in kept if old["name"] not in fresh] + results, indent=2) + "\n"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
