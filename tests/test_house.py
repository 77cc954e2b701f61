"""The house itself: floors, face, README lines, sizes, and nobody's machine in the text."""

import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import foley_lab

ROOT = Path(__file__).resolve().parents[1]
README = ROOT / "README.md"
JOBS = ("demo", "test", "lab")


def tracked() -> list[Path]:
    """Files of the repository: known to git or about to be."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    try:
        listed = subprocess.run(command, cwd=ROOT, capture_output=True, check=True, text=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("not a git checkout")
    return [path for name in listed.stdout.split("\0") if name and (path := ROOT / name).is_file()]


def readme_commands() -> list[str]:
    text = README.read_text(encoding="utf-8") if README.is_file() else ""
    code = "\n".join(re.findall(r"^```\w*\n(.*?)^```", text, re.M | re.S)).replace("\\\n", " ")
    return re.findall(r"^(?:\$ )?((?:foley-lab|python3 run\.py)\b.*)$", code, re.M)


def test_imports_point_downward():
    pytest.importorskip("importlinter")
    lint = "from importlinter.cli import lint_imports_command as lint; lint()"
    command = [sys.executable, "-c", lint, "--no-cache"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_face_is_light():
    code = (
        "import sys, foley_lab; foley_lab.Video, foley_lab.MediaError; "
        "print(*sorted({n.split('.')[0] for n in sys.modules}))"
    )
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, check=True, text=True)
    heavy = {"torch", "transformers", "diffusers", "numpy", "scipy", "av", "cv2"}
    assert not heavy & set(done.stdout.split())


def test_the_face_hands_out_its_names():
    for name in set(foley_lab.__all__) - {"load"}:
        assert getattr(foley_lab, name) is not None
    assert set(foley_lab.__all__) <= set(dir(foley_lab))
    with pytest.raises(AttributeError, match="no attribute 'Vidoe'"):
        _ = foley_lab.Vidoe


def test_load_comes_from_the_presets():
    from foley_lab.pipeline import presets

    assert foley_lab.load is presets.load


@pytest.mark.skipif(not README.is_file(), reason="no README")
def test_readme_has_commands():
    assert readme_commands()


@pytest.mark.parametrize("line", readme_commands())
def test_readme_lines_parse(line):
    words = shlex.split(line, comments=True)
    if words[0] != "foley-lab":
        assert words[2] in JOBS
        return
    from foley_lab.serving.cli import build_parser

    build_parser().parse_args(words[1:])


def test_run_knows_its_jobs():
    done = subprocess.run([sys.executable, "run.py"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode != 0 and "error: wanted one of demo, test, lab" in done.stderr
    makefile = (ROOT / "Makefile").read_text()
    assert all(job in makefile for job in JOBS)


def test_one_list_of_packages():
    environment = (ROOT / "environment.yml").read_text()
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert "-e .[test]" in environment and "-c constraints.txt" in environment
    assert re.search(r"python=(3\.\d+)", environment)[1] in project["requires-python"]
    # Every direct dependency is pinned, and nothing is pinned that nobody asks for.
    extras = project["optional-dependencies"].values()
    asked = [*project["dependencies"], *(item for extra in extras for item in extra)]
    names = {re.match(r"[\w-]+", item)[0] for item in asked} - {"foley-lab"}
    pins = (ROOT / "constraints.txt").read_text()
    assert names == set(re.findall(r"^([\w-]+)==", pins, re.M))


def test_hooks_and_constraints_name_the_same_tools():
    pins = set(re.findall(r"^[\w-]+==\S+", (ROOT / "constraints.txt").read_text(), re.M))
    hooks = re.findall(r"\[([\w-]+==[\d.]+)\]", (ROOT / ".pre-commit-config.yaml").read_text())
    assert hooks and set(hooks) <= pins


def test_the_sanitizer_is_read_whole():
    """nbval drops a pair in silence when its form is a little off."""
    pytest.importorskip("nbval")
    from nbval.plugin import get_sanitize_patterns

    text = (ROOT / "tests" / "nbval_sanitize.cfg").read_text()
    headings = re.findall(r"^\[[\w-]+\]$", text, re.M)
    assert headings and len(get_sanitize_patterns(text)) == len(headings)


def test_no_file_is_large():
    large = {path.name: path.stat().st_size for path in tracked()}
    assert not {name: size for name, size in large.items() if size > 15_000_000}


def test_no_machine_is_named():
    private = re.compile(r"/(home|Users|root|work|tmp)/\w|[A-Z]:\\\\?Users")
    found = []
    for path in tracked():
        if path == Path(__file__) or path.stat().st_size > 2_000_000:
            continue
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue  # sounds, pictures, weights
        for number, line in enumerate(text.splitlines(), 1):
            if private.search(line):
                found.append(f"{path.relative_to(ROOT)}:{number}: {line.strip()[:80]}")
    assert not found, "\n".join(found)
