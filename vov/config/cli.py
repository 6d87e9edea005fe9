"""What every entry script shares: flags from a configuration class, --help, errors as one line.

The only place in the package that knows argparse.
"""

from __future__ import annotations

import argparse
import dataclasses
import logging
import os
import re
import sys
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from vov import VovError
from vov.config import (
    STAGES,
    as_typed,
    environment_names,
    fields_of,
    keys_of,
    load,
    rare,
    spelling,
    unread_keys,
    unused,
    variables,
)
from vov.config.retired import RETIRED, current_preset, retired_lines
from vov.runtime import signals
from vov.runtime.files import write_problem

T = TypeVar("T")


def run(cls: type[T], main: Callable[..., None], usage: str, *, stages: Sequence[str] = ("",),
        defaults: Mapping[str, Any] | None = None, more: Mapping[str, type] | None = None) -> None:
    """Parses the command line into `cls`, runs `main` and turns problems into exit codes.

    `main` gets one configuration for each of `stages` ("", "stage1", "stage2"). more: {command: its class}, further
    commands whose variables this one hands on, also behind IMAGE_ and VIDEO_. Names that are set in vain get a line
    each on stderr; VOV_SPELLING=0, for scripts that run several commands in one environment, leaves these lines out.
    Exit codes: 0 success, 1 a VovError (printed as one line), 2 wrong usage, 130 and 143 after SIGINT and SIGTERM.
    """
    # What a command reports as its result goes to standard output by `print`; the rest, through logging, to the side.
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Words("%(message)s"))
    logging.basicConfig(level=logging.INFO, handlers=[handler])
    for noisy in ("httpx", "transformers", "diffusers", "tensorboard"):
        logging.getLogger(noisy).setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", "`torch.jit.script` is deprecated", FutureWarning)  # diffusers' import of it
    try:
        given = parse(cls, sys.argv[1:], usage, stages, defaults, more)
        typed.update(words_of(cls, given, os.environ))
        with signals.on_signals():
            for line in set_in_vain(cls, given, usage, stages, more):
                print(one_line(line), file=sys.stderr)
            main(*(load(cls, given, os.environ, stage, defaults) for stage in stages))
    except VovError as error:
        print(f"error: {one_line(error)}", file=sys.stderr)
        sys.exit(1)
    except signals.Stopped as stopped:
        print(stopped.line, file=sys.stderr)
        sys.exit(stopped.code)
    except BrokenPipeError:
        signals.close_output()
        sys.exit(1)
    except (OSError, MemoryError, RuntimeError) as error:
        if not (line := machine_problem(error)):
            raise
        print(f"error: {one_line(line)}", file=sys.stderr)
        sys.exit(1)


def set_in_vain(cls: type, given: Mapping[str, Any], usage: str, stages: Sequence[str],
                more: Mapping[str, type] | None = None) -> list[str]:
    """A line for every variable in the environment that is not the command's but was probably meant for it, or was
    one once, and for keys of its preset that only others read; in the first process of a run alone."""
    if os.environ.get("VOV_SPELLING") == "0" or (
            "TORCHELASTIC_RUN_ID" in os.environ and os.environ.get("RANK") not in ("", "0", None)):
        return []
    prefixes = [f"{stage.upper()}_" for stage in STAGES] if set(STAGES) & set(stages) else []
    prefixes += ["IMAGE_", "VIDEO_"] if more else []
    own, recipe, idle = (
        {name for one in (cls, *(more or {}).values()) for field in chosen(one) for name in
         environment_names(fields_of(one)[field])} for chosen in (variables, rare, unused))
    lines = retired_lines(as_typed(os.environ), own, recipe - own, idle - own)
    lines += spelling.notes(_script(usage), [*own, *recipe, *idle, *RETIRED], os.environ, prefixes)
    preset = given.get("config") or os.environ.get("CONFIG", "")
    # To encode.sh every preset says what fits need.
    read = preset and "config" in fields_of(cls) and "encode" not in stages
    if read and (keys := unread_keys(current_preset(preset, ""), set(keys_of(cls)))):
        lines.append(f"CONFIG={preset}: {', '.join(keys)}: not read by this command, here ignored")
    return lines


def _script(usage: str) -> str:
    """The command that a usage line is about: "… bash video/encode.sh …" → "video/encode.sh"."""
    found = re.search(r"bash (\S+\.sh)", usage)
    return found[1] if found else ""


typed: dict[str, str] = {}  # what the user calls a setting in this process: the flag or the variable that was given


def one_line(problem: object) -> str:
    """The text of a problem in the user's words, line breaks (of a value or a library's message) shown as \\n."""
    return in_words("\\n".join(str(problem).splitlines()))


def in_words(text: str) -> str:
    """The library names a setting by its field, `theta_length`; here it becomes what the user typed, or would type."""

    def shown(found: re.Match[str]) -> str:
        known = found[1].upper() in spelling.table() or found[1].startswith("vov_")
        return typed.get(found[1], found[1].upper() if known else found[0])  # other programs quote words of their own

    return re.sub(r"`([a-z]\w*)`", shown, text)


def words_of(cls: type, given: Mapping[str, Any], environ: Mapping[str, str]) -> dict[str, str]:
    """{setting: its flag if that was given, else the variable that is set, else the first of its variables; of a part
    of a recipe its name}.

    Under the name of its field and under its variables' names in lower case: a module that serves several commands uses
    whichever they share.
    """
    found, rarely = {}, rare(cls)
    for name, field in fields_of(cls).items():
        names = environment_names(field)
        found[name] = next((one for one in names if environ.get(one)), name if name in rarely else names[0])
        if given.get(name) is not None and name not in rarely:
            found[name] = f"--{names[0].lower().replace('_', '-')}"
    return {key: found[name] for key, name in keys_of(cls).items()}


class _Words(logging.Formatter):
    """Log lines in the user's words."""

    def format(self, record: logging.LogRecord) -> str:
        return in_words(super().format(record))


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
        problem = write_problem(error, Path(path), "out_dir")
        return str(problem or f"{path}: {error.strerror or error}; check the disk and run the same command again")
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return ("the memory is used up; set OFFLOAD=blocks or QUANTIZE=fp8, of a fit also --set checkpointing=full, or "
                "take fewer frames or pixels")
    return ""


def parse(cls: type, argv: list[str], usage: str, stages: Sequence[str] = ("",),
          defaults: Mapping[str, Any] | None = None, more: Mapping[str, type] | None = None) -> dict[str, Any]:
    """{field: text} of the flags given; `--help` prints every variable with its value and exits 0. more: see `run`."""
    parser = argparse.ArgumentParser(usage=usage, add_help=False, allow_abbrev=False)
    parser.add_argument("--help", "-h", action="store_true")
    parser.add_argument("--help-all", action="store_true")
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE")
    flags: dict[str, str] = {}
    for one in (cls, *(more or {}).values()):
        for field, about in variables(one).items():
            for name in (*(name.lower() for name in environment_names(about)), field):
                flags.setdefault(f"--{name.replace('_', '-')}", field)
                flags.setdefault(f"--{name}", field)
    for flag, field in flags.items():
        parser.add_argument(flag, dest=field, default=None)
    parsed, unknown = parser.parse_known_args(argv)
    if unknown:
        print(f"error: {_unknown_flag(unknown[0], cls, _script(usage))}", file=sys.stderr)
        sys.exit(2)
    given = vars(parsed)
    asked, everything, said = given.pop("help"), given.pop("help_all"), given.pop("set")
    given |= dict(_assigned((cls, *(more or {}).values()), text) for text in said)
    if asked or everything:
        print(help_text(cls, given, usage, stages, defaults, everything))
        if more:
            print(f"\nEvery variable and flag of {' and '.join(more)} works too; their --help lists them. VIDEO_ or "
                  "IMAGE_ before one sets it for\nvideos or pictures alone (environment only).")
        sys.exit(0)
    return given


def _unknown_flag(flag: str, cls: type, script: str) -> str:
    """What is wrong with an argument that is no flag of the command."""
    if not flag.startswith("--"):
        return f"{one_line(flag)!r:.80} is no flag; give --name value, see --help"
    name = flag[2:].partition("=")[0].upper().replace("-", "_")
    sisters = spelling.sisters_of(name, script)
    own = [known for field in variables(cls).values() for known in environment_names(field)]
    names = spelling.suggestions(name, own, sister=bool(sisters))
    told = f" (it is one of {sisters[0]})" if sisters else ""
    wanted = spelling.question(["--" + one.lower().replace("_", "-") for one in names], "; --help lists them")
    return f"{one_line(flag).partition('=')[0]:.80} is not a flag of this command{told}{wanted}"


def _assigned(classes: Sequence[type], text: str) -> tuple[str, str]:
    """(field, value) of `--set name=value`. Raises VovError for a name that means nothing here."""
    name, equals, value = text.partition("=")
    key = name.strip().lower().replace("-", "_")
    field = next((keys_of(cls)[key] for cls in classes if keys_of(cls).get(key, "") not in {"", *unused(cls)}), "")
    if not equals or not field:
        raise VovError(f"--set {text:.80}: not NAME=VALUE with a setting of this command; --help-all lists them")
    return field, value.strip()


def help_text(cls: type, given: Mapping[str, Any], usage: str, stages: Sequence[str],
              defaults: Mapping[str, Any] | None = None, everything: bool = False) -> str:
    """The table of variables: name, the value it would have now (environment and preset applied), meaning.

    Where stages differ, their values stand with commas between. everything: rare settings too.
    """
    shown = [stage for stage in stages if stage] or [""]
    now: list[Any] = [load(cls, given, os.environ, stage, defaults) for stage in shown]
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
