"""Claims about the structure of the code: who imports whom, and how large things are."""

import ast
from itertools import pairwise

from tests import house
from vov.runtime.files import REPO

FILES = sorted(p for tree in ("vov", "image", "video", "scripts", "models", "studies")
               for p in (REPO / tree).rglob("*.py"))
MAX_MODULE, MAX_FUNCTION, MAX_BRANCHES, MAX_ENTRY = 400, 60, 15, 40
BRANCHES = (ast.If, ast.For, ast.While, ast.ExceptHandler, ast.With, ast.IfExp, ast.match_case, ast.comprehension)


def module_of(path):
    parts = path.relative_to(REPO).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_of(path): path for path in FILES}


def imports(path):
    """The modules of this repository that a file imports, at its top or inside functions; not for type checkers."""
    found = set()
    tree = ast.parse(path.read_text())
    typing_only = {id(inner) for node in ast.walk(tree) if isinstance(node, ast.If)
                   and getattr(node.test, "id", "") == "TYPE_CHECKING" for inner in ast.walk(node)}
    for node in ast.walk(tree):
        if id(node) in typing_only:
            continue
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                found.add(inner if inner in MODULES else node.module)
    return {name for name in found if name in MODULES}


GRAPH = {module: imports(path) for module, path in MODULES.items()}


def test_no_import_goes_up():
    up = [f"{module} → {other}" for module, others in GRAPH.items() for other in others
          if house.floor_of(other) > house.floor_of(module)]
    assert not up, up


def test_image_and_video_know_nothing_of_each_other():
    across = [f"{module} → {other}" for module, others in GRAPH.items() for other in others
              if {module.split(".")[0], other.split(".")[0]} == {"image", "video"}]
    assert not across, across


def test_no_circle_of_imports():
    done, path = set(), []

    def visit(module):
        assert module not in path, " → ".join([*path[path.index(module):], module])
        if module in done:
            return
        path.append(module)
        for other in sorted(GRAPH[module] - {module}):
            if not module.startswith(other + "."):  # a package's __init__ lists what is in it
                visit(other)
        path.pop()
        done.add(module)

    for module in GRAPH:
        visit(module)
    lines = [f"{module:<32} {' '.join(sorted(others))}" for module, others in sorted(GRAPH.items()) if others]
    print("\n".join(lines))  # the graph: pytest -s tests/test_house.py


def outgrown(path):
    """What is too large in a file: the module, a function's lines, a function's branches."""
    text = path.read_text()
    if len(text.splitlines()) > MAX_MODULE:
        yield f"more than {MAX_MODULE} lines: split the module"
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef):
            inner = [n for n in ast.walk(node) if isinstance(n, ast.FunctionDef) and n is not node]
            nested = {id(n) for one in inner for n in ast.walk(one)}
            branches = sum(isinstance(n, BRANCHES) for n in ast.walk(node) if id(n) not in nested)
            if node.end_lineno - node.lineno >= MAX_FUNCTION:
                yield f"{node.name} has more than {MAX_FUNCTION} lines"
            if branches > MAX_BRANCHES:
                yield f"{node.name} has {branches} branches, more than {MAX_BRANCHES}"


def test_nothing_outgrows_its_room():
    offenders = [f"{path.relative_to(REPO)}: {problem}" for path in FILES for problem in outgrown(path)]
    assert not offenders, "\n".join(offenders)


def test_no_function_takes_more_parameters_than_a_reader_can_hold():
    assert not house.long_signatures()


def modules_that(matches):
    """Modules of vov in which some node matches."""
    return {module for module, path in MODULES.items() if module.startswith("vov")
            and any(matches(node) for node in ast.walk(ast.parse(path.read_text())))}


def test_theta_becomes_layers_in_one_place():
    def factors(node):
        return isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "factors"

    assert modules_that(factors) == {"vov.adapter.adapted"}


def test_headers_are_made_in_one_place():
    def header(node):
        return isinstance(node, ast.Call) and getattr(node.func, "attr", getattr(node.func, "id", "")) == "Header"

    assert modules_that(header) <= {"vov.adapter.adapted", "vov.bitstream.header"}


def test_no_file_of_tests_outgrows_its_room():
    lengths = {path.name: len(path.read_text().splitlines()) for path in (REPO / "tests").rglob("*.py")}
    assert not {name: length for name, length in lengths.items() if length > MAX_MODULE}


def test_entry_scripts_are_short():
    entries = [p for p in FILES if p.parent.name in ("image", "video") and p.name != "options.py"]
    long = [str(p.relative_to(REPO)) for p in entries if len(p.read_text().splitlines()) > MAX_ENTRY]
    assert not long, long


def test_both_trees_have_the_same_rooms():
    rooms = [sorted(p.name for p in (REPO / tree).glob("*.py")) for tree in ("image", "video")]
    assert all(a == b for a, b in pairwise(rooms)), rooms


def test_no_command_asks_for_more_than_forty_variables_and_the_product_for_more_than_110():
    named = house.variables_by_command()
    assert not {command: len(names) for command, names in named.items() if len(names) > 40}
    assert len(set().union(*named.values())) <= 110
