"""What every entry script shares: flags from a configuration class, --help, errors as one line.

The only place in the package that knows argparse.
"""

from __future__ import annotations

import argparse
import dataclasses
import logging
import os
import sys
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from vov import VovError
from vov.config import as_typed, environment_names, fields_of, keys_of, load, rare, unused, variables
from vov.config.retired import retired_lines
from vov.runtime import signals
from vov.runtime.files import write_problem

T = TypeVar("T")


def run(cls: type[T], main: Callable[..., None], usage: str, *, stages: Sequence[str] = ("",),
        defaults: Mapping[str, Any] | None = None) -> None:
    """Parses the command line into `cls`, runs `main` and turns problems into exit codes.

    `main` gets one configuration for each of `stages` ("", "stage1", "stage2").
    Exit codes: 0 success, 1 a VovError (printed as one line), 2 wrong usage, 130 and 143 after SIGINT and SIGTERM.
    """
    # What a command reports as its result goes to standard output by `print`; the rest, through logging, to the side.
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    for noisy in ("httpx", "transformers", "diffusers", "tensorboard"):
        logging.getLogger(noisy).setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", "`torch.jit.script` is deprecated", FutureWarning)  # diffusers' import of it
    try:
        given = parse(cls, sys.argv[1:], usage, stages, defaults)
        for line in _retired(cls):
            print(line, file=sys.stderr)
        with signals.on_signals():
            main(*(load(cls, given, os.environ, stage, defaults) for stage in stages))
    except VovError as error:
        print(f"error: {one_line(error)}", file=sys.stderr)
        sys.exit(1)
    except signals.Stopped as stopped:
        print(stopped.line, file=sys.stderr)
        sys.exit(stopped.code)
    except (OSError, MemoryError, RuntimeError) as error:
        if not (line := machine_problem(error)):
            raise
        print(f"error: {one_line(line)}", file=sys.stderr)
        sys.exit(1)


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
        return ("the memory is used up; set OFFLOAD=blocks or QUANTIZE=fp8, of a fit also --set checkpointing=full, or "
                "take fewer frames or pixels")
    return ""


def parse(cls: type, argv: list[str], usage: str, stages: Sequence[str] = ("",),
          defaults: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """{field: text} of the flags given; `--help` prints every variable with its value and exits 0."""
    parser = argparse.ArgumentParser(usage=usage, add_help=False, allow_abbrev=False)
    parser.add_argument("--help", "-h", action="store_true")
    parser.add_argument("--help-all", action="store_true")
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE")
    for field, about in variables(cls).items():
        names = [*(name.lower() for name in environment_names(about)), field]
        flags = [f"--{one}" for name in names for one in (name.replace("_", "-"), name)]
        parser.add_argument(*dict.fromkeys(flags), dest=field, default=None)
    given = vars(parser.parse_args(argv))
    asked, everything, said = given.pop("help"), given.pop("help_all"), given.pop("set")
    given |= dict(_assigned(cls, text) for text in said)
    if asked or everything:
        print(help_text(cls, given, usage, stages, defaults, everything))
        sys.exit(0)
    return given


def _assigned(cls: type, text: str) -> tuple[str, str]:
    """(field, value) of `--set name=value`. Raises VovError for a name that means nothing here."""
    name, equals, value = text.partition("=")
    field = keys_of(cls).get(name.strip().lower().replace("-", "_"), "")
    if not equals or not field or field in unused(cls):
        raise VovError(f"--set {text:.80}: not NAME=VALUE with a setting of this command; --help-all lists them")
    return field, value.strip()


def _retired(cls: type) -> list[str]:
    """What the first process of a run says of variables that are none any more."""
    if "TORCHELASTIC_RUN_ID" in os.environ and os.environ.get("RANK", "") not in ("", "0"):
        return []
    fields = fields_of(cls)
    own, recipe, idle = ({name for field in chosen for name in environment_names(fields[field])}
                         for chosen in (variables(cls), rare(cls), unused(cls)))
    return retired_lines(as_typed(os.environ), own, recipe, idle)


def help_text(cls: type, given: Mapping[str, Any], usage: str, stages: Sequence[str],
              defaults: Mapping[str, Any] | None = None, everything: bool = False) -> str:
    """The table of variables: name, the value it would have now (environment and preset applied), meaning.

    Where stages differ, their values stand with commas between. everything: rare settings too.
    """
    shown = [stage for stage in stages if stage] or [""]
    now = [load(cls, given, os.environ, stage, defaults) for stage in shown]
    title = "Variables (environment, or --flags in lower case), their value now, meaning:"
    lines = [f"usage: {usage}", "", title, *table(now, variables(cls)), *_stage_notes(cls, shown)]
    if others := rare(cls):
        lines += ["", "Parts of a recipe, set by a preset or by --set name=value"]
        lines[-1] += ":" if everything else "; --help-all shows them."
        lines += table(now, others) if everything else []
    return "\n".join(lines)


def table(now: Sequence[Any], fields: Mapping[str, dataclasses.Field]) -> list[str]:
    """Lines of a table of settings: name, value, meaning. now: configurations of one class; values that differ stand
    with commas between. fields: which."""
    rows = []
    for name, field in fields.items():
        names = environment_names(field)
        values = list(dict.fromkeys(str(int(value) if isinstance(value, bool) else value)
                                    for value in (getattr(one, name) for one in now)))
        choices = field.metadata.get("choices", ())
        text = field.metadata.get("help", "")
        if choices and not all(str(choice) in text for choice in choices):
            text += f" ({' | '.join(map(str, choices))})"
        if len(names) > 1:
            text += f" [also {', '.join(names[1:])}]"
        rows.append((name if field.metadata.get("rare") else names[0], ", ".join(values), text))
    widths = [max(len(row[i]) for row in rows) for i in (0, 1)]
    return [f"{a:<{widths[0]}}  {b:<{min(widths[1], 28)}}  {c}" for a, b, c in rows]


def _stage_notes(cls: type, stages: Sequence[str]) -> list[str]:
    """What a command of several stages says of variables for one stage alone."""
    if len(stages) < 2:
        return []
    own = [environment_names(field)[0] for field in variables(cls).values() if field.metadata.get("per_stage")]
    prefixes = " and ".join(f"{stage.upper()}_" for stage in stages)
    return ["", f"{prefixes} before a variable set it for one stage alone (STAGE1_OUT_DIR, STAGE2_LR, …); possible for",
            f"{', '.join(own)}."]
