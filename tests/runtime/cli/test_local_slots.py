"""`loopforge serve` at local servers that tell their slots, or do not: what `loopforge status` says of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.runtime.cli.running import loopforge, succeed
from tests.runtime.cli.service import open_service, open_simulator, wait_until

QUICK: dict[str, Any] = {"first_token_s": 0, "tokens_per_s": 0, "answer_tokens": 5}
PLAYED = {"told": {**QUICK, "slots": 3}, "written": {**QUICK, "slots": 3}, "dumb": QUICK}


def test_status_shows_the_servers_slots_unless_the_configuration_says_a_number(tmp_path: Path) -> None:
    with open_simulator(tmp_path, PLAYED) as simulator:
        providers = "".join(
            f'[providers.{name}]\nkind = "openai_compatible"\nvendor = "llamacpp"\napi_key_env = ""\n'
            f'base_url = "{simulator.url}/{name}/v1"\ndefault_model = "m"\n'
            + ("max_concurrency = 5\n" if name == "written" else "")
            for name in PLAYED
        )
        routes = zip(("planning", "coding", "summary"), PLAYED, strict=True)
        routed = "".join(f'[router.{kind}]\nprovider = "{name}"\nmodel = "default"\n' for kind, name in routes)
        (tmp_path / "config.toml").write_text(providers + routed)
        with open_service(tmp_path) as service:
            for kind in ("planning", "coding", "summary"):
                assert loopforge(tmp_path, "ask", "--kind", kind, "hi").returncode == 0
            wait_until(lambda: service.provider("told")["slots_from"] == "server", "the server's slots are known")
            lines = succeed(tmp_path, "status").splitlines()
            slots = {line.split()[0]: line.split()[5] for line in lines if line.split()[1:2] == ["ready"]}
            assert slots == {"told": "0/3", "written": "0/5", "dumb": "0/8"}
            assert [line for line in lines if " at once" in line] == [
                "told: 3 at once, as its server says",
                "dumb: 8 at once, a guess until its answers show more",
            ]
            assert simulator.stats("written")["requests"] == 1  # the turn: nobody asked for what is written down
