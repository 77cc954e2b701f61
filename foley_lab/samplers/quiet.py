"""Importing diffusers without the lines that its neighbours print.

It looks at torchao, where that is installed, whose kernels for other machines then fail to load
aloud. They are not wanted here.
"""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def quietly() -> Iterator[None]:
    """What is imported within warns of nothing; its errors are raised as ever."""
    os.environ.setdefault("TORCHAO_SKIP_LOADING_SO_FILES", "1")
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
