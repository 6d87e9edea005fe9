"""What every entry script shares: flags from a configuration class, --help, errors as one line.

The only place in the package that knows argparse.
"""

from __future__ import annotations

import argparse
import logging
import os
import re
import sys
import warnings
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from vov import VovError, spelling, stopping
from vov.config import STAGES, environment_names, load, unread_keys, variables
from vov.files import write_problem

T = TypeVar("T")


def run(cls: type[T], main: Callable[..., None], usage: str, *, stages: Sequence[str] = ("",),
        defaults: Mapping[str, Any] | None = None, prefixes: Sequence[str] = ()) -> None:
    """Parses the command line into `cls`, runs `main` and turns problems into exit codes.

    `main` gets one configuration for each of `stages` ("", "stage1", "stage2"). prefixes: that an environment variable
    may have, beside those of stages. Names that are set in vain get a line each on stderr; VOV_SPELLING=0, for scripts
    that run several commands in one environment, leaves these lines out.
    Exit codes: 0 success, 1 a VovError (printed as one line), 2 wrong usage, 130 and 143 after SIGINT and SIGTERM.
    """
    # What a command reports as its result goes to standard output by `print`; the rest, through logging, to the side.
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    for noisy in ("httpx", "transformers", "diffusers", "tensorboard"):
        logging.getLogger(noisy).setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", "`torch.jit.script` is deprecated", FutureWarning)  # diffusers' import of it
    try:
        given = parse(cls, sys.argv[1:], usage, stages, defaults)
        with stopping.on_signals():
            for line in set_in_vain(cls, given, usage, stages, prefixes):
                print(one_line(line), file=sys.stderr)
            main(*(load(cls, given, os.environ, stage, defaults) for stage in stages))
    except VovError as error:
        print(f"error: {one_line(error)}", file=sys.stderr)
        sys.exit(1)
    except stopping.Stopped as stopped:
        print(stopped.line, file=sys.stderr)
        sys.exit(stopped.code)
    except (OSError, MemoryError, RuntimeError) as error:
        if not (line := machine_problem(error)):
            raise
        print(f"error: {one_line(line)}", file=sys.stderr)
        sys.exit(1)


def set_in_vain(cls: type, given: Mapping[str, Any], usage: str, stages: Sequence[str],
                prefixes: Sequence[str] = ()) -> list[str]:
    """A line for every variable in the environment that is not the command's but was probably meant for it, and one
    for keys of its preset that only others read; in the first process of a run alone. `run` explains the arguments."""
    if os.environ.get("VOV_SPELLING") == "0" or (
            "TORCHELASTIC_RUN_ID" in os.environ and os.environ.get("RANK") not in ("", "0", None)):
        return []
    if set(STAGES) & set(stages):
        prefixes = [*prefixes, *(f"{stage.upper()}_" for stage in STAGES)]
    fields = variables(cls)
    own = [name for field in fields.values() for name in environment_names(field)]
    lines = spelling.notes(_script(usage), own, os.environ, prefixes)
    preset = given.get("config") or os.environ.get("CONFIG", "")
    read = preset and "config" in fields and "encode" not in stages  # to encode.sh every preset says what fits need
    if read and (keys := unread_keys(preset, set(fields))):
        lines.append(f"CONFIG={preset}: {', '.join(keys)}: not read by this command, here ignored")
    return lines


def _script(usage: str) -> str:
    """The command that a usage line is about: "… bash video/encode.sh …" → "video/encode.sh"."""
    found = re.search(r"bash (\S+\.sh)", usage)
    return found[1] if found else ""


def one_line(problem: object) -> str:
    """The text of a problem, line breaks (of a value or a library's message) shown as a backslash and an n."""
    return "\\n".join(str(problem).splitlines())


def run_one_of(commands: Mapping[str, tuple]) -> None:
    """`run` of the command that the first argument names; commands: {name: (cls, main, usage[, stages])}."""
    name = sys.argv.pop(1) if len(sys.argv) > 1 else ""
    if name not in commands:
        raise SystemExit(f"usage: {Path(sys.argv[0]).name} {{{','.join(commands)}}} [flags]")
    cls, main, usage, *stages = commands[name]
    run(cls, main, usage, stages=stages[0] if stages else ("",))


def machine_problem(error: Exception) -> str:
    """One line for what the machine, not the program, is to blame for: its disk, its files, its memory; else ""."""
    if isinstance(error, OSError):
        path = str(error.filename or "a file")
        problem = write_problem(error, Path(path), "OUT_DIR")
        return str(problem or f"{path}: {error.strerror or error}; check the disk and run the same command again")
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return ("the memory is used up; set OFFLOAD=blocks, QUANTIZE=fp8 or CHECKPOINTING=full where the command has "
                "them, or take fewer frames or pixels")
    return ""


def parse(cls: type, argv: list[str], usage: str, stages: Sequence[str] = ("",),
          defaults: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """{field: text} of the flags given; `--help` prints every variable with its value and exits 0."""
    parser = argparse.ArgumentParser(usage=usage, add_help=False, allow_abbrev=False)
    parser.add_argument("--help", "-h", action="store_true")
    for name in variables(cls):
        parser.add_argument("--" + name.replace("_", "-"), "--" + name, dest=name, default=None)
    parsed, unknown = parser.parse_known_args(argv)
    if unknown:
        print(f"error: {_unknown_flag(unknown[0], cls, _script(usage))}", file=sys.stderr)
        sys.exit(2)
    given = vars(parsed)
    if given.pop("help"):
        print(help_text(cls, given, usage, stages, defaults))
        sys.exit(0)
    return given


def _unknown_flag(flag: str, cls: type, script: str) -> str:
    """What is wrong with an argument that is no flag of the command."""
    if not flag.startswith("--"):
        return f"{one_line(flag)!r:.80} is no flag; give --name value, see --help"
    name = flag[2:].partition("=")[0].upper().replace("-", "_")
    sisters = spelling.sisters_of(name, script)
    names = spelling.suggestions(name, [key.upper() for key in variables(cls)], sister=bool(sisters))
    told = f" (it is one of {sisters[0]})" if sisters else ""
    wanted = spelling.question(["--" + one.lower().replace("_", "-") for one in names], "; --help lists them")
    return f"{one_line(flag).partition('=')[0]:.80} is not a flag of this command{told}{wanted}"


def help_text(cls: type, given: Mapping[str, Any], usage: str, stages: Sequence[str],
              defaults: Mapping[str, Any] | None = None) -> str:
    """The table of variables: name, the value it would have now (environment and preset applied), meaning.

    Where stages differ, their values stand with commas between.
    """
    shown = [stage for stage in stages if stage] or [""]
    now = [load(cls, given, os.environ, stage, defaults) for stage in shown]
    title = "Variables (environment, or --flags in lower case), their value now, meaning:"
    return "\n".join([f"usage: {usage}", "", title, *table(now), *_stage_notes(cls, shown)])


def table(now: Sequence[Any], without: Collection[str] = ()) -> list[str]:
    """Lines of a table of variables: name, value, meaning. now: configurations of one class; values that differ stand
    with commas between. without: fields that are left out."""
    rows = []
    for name, field in variables(type(now[0])).items():
        if name in without:
            continue
        names = environment_names(field)
        values = list(dict.fromkeys(str(int(value) if isinstance(value, bool) else value)
                                    for value in (getattr(one, name) for one in now)))
        choices = field.metadata.get("choices", ())
        text = field.metadata.get("help", "")
        if choices and not all(str(choice) in text for choice in choices):
            text += f" ({' | '.join(map(str, choices))})"
        if len(names) > 1:
            text += f" [also {', '.join(names[1:])}]"
        rows.append((names[0], ", ".join(values), text))
    widths = [max(len(row[i]) for row in rows) for i in (0, 1)]
    return [f"{a:<{widths[0]}}  {b:<{min(widths[1], 28)}}  {c}" for a, b, c in rows]


def _stage_notes(cls: type, stages: Sequence[str]) -> list[str]:
    """What a command of several stages says of variables for one stage alone."""
    if len(stages) < 2:
        return []
    own = [name.upper() for name, field in variables(cls).items() if field.metadata.get("per_stage")]
    prefixes = " and ".join(f"{stage.upper()}_" for stage in stages)
    return ["", f"{prefixes} before a variable set it for one stage alone (STAGE1_OUT_DIR, STAGE2_LR, …); possible for",
            f"{', '.join(own)}."]
