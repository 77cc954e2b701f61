"""The one door to checkpoints: what ships with the package, and what may lie beside it.

    foley_lab/checkpoints/<name>/<part>.safetensors     shipped, with digests in manifest.json
    $FOLEY_LAB_WEIGHTS/<name>/<file>                    official, with digests in digests.json

shards      the form of our own checkpoints: tensors and config together, cut into small files
shipped     what comes with the package
sources     what is published elsewhere: by whom, on which terms, under which file names
fetching    brings it; the only code of the package that uses the network
official    opens it without running code, and keeps a copy that is mapped instead of read
strict      puts tensors into a module, none missing
listing     everything in one list, and whether it is sound

`python -m foley_lab.weights` writes the manifest anew after a shipped file has changed.
"""

from foley_lab.weights.fetching import fetch
from foley_lab.weights.listing import Entry, catalogue, catalogue_report, verify
from foley_lab.weights.official import Check, convert, load_official, official_metadata
from foley_lab.weights.schedules import load_schedules, schedules_path
from foley_lab.weights.shards import MAX_BYTES, load_shards, save_shards
from foley_lab.weights.shipped import SHIPPED, load_shipped, write_manifest
from foley_lab.weights.sources import SOURCES, Source, official_files, weights_dir
from foley_lab.weights.strict import describe_size, load_strictly

__all__ = [
    "MAX_BYTES",
    "SHIPPED",
    "SOURCES",
    "Check",
    "Entry",
    "Source",
    "catalogue",
    "catalogue_report",
    "convert",
    "describe_size",
    "fetch",
    "load_official",
    "load_schedules",
    "load_shards",
    "load_shipped",
    "load_strictly",
    "official_files",
    "official_metadata",
    "save_shards",
    "schedules_path",
    "verify",
    "weights_dir",
    "write_manifest",
]
