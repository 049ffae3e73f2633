"""python -m loopforge.drivers.aws_probe PROVIDER REGION PROFILE [--endpoint-only]: which AWS credentials win, as JSON.

For whoever wants to know without loading AWS's libraries or holding a key: the answer names region, endpoint and where
the credentials come from, never the credentials. Nothing is asked of Bedrock; a role or a login is asked of AWS's own
services, as a worker would. Empty REGION and PROFILE mean AWS's own.

On success {"region", "endpoint", "source"}; else {"error": {"class", "what", "action"}} and exit status 1.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence

import trio

from loopforge.drivers.aws_chain import open_chain
from loopforge.drivers.errors import DriverError
from loopforge.drivers.registry import AwsSettings

ENDPOINT_ONLY = "--endpoint-only"


def main(arguments: Sequence[str]) -> int:
    """The exit status; prints one line of JSON."""
    words = [word for word in arguments if word != ENDPOINT_ONLY]
    if len(words) != 3:
        sys.stderr.write("usage: aws_probe PROVIDER REGION PROFILE [--endpoint-only]\n")
        return 2
    provider, region, profile = words
    try:
        found = trio.run(_look, provider, AwsSettings(region=region, profile=profile), ENDPOINT_ONLY in arguments)
    except DriverError as exc:
        fields = exc.to_fields()
        found = {"error": {name: fields[name] for name in ("class", "what", "action")}}
    sys.stdout.write(json.dumps(found) + "\n")
    return 1 if "error" in found else 0


async def _look(provider: str, aws: AwsSettings, endpoint_only: bool) -> dict[str, object]:
    chain = open_chain(provider, aws)
    if not endpoint_only:
        await chain.wait_credentials()
    return {"region": chain.region, "endpoint": chain.endpoint, "source": chain.source}


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
