"""Names that mean nothing to a command: which one was meant, and which sister command knows it.

`variables.tsv` lists every variable of every command, so that no command has to import its sisters;
`python -m vov.commands.catalogue` writes it, a test compares it with the code.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import NamedTuple

TABLE = Path(__file__).with_name("variables.tsv")
# Of whatever starts the processes of a command: legal with every one of them.
LAUNCH = ("NUM_GPUS", "NNODES", "NODE_RANK", "MASTER_ADDR", "MASTER_PORT", "OMP_NUM_THREADS", "OMP_WAIT_POLICY",
          "GOMP_SPINCOUNT")
# Of a session rather than of a command: exported once, as READMEs do, for several commands of one medium.
SESSION = ("CONFIG", "FRAMES_DIR", "OUT_DIR", "CAPTION", "MODEL_ID", "OVERWRITE", "SEED")
MEDIA = ("image", "video")
# What shells, containers, CI and clusters set for themselves, as far as it could be taken for one of ours.
ELSEWHERE = re.compile(
    r"NAME|RANK|DEVICES?|WORKERS?|IMAGES?|LESS|BRANCH|CPUS?|GPUS?|FAMILY|FORMAT|INPUT|OUTPUT|REPORTS?|METRICS|START|"
    r"ITEM|RETRIES|DRY_RUN|STAGE_NAME|SPEED|LOGS|CONFIGS|WORK_?DIR|DATA_ROOT|"
    r"CACHE_DIR|METRIC_WEIGHTS_DIR|(WAN|QWEN)_MODEL_ID|"  # ours, but of a machine rather than of a command
    r"(CI|CUDA|GITHUB|GITLAB|GOMP|HF|KMP|LOCAL|MASTER|MKL|NCCL|OMP|PYTHON|PYTORCH|RAY|ROLE|SLURM|SRUN|TORCH|VOV|WORLD)_.*")
# Names by which different commands call the same thing.
SAME = (("FRAMES_DIR", "IMAGE", "ORIGINAL_FRAMES_DIR", "ORIGINAL"), ("OUT_DIR", "OUTPUT_DIR", "OUTPUT_VIDEO"))
LONG = 9  # letters from which two slips are still the same name
SHORT = 4  # a name shorter than this is too near to others to be recognised


class Known(NamedTuple):
    """A variable of some commands: the key that it has in a preset ("" for an alias), and their scripts."""

    key: str
    scripts: tuple[str, ...]


@cache
def table() -> dict[str, Known]:
    """{variable: where it is known}."""
    rows = (line.split("\t") for line in TABLE.read_text(encoding="utf-8").splitlines()[1:])
    return {name: Known(key, tuple(scripts.split())) for name, key, scripts in rows}


@cache
def preset_keys() -> frozenset[str]:
    """The keys that a preset may have: those of every command that reads presets."""
    readers = set(table()["CONFIG"].scripts)
    return frozenset(name.lower() for name, known in table().items() if readers & set(known.scripts))


def distance(one: str, other: str) -> int:
    """How many letters must be changed, put in, left out or swapped with their neighbour."""
    before: list[int] = []
    now = list(range(len(other) + 1))
    for i, a in enumerate(one, 1):
        older, before, now = before, now, [i]
        for j, b in enumerate(other, 1):
            now.append(min(before[j] + 1, now[j - 1] + 1, before[j - 1] + (a != b)))
            if i > 1 and j > 1 and a == other[j - 2] and one[i - 2] == b:
                now[j] = min(now[j], older[j - 2] + 1)
    return now[-1]


def meant(name: str, known: Iterable[str]) -> list[str]:
    """The names that `name` may be a slip for: the nearest within one slip, two where it is long."""
    reach = 0 if len(name) < SHORT else 2 if len(name) >= LONG else 1
    near = [(distance(name, one), one) for one in known  # the rest of the condition is only for speed
            if abs(len(name) - len(one)) <= reach and len(set(name) ^ set(one)) <= 2 * reach]
    best = min((far for far, _ in near), default=reach + 1)
    return sorted(one for far, one in near if far == best <= reach)


def question(names: Collection[str], otherwise: str = "") -> str:
    """"; did you mean A or B?" or `otherwise` where there is nothing to suggest."""
    return f"; did you mean {' or '.join(names)}?" if names else otherwise


def notes(script: str, own: Collection[str], environ: Mapping[str, str], prefixes: Collection[str] = ()) -> list[str]:
    """A line for every variable that is set in vain.

    Args:
        script: the command, as `variables.tsv` names it; of one that is not there nothing is known, and nothing said.
        own: its variables, aliases included.
        prefixes: that may stand before them.
    """
    if not any(script in known.scripts for known in table().values()):
        return []
    legal = {*own, *LAUNCH, *(prefix + name for prefix in prefixes for name in own)}
    names = (name for name, value in environ.items() if value and re.fullmatch(r"[A-Z][A-Z0-9_]*", name))
    lines = (_note(name, script, own, prefixes) for name in sorted(names)
             if name not in legal and not ELSEWHERE.fullmatch(name) and not _numbered(name, own))
    return [line for line in lines if line]


def _note(name: str, script: str, own: Collection[str], prefixes: Collection[str]) -> str:
    """What is said of a variable that the command does not know, or nothing."""
    sisters = sisters_of(name, script)
    tree = script.partition("/")[0]
    if name in SESSION and (tree not in MEDIA or any(sister.startswith(tree) for sister in sisters)):
        return ""
    names = _meant_behind(name, own, prefixes) or suggestions(name, own, bool(sisters))
    if not sisters and not names:
        return ""
    told = f" (it is one of {sisters[0]})" if sisters else ""
    return f"{name} is not a variable of this command{told}{question(names, '; here it is ignored')}"


def sisters_of(name: str, script: str = "") -> list[str]:
    """The commands that know a variable, with or without STAGE1_ or STAGE2_ before it: those of the same tree first."""
    known = table().get(re.sub(r"^STAGE[12]_", "", name))
    tree = script.partition("/")[0]
    return sorted(known.scripts, key=lambda one: one.partition("/")[0] != tree) if known else []


def _meant_behind(name: str, own: Collection[str], prefixes: Collection[str]) -> list[str]:
    """`meant`, for a name of the launcher or with a prefix: either that or what is behind it may have the slip."""
    for prefix in prefixes:
        if name.startswith(prefix):
            return [prefix + one for one in meant(name.removeprefix(prefix), own)]
    whole = [prefix + one for prefix in prefixes for one in own if name.endswith(f"_{one}")]
    return meant(name, {*own, *LAUNCH}) or [one for one in whole if distance(name, one) == 1]


def suggestions(name: str, own: Collection[str], sister: bool = False) -> list[str]:
    """The command's variables that `name` may stand for: a slip, another word for the same, or the last words of one.

    sister: another command knows the name.
    """
    same = [one for group in SAME if name in group for one in group if one in own]
    ends = [one for one in own if one.endswith(f"_{name}") and table().get(one, Known("", ())).key]
    return meant(name, own) or same or (sorted(ends)[:3] if sister or len(name) >= LONG else [])


def _numbered(name: str, own: Collection[str]) -> bool:
    """Whether it goes on with a series: WEIGHTS3 after WEIGHTS1 and WEIGHTS2."""
    stem = re.fullmatch(r"(.*\D)\d+", name)
    return stem is not None and {f"{stem[1]}1", f"{stem[1]}2"} <= set(own)
