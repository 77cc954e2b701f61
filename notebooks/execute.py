"""Run notebooks from a fresh kernel and keep their outputs: `python notebooks/execute.py [FILE]`.

Without files all of them run. What would differ without a reason is taken out: state of widgets
(it holds every sound a second time), times of execution, the version of Python. A notebook in which
a cell fails stays as it was.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

import nbformat
from nbclient import NotebookClient

HERE = Path(__file__).resolve().parent
METADATA = {
    "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
    "language_info": {"name": "python"},
}


def execute(path: Path) -> None:
    """Run a notebook in its folder and write it back.

    Raises:
        CellExecutionError: If a cell fails.
    """
    notebook = nbformat.read(path, as_version=4)
    NotebookClient(
        notebook,
        timeout=600,  # a busy machine is slow, a wrong notebook is wrong at once
        kernel_name="python3",
        resources={"metadata": {"path": str(path.parent)}},
        record_timing=False,
        coalesce_streams=True,
    ).execute()
    notebook.metadata = nbformat.from_dict(METADATA)
    for cell in notebook.cells:
        cell.metadata = nbformat.from_dict({k: v for k, v in cell.metadata.items() if k == "tags"})
    nbformat.write(notebook, path)


if __name__ == "__main__":
    for path in [Path(name) for name in sys.argv[1:]] or sorted(HERE.glob("[0-9][0-9]_*.ipynb")):
        start_s = time.perf_counter()
        execute(path)
        print(f"{path.name}: {path.stat().st_size:,} bytes, {time.perf_counter() - start_s:.0f} s")
