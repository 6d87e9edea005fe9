"""Configuration: frozen dataclasses filled from the command line, the environment, a YAML preset, defaults.

A field `train_steps` is the flag `--train-steps`, the environment variable `TRAIN_STEPS` and the YAML key
`train_steps`. The first source that names it wins, in that order. Where the user's word is another one than the
program's, `name` says it; older names that users already type are aliases. All of them are flags, variables and keys.
`STAGE2_LR=…` sets `LR` for stage 2 alone; a preset has `stage1:` and `stage2:` sections for the same purpose.

Three kinds of settings, from what everybody may want to what only a recipe needs:

    variable    as above: `--help` lists it
    rare        a part of a recipe rather than of a command: a preset sets it, or `--set name=value`. `--help-all`
                lists it. It has no flag; typed as a variable, as some could be once, it is read, and the command says
                how to write it now
    unused      inherited, and without effect in this command, which names it in its class's UNUSED: only passed over
                in presets, since these serve several commands

What nobody sets is none of them but a constant beside the code that takes it.
"""

from __future__ import annotations

import dataclasses
import math
import reprlib
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict, TypeVar, get_args, get_type_hints

import yaml

from vov import VovError
from vov.config import spelling
from vov.config.retired import current_preset, retired_key
from vov.runtime.files import REPO, read_text, write_bytes

if TYPE_CHECKING:
    from typing_extensions import Unpack

T = TypeVar("T")
STAGES = ("stage1", "stage2")
READ = ("bitstream", "caption_file", "collection", "config", "description_file", "fake_dir", "frames_dir", "image",
        "init_lora_path", "input", "manifest", "original", "original_frames_dir", "real_dir", "reference_curves", "roi",
        "scenes", "weights", "weights1", "weights2")  # name what is read; DATA_ROOT and the like, only where it lies
SECTIONS = (*STAGES, "encode")  # of a preset: for one stage of a fit, or for encode.sh alone


class About(TypedDict, total=False):
    """What a field says of itself, beside its default and its help.

    Attributes:
        name: the variable that sets it, where that is not the field's own name in capitals.
        alias: further variables that set it.
        choices: the values that it may have.
        minimum, maximum: bounds of a number; floats are finite in any case.
        identity: whether it shapes the result; a run is resumed only by one whose identity is the same. Folders, speed
            and reporting do not, nor do paths whose content is looked at instead. Default: True.
        per_stage: whether stage 1 and stage 2 may differ in it.
        words: what may be said instead of some numbers: {"auto": 0.0}.
        rare: see above.
    """

    name: str
    alias: tuple[str, ...]
    choices: tuple[Any, ...]
    minimum: float | None
    maximum: float | None
    identity: bool
    per_stage: bool
    words: Mapping[str, float]
    rare: bool


class Told(About, total=False):
    """With its help."""

    help: str


def option(default: Any, help: str, **about: Unpack[About]) -> Any:
    """A dataclass field that explains itself."""
    return dataclasses.field(default=default, metadata={"identity": True, "help": help, **about})


def override(parent: type, field: str, default: Any, **changed: Unpack[Told]) -> Any:
    """The field `field` of `parent` with another default; `changed` replaces what it says of itself."""
    return dataclasses.field(default=default, metadata=dict(fields_of(parent)[field].metadata) | changed)


def fields_of(cls: type) -> dict[str, dataclasses.Field]:
    """{field name: field} of a configuration class, whatever sets them: what it declares itself, then its bases'."""
    found = {field.name: field for field in dataclasses.fields(cls)}
    order = dict.fromkeys(name for one in cls.__mro__ for name in vars(one).get("__annotations__", ()) if name in found)
    return {name: found[name] for name in order}


def variables(cls: type) -> dict[str, dataclasses.Field]:
    """{field name: field} of what flags and environment variables set, and --help lists."""
    return {name: field for name, field in fields_of(cls).items()
            if not field.metadata.get("rare") and name not in unused(cls)}


def rare(cls: type) -> dict[str, dataclasses.Field]:
    """{field name: field} of what presets set, and --set."""
    return {name: field for name, field in fields_of(cls).items()
            if field.metadata.get("rare") and name not in unused(cls)}


def unused(cls: type) -> set[str]:
    """The fields that have no effect in a command."""
    return {name for one in cls.__mro__ for name in vars(one).get("UNUSED", ())}


def environment_names(field: dataclasses.Field) -> tuple[str, ...]:
    """The environment variables that set a field, the canonical one first."""
    names = (field.metadata.get("name", field.name.upper()), *field.metadata.get("alias", ()))
    return tuple(dict.fromkeys(names))


def keys_of(cls: type) -> dict[str, str]:
    """{every name of a setting in lower case, as flags and presets have it: its field}."""
    found: dict[str, str] = {}
    for name, field in fields_of(cls).items():
        found |= {one.lower(): name for one in environment_names(field)} | {name: name}
    return found


def as_typed(environ: Mapping[str, str]) -> Mapping[str, str]:
    """The environment as the user set it: of several processes, RANK numbers one, and VOV_RANK is the LoRA's."""
    return environ if "TORCHELASTIC_RUN_ID" not in environ else {**environ, "RANK": environ.get("VOV_RANK", "")}


def load(cls: type[T], arguments: Mapping[str, Any], environ: Mapping[str, str], stage: str = "",
         defaults: Mapping[str, Any] | None = None) -> T:
    """Builds `cls` from, in falling priority: arguments > STAGE_environment > environment > YAML > defaults.

    Args:
        arguments: values given on the command line, by field name.
        environ: environment variables; empty strings count as unset.
        stage: "", "stage1", "stage2" or "encode".
        defaults: an entry point's own defaults, over those of the class.
    Raises:
        VovError: unknown YAML key, value that does not parse or is out of range.
    """
    environ = as_typed(environ)
    fields, idle, rarely = fields_of(cls), unused(cls), rare(cls)
    types = get_type_hints(cls)
    values = dict(defaults or {})

    def from_environment(name: str) -> tuple[str, str] | None:
        prefixes = (f"{stage.upper()}_", "") if stage else ("",)
        for prefix in prefixes:
            for variable in environment_names(fields[name]):
                if environ.get(prefix + variable, "") != "":
                    return prefix + variable, environ[prefix + variable]
        return None

    preset = ""
    if "config" in fields:
        named = from_environment("config")
        # A fit's defaults are the published ones; an encoder's are in the section of its preset.
        usual = fields["config"].default if stage == "encode" else ""
        preset = arguments.get("config") or (named[1] if named else values.get("config", usual))
        if preset:
            keys, preset = keys_of(cls), current_preset(preset, stage)
            values |= {keys[k]: _parse(preset, v, types[keys[k]], fields[keys[k]])
                       for k, v in read_preset(preset, set(keys), stage).items() if v is not None}
    for name, field in fields.items():
        found = from_environment(name) if name not in idle else None
        if found:
            values[name] = _parse(found[0], found[1], types[name], field)
        if arguments.get(name) is not None:
            flag = f"--set {name}" if name in rarely else "--" + environment_names(field)[0].lower().replace("_", "-")
            values[name] = _parse(flag, arguments[name], types[name], field)
    return cls(**values | ({"config": preset} if preset else {}))


def preset_path(preset: str) -> Path:
    """The YAML file of a preset name or path. Raises VovError, listing the presets, when there is none."""
    shipped = REPO / "configs" / f"{preset}.yaml"
    for path in (shipped, Path(preset)):
        with suppress(OSError, ValueError):  # a name that no file can have
            if path.is_file():
                return path
    raise VovError(f"CONFIG={preset:.80}: no such preset or YAML file; presets are {', '.join(preset_words())}")


def read_preset(preset: str, known: set[str], stage: str = "") -> dict[str, Any]:
    """The keys of a preset, those of its `stage` section over the common ones.

    A preset serves several commands: a common key, or one in another command's section, is legal if any command knows
    it, and is left out here if `known` has it not. What no command knows is an error, here as there.
    """
    path = preset_path(preset)
    tree, sections = _read_sections(path)
    for part in (tree, *sections.values()):
        for key in [key for key in part if key not in known and retired_key(key, path)]:
            del part[key]
    own = ("encode",) if stage == "encode" else STAGES
    for name, part in {"": tree, **sections}.items():
        legal = known if name in own else known | spelling.preset_keys()
        for key in part:
            if key not in legal:
                wanted = spelling.question([repr(one) for one in spelling.meant(str(key), legal)],
                                           "; run the script with --help for the known ones")
                raise VovError(f"{path}: unknown key {shown(key)}{wanted}")
    return {key: value for key, value in tree.items() if key in known} | sections.get(stage, {})


def unread_keys(preset: str, known: set[str]) -> list[str]:
    """The common keys of a preset that only other commands know."""
    return [key for key in _read_sections(preset_path(preset))[0] if key in spelling.preset_keys() - known]


def _read_sections(path: Path) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
    """The common keys of a preset, and its sections."""
    try:
        tree = yaml.safe_load(read_text(path)) or {}
    except OSError as error:
        raise VovError(f"{path}: cannot be read ({error.strerror}); check CONFIG") from error
    except VovError:  # of `read_text`, which says what to do
        raise
    except Exception as error:  # the library's own, and whatever hostile numbers, dates and depths make of it
        raise VovError(f"{path}: not valid YAML ({(str(error).splitlines() or ['?'])[0]:.120}); correct it") from error
    sections = {name: tree.pop(name, None) or {} for name in SECTIONS} if isinstance(tree, dict) else {}
    if not all(isinstance(part, dict) for part in (tree, *sections.values())):
        raise VovError(f"{path}: the file, and {', '.join(SECTIONS)} in it, must be mappings of variable names to "
                       "values")
    return tree, sections


def save(config: Any, path: str | Path) -> None:
    """Writes the resolved configuration as YAML that `load` reads back."""
    tree = {k: v for k, v in dataclasses.asdict(config).items() if k != "config"}
    write_bytes(path, yaml.safe_dump(tree, sort_keys=False, allow_unicode=True).encode())


def number_list(name: str, text: str, count: int = 0, positive: bool = False) -> list[float]:
    """The numbers of a variable: "0.5,1,2" → [0.5, 1.0, 2.0].

    Args:
        name: of the variable, for errors.
        count: how many there must be; one number then stands for all. 0: any number of them, at least one.
        positive: all must be above 0.
    Raises:
        VovError: the text is something else.
    """
    try:
        values = [float(part) for part in text.split(",")]
    except ValueError:
        values = [math.nan]
    if not all(map(math.isfinite, values)) or (positive and min(values) <= 0):
        raise VovError(f"{name}={text!r}: must be {'positive ' if positive else ''}numbers with commas between")
    if count and len(values) == 1:
        values *= count
    if count and len(values) != count:
        raise VovError(f"{name}={text!r} has {len(values)} values, {count} are needed; give one for each, or one for "
                       "all")
    return values


def read_by(settings: Any) -> list[Path]:
    """The files and folders that a command with these settings reads, as far as variables name them."""
    named = {name: str(getattr(settings, name, "")) for name in READ}
    words = {"config": preset_words(), "scenes": ("auto", "none")}
    found = [Path(value) for name, value in named.items() if value and value not in words.get(name, ())]
    model = Path(getattr(settings, "model_id", "") or ".")
    return [*found, model] if (model / "model_index.json").is_file() else found


def preset_words() -> list[str]:
    """The names of the presets."""
    return sorted(path.stem for path in (REPO / "configs").glob("*.yaml"))


def shown(value: Any) -> str:
    """A value as errors show it: short, on one line, however large or deep it is."""
    return reprlib.repr(value) if isinstance(value, list | dict | tuple | set) else f"{value!r:.80}"


def checked(cls: type, name: str, value: Any, source: str) -> Any:
    """A value of field `name` of `cls` that stands in a file: of its type, its choices, its range, or VovError."""
    return _parse(source, value, get_type_hints(cls)[name], fields_of(cls)[name])


def _parse(source: str, value: Any, kind: Any, field: dataclasses.Field) -> Any:
    """`value`, text or a YAML or JSON scalar, as a field of type `kind` holds it."""
    name = environment_names(field)[0].lower()
    kind = next((k for k in get_args(kind) if k is not type(None)), kind)
    try:
        if not isinstance(value, str | int | float) or "\0" in str(value):
            raise TypeError
        if value in field.metadata.get("words", ()):
            found: Any = field.metadata["words"][value]
        elif kind is bool and isinstance(value, str):
            found = {"1": True, "true": True, "yes": True, "on": True, "0": False, "false": False,
                          "no": False, "off": False, "": False}[value.lower()]
        else:
            found = int(str(value)) if kind is int else kind(value)
        if kind is float and not math.isfinite(found):
            raise ValueError
    except (KeyError, ValueError, TypeError, OverflowError):
        wanted = {int: "a whole number", float: "a number", bool: "0 or 1"}.get(kind, "text")
        wanted = " or ".join([wanted, *field.metadata.get("words", ())])
        raise VovError(f"{source}: {name}={shown(value)} is not {wanted}") from None
    choices, low, high = (field.metadata.get(key) for key in ("choices", "minimum", "maximum"))
    if choices and found not in choices:
        named = ", ".join(str(choice) for choice in choices if choice != "")
        raise VovError(f"{source}: {name}={shown(value)} is not one of {named}")
    if low is not None and not found >= low:
        raise VovError(f"{source}: {name}={shown(value)} must be at least {low:g}")
    if high is not None and not found <= high:
        raise VovError(f"{source}: {name}={shown(value)} must be at most {high}")
    return found
