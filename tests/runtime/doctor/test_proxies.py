"""Which proxy a request takes, as the workers' HTTP client decides it."""

from __future__ import annotations

import base64

import httpx2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from loopforge.runtime.doctor.proxies import UnusableProxy, proxy_for

URL = "https://api.acme.test:8443/v1"
PROXY = "http://proxy.test:3128"


@pytest.mark.parametrize(
    ("env", "place"),
    [
        ({}, None),
        ({"HTTPS_PROXY": PROXY}, "proxy.test:3128"),
        ({"https_proxy": PROXY, "HTTPS_PROXY": "http://other.test"}, "proxy.test:3128"),
        ({"https_proxy": "", "HTTPS_PROXY": PROXY}, None),
        ({"HTTP_PROXY": PROXY}, None),
        ({"ALL_PROXY": PROXY}, "proxy.test:3128"),
        ({"HTTPS_PROXY": "https://[::1]", "ALL_PROXY": PROXY}, "::1:443"),
        ({"HTTPS_PROXY": "proxy.test"}, "proxy.test:80"),
        ({"HTTPS_PROXY": PROXY, "NO_PROXY": "example.com, acme.test"}, None),
        ({"HTTPS_PROXY": PROXY, "no_proxy": "*"}, None),
    ],
)
def test_the_variables_name_the_proxy(env: dict[str, str], place: str | None) -> None:
    proxy = proxy_for(URL, env)
    assert (proxy.place if proxy else None) == place


@pytest.mark.parametrize("url", ["http://127.0.0.1:1/v1", "http://localhost/v1", "https://[::1]:9/"])
def test_traffic_to_this_machine_takes_none(url: str) -> None:
    assert proxy_for(url, {"ALL_PROXY": PROXY, "HTTP_PROXY": PROXY, "HTTPS_PROXY": PROXY}) is None


HOSTS = st.sampled_from(["api.acme.test", "acme.test", "xacme.test", "10.1.2.3", "192.168.7.7", "example.com", "test"])
ENTRIES = st.sampled_from([
    "acme.test", ".acme.test", "*.acme.test", "api.acme.test", "api.acme.test:8443", "acme.test:1", "test", "/", " ",
    "10.0.0.0/8", "10.1.2.3", "192.168.0.0/16", "https://acme.test", "http://acme.test", "all://example.com", "",
])  # fmt: skip


@given(HOSTS, st.lists(ENTRIES, max_size=3), st.sampled_from(["http", "https"]), st.sampled_from(["", ":8443"]))
def test_no_proxy_means_what_the_workers_client_makes_of_it(
    host: str, entries: list[str], scheme: str, port: str
) -> None:
    url, no_proxy = f"{scheme}://{host}{port}/v1", ",".join(entries)
    ours = proxy_for(url, {"ALL_PROXY": PROXY, "NO_PROXY": no_proxy})
    assert (ours is not None) == takes_proxy(url, no_proxy)


def takes_proxy(url: str, no_proxy: str) -> bool:
    """What httpx2 makes of it: the first of its patterns that fits says so."""
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("ALL_PROXY", PROXY)
        environment.setenv("NO_PROXY", no_proxy)
        mounts = httpx2._utils.get_environment_proxies()
    patterns = sorted((httpx2._utils.URLPattern(pattern), proxy) for pattern, proxy in mounts.items())
    return next((proxy is not None for pattern, proxy in patterns if pattern.matches(httpx2.URL(url))), False)


def test_user_and_password_become_a_header_and_show_nowhere() -> None:
    proxy = proxy_for(URL, {"HTTPS_PROXY": "http://me:s%40fe@proxy.test:1"})
    assert proxy is not None
    assert proxy.authorization == "Basic " + base64.b64encode(b"me:s@fe").decode()
    assert "s@fe" not in repr(proxy)
    assert proxy.authorization not in repr(proxy)


@pytest.mark.parametrize("value", ["socks5://me:hunter2@proxy.test", "http://", "http://[::1", "http://h:notaport"])
def test_a_proxy_that_cannot_be_used_is_refused_by_its_variable_alone(value: str) -> None:
    with pytest.raises(UnusableProxy, match=r"^HTTPS_PROXY names no proxy") as caught:
        proxy_for(URL, {"HTTPS_PROXY": value})
    assert "hunter2" not in str(caught.value)
