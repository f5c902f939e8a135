#!/usr/bin/env bash
# Runs fuzz targets, each for a number of seconds, with the pinned toolchain; see README.md here.
#
#   loadtests/fuzz/run.sh [SECONDS=60] [TARGET…]      all targets unless some are named
#
# Fails if a target finds something, which then lies in artifacts/TARGET. What is new and interesting is gathered
# in a folder that is thrown away, or in $GATHERED/TARGET where that is set; the corpus in the repository stays as it is.
set -euo pipefail
cd "$(dirname "$0")"

seconds=60
if [[ ${1:-} =~ ^[0-9]+$ ]]; then
  seconds=$1
  shift
fi
if (($#)); then targets=("$@"); else mapfile -t targets < <(cd fuzz_targets && ls ./*.rs | sed 's|^./||; s|\.rs$||'); fi

# What cargo-fuzz sets for `--sanitizer none`: LLVM counts which edges run and tells what is compared, and libFuzzer looks on.
# With a target named, it is not done to build scripts and macros, which have no libFuzzer.
export RUSTFLAGS="-Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
-Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
-Cllvm-args=-sanitizer-coverage-trace-compares --cfg fuzzing"
host=$(rustc -vV | sed -n 's/^host: //p')
export CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-$PWD/target}
bins=()
for target in "${targets[@]}"; do bins+=(--bin "$target"); done
# Whatever the programs are built with is what is fuzzed.
cp ../../Cargo.lock .
cargo build --release --target "$host" "${bins[@]}"

gathered=${GATHERED:-$(mktemp -d)}
if [[ -z ${GATHERED:-} ]]; then trap 'rm -rf "$gathered"' EXIT; fi
found=0
for target in "${targets[@]}"; do
  echo "--- $target: $seconds s"
  mkdir -p "$gathered/$target" "artifacts/$target"
  log=$gathered/$target.log
  # libFuzzer writes into the first folder and reads the others.
  if "$CARGO_TARGET_DIR/$host/release/$target" "$gathered/$target" "corpus/$target" -artifact_prefix="artifacts/$target/" \
    -max_total_time="$seconds" -timeout=20 -rss_limit_mb=2048 -max_len=4096 -print_final_stats=1 >"$log" 2>&1; then
    rmdir "artifacts/$target"
    echo "--- $target: clean after $(sed -n 's/^stat::number_of_executed_units: *//p' "$log") runs"
  else
    found=$((found + 1))
    tail -40 "$log"
    echo "--- $target: FOUND SOMETHING, see artifacts/$target" >&2
  fi
done
rmdir artifacts 2>/dev/null || true
echo "--- $found of ${#targets[@]} targets found something"
((found == 0))
