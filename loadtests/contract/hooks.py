"""What schemathesis cannot know from the description: tokens and cursors that only the gateway makes, entities that exist,
that a time must be past, and which parameters go together. Formats that it knows are also the only header values in which
it uses more than letters and digits."""

import json
import os
import urllib.error
import urllib.request
import zlib

import schemathesis
from hypothesis import strategies
from schemathesis.generation.meta import TestPhase
from schemathesis.openapi.checks import UseAfterFree

URL = os.environ["BERTH_URL"]
ENTITIES = 8
# The first command of an entity, by kind.
FIRST = {
    "account": ("open", {}),
    "cart": ("add-item", {"sku": "tea", "quantity": 2, "unitPriceCents": 450}),
    "counter": ("add", {}),
    "document": ("put", {"value": {"a": [1]}}),
}
KINDS = sorted(FIRST)
LISTED = "counter"


def entity(number):
    return f"known-{number % ENTITIES}"


def begin(kind, number):
    """The entity has an event from now on; the token that was answered, if it had none before."""
    command, body = FIRST[kind]
    request = urllib.request.Request(
        f"{URL}/v1/entities/{kind}/{entity(number)}/{command}", data=json.dumps(body).encode(), method="POST",
        headers={"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request) as answer:
            return answer.headers["Berth-Session"]
    except urllib.error.HTTPError as refusal:
        # An account that is open already.
        if refusal.code != 422:
            raise
        return refusal.headers["Berth-Session"]


def cursors():
    """Cursors of real pages, of all entities of one kind."""
    made = []
    while len(made) < ENTITIES - 1:
        after = f"&cursor={made[-1]}" if made else ""
        with urllib.request.urlopen(f"{URL}/v1/entities/{LISTED}?limit=1{after}") as answer:
            made.append(json.load(answer)["next"])
    return made


TOKENS = [begin(kind, number) for kind in KINDS for number in range(ENTITIES)]
CURSORS = cursors()
NUMBERS = strategies.integers
# Long ago, in all forms that RFC 3339 has.
TIMES = strategies.builds(
    "{:04}-{:02}-{:02}{}{:02}:{:02}:{:02}{}{}".format,
    NUMBERS(1, 2023), NUMBERS(1, 12), NUMBERS(1, 28), strategies.sampled_from("Tt"),
    NUMBERS(0, 23), NUMBERS(0, 59), NUMBERS(0, 59), strategies.sampled_from(["", ".5", ".000001", ".123456789"]),
    strategies.sampled_from(["Z", "z", "+02:00", "-23:59"]))
TAGS = strategies.sampled_from(['*', '"1"', '"2", W/"3"', '"7-gzip"', 'W/"1--gzip"', '"x"'])

schemathesis.openapi.format("berth-session", strategies.sampled_from(TOKENS))
schemathesis.openapi.format("berth-cursor", strategies.sampled_from(CURSORS))
schemathesis.openapi.format("date-time", TIMES)
schemathesis.openapi.format("entity-tags", TAGS)


@schemathesis.hook
def before_call(context, case, kwargs):
    """Makes right requests right as a whole, and half of them of kinds and entities that there are."""
    if case.meta is None or not case.meta.generation.mode.is_positive:
        return
    path, query = case.path_parameters or {}, case.query or {}
    number = zlib.crc32("/".join(map(str, path.values())).encode("utf-8", "surrogatepass"))
    # What a sequence of requests has found out stays as it is.
    if number % 2 and case.meta.phase.name != TestPhase.STATEFUL:
        kind = KINDS[number // 2 % len(KINDS)]
        for name, known in (("kind", kind), ("id", entity(number // 8)), ("command", FIRST[kind][0])):
            if name in path:
                path[name] = known
    if query.get("cursor") in CURSORS:
        # A cursor belongs to the listing that gave it.
        path["kind"] = LISTED
        query.pop("prefix", None)
    if "version" in query:
        query.pop("at", None)


@schemathesis.hook
def filter_failure(context, failure, case, response):
    """What a deleted entity was before, and its history, can be read on."""
    is_past = case.path.endswith("/events") or not {"version", "at"}.isdisjoint(case.query or {})
    return not (isinstance(failure, UseAfterFree) and is_past)
