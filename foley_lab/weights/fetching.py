"""Brings official weights to this machine; the only code of the package that uses the network.

The hub is asked which files a repository has, how large they are and which digests they have. A
file is written aside as `.<file>.<digest>.part` and moved into place once its digest is right, so
that under its own name there is a whole file or none. What an interrupted fetch has brought stays
aside, and the next one goes on from there.

`HF_ENDPOINT` names another hub, `HF_HUB_OFFLINE=1` forbids the network, `HF_TOKEN` opens what is
gated. The first is read here, the others by `huggingface_hub`; what is empty is not set.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from foley_lab.signals import FoleyError, MissingWeights
from foley_lab.weights.digests import forget_digest, read_digests, record_digest, sha256
from foley_lab.weights.official import read_pickle, write_safetensors
from foley_lab.weights.sources import (
    SOURCES,
    converted,
    located,
    needed_for,
    official_files,
    weights_dir,
)

_WORDS = "tokenizer.json"
"""What words are split by; comes along where the repository has it, and is wanted all the same."""

_PICKLED = {"model.safetensors": "pytorch_model.bin"}
"""What older repositories hold instead; it is converted at once."""

_HUB = "https://huggingface.co"

_PIECE = 1 << 20  # bytes read at a time
_TIMEOUT_S = 30.0


@dataclass(frozen=True)
class _Remote:
    """One file on the hub.

    Attributes:
        path: Where it is to lie.
        file: Its name in the repository.
        repository, revision: Whose, and of which commit.
        bytes: Its size.
        digest: SHA-256, or for small files the SHA-1 that git calls them by.
    """

    path: Path
    file: str
    repository: str
    revision: str
    bytes: int
    digest: str

    @property
    def aside(self) -> Path:
        """Where it grows. With its digest in the name no other version is ever continued."""
        return self.path.with_name(f".{self.file}.{self.digest[:12]}.part")

    @property
    def done_bytes(self) -> int:
        """How much of it an earlier fetch has brought."""
        return self.aside.stat().st_size if self.aside.is_file() else 0

    @property
    def is_sha256(self) -> bool:
        """Whether the digest is a SHA-256."""
        return len(self.digest) == 64

    def is_at(self, path: Path) -> bool:
        """Whether a file has its size and digest."""
        if not path.is_file() or path.stat().st_size != self.bytes:
            return False
        if self.is_sha256:
            return sha256(path) == self.digest
        blob = hashlib.sha1(b"blob %d\0" % self.bytes, usedforsecurity=False)
        with open(path, "rb") as file:
            while piece := file.read(_PIECE):
                blob.update(piece)
        return blob.hexdigest() == self.digest


def fetch(
    name: str, accept_licence: bool = False, say: Callable[[str], None] = lambda line: None
) -> list[Path]:
    """Bring official weights: for `xl` and `xxl` everything the model needs.

    What is there and on record is left alone; when nothing is missing, nobody is asked.

    Args:
        name: One of the official names of `SOURCES`.
        accept_licence: The caller agrees to terms that have to be agreed to.
        say: Takes what is worth telling on the way, line by line.

    Returns:
        The files that were brought or found to be those of the hub.

    Raises:
        ValueError: If no official weights have that name.
        FoleyError: If terms have not been accepted, space is short, `HF_ENDPOINT` is no address,
            or a file arrives damaged.
        MissingWeights: If the hub cannot be reached, or must not be.
    """
    wanting = [each for each in needed_for(name) if not _is_complete(each)]
    if wanting:
        _endpoint()
        _check_online(name, wanting)
    for each in wanting:
        source = SOURCES[each]
        if source.to_accept and not accept_licence:
            raise FoleyError(
                f"{each!r} comes on terms ({source.licence}), wanted your agreement, read them at "
                f"https://huggingface.co/{source.hub} and add --accept-licence"
            )
    remotes = [remote for each in wanting for remote in _listed(each)]
    for each in wanting:
        say(f"{each}: {SOURCES[each].origin}, {SOURCES[each].licence}")
    absent = [remote for remote in remotes if not remote.is_at(remote.path)]
    _check_room(name, absent)
    for remote in remotes:
        if remote in absent:
            say(f"{remote.path.parent.name}/{remote.file}: {remote.bytes / 1e6:.1f} MB")
            _download(remote)
        _record(remote)
    return [path for each in needed_for(name) for path in official_files(each)]


def _is_complete(name: str) -> bool:
    """Whether every wanted file is there, of the size on record."""
    record = read_digests(weights_dir() / name)
    return all(
        path and record.get(path.name, {}).get("bytes") == path.stat().st_size
        for path in located(name).values()
    )


def _check_room(name: str, absent: list[_Remote]) -> None:
    """Refuse to begin what cannot be ended.

    Raises:
        FoleyError: If the disk is too small.
    """
    needed = sum(remote.bytes - min(remote.done_bytes, remote.bytes) for remote in absent)
    needed += sum(remote.bytes for remote in absent if remote.file in _PICKLED.values())
    folder = weights_dir()
    folder.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise FoleyError(
            f"{folder} has {free / 1e9:.2f} GB free, wanted {needed / 1e9:.2f} GB for {name!r}, "
            "make room or name a folder on another disk in FOLEY_LAB_WEIGHTS"
        )


def _record(remote: _Remote) -> None:
    """Put a file that has its digest on record; an older pickle is converted, which replaces it."""
    path, origin = remote.path, {"repository": remote.repository, "revision": remote.revision}
    wanted = next((file for file, old in _PICKLED.items() if old == remote.file), None)
    if wanted is None:
        record_digest(path, remote.digest if remote.is_sha256 else sha256(path), **origin)
        return
    tensors, _ = read_pickle(path)
    copy = path.with_name(wanted)
    digest = write_safetensors(copy, tensors, {"format": "pt"})
    record_digest(copy, digest, converted_from=remote.file, **origin)
    path.unlink()


# --------------------------------------------------------------------------------------- network


def _endpoint() -> str:
    """The hub in use, without a slash at its end.

    Raises:
        FoleyError: If `HF_ENDPOINT` is no address. The hub's library stumbles over such when it is
            imported, so this comes before.
    """
    chosen = os.environ.get("HF_ENDPOINT") or _HUB
    try:
        parts = urlsplit(chosen)
        whole = bool(parts.hostname) and parts.port != 0  # reading the port checks it
    except ValueError:
        whole = False
    if not whole or not re.fullmatch(r"https?://[!-~]+", chosen):
        raise FoleyError(
            f"HF_ENDPOINT {chosen!r}, wanted an address such as {_HUB}, correct it or leave it out"
        )
    return chosen.rstrip("/")


def _check_online(name: str, wanting: Sequence[str]) -> None:
    """Respect a forbidden network, and say what has to be brought by hand instead.

    Raises:
        FoleyError: If `huggingface_hub` is not installed.
        MissingWeights: If the network is forbidden.
    """
    offline = False
    with _reaching(name):
        from huggingface_hub import constants

        offline = constants.HF_HUB_OFFLINE
    if not offline:
        return
    absent = [
        f"{each}/{file} of {SOURCES[each].hub}"
        for each in wanting
        for file, path in located(each).items()
        if path is None
    ]
    if "clap" in wanting and not (weights_dir() / "clap" / _WORDS).is_file():
        absent.append(f"clap/{_WORDS} of {SOURCES['clap'].hub}")
    if not absent:
        raise MissingWeights(
            f"{', '.join(wanting)} lie in {weights_dir()} without digests on record and "
            "HF_HUB_OFFLINE is set, wanted the network to compare them, unset it or use them as "
            "they are"
        )
    raise MissingWeights(
        f"{name!r} is not whole and HF_HUB_OFFLINE is set, wanted the network, unset it or lay "
        f"these files below {weights_dir()}: {', '.join(absent)}"
    )


@contextmanager
def _reaching(what: str) -> Iterator[None]:
    """Turn the many errors of a network into one line each.

    Raises:
        FoleyError: If `huggingface_hub` is not installed.
        MissingWeights: If the hub is out of reach or refuses.
    """
    try:
        from huggingface_hub.errors import HfHubHTTPError
    except ModuleNotFoundError as error:
        raise FoleyError(
            f"{error.name} is not installed, wanted it to fetch weights, "
            "run `pip install foley-lab[official]`"
        ) from error
    # Of the HTTP client, which is another one in other versions of the hub's library.
    http_error: type[Exception] = HfHubHTTPError.__bases__[0]
    try:
        yield
    except http_error as error:
        why = str(error).strip().split("\n")[0] or type(error).__name__
        raise MissingWeights(
            f"{what} cannot be had from {_endpoint()} ({why}), wanted an answer, check the network "
            "or HF_ENDPOINT and fetch again: it goes on from where it stopped"
        ) from error


def _listed(name: str) -> list[_Remote]:
    """What the hub has of these weights, large files last.

    Raises:
        FoleyError: If a wanted file is not in the repository.
        MissingWeights: If the hub cannot be reached.
    """
    source = SOURCES[name]
    repository = source.hub
    with _reaching(repository):
        from huggingface_hub import HfApi

        info = HfApi(endpoint=_endpoint()).model_info(
            repository, files_metadata=True, timeout=_TIMEOUT_S
        )
    there = {sibling.rfilename: sibling for sibling in info.siblings or []}
    files = [file for file in source.extras if file in there]
    for file in source.files:
        found = next((f for f in (file, _PICKLED.get(file)) if f in there), None)
        if found is None:
            raise FoleyError(
                f"{repository} has no {file}, wanted it for {name!r}, look for a newer foley_lab"
            )
        files.append(found)
    remotes = []
    for file in files:
        sibling = there[file]
        digest = sibling.lfs.sha256 if sibling.lfs else sibling.blob_id
        if sibling.size is None or not digest or not info.sha:
            raise FoleyError(
                f"{_endpoint()} tells no size and digest of {repository}/{file}, wanted both to "
                "compare with, choose another HF_ENDPOINT"
            )
        path = weights_dir() / name / file
        remotes.append(_Remote(path, file, repository, info.sha, sibling.size, digest))
    return remotes


def _download(remote: _Remote) -> None:
    """Bring one file, going on from where an earlier fetch stopped.

    Raises:
        FoleyError: If it arrives damaged.
        MissingWeights: If the hub cannot be reached.
    """
    path, aside = remote.path, remote.aside
    path.parent.mkdir(parents=True, exist_ok=True)
    with _reaching(f"{remote.repository}/{remote.file}"):
        from huggingface_hub import hf_hub_url
        from huggingface_hub.file_download import http_get
        from huggingface_hub.utils import WeakFileLock, build_hf_headers

        # `hf_hub_download` begins anew after an interruption; the function beneath it need not.
        url = hf_hub_url(
            remote.repository, remote.file, revision=remote.revision, endpoint=_endpoint()
        )
        with WeakFileLock(path.with_name(".lock")):  # a second fetch waits for the first
            if remote.is_at(path):
                return
            if remote.done_bytes > remote.bytes:
                aside.unlink()
            with open(aside, "ab") as file:
                http_get(
                    url,
                    file,
                    resume_size=remote.done_bytes,
                    headers=build_hf_headers(headers={"Accept-Encoding": "identity"}),
                    expected_size=remote.bytes,
                    displayed_filename=remote.file,
                )
            if not remote.is_at(aside):
                aside.unlink()
                raise FoleyError(
                    f"{remote.repository}/{remote.file} arrived with another digest than "
                    f"{remote.digest[:12]}…, wanted what the hub states, fetch again"
                )
            if path.suffix == ".pth":  # the copy of what was here before
                converted(path).unlink(missing_ok=True)
                forget_digest(converted(path))
            os.replace(aside, path)
            for old in path.parent.glob(f".{remote.file}.*.part"):  # begun of another version
                old.unlink()
