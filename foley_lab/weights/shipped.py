"""What comes with the package: `checkpoints/<name>/<part>.safetensors`, each file's size and
SHA-256 in `checkpoints/manifest.json`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from torch import Tensor

from foley_lab.signals import FoleyError, MissingWeights
from foley_lab.weights.digests import raise_together, sha256
from foley_lab.weights.shards import load_shards, part_of

SHIPPED = Path(__file__).parents[1] / "checkpoints"


def load_shipped(part: str, name: str = "small") -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors and config of a part that ships with the package, such as `codec` of `small`.

    Raises:
        MissingWeights: If the part is not there.
    """
    try:
        return load_shards(SHIPPED / name / part)
    except MissingWeights as error:
        raise MissingWeights(f"{error} or install foley_lab anew, it ships this part") from error


def shipped_parts() -> dict[str, list[Path]]:
    """Files of each part, "small/codec" and so on."""
    parts: dict[str, list[Path]] = {}
    for file in _manifest():
        if file.endswith(".safetensors"):
            parts.setdefault(part_of(Path(file))[0], []).append(SHIPPED / file)
    return parts


def verify_shipped(name: str) -> list[Path]:
    """Compare shipped files with the SHA-256 digests of the manifest.

    Args:
        name: "small", "text", or one part such as "small/codec".

    Returns:
        The files, all sound.

    Raises:
        ValueError: If the manifest lists nothing of that name.
        MissingWeights: If a file is absent.
        FoleyError: If a file differs; the message tells of every faulty one.
    """
    manifest = _manifest()
    files = [f for f in manifest if name in (f.split("/")[0], part_of(Path(f))[0])]
    if not files:
        raise ValueError(f"no weights {name!r}, wanted one of {', '.join(shipped_names())}")
    faults: list[FoleyError] = []
    for file in files:
        path, wanted = SHIPPED / file, manifest[file]["sha256"]
        if not path.is_file():
            faults.append(MissingWeights(f"{path} is absent, wanted it, install foley_lab anew"))
        elif (found := sha256(path)) != wanted:
            faults.append(
                FoleyError(
                    f"{path} has SHA-256 {found[:12]}…, wanted {wanted[:12]}…, "
                    "install foley_lab anew"
                )
            )
    raise_together(faults)
    return [SHIPPED / file for file in files]


def shipped_names() -> list[str]:
    """What `verify_shipped` takes: the models, then their parts."""
    parts = list(shipped_parts())
    return [*sorted({part.split("/")[0] for part in parts}), *parts]


def write_manifest() -> Path:
    """Write size and SHA-256 of every shipped file to `checkpoints/manifest.json`."""
    manifest = SHIPPED / "manifest.json"
    paths = [p for p in sorted(SHIPPED.rglob("*")) if p.is_file() and p.name[0] != "."]
    facts = {
        path.relative_to(SHIPPED).as_posix(): {
            "bytes": path.stat().st_size,
            "sha256": sha256(path),
        }
        for path in paths
        if path != manifest
    }
    manifest.write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")
    return manifest


def _manifest() -> dict[str, dict[str, Any]]:
    path = SHIPPED / "manifest.json"
    if not path.is_file():
        raise MissingWeights(f"{path} is absent, wanted a list of files, install foley_lab anew")
    return json.loads(path.read_text(encoding="utf-8"))
