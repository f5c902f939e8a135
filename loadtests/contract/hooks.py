"""What schemathesis cannot know from the description: tokens that only the gateway makes. Formats that it knows are also
the only header values in which it uses more than letters and digits."""

import json
import os
import urllib.error
import urllib.request

import schemathesis
from hypothesis import strategies

URL = os.environ["BERTH_URL"]
TOKENS_MAX = 8


def session_tokens():
    """Tokens of real answers, for different shards."""
    tokens = []
    for number in range(TOKENS_MAX):
        request = urllib.request.Request(f"{URL}/v1/entities/counter/token-{number}/add", method="POST")
        with urllib.request.urlopen(request) as answer:
            tokens.append(answer.headers["Berth-Session"])
    return tokens


def cursors():
    """Cursors of real pages, where there are listings."""
    try:
        with urllib.request.urlopen(f"{URL}/v1/entities/counter?limit=1") as answer:
            return [json.load(answer)["next"] or ""]
    except urllib.error.HTTPError:
        return [""]


schemathesis.openapi.format("berth-session", strategies.sampled_from(session_tokens()))
schemathesis.openapi.format("berth-cursor", strategies.sampled_from(cursors()))
schemathesis.openapi.format("entity-tags", strategies.sampled_from(['*', '"1"', '"2", W/"3"', '"7-gzip"', 'W/"1--gzip"', '"x"']))
