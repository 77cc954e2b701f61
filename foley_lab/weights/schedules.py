"""Tables of optimised schedules, `schedules.json` beside the weights they were found for.

`foley-lab train schedule` makes them; `{"1": {"4": [1.0, ..., 0.0], ...}, "2": {...}, ...}`, by the
order of the sampler and the number of steps. What else the file holds tells how it was found.
"""

from __future__ import annotations

import itertools
import json
from pathlib import Path

from foley_lab.signals import FoleyError
from foley_lab.weights.shipped import SHIPPED
from foley_lab.weights.sources import is_official, weights_dir

Tables = dict[str, dict[int, list[float]]]


def schedules_path(name: str) -> Path:
    """Where the table of a model lies, whether or not there is one."""
    return (weights_dir() if is_official(name) else SHIPPED) / name / "schedules.json"


def load_schedules(name: str) -> Tables:
    """The table of a model; empty where there is none.

    Raises:
        FoleyError: If the file is no such table.
    """
    path = schedules_path(name)
    if not path.is_file():
        return {}
    try:
        content = dict(json.loads(path.read_text(encoding="utf-8")))
        if not content:
            raise ValueError("it is empty")
        tables = {
            order: {int(n): [float(t) for t in clock] for n, clock in content[order].items()}
            for order in ("1", "2")
            if order in content
        }
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise FoleyError(
            f"{path.name} of {name} cannot be read ({error}), wanted a table of schedules, make it "
            f"anew with foley-lab train schedule --base {name}"
        ) from error
    for order, table in tables.items():
        for n, clock in table.items():
            falling = all(a > b for a, b in itertools.pairwise(clock))
            if len(clock) != n + 1 or clock[0] != 1 or clock[-1] != 0 or not falling:
                raise FoleyError(
                    f"{path.name} of {name} has no schedule of {n} steps for order {order}, wanted "
                    f"{n + 1} falling times, make it anew with foley-lab train schedule --base "
                    f"{name}"
                )
    return tables
