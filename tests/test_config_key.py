from __future__ import annotations

import copy
import pickle
import traceback
from typing import Any

import pytest
from pydantic import ValidationError

from kluster_integrations.config import KlusterConfig
from kluster_integrations.errors import AuthenticationError

from .configured import KEY, key_of, refusal


class TestKeyStaysSecret:
    @pytest.fixture
    def config(self) -> KlusterConfig:
        return KlusterConfig(api_key=KEY, default_headers={"X-Token": "token-in-a-header"})

    @pytest.mark.parametrize("secret", [KEY, "token-in-a-header"])
    @pytest.mark.parametrize(
        "show",
        [
            repr,
            str,
            "{}".format,
            lambda c: str(c.model_dump()),
            lambda c: str(c.model_dump(mode="json")),
            lambda c: c.model_dump_json(),
            lambda c: str(c.__repr_args__()),
            lambda c: str([c]),
            lambda c: pickle.dumps(c).decode("latin-1"),
            lambda c: pickle.dumps(c, protocol=0).decode("latin-1"),
            lambda c: str(c.__getstate__()),
            lambda c: str(list(c.__rich_repr__())),
        ],
        ids=[
            *("repr", "str", "format", "dump", "dump-json-mode", "dump-json", "repr-args", "in-list"),
            *("pickle", "pickle-0", "state", "rich"),
        ],
    )
    def test_never_shown(self, config: KlusterConfig, show: Any, secret: str) -> None:
        assert secret not in show(config)

    def test_the_key_itself_is_for_the_sender(self, config: KlusterConfig) -> None:
        assert config.require_key() == KEY

    @pytest.mark.parametrize(
        "values",
        [
            {"api_key": f"{KEY} with spaces"},
            {"api_key": f"{KEY}\u0434"},
            {"api_key": f"{KEY}\nX-Evil: 1"},
            {"api_key": KEY, "plan": "gold"},
            {"api_key": KEY, "bogus": 1},
            {"api_key": KEY, "base_url": "http://example.com"},
            {"api_key": KEY, "timeout": 0},
            {"api_key": [KEY]},
            {"api_key": {"key": KEY}},
            {"api_key": KEY.encode() + b"\xff"},
            {"api_key": KEY, "default_headers": {"Authorization": [KEY]}},
            {"api_key": KEY, "default_headers": f"Authorization: {KEY}"},
            {"api_key": KEY, "default_headers": {"X-Count": 1, "X-Key": KEY}},
        ],
    )
    def test_never_in_validation_errors(self, values: dict[str, Any]) -> None:
        with pytest.raises(ValidationError) as caught:
            KlusterConfig(**values)
        err = caught.value
        assert KEY not in f"{err}{err!r}"
        assert KEY not in f"{err.errors()}{err.json()}"

    @pytest.mark.parametrize("values", [{"plan": "gold"}, {"base_url": "http://example.com"}, {"bogus": 1}])
    def test_never_in_the_traceback_of_a_refusal(self, values: dict[str, Any]) -> None:
        # What a crash reporter shows: the locals of each frame below the caller's own, and the chain.
        with pytest.raises(ValidationError) as caught:
            KlusterConfig(api_key=KEY, **values)
        err = caught.value
        assert err.__traceback__ is not None
        tb = err.__traceback__.tb_next
        report = traceback.TracebackException(type(err), err, tb, capture_locals=True)
        assert KEY not in "".join(report.format())
        assert err.__cause__ is None
        assert err.__context__ is None

    def test_assigning_a_key_shows_nothing(self, config: KlusterConfig) -> None:
        with pytest.raises(ValidationError, match="frozen") as caught:
            config.api_key = "kk-another-key"  # type: ignore[assignment,misc]
        assert "kk-another-key" not in str(caught.value)

    def test_pickled_config_takes_the_key_from_the_environment(
        self, config: KlusterConfig, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        data = pickle.dumps(config)
        monkeypatch.setenv("KLUSTERAI_API_KEY", "kk-of-the-worker\n")
        assert key_of(pickle.loads(data)) == "kk-of-the-worker"

    def test_pickled_config_without_a_key_around_has_none(self, config: KlusterConfig) -> None:
        restored = pickle.loads(pickle.dumps(config))
        assert (restored.api_key, dict(restored.default_headers)) == (None, {})
        with pytest.raises(AuthenticationError):
            restored.require_key()

    def test_pickled_config_keeps_what_is_not_secret(self) -> None:
        config = KlusterConfig(
            api_key=KEY,
            base_url="https://host.example/v1",
            plan="core",
            timeout=3,
            max_retries=0,
            unsupported="drop",
        )
        restored = pickle.loads(pickle.dumps(config))
        for name in ("base_url", "plan", "timeout", "max_retries", "unsupported"):
            assert getattr(restored, name) == getattr(config, name)

    def test_pickling_does_not_change_the_config(self, config: KlusterConfig) -> None:
        pickle.dumps(config)
        assert (config.require_key(), config.default_headers["X-Token"]) == (KEY, "token-in-a-header")

    @pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy, lambda c: c.model_copy()])
    def test_copies_in_the_same_process_keep_the_key(self, config: KlusterConfig, copied: Any) -> None:
        assert copied(config).require_key() == KEY


class TestKey:
    @pytest.mark.parametrize("given", [KEY, f" {KEY}", f"{KEY}\n", f"\t{KEY}\r\n"])
    def test_white_space_around_is_cut(self, given: str) -> None:
        assert KlusterConfig(api_key=given).require_key() == KEY

    @pytest.mark.parametrize("given", ["kk a", "kk\na", "kk\x00", "kk\u00e4", "kk\u200b"])
    def test_what_no_header_can_carry_is_refused(self, given: str) -> None:
        assert "api_key" in refusal(api_key=given)

    @pytest.mark.parametrize("given", [None, "", "  "])
    def test_no_key_is_an_error_only_where_it_is_needed(self, given: str | None) -> None:
        config = KlusterConfig(api_key=given)
        with pytest.raises(AuthenticationError) as caught:
            config.require_key()
        for name in ("api_key", "KLUSTER_API_KEY", "KLUSTERAI_API_KEY", "KLUSTER_AI_API_KEY"):
            assert name in str(caught.value)

    def test_a_blank_variable_is_no_key(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("KLUSTER_API_KEY", "  \n")
        assert KlusterConfig().api_key is None
