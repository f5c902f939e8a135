#!/usr/bin/env bash
# Sends generated requests, right ones and wrong ones, to every operation of /openapi.json, and checks that each answer is
# one that the document describes: no 5xx, no undocumented status, no answer that breaks its schema, nothing wrong taken,
# nothing right refused.
#
#   loadtests/contract/schemathesis.sh [CASES [OPTION ...]]
#
# CASES per operation (default 100). Further options go to schemathesis, such as --include-path-regex cart. BERTH_URL names
# a gateway that runs already; without it a fresh cluster is started from target/release/berth (or BERTH_PROGRAM) and
# stopped again. BERTH_CONTRACT_VENV is the folder for the tools, .venv beside this file unless set.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../.." && pwd)
cases=${1:-100}
shift || true

venv=${BERTH_CONTRACT_VENV:-$here/.venv}
if ! "$venv/bin/python" -c 'import schemathesis, openapi_spec_validator' 2>/dev/null; then
  python3 -m venv "$venv"
  "$venv/bin/pip" install --quiet --requirement "$here/requirements.txt"
fi

scratch=$(mktemp -d)
program=
tester=
finish() {
  for process in $tester $program; do
    kill -INT "$process" 2>/dev/null || true
    wait "$process" 2>/dev/null || true
  done
  rm -rf "$scratch"
}
trap finish EXIT
trap 'exit 130' INT TERM

url=${BERTH_URL:-}
if [ -z "$url" ]; then
  "${BERTH_PROGRAM:-$root/target/release/berth}" --ephemeral --gateway-port 0 --admin-port 0 >"$scratch/out" 2>"$scratch/errors" &
  program=$!
  for _ in $(seq 600); do
    grep -q 'Ctrl-C stops.' "$scratch/out" && break
    kill -0 "$program" 2>/dev/null || { cat "$scratch/errors" >&2; exit 1; }
    sleep 0.1
  done
  url=$(grep -oE 'http://[^ /]+' "$scratch/out" | head -n 1)
fi
echo "testing $url with $cases cases per operation"

"$venv/bin/python" - "$url/openapi.json" <<'PYTHON'
import json, sys, urllib.request
from openapi_spec_validator import OpenAPIV31SpecValidator

with urllib.request.urlopen(sys.argv[1]) as answer:
    document = json.load(answer)
OpenAPIV31SpecValidator(document).validate()
print(f"/openapi.json is valid OpenAPI {document['openapi']}, with {len(document['paths'])} paths")
PYTHON

cd "$scratch"
export BERTH_URL=$url SCHEMATHESIS_HOOKS=hooks PYTHONPATH=$here PYTHONDONTWRITEBYTECODE=1
# In the background, because a signal is handled only between commands and while waiting.
"$venv/bin/schemathesis" --config-file "$here/schemathesis.toml" run "$url/openapi.json" --max-examples "$cases" "$@" &
tester=$!
wait "$tester"
