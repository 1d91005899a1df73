"""Where model files come from when the hub does not answer."""

from types import SimpleNamespace

import pytest
from huggingface_hub import constants

from bakeoff import hub
from bakeoff.errors import SetupError
from bakeoff.model import shape_only


def test_a_hub_that_does_not_answer_is_asked_once(monkeypatch):
    asked = []

    class Silent:
        def head(self, *arguments, **options):
            asked.append(arguments)
            raise ConnectionError

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(hub, "get_session", Silent)
    monkeypatch.setattr(hub, "time", SimpleNamespace(monotonic=lambda: 0.0))
    hub.hub_answers.cache_clear()
    try:
        for attempt in (shape_only, hub.fetch):
            with pytest.raises(SetupError, match="model: no-such-model: ") as caught:
                attempt("no-such-model")
            assert "\n" not in str(caught.value)
        assert len(asked) == 1
        assert constants.HF_HUB_OFFLINE is False
    finally:
        hub.hub_answers.cache_clear()
