"""Everything that can be wrong with a configuration: told all at once, with line, value and what to write instead."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loopforge.runtime.config.findings import MAX_FINDINGS
from loopforge.runtime.config.load import check, check_text
from loopforge.runtime.config.paths import MAX_CONFIG_BYTES
from loopforge.runtime.config.values import Problem
from tests.runtime.config.checking import FILE, OLLAMA, only_problem, refused

LINES_OF_OLLAMA = OLLAMA.count("\n")


@pytest.mark.parametrize(
    ("written", "place", "problem", "suggestion"),
    [
        # wrong types
        ('max_concurrency = "8"', "max_concurrency", '"8" is text', "max_concurrency = 8, without quotes"),
        ("max_concurrency = 2.5", "max_concurrency", "2.5 is not a whole number", "whole number"),
        ("max_queued = true", "max_queued", "true is not a whole number", "max_queued = 1000"),
        ("connect_timeout_s = false", "connect_timeout_s", "false is not a number", "connect_timeout_s = 10.0"),
        ("connect_timeout_s = nan", "connect_timeout_s", "nan is not a finite number", "connect_timeout_s = 10.0"),
        ("api_key_env = 5", "api_key_env", "5 is not text", 'api_key_env = "5"'),
        ("kind = 2020-01-01", "kind", "2020-01-01 is not a kind", "openai_compatible"),
        ("extra_body = 1", "extra_body", "1 is not a table", "table"),
        ("headers = { A = 1 }", "headers.A", "1 is not text", 'A = "1"'),
        ("prices = { m = { input = -1 } }", "prices.m.input", "-1 is out of range", "at least 0"),
        ("prices = { m = 3 }", "prices.m", "3 is not a table", "table"),
        # wrong values
        ('kind = "Bedrok"', "kind", '"Bedrok" is not a kind', '"bedrock"'),
        ('vendor = "deepseak"', "vendor", 'no vendor profile "deepseak"', '"deepseek"'),
        ("max_concurrency = 0", "max_concurrency", "0 is out of range", "at least 1"),
        ("max_concurrency = 99999", "max_concurrency", "99999 is out of range", "at most 10000"),
        ("max_queued = 0xfffffffffffffffffff", "max_queued", "beyond 64 bits", "at most 1000000000"),
        ("event_gap_timeout_s = 0", "event_gap_timeout_s", "0 is out of range", "more than 0"),
        ("max_concurrency = 4\nreserve = 4", "reserve", "4 of 4 slots", "at most 3"),
        ("reserve = 2", "reserve", "2 of 2 slots", "at most 1"),
        ('api_key_env = "two words"', "api_key_env", "not the name of an environment variable", "DEEPSEEK_API_KEY"),
        ('headers = { "a b" = "c" }', 'headers."a b"', '"a b" is not a header', "letters"),
        ('headers = { A = "é" }', "headers.A", "no header can carry", "ASCII"),
        ('headers = { A = "b\\r\\nC: d" }', "headers.A", "no header can carry", "ASCII"),
        ('headers = { Content-Length = "1" }', "headers.Content-Length", "writes this header itself", "remove"),
        ("extra_body = { a = [1, 2020-01-01] }", "extra_body.a[1]", "no dates", "in quotes"),
        ("extra_body = { a = inf }", "extra_body.a", "neither nan nor inf", "number"),
        ("extra_body = { a = 0xffffffffffffffff }", "extra_body.a", "beyond 64 bits", "in quotes"),
        # unknown keys
        ("max_concurency = 8", "max_concurency", "no key 'max_concurency'", "max_concurrency"),
        ("nonsense = 8", "nonsense", "no key 'nonsense'", "known here: kind, base_url"),
        ("prices = { m = { inptu = 1 } }", "prices.m.inptu", "no key 'inptu'", "input"),
        ("aws_bedrock = { regoin = 'x' }", "aws_bedrock.regoin", "no key 'regoin'", "region"),
        ("prices.gpt-4.1 = { input = 1 }", "prices.gpt-4.1", "no table '1'", "quotes"),
        ("[providers.ollama.x]\nkind = 'gemini'", "x", "no table 'x'", "dot"),
    ],
)
def test_a_bad_value_of_a_provider(written: str, place: str, problem: str, suggestion: str) -> None:
    found = only_problem(f"{OLLAMA}\n{written}\n")
    assert found.place == f"providers.ollama.{place}"
    assert found.line == LINES_OF_OLLAMA + 2 + (written.count("\n") if "[" not in written[:1] else 0)
    assert problem in found.problem
    assert suggestion in found.suggestion


@pytest.mark.parametrize(
    ("written", "place", "problem", "suggestion"),
    [
        ('provider = "olama"', "provider", 'no provider "olama"', '"ollama"'),
        ('provider = "xyz"', "provider", 'no provider "xyz"', "known here: ollama"),
        ('provider = ""', "provider", "the provider is empty", "ollama"),
        ('provider = "ollama/m"', "provider", 'no provider "ollama/m"', 'provider = "ollama" and model = "m"'),
        ('model = ""', "model", "the model is empty", '"default"'),
        ('model = " "', "model", "white space", '""'),
        ("model = 3", "model", "3 is not text", 'model = "3"'),
        ('fallbacks = "ollama"', "fallbacks", "is text, not a list", 'fallbacks = ["ollama"]'),
        ('fallbacks = ["ollama/"]', "fallbacks[0]", "the model is empty", '"default"'),
        ('fallbacks = ["ollama/x", "nope"]', "fallbacks[1]", 'no provider "nope"', "known here: ollama"),
        ('fallbacks = ["ollama/x", 3]', "fallbacks[1]", "3 is not text", "quotes"),
        (f"fallbacks = {['ollama/x'] * 33}", "fallbacks", "33 elements", "at most 32"),
        ('lane = "fast"', "lane", '"fast" is not a lane', "interactive, normal, background"),
        ('thinking = "hard"', "thinking", '"hard" is no amount', '"high"'),
        ("thinking = 0", "thinking", "0 is no amount", '"off"'),
        ("thinking = true", "thinking", "true is no amount", '"off"'),
        ('resend = "false"', "resend", "is text, not true or false", "resend = false, without quotes"),
        ("deadline_s = inf", "deadline_s", "inf is not a finite number", "deadline_s = 1800"),
        ("deadline_s = 0", "deadline_s", "0 is out of range", "more than 0"),
        ("dedline_s = 5", "dedline_s", "no key 'dedline_s'", "deadline_s"),
    ],
)
def test_a_bad_value_of_a_route(written: str, place: str, problem: str, suggestion: str) -> None:
    found = only_problem(f"{OLLAMA}[router.coding]\n{written}\n")
    assert (found.place, found.line) == (f"router.coding.{place}", LINES_OF_OLLAMA + 2)
    assert problem in found.problem
    assert suggestion in found.suggestion


@pytest.mark.parametrize(
    ("written", "place", "problem", "suggestion"),
    [
        ('[runtime]\nsocket = "x.sock"', "runtime.socket", '"x.sock" is not an absolute path', "/"),
        (f'[runtime]\nsocket = "/{"x" * 107}"', "runtime.socket", "108 bytes", "shorter"),
        (f'[runtime]\nsocket = "/{"é" * 54}"', "runtime.socket", "109 bytes", "shorter"),
        ("[runtime]\njournal = 1", "runtime.journal", "1 is not true or false", "journal = true"),
        ('[runtime]\nallow_users = ["a b"]', "runtime.allow_users[0]", '"a b" is not the name', "one name"),
        ('[runtime]\nallow_groups = "staff"', "runtime.allow_groups", "is text, not a list", '["staff"]'),
        ("[runtime]\nmax_request_mb = 0", "runtime.max_request_mb", "out of range", "at least 1"),
        ("[runtime]\nmax_request_mb = 33", "runtime.max_request_mb", "out of range", "at most 32"),
        ("[runtime]\ndrain_s = -1", "runtime.drain_s", "out of range", "at least 0"),
        ('[http]\nlisten = "8080"', "http.listen", '"8080" is no address', "127.0.0.1:8080"),
        ('[http]\nlisten = "h:99999"', "http.listen", "no address", "HOST:PORT"),
        ("[http]\nlisten = 8080", "http.listen", "8080 is not text", '"8080"'),
        ("[http]\nport = 1", "http.port", "no key 'port'", "listen"),
    ],
)
def test_a_bad_value_of_the_service(written: str, place: str, problem: str, suggestion: str) -> None:
    found = only_problem(f"{OLLAMA}{written}\n")
    assert (found.place, found.line) == (place, LINES_OF_OLLAMA + 2)
    assert problem in found.problem
    assert suggestion in found.suggestion


@pytest.mark.parametrize(
    ("text", "place", "line", "problem", "suggestion"),
    [
        (OLLAMA + "[provider.x]\n", "provider", 4, "no table [provider]", "[providers]"),
        ("x = 1\n" + OLLAMA, "x", 1, "no keys outside of tables", "providers"),
        (OLLAMA + "[runtimes]\n", "runtimes", 4, "no table [runtimes]", "[runtime]"),
        ("providers = 3\n", "providers", 1, "3 is not a table", "[providers.NAME]"),
        ("[[providers]]\nx = 1\n", "providers", 1, "a list is not a table", "[providers.NAME]"),
        ("[providers]\nollama = 3\n", "providers.ollama", 2, "3 is not a table", "[providers.ollama]"),
        (OLLAMA + "[router]\ncoding = 'ollama'\n", "router.coding", 5, '"ollama" is not a table', "[router.coding]"),
        (OLLAMA + "runtime = 3\n", "providers.ollama.runtime", 4, "no key", "known"),
        ("runtime = 3\n" + OLLAMA, "runtime", 1, "3 is not a table", "table"),
        (OLLAMA + "[router.Deep-Work]\n", "router.Deep-Work", 4, "names have only a-z", "[router.deep-work]"),
        (OLLAMA + '[router."deep work"]\n', 'router."deep work"', 4, "names have only a-z", "[router.deep_work]"),
    ],
)  # fmt: skip
def test_a_table_in_the_wrong_place(text: str, place: str, line: int, problem: str, suggestion: str) -> None:
    found = only_problem(text)
    assert (found.place, found.line) == (place, line)
    assert problem in found.problem
    assert suggestion in found.suggestion


@pytest.mark.parametrize(
    ("url", "problem", "suggestion"),
    [
        ("", "missing or empty", "https://"),
        ("127.0.0.1:11434/v1", "no http:// or https:// in front", '"http://127.0.0.1:11434/v1"'),
        ("localhost:11434/v1", "no http:// or https:// in front", '"http://localhost:11434/v1"'),
        ("api.example.com/v1", "no http:// or https:// in front", '"https://api.example.com/v1"'),
        ("http//127.0.0.1:11434/v1", "no http:// or https:// in front", '"http://127.0.0.1:11434/v1"'),
        ("https//api.example.com/v1", "no http:// or https:// in front", '"https://api.example.com/v1"'),
        ("http:/127.0.0.1:11434/v1", "no http:// or https:// in front", '"http://127.0.0.1:11434/v1"'),
        ("https/api.example.com/v1", "no http:// or https:// in front", '"https://api.example.com/v1"'),
        ("https:api.example.com/v1", "no http:// or https:// in front", '"https://api.example.com/v1"'),
        ("htp://localhost:8000/v1", "no http:// or https:// in front", '"http://localhost:8000/v1"'),
        ("HTPS://api.example.com", "no http:// or https:// in front", '"https://api.example.com"'),
        ("ttps://api.example.com", "no http:// or https:// in front", '"https://api.example.com"'),
        ("http;//localhost/v1", "no http:// or https:// in front", '"http://localhost/v1"'),
        (r"http:\\\\localhost:1\\v1", "no http:// or https:// in front", '"http://localhost:1/v1"'),
        ("://api.example.com/v1", "no http:// or https:// in front", '"https://api.example.com/v1"'),
        ("//127.0.0.1:8080/v1", "no http:// or https:// in front", '"http://127.0.0.1:8080/v1"'),
        ("192.168.1.5:8000/v1", "no http:// or https:// in front", '"http://192.168.1.5:8000/v1"'),
        ("[::1]:8000", "no http:// or https:// in front", '"http://[::1]:8000"'),
        ("gpu-box:8000/v1", "no http:// or https:// in front", '"http://gpu-box:8000/v1"'),
        ("ollama.example.com:11434", "no http:// or https:// in front", '"http://ollama.example.com:11434"'),
        ("https://https://api.example.com", "a scheme twice", '"https://api.example.com"'),
        ("https://http//127.0.0.1:11434/v1", "a scheme twice", '"http://127.0.0.1:11434/v1"'),
        ("http//me:hunter2@api.example.com/v1", "no user name or password", "api_key_env"),
        ("http:/api.example.com/v1?key=hunter2", "behind ?", "api_key_env"),
        ("https:sk-hunter2", "no URL", "api_key_env"),
        ("ftp://api.example.com", "ftp:// cannot be used", "https://"),
        ("file:///etc/passwd", "file:// cannot be used", "https://"),
        ("https://", "no host", "https://api.example.com/v1"),
        ("https:///v1", "no host", "https://api.example.com/v1"),
        ("https://api.example.com:99999/v1", "not well formed", "https://"),
        ("https://api.example.com:x/v1", "not well formed", "https://"),
        ("https://[::1/v1", "not well formed", "https://"),
        ("https://a b.example.com/v1", "spaces", "remove"),
        (" https://api.example.com/v1", "spaces", "remove"),
        ("https://api.example.com/v1\\n", "spaces", "remove"),
        ("https://api.exämple.com/v1", "not a host name", "xn--"),
        ("https://me:hunter2@api.example.com/v1", "no user name or password", "api_key_env"),
        ("me:hunter2@api.example.com/v1", "no user name or password", "api_key_env"),
        ("https://api.example.com/v1?key=hunter2", "behind ?", "api_key_env"),
        ("https://api.example.com/v1?GroupId=17", "behind ?", "api_key_env"),
        ("https://api.minimax.io/v1?GroupId=17&key=hunter2", "behind ?", "api_key_env"),
        ("https://api.example.com/v1#hunter2", "behind #", "remove"),
        ("https://me:hunter2/@api.example.com", "not well formed", "https://"),
    ],
)
def test_a_bad_url(url: str, problem: str, suggestion: str) -> None:
    found = only_problem(f'{OLLAMA}[providers.p]\nbase_url = "{url}"\n')
    assert (found.place, found.line) == ("providers.p.base_url", LINES_OF_OLLAMA + 2)
    assert problem in found.problem
    assert suggestion in found.suggestion
    assert "hunter2" not in str(found)


@pytest.mark.parametrize(
    "url",
    [
        "https://h",
        "http://http/v1",
        "http://http:8080/v1",
        "HTTPS://H.example./",
        "http://[::1]:1/v1",
        "https://xn--exmple-cua.com",
        "http://a_b:1/@cf/v1",
        "https://a.openai.azure.com/openai?api-version=2024-10-21",
        "https://api.minimax.chat/v1?GroupId=17",
    ],
)
def test_a_good_url_is_taken_as_it_is(url: str) -> None:
    checked = check_text(f'{OLLAMA}[providers.p]\nbase_url = "{url}"\n', FILE, {})
    assert checked.config is not None
    assert checked.config.providers["p"].base_url == url


@pytest.mark.parametrize(
    ("url", "shorter"),
    [
        ("https://api.example.com/v1/chat/completions", "https://api.example.com/v1"),
        ("https://api.example.com/v1/completions/", "https://api.example.com/v1"),
        ("https://api.example.com/v1/responses", "https://api.example.com/v1"),
        ("https://api.example.com/v1/models", "https://api.example.com/v1"),
        ("http://127.0.0.1:11434/api/chat", "http://127.0.0.1:11434/v1"),
        ("http://127.0.0.1:11434/api", "http://127.0.0.1:11434/v1"),
        (
            "https://x.openai.azure.com/openai/deployments/d/chat/completions?api-version=2024-10-21",
            "https://x.openai.azure.com/openai/deployments/d?api-version=2024-10-21",
        ),
    ],
)
def test_a_base_url_that_ends_in_the_path_of_a_request_is_told_with_the_shorter_one(url: str, shorter: str) -> None:
    checked = check_text(f'{OLLAMA}[providers.p]\nbase_url = "{url}"\n', FILE, {})
    assert checked.config is not None
    (warning,) = checked.config.warnings
    assert (warning.place, warning.suggestion) == ("providers.p.base_url", f'write "{shorter}"')


@pytest.mark.parametrize(
    "url", ["https://x.services.ai.azure.com/models", "https://api.example.com/api", "https://api.example.com/v1"]
)
def test_a_path_that_servers_have_as_their_base_is_no_slip(url: str) -> None:
    checked = check_text(f'{OLLAMA}[providers.p]\nbase_url = "{url}"\n', FILE, {})
    assert checked.config is not None
    assert checked.config.warnings == ()


def test_a_scheme_that_is_there_a_thousand_times_is_one_slip() -> None:
    found = only_problem(f'{OLLAMA}[providers.p]\nbase_url = "{"http//" * 1000}localhost:1"\n')
    assert found.suggestion == 'write "http://localhost:1"'


SECRETS = [
    "sk-proj-4f8a9b2c",
    "AIzaSyD4f8a9b2c4f8a9b2c",
    "gsk_4f8a9b2c4f8a9b2c",
    "4f8a9b2c4f8a9b2c4f8a9b2c4f8a9b2c.Zx81",
    "Bearer 4f8a9b2c",
    "hunter2 hunter2",
]


@pytest.mark.parametrize("secret", SECRETS)
@pytest.mark.parametrize(
    "written",
    [
        'api_key_env = "{}"',
        'api_key = "{}"',
        'token = "{}"',
        "headers = {{ Authorization = '{}' }}",
        "headers = {{ X-Key = '{}\\u00e9' }}".replace("'", '"'),
        "[http]\napi_key_env = '{}'",
    ],
)
def test_a_key_in_the_wrong_place_is_refused_and_never_repeated(written: str, secret: str) -> None:
    found = only_problem(f"{OLLAMA}{written.format(secret)}\n")
    assert "key" in found.place.lower() or "token" in found.place or "Authorization" in found.place
    assert secret not in str(found)
    assert secret.removeprefix("Bearer ") not in str(found)


@pytest.mark.parametrize("secret", SECRETS[:-1])
@pytest.mark.parametrize(
    "written",
    [
        'base_url = "{}"',
        'vendor = "{}"',
        'kind = "{}"',
        'max_concurrency = "{}"',
        "[router.coding]\nprovider = '{}'",
        "[router.coding]\nlane = '{}'",
        "[router.coding]\nfallbacks = '{}'",
        "[runtime]\nsocket = '{}'",
        "[runtime]\nallow_users = ['{}/']",
    ],
)
def test_what_looks_like_a_key_is_never_repeated(written: str, secret: str) -> None:
    text = OLLAMA.replace("base_url", "x = 1 #") if "base_url" in written else OLLAMA
    found = "\n".join(map(str, refused(f"{text}{written.format(secret)}\n")))
    assert secret.removeprefix("Bearer ") not in found


def test_all_problems_are_told_at_once_in_the_order_of_their_lines() -> None:
    problems = refused("""\
[providers.ollama]
base_url = "127.0.0.1:11434"
max_concurrency = "2"
default_model = ""
[providers.Other]
kind = "gemini"
[router.planning]
provider = "olama"
lane = "quick"
[router.coding]
model = ""
fallbacks = [
  "nope",
  "ollama",
]
[runtime]
journal = "yes"
""")
    assert [(problem.line, problem.place) for problem in problems] == [
        (2, "providers.ollama.base_url"),
        (3, "providers.ollama.max_concurrency"),
        (4, "providers.ollama.default_model"),
        (5, "providers.Other"),
        (5, "providers.Other.base_url"),
        (8, "router.planning.provider"),
        (9, "router.planning.lane"),
        (11, "router.coding.model"),
        (13, "router.coding.fallbacks[0]"),
        (14, "router.coding.fallbacks[1]"),
        (17, "runtime.journal"),
    ]


def test_a_table_with_a_mistake_causes_no_further_ones_where_it_is_referred_to() -> None:
    found = only_problem(OLLAMA.replace('"llama3.2"', "3") + '[router.coding]\nfallbacks = ["ollama"]\n')
    assert found.place == "providers.ollama.default_model"


@pytest.mark.parametrize(
    ("text", "suggestion"),
    [
        ("", "loopforge init"),
        ("# nothing\n", "loopforge init"),
        (
            '[providers.deepseek]\nbase_url = "https://api.deepseek.com"\n',
            '[router.planning] with provider = "deepseek"',
        ),
    ],
)
def test_without_ollama_the_standing_kinds_must_be_routed(text: str, suggestion: str) -> None:
    found = only_problem(text)
    assert "planning, coding, summary" in found.problem
    assert suggestion in found.suggestion


def test_the_default_route_needs_a_default_model() -> None:
    found = only_problem('[providers.ollama]\nbase_url = "http://127.0.0.1:11434/v1"\ndefault_model = ""\n')
    assert (found.place, found.line) == ("providers.ollama.default_model", 3)


def test_a_route_to_a_provider_without_a_default_model_must_name_one() -> None:
    found = only_problem(OLLAMA + '[providers.b]\nkind = "bedrock"\n[router.coding]\nprovider = "b"\n')
    assert found.place == "router.coding.model"
    assert found.line == 6  # the route's own: it has no line for a model
    assert "[providers.b]" in found.problem


@pytest.mark.parametrize(
    ("text", "line", "problem"),
    [
        ("a = \n", 1, "column 5"),
        ("[a]\nb = 1\nc 2\n", 3, "'=' after a key"),
        ("[a]\nb = yes\n", 2, "invalid value"),
        ('[a]\nb = "x\n', 2, "illegal character"),
        ('a = """x\n\n', 3, "unterminated string"),
        ("[a\n", 1, "']'"),
        ('p = "C:\\dir"\n', 1, "unescaped"),
        ("a = [1, 2\nb = 3\n", 2, "unclosed array"),
        ("a = 1 b = 2\n", 1, "newline"),
        ("a = 1\x00\n", 1, "newline"),
        ("a = 2020-02-30\n", 1, "date"),
    ],
)
def test_of_malformed_toml_the_first_error_is_told_with_its_line(text: str, line: int, problem: str) -> None:
    found = only_problem(text)
    assert found.line == line
    assert problem in found.problem
    assert found.problem.startswith("not TOML: ")


@pytest.mark.parametrize(
    ("text", "place", "line", "first"),
    [
        ("[providers.a]\nx = 1\n\n[providers.b]\n[providers.a]\n", "[providers.a]", 5, 1),
        ("[runtime]\nsocket = ''\ndrain_s = 1\nsocket = ''\n", "socket", 4, 2),
        ("x = { a = 1, a = 2 }\n", "a", 1, 1),
    ],
)
def test_a_duplicate_table_or_key_is_told_with_the_first_one(text: str, place: str, line: int, first: int) -> None:
    found = only_problem(text)
    assert (found.place, found.line) == (place, line)
    assert f"line {first}" in found.problem


@pytest.mark.parametrize(
    ("text", "line", "problem"),
    [
        ("a = " + "[" * 5_000, 0, "nested too deeply"),
        ("a." * 5_000 + "b = 1", 0, "nested too deeply"),
        ("a = 1\nb = " + "9" * 5_000, 2, "too many digits"),
    ],
)
def test_what_a_parser_could_break_on_is_told_like_any_other_mistake(text: str, line: int, problem: str) -> None:
    found = only_problem(text)
    assert found.line == line
    assert problem in found.problem


def test_ten_thousand_mistakes_are_told_up_to_a_limit() -> None:
    problems = refused(OLLAMA + "".join(f"k{number} = 1\n" for number in range(10_000)))
    assert len(problems) == MAX_FINDINGS + 1
    assert "more" in problems[-1].problem


def test_what_a_name_holds_cannot_steer_a_terminal() -> None:
    problems = refused(
        f'{OLLAMA}"\\u001b[2J" = 1\n"\\u202e" = 2\n[providers."\\u009b"]\n[router.coding]\nprovider = "\\u0007x"\n'
    )
    assert len(problems) == 5
    assert all(char.isprintable() for problem in problems for char in str(problem))


@settings(max_examples=60)
@given(
    st.recursive(
        st.one_of(st.integers(), st.booleans(), st.text(max_size=5), st.floats(allow_nan=True)),
        lambda below: st.lists(below, max_size=2),
        max_leaves=4,
    ),
    st.sampled_from(["providers", "providers.ollama", "router", "router.coding", "runtime", "http"]),
    st.sampled_from(["kind", "base_url", "headers", "prices", "reserve", "model", "provider", "fallbacks", "thinking",
                     "socket", "journal", "listen", "ollama", "coding", "allow_users", "aws_bedrock", "zzz"]),
)  # fmt: skip
def test_no_value_anywhere_raises(value: object, table: str, key: str) -> None:
    written = repr(value).replace("True", "true").replace("False", "false")
    checked = check_text(f"[{table}]\n{key} = {written}\n", FILE, {})
    assert (checked.config is None) == bool(checked.problems)


def problem_of(path: Path) -> Problem:
    checked = check(path, {})
    assert checked.config is None
    (problem,) = checked.problems
    assert problem.file == str(path)
    assert problem.suggestion
    return problem


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    problem = problem_of(tmp_path / "config.toml")
    assert problem.problem == "there is no such file"
    assert "loopforge init" in problem.suggestion


def test_a_folder_instead_of_a_file(tmp_path: Path) -> None:
    assert "folder" in problem_of(tmp_path).problem
    assert "folder" in problem_of(Path(__file__) / "config.toml").problem


def test_a_pipe_instead_of_a_file_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "config.toml")
    assert "not a regular file" in problem_of(tmp_path / "config.toml").problem


def test_a_path_that_no_file_can_have() -> None:
    assert "cannot be opened" in problem_of(Path("/tmp/a\0b")).problem
    assert "cannot be opened" in problem_of(Path("/" + "x" * 5000)).problem


def test_a_file_that_this_account_may_not_read(tmp_path: Path) -> None:
    path = tmp_path / "config.toml"
    path.write_text(OLLAMA)
    path.chmod(0)
    # Imports first: whom the test becomes may not be able to read the project itself. Root reads everything.
    code = (
        "import os, sys, pathlib\nfrom loopforge.runtime.config.load import check\n"
        "if os.getuid() == 0: os.setgroups([]); os.setgid(65534); os.setuid(65534)\n"
        "print(*check(pathlib.Path(sys.argv[1]), {}).problems)"
    )
    run = subprocess.run([sys.executable, "-c", code, path], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert "may not read" in run.stdout


@pytest.mark.parametrize(
    ("data", "line", "problem"),
    [
        (b"a = 1\nb = '\xff'\n", 2, "0xff is not UTF-8"),
        (b"a = '\xc3'", 1, "0xc3 is not UTF-8"),
        ("a = 1".encode("utf-16"), 1, "UTF-16"),
    ],
)
def test_a_file_that_is_not_utf_8(tmp_path: Path, data: bytes, line: int, problem: str) -> None:
    (tmp_path / "config.toml").write_bytes(data)
    found = problem_of(tmp_path / "config.toml")
    assert found.line == line
    assert problem in found.problem


def test_a_byte_order_mark_is_passed_over(tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_bytes(b"\xef\xbb\xbf" + OLLAMA.encode())
    assert check(tmp_path / "config.toml", {}).config is not None


def test_a_file_of_five_megabytes_is_refused_unparsed(tmp_path: Path) -> None:
    path = tmp_path / "config.toml"
    path.write_bytes(b"[" * 5_000_000)  # parsing this much would end in "nested too deeply"
    assert "more than 1 MiB" in problem_of(path).problem


def test_the_largest_file_there_may_be_is_read(tmp_path: Path) -> None:
    path = tmp_path / "config.toml"
    filler = "#" * (MAX_CONFIG_BYTES - len(OLLAMA) - 1) + "\n"
    path.write_text(filler + OLLAMA)
    assert path.stat().st_size == MAX_CONFIG_BYTES
    assert check(path, {}).config is not None
    path.write_text(filler + OLLAMA + "\n")
    assert "1 MiB" in problem_of(path).problem


def test_what_has_no_line_comes_last() -> None:
    assert [(problem.line, problem.place) for problem in refused("\nx = 1\n")] == [(2, "x"), (0, "router")]


def test_a_route_with_a_mistake_in_what_it_refers_to_is_not_followed() -> None:
    text = '[providers.p]\nbase_url = "https://h"\n' + "".join(
        f"[router.{kind}]\nprovider = 3\n" for kind in ("planning", "coding", "summary")
    )
    places = [problem.place for problem in refused(text)]
    assert places == ["router.planning.provider", "router.coding.provider", "router.summary.provider"]


def test_an_unknown_provider_does_not_hide_an_empty_model() -> None:
    text = OLLAMA + '[router.coding]\nprovider = "olama"\nmodel = ""\n'
    assert [problem.place for problem in refused(text)] == ["router.coding.provider", "router.coding.model"]
