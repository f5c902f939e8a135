"""The tour of README.md with the client that `generated_client.py` has generated: one call for each curl command at the public
port, in README.md's order. A command there without a call here is a failure, and so is a call that README.md has no more."""

import dataclasses
import itertools
import json
import os
import shlex
import sys
import urllib.parse

HERE = os.path.dirname(os.path.abspath(__file__))
sys.dont_write_bytecode = True
sys.path[0] = os.path.dirname(HERE)
sys.path.insert(1, sys.argv[1])

import tour  # noqa: E402  pylint: disable=wrong-import-position
from berth_client import Client  # noqa: E402  pylint: disable=wrong-import-position,import-error
from berth_client import models  # noqa: E402  pylint: disable=wrong-import-position,import-error
from berth_client.api.account import account_deposit, account_open, account_withdraw, get_entity_account  # noqa: E402  pylint: disable=wrong-import-position,import-error
from berth_client.api.cart import cart_add_item, cart_checkout, delete_entity_cart, get_entity_cart  # noqa: E402  pylint: disable=wrong-import-position,import-error
from berth_client.api.counter import counter_add, get_entity_counter  # noqa: E402  pylint: disable=wrong-import-position,import-error
from berth_client.api.entities import get_history, list_entities  # noqa: E402  pylint: disable=wrong-import-position,import-error

README_GATEWAY = "http://127.0.0.1:8080"
# What the generator sends although nobody said so: defaults of parameters.
DEFAULTS = {"consistency": "linearizable", "after": "0", "limit": "100", "wait": "0"}
# Stands in README.md for what differs from run to run.
ANYTHING = "…"

Strict = models.GetEntityAccountConsistency.STRICT
Session = models.GetEntityCartConsistency.SESSION
ITEM = {"quantity": 2, "unit_price_cents": 450}

CALLS = [
    lambda client: counter_add.sync_detailed("visits", client=client, body=models.CounterAdd(by=1)),
    lambda client: get_entity_counter.sync_detailed("visits", client=client),
    lambda client: account_open.sync_detailed("bob", client=client),
    lambda client: deposit(client),
    lambda client: deposit(client),
    lambda client: account_withdraw.sync_detailed("bob", client=client, body=models.AccountWithdraw(amount_cents=5000)),
    lambda client: get_entity_account.sync_detailed("bob", client=client, consistency=Strict),
    lambda client: cart_add_item.sync_detailed("alice", client=client, body=models.CartAddItem(sku="tea", **ITEM)),
    lambda client: cart_checkout.sync_detailed("alice", client=client, if_match='"7"'),
    lambda client: cart_checkout.sync_detailed("alice", client=client, if_match='"1"'),
    lambda client: get_history.sync_detailed("cart", "alice", client=client, after=0, limit=10),
    lambda client: get_entity_cart.sync_detailed("alice", client=client, version=1),
    lambda client: follow(client),
    lambda client: get_entity_cart.sync_detailed("alice", client=client, consistency=Session),
    lambda client: delete_entity_cart.sync_detailed("alice", client=client, if_match='"2"'),
    lambda client: get_entity_cart.sync_detailed("alice", client=client),
    lambda client: list_entities.sync_detailed("account", client=client, prefix="b", limit=10),
    # The types of the client say that this is wrong, which Python does not mind.
    lambda client: cart_add_item.sync_detailed("dora", client=client, body=models.CartAddItem(sku=7, quantity=0, unit_price_cents=450)),
]


def deposit(client):
    body = models.AccountDeposit(amount_cents=1000)
    return account_deposit.sync_detailed("bob", client=client, body=body, idempotency_key="order-17")


@dataclasses.dataclass
class Live:
    """The first lines of an event stream."""

    lines: list


def follow(client):
    """Generated calls return when there is nothing more to come; the generated request is read line by line in the place of one."""
    request = get_history._get_kwargs("cart", "alice", last_event_id="1")  # pylint: disable=protected-access
    request["headers"] = {**request.get("headers", {}), "accept": "text/event-stream"}
    with client.get_httpx_client().stream(**request) as response:
        return Live(list(itertools.islice(response.iter_lines(), 6)))


class Command:
    """What README.md's curl sends, and what it prints."""

    def __init__(self, text, printed):
        self.text, self.printed = text, printed
        words = iter(shlex.split(text)[1:])
        self.method, self.headers, self.body, self.format, self.url = "GET", {}, None, None, None
        for word in words:
            if word == "-X":
                self.method = next(words)
            elif word == "-H":
                name, _, value = next(words).partition(":")
                self.headers[name.strip().lower()] = value.strip()
            elif word == "-d":
                self.body = json.loads(next(words))
            elif word == "-w":
                self.format = next(words)
            elif word == "-o":
                next(words)
            elif word.startswith("http"):
                self.url = urllib.parse.urlsplit(word)
        assert self.url, f"no address in {text}"

    def is_public(self):
        return f"{self.url.scheme}://{self.url.netloc}" == README_GATEWAY

    def sent_differently(self, request):
        """What the client's request has in another way."""
        expected = dict(urllib.parse.parse_qsl(self.url.query))
        sent = {name: value for name, value in request.url.params.items() if DEFAULTS.get(name) != value or name in expected}
        pairs = [
            ("method", request.method, self.method),
            ("path", request.url.raw_path.decode().partition("?")[0], self.url.path),
            ("query", sent, expected),
            ("body", json.loads(request.content or "null"), self.body),
            *((name, request.headers.get(name), value) for name, value in self.headers.items()),
        ]
        return [f"{what}: {got!r} was sent and not {wanted!r}" for what, got, wanted in pairs if got != wanted]

    def answered_differently(self, response):
        """What came back in another way, with the body as the client's types have it."""
        if isinstance(response, Live):
            pairs = itertools.zip_longest(response.lines, self.printed, fillvalue="(nothing)")
            return [f"{got!r} and not {wanted!r}" for got, wanted in pairs if not tour.fits(wanted, got)]
        if self.format:
            told = self.format.replace("%{http_code}", str(int(response.status_code))).replace("%header{etag}", response.headers.get("etag", ""))
            return [] if tour.fits(self.printed[0], told) else [f"{told!r} and not {self.printed[0]!r}"]
        *head, body = self.printed
        wrong = [line for line in head[1:] if line and not self.has_header(response, line)]
        if head and head[0].split(" ")[1] != str(int(response.status_code)):
            wrong.append(f"status {int(response.status_code)} and not {head[0]!r}")
        if response.parsed is None or not hasattr(response.parsed, "to_dict"):
            return [*wrong, f"the client made {response.parsed!r} of {int(response.status_code)} {response.content[:300]!r}"]
        return wrong + list(differences("", response.parsed.to_dict(), json.loads(body)))

    @staticmethod
    def has_header(response, line):
        name, _, value = line.partition(": ")
        return tour.fits(value, response.headers.get(name, ""))


def differences(place, got, expected):
    if expected == ANYTHING:
        if not isinstance(got, str) or not got:
            yield f"{place} is {got!r}"
    elif isinstance(expected, dict) and isinstance(got, dict):
        for name in sorted({*expected, *got}):
            yield from differences(f"{place}/{name}", got.get(name, "(nothing)"), expected.get(name, "(nothing)"))
    elif isinstance(expected, list) and isinstance(got, list) and len(expected) == len(got):
        for number, (one, other) in enumerate(zip(got, expected)):
            yield from differences(f"{place}/{number}", one, other)
    elif type(got) is not type(expected) or got != expected:
        yield f"{place} is {got!r} and not {expected!r}"


def main():
    with open(tour.README, encoding="utf-8") as readme:
        commands = [Command(*step) for step in tour.steps(readme.read()) if step[0].startswith("curl ")]
    commands = [command for command in commands if command.is_public()]
    requests, wrong = [], 0
    client = Client(base_url=sys.argv[2], raise_on_unexpected_status=True, httpx_args={"event_hooks": {"request": [requests.append]}})
    for number, command in enumerate(commands):
        if number >= len(CALLS):
            found = ["README.md has this command, and no call here"]
        else:
            response = CALLS[number](client)
            found = command.sent_differently(requests[-1]) + command.answered_differently(response)
        print(f"{'WRONG' if found else 'ok   '} {command.method} {urllib.parse.urlunsplit(('', '', *command.url[2:]))}")
        wrong += bool(found)
        for line in found:
            print(f"      {line}")
    if len(CALLS) > len(commands):
        wrong += 1
        print(f"WRONG there are {len(CALLS)} calls here, and {len(commands)} commands in README.md")
    print(f"{len(commands)} commands of README.md with a generated client, {wrong} wrong")
    return 1 if wrong or not commands else 0


if __name__ == "__main__":
    sys.exit(main())
