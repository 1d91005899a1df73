"""The config that a run folder's plan was made from: config.yaml beside it may be edited, or of the next session."""

from typing import Any

from pydantic import ValidationError

from bakeoff.config.config import Config
from bakeoff.config.loading import explain, load_config
from bakeoff.errors import ConfigError
from bakeoff.store.plan_document import PlanDocument
from bakeoff.store.run_folder import Folder


def planned(config: Config) -> dict[str, Any]:
    """Return what a plan holds of its config: all but the place of the results."""
    return config.model_dump(mode="json", exclude={"output"})


def decodes_in(plan: PlanDocument, config: Config) -> str:
    """Return the precision that a plan's outputs are decoded in; `config` is the plan's."""
    asked = config.generation.precision
    return plan.decoding_precision or ("fp32" if asked == "auto" else asked)


def planned_config(folder: Folder, plan: PlanDocument) -> Config:
    """Return the config that `plan`, a folder's, was made from; raise ConfigError where it holds none."""
    try:
        return Config.model_validate(plan.config)
    except ValidationError as error:
        raise ConfigError(explain(f"{folder.plan_file}: config", plan.config, error)) from None


def trusted_config(folder: Folder, signed: Config | None = None) -> Config:
    """Return the config that a plan was made from, with the base that the folder's `signed` config.yaml names.

    What is opened, or run, stands in config.yaml, which is signed; and a base that has moved is named there.
    """
    signed = signed or load_config(folder.config_file)
    base_of = {key: getattr(signed, key) for key in ("model", "revision", "trust_remote_code")}
    return planned_config(folder, folder.plan()).model_copy(update=base_of)
