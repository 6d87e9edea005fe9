"""What a command can be told: fields that explain themselves, and how flags, variables and presets fill them."""

from vov.config.fields import (
    SECTIONS,
    STAGES,
    checked,
    environment_names,
    load,
    number_list,
    option,
    override,
    preset_path,
    read_preset,
    save,
    shown,
    unread_keys,
    variables,
)

__all__ = ["SECTIONS", "STAGES", "checked", "environment_names", "load", "number_list", "option", "override",
           "preset_path", "read_preset", "save", "shown", "unread_keys",
           "variables"]
