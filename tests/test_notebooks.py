"""Notebooks can be published: run once from a fresh kernel, small, and nobody's machine in them.

What their cells print is compared by nbval; an unexecuted cell would pass there unseen.
"""

from __future__ import annotations

import ast
import json
import re
from pathlib import Path
from typing import Any

import pytest

NOTEBOOKS = sorted((Path(__file__).resolve().parents[1] / "notebooks").glob("[0-9][0-9]_*.ipynb"))
PRIVATE = re.compile(r"/(home|Users|root|work|tmp)/|[A-Z]:\\\\Users")
ADDRESS = re.compile(r"https?://(?!arxiv\.org|doi\.org)")
LOOSE = "nbval-ignore-output"
MOST_LINES, MOST_BYTES = 15, 1_500_000


@pytest.fixture(params=NOTEBOOKS, ids=lambda path: path.stem)
def path(request) -> Path:
    return request.param


@pytest.fixture
def notebook(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8"))


def code(notebook: dict[str, Any]) -> list[dict[str, Any]]:
    return [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]


def source(cell: dict[str, Any]) -> str:
    return "".join(cell["source"])


def test_there_are_notebooks():
    assert NOTEBOOKS


def test_executed_once_from_top_to_bottom(notebook):
    counts = [cell["execution_count"] for cell in code(notebook)]
    assert counts == list(range(1, len(counts) + 1)), "run notebooks/execute.py"
    kinds = {out["output_type"] for cell in code(notebook) for out in cell["outputs"]}
    assert kinds and "error" not in kinds


def test_outputs_are_those_of_this_code(notebook):
    """A cell that shows or prints something at its outermost level has something stored."""
    for cell in code(notebook):
        last = ast.parse(source(cell)).body[-1]
        shows = isinstance(last, ast.Expr)
        assert bool(cell["outputs"]) or not shows, source(cell)


def test_nothing_goes_to_stderr(notebook):
    streams = [out for cell in code(notebook) for out in cell["outputs"] if "name" in out]
    assert {out["name"] for out in streams} == {"stdout"}


def test_cells_are_short(notebook):
    long = [source(c) for c in code(notebook) if len(source(c).splitlines()) > MOST_LINES]
    assert not long, long[0]


def test_every_cell_is_introduced(notebook):
    """A notebook asks before it answers: text first, and never three code cells in a row."""
    kinds = [cell["cell_type"] for cell in notebook["cells"]]
    assert kinds[0] == "markdown" and "code code code" not in " ".join(kinds)


def test_metadata_is_bare(notebook):
    assert "widgets" not in notebook["metadata"], "state of widgets holds every sound twice"
    assert notebook["metadata"]["kernelspec"]["name"] == "python3"
    assert all(set(cell["metadata"]) <= {"tags"} for cell in notebook["cells"])


def test_most_cells_are_compared(notebook):
    tags = [tag for cell in code(notebook) for tag in cell["metadata"].get("tags", [])]
    assert set(tags) <= {LOOSE} and 2 * len(tags) < len(code(notebook))


def test_every_widget_function_is_called_in_a_compared_cell(notebook):
    wanted = {name for c in code(notebook) for name in widget_functions(source(c))}
    called = {
        name
        for cell in code(notebook)
        if LOOSE not in cell["metadata"].get("tags", [])
        for name in re.findall(r"^(?:[\w, ]+ = )?(\w+)\(", source(cell), re.M)
    }
    assert wanted and wanted <= called


def widget_functions(text: str) -> list[str]:
    """Names handed to `interactive` or `interact` as their first argument, to `Panel` as its
    third."""
    panels = re.findall(r"\bPanel\([^,()]+, [^,()]+, (\w+)", text)
    return re.findall(r"\binteract(?:ive)?\((\w+)", text) + panels


def test_no_machine_and_no_address_is_named(notebook):
    text = json.dumps(notebook)
    text = re.sub(r"base64,[A-Za-z0-9+/=]+", "", text)
    outputs = re.sub(r'"image/png": "[^"]*"', "", text)
    assert not PRIVATE.search(outputs) and not ADDRESS.search(outputs)


def test_small_enough_to_be_read_online(path):
    assert path.stat().st_size <= MOST_BYTES


def test_pictures_are_small(notebook):
    data = [out.get("data", {}) for cell in code(notebook) for out in cell["outputs"]]
    pictures = ["".join(d["image/png"]) for d in data if "image/png" in d]
    assert all(len(picture) * 3 / 4 <= 120_000 for picture in pictures)
