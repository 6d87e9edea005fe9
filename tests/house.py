"""How large the house is: lines of Python by folder, variables by command, functions with many parameters.

    python -m tests.house

Prints the figures of the tree that it is run in, so that a change of the house can be held against them.
"""

from __future__ import annotations

import ast
from collections import Counter
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

from vov.config import environment_names, variables
from vov.runtime.files import REPO

APART = {  # the first prefix that fits says where a file is counted
    "scripts/experiments/bench": "bench", "scripts/bench": "bench", "bench/": "bench",
    "scripts/nano": "models/pretraining", "scripts/pretrain_nano": "models/pretraining",
    "models/pretraining": "models/pretraining", "studies": "studies", "tests": "tests", "docs": "docs",
}
PRODUCT = ("vov", "image", "video", "scripts")
COMMANDS = {
    "video/encode.sh": "video.encode:Encode", "image/encode.sh": "image.encode:Encode",
    "video/train/run_two_stage.sh": "video.options:VideoFit", "image/train_multi.sh": "image.options:ImageFit",
    "scripts/fit_collection.sh": "scripts.fit_collection:CollectionFit",
    "video/scaling/sample.sh": "video.scale:Scale", "image/scale.sh": "image.scale:Scale",
    "video/reconstruct/reconstruct.sh": "video.reconstruct:Reconstruct",
    "image/reconstruct_multi.sh": "image.reconstruct:Reconstruct",
    "video/edit/edit_caption.sh": "video.edit:EditCaption", "video/edit/edit_merge.sh": "video.edit:EditMerge",
    "image/edit_caption.sh": "image.edit:EditCaption", "image/edit_merge.sh": "image.edit:EditMerge",
    "video/eval/eval.sh, image/eval.sh": "vov.evaluation.pairs:EvalConfig",
    "scripts/export.sh": "scripts.export:Export",
    "scripts/fetch_models.sh": "vov.evaluation.fetch:FetchConfig",
}
MANY = 8  # parameters of a function, beside self and cls


def folder_of(path: Path) -> str:
    """Where a file is counted: APART, or its room of vov, or the folder at the top."""
    text = path.relative_to(REPO).as_posix()
    for prefix, name in APART.items():
        if text.startswith(prefix):
            return name
    parts = text.split("/")
    return "/".join(parts[:2]) if parts[0] == "vov" and len(parts) > 2 else parts[0]


def sources() -> Iterator[Path]:
    """Every Python file of the repository."""
    for folder in (*PRODUCT, "models", "studies", "tests", "docs"):
        yield from sorted((REPO / folder).rglob("*.py"))


def lines() -> Counter[str]:
    """{folder: lines of Python}."""
    found: Counter[str] = Counter()
    for path in sources():
        found[folder_of(path)] += len(path.read_text(encoding="utf-8").splitlines())
    return found


def is_product(folder: str) -> bool:
    """Whether a folder is what users run, rather than what measures, trains or tests it."""
    return folder.split("/")[0] in PRODUCT


def variables_by_command() -> dict[str, list[str]]:
    """{command: the variables that its --help lists, by their first name}; those of the launcher are not counted."""
    found = {}
    for command, place in COMMANDS.items():
        module, name = place.split(":")
        fields = variables(getattr(import_module(module), name)).values()
        found[command] = [environment_names(field)[0] for field in fields]
    found["scripts/encode_dataset.sh"] = [name.upper() for name in import_module("scripts.dataset_settings").OWN]
    return found


def long_signatures() -> list[tuple[int, str]]:
    """(parameters, where) of the product's functions with more than MANY, most first."""
    found = []
    for path in sources():
        if not is_product(folder_of(path)):
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                of = node.args
                names = [arg.arg for arg in (*of.posonlyargs, *of.args, *of.kwonlyargs)]
                count = len([name for name in names if name not in ("self", "cls")])
                if count > MANY:
                    found.append((count, f"{path.relative_to(REPO)}:{node.lineno} {node.name}"))
    return sorted(found, key=lambda one: (-one[0], one[1]))


def main() -> None:
    """Prints all of it."""
    counted = lines()
    product = {folder: count for folder, count in counted.items() if is_product(folder)}
    print(f"lines of the product: {sum(product.values()):,}")
    for folder, count in sorted(product.items()):
        print(f"  {folder:<20} {count:7,}")
    print("lines beside it")
    for folder, count in sorted(counted.items()):
        if folder not in product:
            print(f"  {folder:<20} {count:7,}")
    named = variables_by_command()
    print(f"variables of the product: {len(set().union(*named.values()))}")
    for command, names in named.items():
        print(f"  {command:<34} {len(names):3}")
    found = long_signatures()
    print(f"functions with more than {MANY} parameters: {len(found)}")
    for count, where in found:
        print(f"  {count:3}  {where}")


if __name__ == "__main__":
    main()
