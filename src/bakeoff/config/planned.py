"""The config that a run folder's plan was made from: config.yaml beside it may be edited, or of the next session."""

from typing import Any

from pydantic import ValidationError

from bakeoff.config.config import Config
from bakeoff.config.loading import explain
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
