from __future__ import annotations

import ast
import os
import re
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

import kluster_integrations
from kluster_integrations.batch import BatchJob, deferred
from kluster_integrations.config import (
    DEFAULT_BASE_URL,
    ENVIRONMENT,
    KlusterConfig,
    env_source,
    env_value,
    env_values,
    known_plan,
)
from kluster_integrations.core.client import Client
from kluster_integrations.core.config import seconds_from
from kluster_integrations.errors import BadRequestError
from kluster_integrations.limits import Limits

from .configured import KEY, key_of, refusal

# Field, an argument's value, a value for the environment and what that becomes.
FIELDS = [
    ("base_url", "https://argument.example/v1", "https://environ.example/v1", "https://environ.example/v1"),
    ("plan", "scale", "trial", "trial"),
    ("timeout", 5.0, "7.5", 7.5),
    ("total_timeout", 50.0, "75", 75.0),
    ("max_response_bytes", 1_000, "2000", 2_000),
    ("max_retries", 4, "6", 6),
    ("unsupported", "error", "drop", "drop"),
    ("catalog", "/argument.toml", "/environ.toml", "/environ.toml"),
    ("insecure_http", False, "1", True),
    ("fallback", False, "1", True),
]


# Each variable that the package reads, a value for it, who reads it, and what that becomes.
VARIABLES: list[tuple[str, str, Callable[[], object], object]] = [
    ("KLUSTER_API_KEY", f"{KEY}\n", lambda: key_of(KlusterConfig()), KEY),
    ("KLUSTERAI_API_KEY", KEY, lambda: key_of(KlusterConfig()), KEY),
    ("KLUSTER_AI_API_KEY", KEY, lambda: key_of(KlusterConfig()), KEY),
    ("KLUSTER_BASE_URL", "https://a.example", lambda: KlusterConfig().base_url, "https://a.example/v1"),
    ("KLUSTER_AI_BASE_URL", "https://a.example", lambda: KlusterConfig().base_url, "https://a.example/v1"),
    ("KLUSTER_PLAN", " Core ", lambda: (KlusterConfig().plan, known_plan()), ("core", "core")),
    ("KLUSTER_TIMEOUT", "7.5", lambda: KlusterConfig().timeout, 7.5),
    ("KLUSTER_TOTAL_TIMEOUT", "75", lambda: KlusterConfig().total_timeout, 75.0),
    ("KLUSTER_MAX_RESPONSE_BYTES", "2000", lambda: KlusterConfig().max_response_bytes, 2_000),
    ("KLUSTER_MAX_RETRIES", "6", lambda: KlusterConfig().max_retries, 6),
    ("KLUSTER_UNSUPPORTED", "Drop", lambda: KlusterConfig().unsupported, "drop"),
    ("KLUSTER_CATALOG", "/models.toml", lambda: KlusterConfig().catalog, "/models.toml"),
    ("KLUSTER_INSECURE_HTTP", "Yes", lambda: KlusterConfig().insecure_http, True),
    ("KLUSTER_FALLBACK", "1", lambda: KlusterConfig().fallback, True),
    ("KLUSTER_MAX_WAIT", "2.5", lambda: Limits.of("core").max_wait, 2.5),
    ("KLUSTER_REDIS_URL", "redis://a.example", lambda: Limits.of("core").redis_url, "redis://a.example"),
    ("KLUSTER_BATCH_SETTLE", "1.5", lambda: seconds_from("batch_settle", 60), 1.5),
    ("KLUSTER_BATCH_POLL", "0", lambda: seconds_from("batch_poll", 5), 0),
    ("KLUSTER_BATCH_QUIET", "0", lambda: seconds_from("batch_quiet", 2), 0),
    ("KLUSTER_BATCH_PATIENCE", "9", lambda: seconds_from("batch_patience", 600), 9),
    ("KLUSTER_GATEWAY_KEY", KEY, lambda: env_value("gateway_key"), KEY),
    ("KLUSTER_DEBUG", "1", lambda: env_value("debug"), "1"),
]


class TestVariables:
    @pytest.mark.parametrize(("name", "text", "read", "value"), VARIABLES, ids=lambda given: str(given)[:20])
    def test_it_is_read_and_empty_counts_as_unset(
        self, monkeypatch: pytest.MonkeyPatch, name: str, text: str, read: Callable[[], object], value: object
    ) -> None:
        default = read()
        monkeypatch.setenv(name, "")
        assert read() == default
        monkeypatch.setenv(name, text)
        assert read() == value != default

    def test_the_table_has_them_all(self) -> None:
        assert [row[0] for row in VARIABLES] == [name for names in ENVIRONMENT.values() for name in names]

    def test_no_other_module_reads_one(self) -> None:
        package = Path(kluster_integrations.__file__).parent
        for path in package.rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text("utf-8"))):
                if isinstance(node, (ast.Call, ast.Subscript)) and "environ" in ast.unparse(node):
                    keys = [part.value for part in ast.walk(node) if isinstance(part, ast.Constant)]
                    assert not [key for key in keys if str(key).startswith("KLUSTER")], path

    def test_values_come_in_order_without_empty_ones(self, monkeypatch: pytest.MonkeyPatch) -> None:
        for name, text in [("KLUSTER_AI_API_KEY", "c"), ("KLUSTERAI_API_KEY", ""), ("KLUSTER_API_KEY", "a")]:
            monkeypatch.setenv(name, text)
        assert list(env_values("api_key").items()) == [("KLUSTER_API_KEY", "a"), ("KLUSTER_AI_API_KEY", "c")]

    def test_an_argument_wins_over_the_plan_of_the_environment(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("KLUSTER_PLAN", "core")
        assert known_plan("scale") == "scale"


class TestMerged:
    BASE: dict[str, Any] = {
        "api_key": KEY,
        "base_url": "https://base.example/v1",
        "plan": "core",
        "timeout": 3.0,
        "total_timeout": 30.0,
        "max_response_bytes": 1_000,
        "max_retries": 0,
        "default_headers": {"X-Team": "a"},
        "unsupported": "drop",
    }

    def test_a_base_supplies_every_field(self, monkeypatch: pytest.MonkeyPatch) -> None:
        for name, text, _, _ in VARIABLES:
            monkeypatch.setenv(name, text)
        base = KlusterConfig(**self.BASE)
        assert KlusterConfig.merged(base) == base
        assert KlusterConfig.merged(base, **dict.fromkeys(KlusterConfig.model_fields)) == base

    @pytest.mark.parametrize(("field", "argument", "environ", "value"), FIELDS)
    def test_an_argument_wins_over_the_base(
        self, monkeypatch: pytest.MonkeyPatch, field: str, argument: object, environ: str, value: object
    ) -> None:
        monkeypatch.setenv(f"KLUSTER_{field.upper()}", environ)
        base = KlusterConfig(**self.BASE)
        merged = KlusterConfig.merged(base, **{field: argument})
        assert getattr(merged, field) == argument
        assert merged.model_copy(update={field: getattr(base, field)}) == base

    def test_what_the_base_leaves_out_stays_out(self, monkeypatch: pytest.MonkeyPatch) -> None:
        base = KlusterConfig()
        monkeypatch.setenv("KLUSTER_PLAN", "core")
        assert KlusterConfig.merged(base).plan is None

    def test_without_a_base_the_environment_holds(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("KLUSTER_PLAN", "core")
        merged = KlusterConfig.merged(plan=None, timeout=5)
        assert (merged.plan, merged.timeout, merged.max_retries) == ("core", 5.0, 2)

    def test_unknown_arguments_are_refused(self) -> None:
        with pytest.raises(ValidationError, match="organization"):
            KlusterConfig.merged(organization="org-1")

    def test_the_dots_of_the_documentation_are_not_a_key(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("KLUSTER_API_KEY", "...")
        with pytest.raises(ValidationError, match=r"api_key='\.\.\.' stands for a key in the documentation"):
            KlusterConfig()

    def test_the_key_is_never_in_the_traceback_of_a_refusal(self) -> None:
        with pytest.raises(ValidationError) as caught:
            KlusterConfig.merged(KlusterConfig(**self.BASE), api_key=f"{KEY}-2", plan="gold")
        err = caught.value
        assert err.__traceback__ is not None
        report = traceback.TracebackException(type(err), err, err.__traceback__.tb_next, capture_locals=True)
        assert KEY not in "".join(report.format())
        assert (err.__cause__, err.__context__) == (None, None)


class TestPrecedence:
    def test_defaults(self) -> None:
        config = KlusterConfig()
        assert config.model_dump() == {
            "api_key": None,
            "base_url": "https://api.kluster.ai/v1",
            "plan": None,
            "timeout": 600.0,
            "total_timeout": None,
            "max_response_bytes": 2**28,
            "max_retries": 2,
            "unsupported": "error",
            "catalog": None,
            "insecure_http": False,
            "fallback": False,
        }
        assert dict(config.default_headers) == {}

    @pytest.mark.parametrize(("field", "argument", "environ", "value"), FIELDS)
    def test_environment_over_default(
        self, monkeypatch: pytest.MonkeyPatch, field: str, argument: object, environ: str, value: object
    ) -> None:
        monkeypatch.setenv(f"KLUSTER_{field.upper()}", environ)
        assert getattr(KlusterConfig(), field) == value

    @pytest.mark.parametrize(("field", "argument", "environ", "value"), FIELDS)
    def test_argument_over_environment(
        self, monkeypatch: pytest.MonkeyPatch, field: str, argument: object, environ: str, value: object
    ) -> None:
        monkeypatch.setenv(f"KLUSTER_{field.upper()}", environ)
        assert getattr(KlusterConfig(**{field: argument}), field) == argument

    def test_key_argument_over_all_variables(self, monkeypatch: pytest.MonkeyPatch) -> None:
        for name in ("KLUSTER_API_KEY", "KLUSTERAI_API_KEY", "KLUSTER_AI_API_KEY"):
            monkeypatch.setenv(name, f"from-{name}")
        assert key_of(KlusterConfig(api_key=KEY)) == KEY

    @pytest.mark.parametrize(
        ("names", "wins"),
        [
            (["KLUSTER_API_KEY", "KLUSTERAI_API_KEY", "KLUSTER_AI_API_KEY"], "KLUSTER_API_KEY"),
            (["KLUSTERAI_API_KEY", "KLUSTER_AI_API_KEY"], "KLUSTERAI_API_KEY"),
            (["KLUSTER_AI_API_KEY"], "KLUSTER_AI_API_KEY"),
        ],
    )
    def test_key_variables_in_order(self, monkeypatch: pytest.MonkeyPatch, names: list[str], wins: str) -> None:
        for name in names:
            monkeypatch.setenv(name, f"from-{name}")
        assert key_of(KlusterConfig()) == f"from-{wins}"
        assert env_source("api_key") == wins

    @pytest.mark.parametrize(
        ("names", "wins"),
        [
            (["KLUSTER_BASE_URL", "KLUSTER_AI_BASE_URL"], "KLUSTER_BASE_URL"),
            (["KLUSTER_AI_BASE_URL"], "KLUSTER_AI_BASE_URL"),
        ],
    )
    def test_base_url_variables_in_order(self, monkeypatch: pytest.MonkeyPatch, names: list[str], wins: str) -> None:
        for name in names:
            monkeypatch.setenv(name, f"https://{name.lower().replace('_', '-')}.example")
        assert KlusterConfig().base_url == f"https://{wins.lower().replace('_', '-')}.example/v1"
        assert env_source("base_url") == wins

    def test_an_empty_variable_counts_as_unset(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("KLUSTER_API_KEY", "")
        monkeypatch.setenv("KLUSTERAI_API_KEY", KEY)
        monkeypatch.setenv("KLUSTER_BASE_URL", "")
        monkeypatch.setenv("KLUSTER_TIMEOUT", "")
        config = KlusterConfig()
        assert (key_of(config), config.base_url, config.timeout) == (KEY, DEFAULT_BASE_URL, 600.0)
        assert env_source("api_key") == "KLUSTERAI_API_KEY"

    def test_env_source_is_none_where_nothing_is_set(self) -> None:
        assert [env_source(name) for name in ("api_key", "base_url", "plan", "no_such_field")] == [None] * 4

    def test_environment_is_read_at_construction(self, monkeypatch: pytest.MonkeyPatch) -> None:
        before = KlusterConfig()
        monkeypatch.setenv("KLUSTER_API_KEY", KEY)
        assert (key_of(before), key_of(KlusterConfig())) == (None, KEY)


class TestOtherCompanies:
    @pytest.mark.parametrize(
        "name",
        [
            *("OPENAI_API_KEY", "OPENAI_BASE_URL", "OPENAI_API_BASE", "OPENAI_ORG_ID", "OPENAI_PROJECT_ID"),
            *("OPENAI_TIMEOUT", "OPENAI_MAX_RETRIES", "OPENAI_CUSTOM_HEADERS", "OPENAI_ADMIN_KEY"),
        ],
    )
    def test_openai_variables_are_not_read(self, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
        plain = KlusterConfig()
        monkeypatch.setenv(name, "7")
        assert KlusterConfig() == plain

    @pytest.mark.parametrize(
        ("name", "value"),
        [
            ("API_KEY", "somebody-elses-key"),
            ("BASE_URL", "https://elsewhere.example/v1"),
            ("PLAN", "trial"),
            ("TIMEOUT", "3"),
            ("MAX_RETRIES", "9"),
            ("DEFAULT_HEADERS", '{"Authorization": "Bearer somebody-elses-key"}'),
            ("UNSUPPORTED", "drop"),
        ],
    )
    def test_variables_without_the_prefix_are_not_read(
        self, monkeypatch: pytest.MonkeyPatch, name: str, value: str
    ) -> None:
        # A bare API_KEY or BASE_URL belongs to whatever else runs in this shell.
        plain = KlusterConfig()
        monkeypatch.setenv(name, value)
        assert KlusterConfig() == plain

    def test_a_variable_without_the_prefix_does_not_win(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("API_KEY", "somebody-elses-key")
        monkeypatch.setenv("KLUSTER_API_KEY", KEY)
        assert key_of(KlusterConfig()) == KEY

    def test_a_broken_variable_without_the_prefix_does_no_harm(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("TIMEOUT", "soon")
        monkeypatch.setenv("DEFAULT_HEADERS", "not json")
        assert KlusterConfig().timeout == 600.0

    def test_no_dotenv_file_is_read(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        (tmp_path / ".env").write_text("KLUSTER_API_KEY=from-a-file\n")
        monkeypatch.chdir(tmp_path)
        assert KlusterConfig().api_key is None


class TestValues:
    @pytest.mark.parametrize(
        ("field", "value", "allowed"),
        [
            *[("plan", v, "trial, core, scale, enterprise") for v in ("gold", "", 3, ["trial"], {"trial": 1})],
            *[("unsupported", v, "error, drop") for v in ("ignore", "", 3, None, ["drop"])],
            *[("timeout", v, "above 0") for v in (0, -1, "soon", "nan", float("nan"), float("inf"), True, None, [1])],
            *[("max_retries", v, "0 or more") for v in (-1, 1.5, "few", True, None, [1], float("nan"), "nan")],
            *[("max_retries", v, "0 or more") for v in (float("inf"), "inf", "1e999")],
            *[("total_timeout", v, "above 0") for v in (0, -1, "soon", float("inf"), float("nan"), True)],
            *[("max_response_bytes", v, "1 or more") for v in (0, 1.5, "all", None, float("inf"))],
        ],
    )
    def test_bad_values_name_field_value_and_what_is_allowed(self, field: str, value: object, allowed: str) -> None:
        text = refusal(**{field: value})
        assert f"{field}={value!r}" in text
        assert allowed in text

    @pytest.mark.parametrize(
        ("name", "value"),
        [("KLUSTER_PLAN", "gold"), ("KLUSTER_TIMEOUT", "soon"), ("KLUSTER_MAX_RETRIES", "-1")],
    )
    def test_bad_variables_name_the_field(self, monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
        monkeypatch.setenv(name, value)
        assert f"{name.removeprefix('KLUSTER_').lower()}={value!r}" in refusal()

    @pytest.mark.parametrize(
        ("field", "value", "kept"),
        [
            ("plan", "TRIAL", "trial"),
            ("plan", " Core ", "core"),
            ("plan", None, None),
            ("unsupported", "DROP", "drop"),
            ("timeout", "60", 60.0),
            ("timeout", 0.5, 0.5),
            ("max_retries", "3", 3),
            ("max_retries", 2.0, 2),
            ("max_retries", 0, 0),
        ],
    )
    def test_good_values(self, field: str, value: object, kept: object) -> None:
        assert getattr(KlusterConfig(**{field: value}), field) == kept

    @pytest.mark.parametrize("plan", ["trial", "core", "scale", "enterprise"])
    def test_every_plan(self, plan: str) -> None:
        assert KlusterConfig(plan=plan).plan == plan

    def test_unknown_arguments_are_refused(self) -> None:
        assert "organization" in refusal(organization="org-1")

    @pytest.mark.parametrize("field", ["api_key", "base_url", "plan", "timeout", "max_retries", "unsupported"])
    def test_frozen(self, field: str) -> None:
        config = KlusterConfig(api_key=KEY)
        with pytest.raises(ValidationError, match="frozen"):
            setattr(config, field, getattr(config, field))

    def test_a_validation_error_is_a_value_error(self) -> None:
        with pytest.raises(ValueError, match=re.escape("plan='gold'")):
            KlusterConfig(plan="gold")

    def test_headers_are_kept(self) -> None:
        assert KlusterConfig(default_headers={"X-Team": "a"}).default_headers["X-Team"] == "a"

    def test_the_callers_headers_may_change_afterwards(self) -> None:
        headers = {"X-Team": "a"}
        config = KlusterConfig(default_headers=headers)
        headers["X-Team"] = "b"
        assert config.default_headers["X-Team"] == "a"

    def test_the_environment_is_left_alone(self) -> None:
        before = dict(os.environ)
        KlusterConfig(api_key=KEY)
        assert dict(os.environ) == before


@pytest.mark.parametrize("wrong", [5, {"api_key": KEY}])
def test_a_configuration_of_another_type_is_refused(wrong: Any, tmp_path: Path) -> None:
    takers: tuple[Callable[[], object], ...] = (
        lambda: Client(wrong),
        lambda: KlusterConfig.merged(wrong),
        lambda: BatchJob(tmp_path, wrong),
        lambda: deferred(tmp_path, config=wrong),
    )
    for take in takers:
        with pytest.raises(BadRequestError, match="must be a KlusterConfig") as refused:
            take()
        assert KEY not in str(refused.value)
