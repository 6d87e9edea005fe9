"""How large the house is: lines of Python by folder, variables by command, functions with many parameters.

    python -m tests.house

Prints the figures of the tree that it is run in, so that a change of the house can be held against them.
"""

from __future__ import annotations

import ast
import contextlib
import io
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from vov.commands.catalogue import COMMANDS
from vov.config import environment_names, variables
from vov.runtime.files import REPO

APART = {  # the first prefix that fits says where a file is counted
    "scripts/experiments/bench": "bench", "scripts/bench": "bench", "bench/": "bench",
    "scripts/nano": "models/pretraining", "scripts/pretrain_nano": "models/pretraining",
    "models/pretraining": "models/pretraining", "studies": "studies", "tests": "tests", "docs": "docs",
}
PRODUCT = ("vov", "image", "video", "scripts")
# From the ground up. A room knows rooms of its own floor and of those below it.
FLOORS = [
    ("vov", "vov.runtime"),
    ("vov.config",),
    ("vov.media", "vov.metrics"),
    ("vov.bitstream",),
    ("vov.model",),
    ("vov.adapter",),
    ("vov.decoding",),
    ("vov.formats",),
    ("vov.fitting",),
    ("vov.noise",),
    ("vov.sequence",),
    ("vov.evaluation",),
    ("vov.editing", "vov.dataset"),
    ("vov.commands",),
    ("image", "video"),
    ("scripts", "models", "studies"),
]
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


def floor_of(module: str) -> int:
    """The floor of a module. Raises LookupError for one that has none."""
    best = max(((len(prefix), level) for level, floor in enumerate(FLOORS) for prefix in floor
                if module == prefix or (prefix != "vov" and module.startswith(prefix + "."))), default=None)
    if best is None:
        raise LookupError(f"{module} has no floor: give it one in tests/house.py")
    return best[1]


def is_product(folder: str) -> bool:
    """Whether a folder is what users run, rather than what measures, trains or tests it."""
    return folder.split("/")[0] in PRODUCT


def variables_by_command() -> dict[str, list[str]]:
    """{command: the variables that its --help lists, by their first name}; those of the launcher are not counted."""
    return {command: [environment_names(field)[0] for field in variables(cls).values()]
            for command, cls in COMMANDS.items()}


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


class Walk:
    """Which modules of the product a piece of work passes through, and where a call climbs to a higher floor.

    A function that is handed over, such as a callback, is met where it is called.
    """

    def __init__(self):
        self.rooms: list[str] = []
        self.climbs: set[tuple[str, str]] = set()

    def __call__(self, frame, event: str, _: object) -> None:
        if event != "call" or (room := self._room(frame)) is None:
            return
        if room not in self.rooms:
            self.rooms.append(room)
        above = frame.f_back
        while above is not None and self._room(above) is None:  # through libraries
            above = above.f_back
        if above is not None and (caller := self._room(above)) != room and floor_of(room) > floor_of(caller):
            self.climbs.add((caller, room))

    @staticmethod
    def _room(frame) -> str | None:
        name = frame.f_globals.get("__name__", "")
        return name if name.split(".")[0] in PRODUCT and name.startswith("vov.") else None


def walks() -> dict[str, Walk]:
    """What a decode and an encode of two chunks pass through, on an untrained model of two layers."""
    from tests import tiny
    from vov.commands.decode import DecodeVideo, decode_video
    from vov.commands.encode import EncodeVideo, encode_video
    from vov.media import write_frames

    found = {}
    with tempfile.TemporaryDirectory() as place, contextlib.redirect_stdout(io.StringIO()):
        folder = Path(place)
        model = tiny.build_wan(folder / "model")
        write_frames(folder / "film", np.random.default_rng(0).integers(0, 256, (9, 32, 32, 3), np.uint8))
        common = {"model_id": str(model), "device": "cpu"}
        jobs = {"encode": lambda: encode_video(EncodeVideo(
            frames_dir=str(folder / "film"), out_dir=str(folder / "out"), width=32, height=32, num_frames=5, steps=3,
            scenes="none", score="pixel", **common)),
            "decode": lambda: decode_video(DecodeVideo(
                bitstream=str(folder / "out/film.vov"), output_dir=str(folder / "again"), **common))}
        for name, job in jobs.items():
            found[name] = Walk()
            sys.setprofile(found[name])
            try:
                job()
            finally:
                sys.setprofile(None)
    return found


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
    for name, walk in walks().items():
        print(f"rooms that an {name} passes: {len(walk.rooms)}; calls that climb to a higher floor: {len(walk.climbs)}")
        for caller, room in sorted(walk.climbs):
            print(f"  {caller} -> {room}")


if __name__ == "__main__":
    main()
