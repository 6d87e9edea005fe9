"""Reading the pages, and running what they tell a reader to type: bash for real, the Python parts in this process."""

from __future__ import annotations

import json
import os
import re
import runpy
import shlex
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from vov.runtime.files import REPO

# Pages that must be true of today's code: all READMEs, the guides, the reference, the pages for developers.
PAGES = ("*README.md", "docs/guide/*.md", "docs/reference/*.md", "docs/develop/*.md",
         ":!studies/*/*")  # a study is frozen: it is true of the commit that it names
READMES = sorted(Path(name) for name in subprocess.run(
    ["git", "ls-files", "--cached", "--others", "--exclude-standard", *PAGES], cwd=REPO, capture_output=True,
    text=True, check=True).stdout.split())

# Stands for Python: notes the command and the environment, for `replay`.
RECORDER = """#!/bin/bash
[[ $1 == -c ]] && exec {python} "$@"
exec {python} -c 'import json, os, sys
with open("{log}", "a") as log:
    print(json.dumps([sys.argv[1:], dict(os.environ)]), file=log)' "$@"
"""


@dataclass(frozen=True)
class Block:
    """A ```bash block; its name is the README and its first line."""

    readme: Path
    text: str

    @property
    def name(self) -> str:
        return f"{self.readme}: {self.text.splitlines()[0].partition('  #')[0].strip()}"


def blocks() -> list[Block]:
    """All of them, in all pages."""
    return [Block(readme, text.strip()) for readme in READMES
            for text in re.findall(r"^```bash\n(.*?)^```", (REPO / readme).read_text(encoding="utf-8"), re.M | re.S)]


def code(readme: Path) -> list[str]:
    """Everything of a README that is set as code: blocks of any kind and spans (which may go on in the next line)."""
    text = (REPO / readme).read_text(encoding="utf-8")
    fenced = re.findall(r"^```(?!bibtex)\w*\n(.*?)^```", text, re.M | re.S)
    rest = re.sub(r"^```.*?^```", "", text, flags=re.M | re.S)
    indented = re.findall(r"^ {4}\S.*", rest, re.M)
    return fenced + indented + [re.sub(r"\s+", " ", span) for span in re.findall(r"`([^`]+)`", rest)]


Call = tuple[list[str], dict[str, str]]  # arguments and environment of a Python that bash started


def record(text: str, folder: Path, environ: dict[str, str]) -> tuple[list[Call], str]:
    """Runs a block in `folder`, where Python only notes how it was called; returns the calls, and what bash printed."""
    python, log = folder / ".venv" / "bin" / "python", folder / "calls.jsonl"
    python.parent.mkdir(parents=True)
    python.write_text(RECORDER.format(python=shlex.quote(sys.executable), log=log))
    python.chmod(0o755)
    for entry in ("video", "image", "scripts", "configs", "models", "vov", "docs", "tests"):
        (folder / entry).symlink_to(REPO / entry)
    done = subprocess.run(["bash", "-euo", "pipefail", "-c", text], cwd=folder, capture_output=True, text=True,
                          timeout=120, env=environ | {"VOV_PYTHON": str(python)}, check=False)
    assert done.returncode == 0, done.stderr
    return [tuple(json.loads(line)) for line in log.read_text().splitlines()], done.stdout


def replay(arguments: list[str], environ: dict[str, str], monkeypatch) -> None:
    """`python -m MODULE …` in this process, with the environment that bash gave it; an exit code but 0 fails."""
    while arguments[:2] == ["-m", "vov.runtime.launch"]:  # which would replace this process
        arguments = ["-m", *arguments[2:]]
    assert arguments[0] == "-m", arguments
    with monkeypatch.context() as patch:
        for name in set(os.environ) - set(environ) - {"PYTEST_CURRENT_TEST", "VOV_CACHE"}:
            patch.delenv(name)
        for name, value in environ.items():
            patch.setenv(name, value)
        patch.setattr(sys, "argv", [arguments[1], *arguments[2:]])
        try:
            runpy.run_module(arguments[1], run_name="__main__", alter_sys=True)
        except SystemExit as end:
            assert not end.code, f"{shlex.join(arguments)} ended with {end.code}"
