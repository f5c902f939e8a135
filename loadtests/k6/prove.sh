#!/usr/bin/env bash
# Proves that smoke.js passes against a server that keeps the contract and fails against one that does not: it runs against
# loadtests/flawed.py with every flaw that shows without a restart.
set -euo pipefail
cd "$(dirname "$0")"
port=${PORT:-18080}
failed=0

run() {
  local flaw=$1 expected=$2
  ../flawed.py --gateway-port "$port" --flaw "$flaw" &
  local server=$!
  # shellcheck disable=SC2064
  trap "kill $server 2>/dev/null || true" EXIT
  local result=0
  BASE_URL="http://127.0.0.1:$port" VUS=4 DURATION=6s k6 run --quiet --no-color smoke.js >"${OUT:-/dev/null}" 2>&1 || result=$?
  kill "$server"
  wait "$server" 2>/dev/null || true
  trap - EXIT
  # k6 ends with 99 when a threshold is not kept.
  if [[ $result == "$expected" ]]; then
    echo "as expected: $flaw ended with $result"
  else
    echo "WRONG: $flaw ended with $result instead of $expected"
    failed=1
  fi
}

run none 0
for flaw in double-effect unknown-twice stale-read gap ignores-if-match plain-errors server-error slow; do
  run "$flaw" 99
done
exit "$failed"
