"""Settings: any text in any variable is a value or one sentence."""

import math

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from credit_risk.core.errors import ProjectError
from credit_risk.project.settings import Settings, serving_settings, settings

NAMES = sorted(Settings.model_fields)
# What the operating system takes as a variable's value.
TEXT = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]))
NUMBERS = st.sampled_from(["0", "-1", "nan", "inf", "1e400", "1e9", "5", "0.5", "9" * 400, "٣", " 7 ", "0x10", "1_000"])
ADDRESSES = st.sampled_from(["http://[", "http://h:99999", "sqlite://", "https://", "sqlite:///x?y", "http://u:p@h/"])


@given(st.sampled_from(NAMES), TEXT | NUMBERS | ADDRESSES)
@example("mlflow_tracking_uri", "http://[")
@example("model_sync_seconds", "inf")
@example("request_timeout_seconds", "nan")
@example("mlflow_http_request_timeout", "0")
@example("max_batch_rows", "9" * 5_000)
def test_any_text_in_any_variable_is_a_value_or_one_sentence(name: str, text: str) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(name.upper(), text)
        try:
            current = settings()
        except ProjectError as error:
            sentence = str(error)
        else:
            sentence = ""
    if sentence:
        assert name.upper() in sentence
        assert "\n" not in sentence
        return
    value = getattr(current, name)
    assert not isinstance(value, float) or math.isfinite(value)
    assert Settings(**{name: value}) == current


def test_every_reader_of_the_settings_gives_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MODEL_SYNC_SECONDS", "0")
    for read in (settings, serving_settings):
        with pytest.raises(ProjectError, match=r"^environment: MODEL_SYNC_SECONDS must be greater than 0$"):
            read()


def test_production_needs_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("APP_ENV", "production")
    monkeypatch.setenv("API_KEYS_SHA256", "")
    with pytest.raises(ProjectError, match="APP_ENV=production needs API_KEYS_SHA256"):
        serving_settings()
