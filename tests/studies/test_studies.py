"""Studies: each says what was asked and found, stands in the index, and its script still finds what it imports."""

import ast
import importlib
import re

import pytest

from vov.runtime.files import REPO

STUDIES = sorted(path for path in (REPO / "studies").iterdir() if (path / "README.md").is_file())
SCRIPTS = sorted((REPO / "studies").rglob("*.py"))
NAMES = {"ids": lambda path: str(path.relative_to(REPO / "studies"))}


@pytest.mark.parametrize("path", STUDIES, **NAMES)
def test_a_study_has_a_date_a_question_a_verdict_and_a_line_in_the_index(path):
    text = (path / "README.md").read_text(encoding="utf-8")
    title, _, first, *_ = text.split("\n")
    assert re.fullmatch(r"# .+\?", title) and re.match(r"\*.*\d+ \w+ \d{4}\. Frozen: .* commit [0-9a-f]{7}\.", first)
    assert "**Question.**" in text and "**Verdict.**" in text
    assert f"({path.name}/README.md" in (REPO / "studies/README.md").read_text(encoding="utf-8")
    links = {link for link in re.findall(r"\]\(([^)\s#]+)", text) if "://" not in link}
    assert not {link for link in links if not (path / link).exists()}


def test_names_that_studies_import_exist():
    """Without running them: a name that moved is found here, and not when someone wants to measure again."""
    missing = []
    for path in SCRIPTS:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and node.module.split(".")[0] in ("vov", "image", "video", "scripts",
                                                                                 "studies"):
                module = importlib.import_module(node.module)
                for alias in node.names:
                    if not hasattr(module, alias.name):
                        try:
                            importlib.import_module(f"{node.module}.{alias.name}")
                        except ImportError:
                            missing.append(f"{path.relative_to(REPO)}: {node.module}.{alias.name}")
    assert not missing
