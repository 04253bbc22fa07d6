from __future__ import annotations

import ast
import copy
import os
import pickle
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
from kluster_integrations.errors import AuthenticationError, BadRequestError
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


class TestBaseUrl:
    @pytest.mark.parametrize(
        ("given", "used"),
        [
            ("https://api.kluster.ai/v1", "https://api.kluster.ai/v1"),
            ("https://api.kluster.ai/v1/", "https://api.kluster.ai/v1"),
            ("https://api.kluster.ai/v1///", "https://api.kluster.ai/v1"),
            ("https://api.kluster.ai", "https://api.kluster.ai/v1"),
            ("https://api.kluster.ai/", "https://api.kluster.ai/v1"),
            ("https://api.kluster.ai//", "https://api.kluster.ai/v1"),
            ("  https://api.kluster.ai/v1\n", "https://api.kluster.ai/v1"),
            ("HTTPS://api.kluster.ai/v1", "https://api.kluster.ai/v1"),
            ("https://api.kluster.ai:8443", "https://api.kluster.ai:8443/v1"),
            ("https://gateway.example/kluster/v1", "https://gateway.example/kluster/v1"),
            ("https://gateway.example/kluster/", "https://gateway.example/kluster"),
            ("https://gateway.example/v2", "https://gateway.example/v2"),
            ("https://models.example/v1", "https://models.example/v1"),
            ("http://localhost:8000", "http://localhost:8000/v1"),
            ("http://LOCALHOST:8000/v1", "http://LOCALHOST:8000/v1"),
            ("http://127.0.0.1:8000/v1", "http://127.0.0.1:8000/v1"),
            ("http://127.9.9.9/v1", "http://127.9.9.9/v1"),
            ("http://[::1]:8000", "http://[::1]:8000/v1"),
        ],
    )
    def test_one_form(self, given: str, used: str) -> None:
        assert KlusterConfig(base_url=given).base_url == used

    @pytest.mark.parametrize(("given", "used"), [("https://host.example/", "https://host.example/v1")])
    def test_the_environment_gets_the_same_rule(self, monkeypatch: pytest.MonkeyPatch, given: str, used: str) -> None:
        monkeypatch.setenv("KLUSTER_BASE_URL", given)
        assert KlusterConfig().base_url == used

    def test_the_rule_is_stable(self) -> None:
        once = KlusterConfig(base_url="https://host.example/a/b/").base_url
        assert KlusterConfig(base_url=once).base_url == once

    @pytest.mark.parametrize(
        "host",
        [
            *("api.kluster.ai", "example.com", "10.0.0.1", "192.168.1.1", "169.254.1.1", "0.0.0.0", "[::]"),
            *("localhost.example.com", "127.0.0.1.example.com", "127.0.0.1.nip.io", "notlocalhost", "localhost-x"),
            *("2130706433.example.com", "[fe80::1]", "[2001:db8::1]", "[::ffff:10.0.0.1]", "128.0.0.1"),
            *("localhost%00.example.com", "127.0.0.1%2eexample.com", "localhost;example.com", "localhost,example.com"),
            *("\u2460\u2461\u2466.0.0.1", "127.0.0.1\u3002example.com", "localhost\\example.com"),
            "example.com:127",
        ],
    )
    def test_with_a_key_plain_http_is_for_loopback_only(self, host: str) -> None:
        text = refusal(base_url=f"http://{host}/v1", api_key=KEY)
        assert KEY not in text
        assert "base_url" in text
        assert "https://" in text

    @pytest.mark.parametrize("host", ["example.com", "localhost.example.com"])
    def test_plain_http_in_capitals_is_plain_http(self, host: str) -> None:
        assert "unencrypted" in refusal(base_url=f"HTTP://{host}/v1", api_key=KEY)

    def test_plain_http_from_the_environment_is_refused(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("KLUSTER_BASE_URL", "http://api.kluster.ai/v1")
        monkeypatch.setenv("KLUSTERAI_API_KEY", KEY)
        text = refusal()
        assert "unencrypted" in text
        for way in ('api_key=""', "unset KLUSTERAI_API_KEY", "insecure_http=True", "KLUSTER_INSECURE_HTTP=1"):
            assert way in text

    OWN = (
        *("http://host.docker.internal:8000/v1", "http://vllm:8000/v1", "http://192.168.1.20:8000/v1"),
        *("http://my_vllm:8000/v1", "http://100.64.0.7:8000/v1", "http://[fd12::7]:8000/v1", "http://10.0.0.1/v1"),
        *("http://169.254.1.1/v1", "http://gpu.tail1234.ts.net/v1", "http://8.8.8.8/v1", "http://0.0.0.0:8000/v1"),
    )

    @pytest.mark.parametrize("address", OWN)
    def test_without_a_key_any_plain_address_is_fine(self, address: str) -> None:
        for given in (address, f"{address}/", address.removesuffix("/v1")):
            config = KlusterConfig(base_url=given)
            assert (config.base_url, config.needs_key) == (address, False)

    @pytest.mark.parametrize("address", OWN)
    def test_with_a_key_only_if_told(self, address: str, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("KLUSTER_API_KEY", KEY)
        assert "insecure_http=True" in refusal(base_url=address)
        assert KlusterConfig(base_url=address, api_key="").api_key is None
        assert key_of(KlusterConfig(base_url=address, insecure_http=True)) == KEY
        monkeypatch.setenv("KLUSTER_INSECURE_HTTP", "1")
        assert key_of(KlusterConfig(base_url=address)) == KEY

    @pytest.mark.parametrize(
        ("address", "needed"),
        [("https://api.kluster.ai/v1", True), ("https://localhost:8443/v1", False), ("http://localhost/v1", False)],
    )
    def test_a_loopback_server_needs_no_key(self, address: str, needed: bool) -> None:
        assert KlusterConfig(base_url=address).needs_key is needed

    def test_an_ipv4_address_in_ipv6_is_what_it_maps_to(self) -> None:
        assert KlusterConfig(base_url="http://[::ffff:127.0.0.1]:8000/v1", api_key=KEY).api_key is not None
        assert "unencrypted" in refusal(base_url="http://[::ffff:8.8.8.8]/v1", api_key=KEY)

    def test_a_changed_address_is_checked_again(self) -> None:
        config = KlusterConfig(api_key=KEY)
        with pytest.raises(ValidationError, match="unencrypted"):
            KlusterConfig.merged(config, base_url="http://vllm:8000/v1")

    @pytest.mark.parametrize("name", ["insecure_http", "fallback"])
    @pytest.mark.parametrize("value", ["maybe", 2, None, [], ""])
    def test_a_flag_is_yes_or_no(self, name: str, value: object) -> None:
        assert f"{name}={value!r}" in refusal(**{name: value})

    @pytest.mark.parametrize(
        "given",
        [
            *("http://localhost@example.com/v1", "http://localhost:80@example.com/v1", "https://u:p4ssw0rd@host/v1"),
            *("http://127.0.0.1\\@example.com", "http://example.com\\@127.0.0.1", "https://@host.example/v1"),
        ],
    )
    def test_credentials_are_refused_and_not_shown(self, given: str) -> None:
        text = refusal(base_url=given)
        assert "base_url" in text
        assert "p4ssw0rd" not in text
        assert "@" not in text

    def test_credentials_are_not_in_the_details_of_the_error(self) -> None:
        with pytest.raises(ValidationError) as caught:
            KlusterConfig(base_url="https://user:p4ssw0rd@host.example/v1")
        assert "p4ssw0rd" not in f"{caught.value.errors()}{caught.value.json()}"

    @pytest.mark.parametrize(
        "given",
        [
            *("", "   ", "api.kluster.ai/v1", "//api.kluster.ai/v1", "ftp://api.kluster.ai", "file:///etc/passwd"),
            *("https://", "https:///v1", "https://host:99999/v1", "https://host:port/v1", "https://ho st/v1"),
            *("https://host/v1\r\nX-Evil: 1", "http://[::1", "http://[::1]example.com/v1", "localhost:8000"),
        ],
    )
    def test_what_is_no_address_names_field_value_and_form(self, given: str) -> None:
        text = refusal(base_url=given)
        assert "base_url=" in text
        assert repr(given.strip()) in text
        assert DEFAULT_BASE_URL in text

    @pytest.mark.parametrize("given", ["https://host/v1?key=s3cret", "https://host/v1#s3cret", "https://host?s3cret"])
    def test_query_and_fragment_are_refused_and_not_shown(self, given: str) -> None:
        text = refusal(base_url=given)
        assert "base_url='https://host" in text
        assert "s3cret" not in text

    @pytest.mark.parametrize("end", ["chat/completions", "models", "embeddings", "completions", "models/"])
    def test_an_endpoint_is_refused(self, end: str) -> None:
        text = refusal(base_url=f"https://host.example/v1/{end}")
        assert end.strip("/") in text
        assert DEFAULT_BASE_URL in text

    @pytest.mark.parametrize("given", ["https://a\x00b/v1", "https://host\x7f.example/v1", "https://host\x1b[2J/v1"])
    def test_control_characters_are_refused(self, given: str) -> None:
        assert "base_url=" in refusal(base_url=given)


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
