from __future__ import annotations

import pytest
from pydantic import ValidationError

from kluster_integrations.config import DEFAULT_BASE_URL, KlusterConfig

from .configured import KEY, key_of, refusal


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
    def test_an_address_is_brought_into_one_form(self, given: str, used: str) -> None:
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
    def test_the_error_of_a_wrong_address_names_field_value_and_form(self, given: str) -> None:
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
