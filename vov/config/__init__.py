"""What a command can be told: fields that explain themselves, and how flags, variables and presets fill them."""

from vov.config.fields import (
    SECTIONS,
    STAGES,
    as_typed,
    checked,
    environment_names,
    fields_of,
    keys_of,
    load,
    number_list,
    option,
    override,
    preset_path,
    rare,
    read_by,
    read_preset,
    save,
    shown,
    unread_keys,
    unused,
    variables,
)

__all__ = ["SECTIONS", "STAGES", "as_typed", "checked", "environment_names", "fields_of", "keys_of", "load",
           "number_list", "option", "override", "preset_path", "rare", "read_by", "read_preset", "save", "shown",
           "unread_keys", "unused", "variables"]
