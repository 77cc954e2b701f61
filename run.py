#!/usr/bin/env python3
"""Set up .venv once, then do one job in it. Needs Python 3.11 or newer and nothing else.

python3 run.py demo     give the sample video a sound
python3 run.py test     all checks: style, types, floors, tests, notebooks
python3 run.py lab      open the notebooks
"""

import hashlib
import json
import os
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent
VENV = ROOT / ".venv"
BIN = VENV / ("Scripts" if os.name == "nt" else "bin")
PYTHON = BIN / ("python.exe" if os.name == "nt" else "python")

CHECKS = {
    "ruff check": ["-m", "ruff", "check", "."],
    "ruff format": ["-m", "ruff", "format", "--check", "."],
    "floors": ["-c", "from importlinter.cli import lint_imports_command as lint; lint()"],
    "pyright": ["-m", "pyright", "--pythonpath", str(PYTHON)],
    "pytest": ["-m", "pytest"],
}


def prepare() -> None:
    """Build .venv, anew when the lists of packages have changed."""
    lists = (ROOT / "pyproject.toml", ROOT / "constraints.txt")
    want = hashlib.sha256(b"".join(path.read_bytes() for path in lists)).hexdigest()
    stamp = VENV / ".ready"
    if PYTHON.exists() and stamp.exists() and stamp.read_text() == want:
        return
    print("setting up .venv (about 1.6 GB, once, some minutes)", file=sys.stderr, flush=True)
    if not PYTHON.exists():
        subprocess.check_call([sys.executable, "-m", "venv", str(VENV)])
    pip = [str(PYTHON), "-m", "pip"]
    wanted = ["-c", "constraints.txt", "-e", ".[test]"]
    if subprocess.call([*pip, "install", "-q", "uv"], cwd=ROOT) == 0:
        uv = [str(PYTHON), "-m", "uv", "pip", "install", "-q", "--python", str(PYTHON)]
        if subprocess.call([*uv, *wanted], cwd=ROOT, env=uv_environment(pip)) == 0:
            stamp.write_text(want)
            return
    # uv is ten times faster but blind to pip's settings; pip knows every local one.
    subprocess.check_call([*pip, "install", "-q", *wanted], cwd=ROOT)
    stamp.write_text(want)


def uv_environment(pip: list[str]) -> dict[str, str]:
    """The environment in which uv finds the wheels pip would find, such as torch for the CPU."""
    ask = [*pip, "config", "get", "global.find-links"]
    links = os.environ.get("PIP_FIND_LINKS", "").split()
    links = links or subprocess.run(ask, capture_output=True, text=True).stdout.split()
    found = {"UV_FIND_LINKS": ",".join(links)} if links else {}
    return {**os.environ, "UV_LINK_MODE": "copy", **found}


def demo() -> int:
    """Generate for the first sample and print where the time went."""
    samples = sorted((ROOT / "data_samples").glob("*.mp4"))
    if not samples:
        sys.exit("error: data_samples holds no .mp4, wanted one, put a clip there")
    source, out = samples[0].relative_to(ROOT), Path("out") / f"{samples[0].stem}_foley.mp4"
    (ROOT / "out").mkdir(exist_ok=True)
    command = ["-m", "foley_lab", "generate", str(source), "-o", str(out), "--json", *sys.argv[2:]]
    done = subprocess.run([str(PYTHON), *command], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    if done.returncode == 0:
        report = json.loads(done.stdout.splitlines()[-1])
        total = report["timings"]["total"]
        for stage, seconds in report["timings"].items():
            print(f"{stage:<20} {seconds:7.3f} s {100 * seconds / total:6.1f} %")
        print(report["out"])
    return done.returncode


def test() -> int:
    """Run every check, also after one has failed, and say at the end which did."""
    failed = []
    for name, command in CHECKS.items():
        print(f"── {name}", flush=True)
        start_s = time.perf_counter()
        more = sys.argv[2:] if name == "pytest" else []
        if subprocess.call([str(PYTHON), *command, *more], cwd=ROOT) != 0:
            failed.append(name)
        print(f"   {time.perf_counter() - start_s:.1f} s", flush=True)
    print(f"failed: {', '.join(failed)}" if failed else "every check passed")
    return 1 if failed else 0


def lab() -> int:
    """Open the notebooks in a browser."""
    command = [str(PYTHON), "-m", "jupyterlab", "notebooks", *sys.argv[2:]]
    return subprocess.call(command, cwd=ROOT)


JOBS = {"demo": demo, "test": test, "lab": lab}

if __name__ == "__main__":
    if sys.version_info < (3, 11):  # noqa: UP036 - whoever meets this has an older Python
        sys.exit(f"error: this is Python {sys.version.split()[0]}, wanted 3.11 or newer")
    if len(sys.argv) < 2 or sys.argv[1] not in JOBS:
        sys.exit(f"{__doc__}\nerror: wanted one of {', '.join(JOBS)}")
    prepare()
    sys.exit(JOBS[sys.argv[1]]())
