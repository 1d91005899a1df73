"""Which judge is asked: the one in the config that this user wrote, with what the command line says."""

from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from bakeoff.config.loading import load_config
from bakeoff.config.machine import JudgeConfig
from bakeoff.driver.trust import is_own
from bakeoff.errors import ConfigError, SetupError, did_you_mean, plain
from bakeoff.store.run_folder import Folder

MISSING = "Try: -s judge.base_url=http://127.0.0.1:8080/v1 -s judge.model=NAME"


def judge_config(folder: Folder, overrides: Mapping[str, Any]) -> JudgeConfig:
    """Return the judge; raise ConfigError or SetupError if none is named, or a key is wrong.

    The config of a folder from elsewhere is not asked: it could send outputs, and a key, to anybody.
    """
    given = load_config(folder.config_file).judge if is_own(folder) else None
    raw = given.model_dump() if given else {}
    for key, value in overrides.items():
        section, _, name = key.partition(".")
        if section != "judge" or name not in JudgeConfig.model_fields:
            known = did_you_mean(key, [f"judge.{field}" for field in JudgeConfig.model_fields])
            raise ConfigError(f"-s {key:.80}: not a key of the judge.{known}")
        raw[name] = value
    if "base_url" not in raw or "model" not in raw:
        whose = "" if is_own(folder) else " that you wrote: the folder is from elsewhere, or was edited"
        raise SetupError(f"{folder.path}: no judge is named in a config{whose}. {MISSING}")
    try:
        return JudgeConfig.model_validate(raw)
    except ValidationError as error:
        first = error.errors()[0]
        raise ConfigError(f"judge.{'.'.join(map(str, first['loc']))}: {plain(first)}") from None
