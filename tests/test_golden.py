"""Every file of the reference data, found by its kind: ours gives the published numbers.

The folder comes from `FOLEY_GOLDEN` (default `../shared/golden` beside the checkout); another set
of the same kinds, of other sizes and seeds, is checked in the same way.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import golden_dac
import golden_pre
import golden_sync
import golden_transformer
import pytest

FOLDER = Path(os.environ.get("FOLEY_GOLDEN") or Path(__file__).parents[2] / "shared" / "golden")
PARTS = (golden_transformer, golden_dac, golden_sync, golden_pre)
CHECKS = {kind: check for part in PARTS for kind, check in part.CHECKS.items()}
KEYS = {
    "foley_transformer": golden_transformer.check_transformer_keys,
    "dac_vae": golden_dac.check_dac_keys,
    "synchformer": golden_sync.check_sync_keys,
}
"""Lists of names and shapes have no kind; they are known by how their names begin."""

SIDECARS = sorted(FOLDER.glob("*.json"))


@pytest.mark.skipif(bool(SIDECARS), reason="the reference data is there")
def test_reference_data_is_absent():
    pytest.skip(f"no reference data in {FOLDER}; set FOLEY_GOLDEN to its folder")


@pytest.mark.parametrize("path", SIDECARS, ids=lambda path: path.stem)
def test_ours_gives_the_published_numbers(path):
    case = json.loads(path.read_text())
    if path.name.endswith(".keys.json"):
        names = [name for name in KEYS if path.name.startswith(name)]
        assert names, f"{path.name}: no architecture is known by this name"
        KEYS[names[0]](case)
        return
    assert case.get("kind") in CHECKS, f"{path.name}: unknown kind {case.get('kind')!r}"
    CHECKS[case["kind"]](case, FOLDER)
