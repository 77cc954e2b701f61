"""What is published elsewhere: by whom, on which terms, and under which file names it is kept here.

    $FOLEY_LAB_WEIGHTS/<name>/<file>

A model needs several of them: `xl` is a transformer, and sounds only with codec and encoders.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from foley_lab.signals import FoleyError, MissingWeights


@dataclass(frozen=True)
class Source:
    """Where weights come from and on which terms.

    Attributes:
        origin: Who made them, or the repository that holds them.
        licence: Its name, and where it does not apply.
        files: File names wanted below `<weights dir>/<name>/`; empty for what ships.
        extras: Files that come along where the repository has them.
        repository: Where the files lie on the hub, if not at the origin.
        to_accept: Whether the terms are to be accepted before the files are fetched.
        num_parameters: How many there are, for a guess of the size; 0 when unknown.
        dtype: Precision they are kept in once converted; empty: as they come.
        token_major: Keep convolutions over time [out, in, k] as [out, k, in] once converted, the
            order in which tokens are multiplied, so that they need not be copied at each start.
    """

    origin: str
    licence: str
    files: tuple[str, ...] = ()
    extras: tuple[str, ...] = ()
    repository: str = ""
    to_accept: bool = False
    num_parameters: int = 0
    dtype: str = ""
    token_major: bool = False

    @property
    def hub(self) -> str:
        """The repository that is fetched from."""
        return self.repository or self.origin

    @property
    def about_bytes(self) -> int:
        """Size to expect; published weights are float32 where nothing else is known."""
        return self.num_parameters * (2 if self.dtype == "bfloat16" else 4)


_TENCENT_HUB = "tencent/HunyuanVideo-Foley"
_TENCENT = "Tencent Hunyuan Community License (not for the EU, the UK and South Korea)"
_TERMS = ("LICENSE", "LICENSE.txt", "NOTICE", "NOTICE.txt", "Notice.txt")
_HUB = ("config.json", "model.safetensors")
_TOKENIZER = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "vocab.json",
    "merges.txt",
)


def _transformer(file: str, num_parameters: int) -> Source:
    return Source(
        _TENCENT_HUB,
        _TENCENT,
        (file,),
        _TERMS,
        to_accept=True,
        num_parameters=num_parameters,
        dtype="bfloat16",
        token_major=True,
    )


OURS = Source("trained by foley_lab", "Apache-2.0")

SOURCES = {
    "text": Source("sentence-transformers/all-MiniLM-L6-v2", "Apache-2.0"),
    "xl": _transformer("hunyuanvideo_foley_xl.pth", 2_912_962_688),
    "xxl": _transformer("hunyuanvideo_foley.pth", 5_134_014_848),
    "dac-vae": Source(
        _TENCENT_HUB,
        _TENCENT,
        ("vae_128d_48k.pth",),
        _TERMS,
        to_accept=True,
        num_parameters=371_589_058,
    ),
    "synchformer": Source(
        "v-iashin/Synchformer",
        f"MIT, in a repository under the {_TENCENT}",
        ("synchformer_state_dict.pth",),
        _TERMS,
        repository=_TENCENT_HUB,
        to_accept=True,
        num_parameters=237_500_000,
    ),
    "siglip2": Source(
        "google/siglip2-base-patch16-512",
        "Apache-2.0",
        _HUB,
        ("preprocessor_config.json", *_TERMS),
        num_parameters=375_000_000,
    ),
    "clap": Source(
        "laion/larger_clap_general",
        "Apache-2.0",
        _HUB,
        (*_TOKENIZER, *_TERMS),
        num_parameters=194_000_000,
    ),
}

_BESIDE = ("dac-vae", "synchformer", "siglip2", "clap")


def weights_dir() -> Path:
    """Folder of the official weights: `$FOLEY_LAB_WEIGHTS`, else `~/.cache/foley_lab/weights`.

    Raises:
        FoleyError: If there is a file in its place.
    """
    chosen = os.environ.get("FOLEY_LAB_WEIGHTS") or "~/.cache/foley_lab/weights"
    folder = Path(os.path.expanduser(chosen))  # which, unlike `Path`'s, passes unknown users over
    if folder.exists() and not folder.is_dir():
        raise FoleyError(
            f"FOLEY_LAB_WEIGHTS names {folder}, which is a file, wanted a folder, name the one "
            "that holds xl, dac-vae and the others"
        )
    return folder


def is_official(name: str) -> bool:
    """Whether weights of that name are published elsewhere."""
    return name in SOURCES and bool(SOURCES[name].files)


def official_names() -> list[str]:
    """All weights that are published elsewhere."""
    return [name for name in SOURCES if is_official(name)]


def needed_for(name: str) -> tuple[str, ...]:
    """Everything that a model needs; any other official weights alone.

    Raises:
        ValueError: If no official weights have that name.
    """
    if not is_official(name):
        known = ", ".join(official_names())
        raise ValueError(f"no official weights {name!r}, wanted one of {known}")
    return (name, *_BESIDE) if name in ("xl", "xxl") else (name,)


def converted(path: Path) -> Path:
    """Where the mapped copy of a pickle is kept."""
    return path.with_suffix(".safetensors")


def located(name: str) -> dict[str, Path | None]:
    """Each wanted file and where it is; a pickle may have been replaced by its copy."""
    found: dict[str, Path | None] = {}
    for file in SOURCES[name].files:
        path = weights_dir() / name / file
        places = (path, converted(path)) if path.suffix == ".pth" else (path,)
        found[file] = next((each for each in places if each.is_file()), None)
    return found


def official_files(name: str) -> list[Path]:
    """Files of official weights on this machine, in the order of `SOURCES[name].files`.

    Raises:
        ValueError: If no official weights have that name.
        MissingWeights: If a file is absent.
    """
    needed_for(name)
    paths = []
    for file, path in located(name).items():
        if path is None:
            raise MissingWeights(
                f"weights {name!r} are absent, wanted {weights_dir() / name / file}, "
                f"run `foley-lab weights fetch {name}`"
            )
        paths.append(path)
    return paths
