"""Files of presets: noise levels and the policy that was found best for them, as JSON."""

import json
from pathlib import Path
from typing import Any

from .atomic import write_whole
from .schedule import Preset, Schedule, get_preset

SUFFIX = ".json"
VERSION = 1


def read_preset(name: str) -> Preset:
    """The preset called `name`, or that of a file whose name ends with .json.

    ValueError says what is wrong with the file, or lists the known names.
    """
    if not name.endswith(SUFFIX):
        return get_preset(name)
    path = Path(name)
    try:
        values = json.loads(path.read_text())
        version, sigmas, policy = values["version"], values["sigmas"], values["policy"]
        if version != VERSION:
            raise ValueError(f"its version is {version!r}, this program reads {VERSION}")
        return Preset(Schedule(tuple(sigmas)), None, values.get("shift"), str(policy))
    except FileNotFoundError as error:
        raise ValueError(f"preset {path} does not exist; disca-rt search writes one") from error
    except (KeyError, TypeError, ValueError) as error:
        why = f"{error} is missing" if isinstance(error, KeyError) else error
        raise ValueError(f"preset {path} cannot be read: {why}") from error


def write_preset(path: Path, preset: Preset, **told: Any) -> None:
    """Write a preset with a policy; `told` is for people, and not read."""
    values = {
        "version": VERSION,
        "policy": preset.policy,
        "shift": preset.shift,
        "sigmas": list(preset.schedule.sigmas),
        **told,
    }
    write_whole(path, lambda partial: partial.write_text(json.dumps(values, indent=1) + "\n"))
