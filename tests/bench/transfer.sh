#!/usr/bin/env bash
# Transfers beside rsync and tar | nc, over a veth pair between two network namespaces.
#
#   sudo tests/bench/transfer.sh [DIRECTORY [RATE... ]]     such as: /mnt/data 1gbit 10gbit
#
# Needs root, cargo, rsync, netcat-openbsd, iperf3 and iproute2, and three times SIZE_MIB (default 3072) free
# in DIRECTORY. Prints one line for each run: rate, contender, seconds, MB/s.
set -euo pipefail
[[ $(id -u) = 0 ]] || { echo 'needs root, for network namespaces' >&2; exit 1; }
if [[ ${INSIDE:-} != yes ]]; then
    [[ -n ${PROGRAM:-} ]] || cargo build --quiet --locked --release --package holdfast-transfer --example transfer
    INSIDE=yes exec unshare --net --mount --propagation private "$0" "$@"
fi
top=$(mktemp -d "${1:-/tmp}/holdfast-transfer.XXXXXX"); shift || true
rates=("${@:-1gbit}")
size=${SIZE_MIB:-3072}
rounds=${ROUNDS:-3}
program=${PROGRAM:-$(dirname "$0")/../../target/release/examples/transfer}
unshare --net sleep infinity & other=$!
servers=()
cleanup() { kill "$other" "${servers[@]}" 2>/dev/null || true; rm -rf "$top"; }
trap cleanup EXIT
until [[ $(readlink "/proc/$other/ns/net") != "$(readlink /proc/self/ns/net)" ]]; do :; done
there() { nsenter --target "$other" --net "$@"; }

ip link set lo up; there ip link set lo up
ip link add source type veth peer name destination netns "$other"
ip addr add 10.99.0.1/24 dev source; ip link set source up
there ip addr add 10.99.0.2/24 dev destination; there ip link set destination up

# One file of 80 % of the bytes, files of 4 MiB, and small ones.
mkdir -p "$top/source/tree/small" "$top/source/tree/middle"
head -c $((size * 8 / 10))M /dev/urandom > "$top/source/tree/large"
for n in $(seq $((size / 40))); do head -c 4M /dev/urandom > "$top/source/tree/middle/$n"; done
split --bytes 16K --suffix-length 6 <(head -c $((size / 10))M /dev/urandom) "$top/source/tree/small/"
bytes=$(du -sb "$top/source/tree" | cut -f1)
sync -f "$top"

printf '[tree]\npath = %s\nuse chroot = no\nuid = 0\ngid = 0\n' "$top/source/tree" > "$top/rsyncd.conf"
rsync --daemon --no-detach --address 10.99.0.1 --port 8730 --config "$top/rsyncd.conf" & servers+=($!)
"$program" offer 10.99.0.1:8731 "$top/source" tree > "$top/ticket" & offering=$!; servers+=($offering)
iperf3 --server --bind 10.99.0.1 > /dev/null & servers+=($!)

fresh() {
    rm -rf "$top/destination" "$top/state"; mkdir "$top/destination" "$top/state"; sync -f "$top"
    find "$top/source" -type f -exec python3 -c 'import os, sys
for name in sys.argv[1:]:
    with open(name) as file: os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)' {} +
}
run() {
    local name=$1; shift
    fresh
    local begin end; begin=$(date +%s%N)
    "$@" > "$top/output" 2> "$top/errors" || { echo "$name failed: $(tail -1 "$top/errors")"; return; }
    end=$(date +%s%N)
    awk -v rate="$rate" -v name="$name" -v ns=$((end - begin)) -v bytes="$bytes" \
        'BEGIN { printf "%-8s %-28s %7.2f s %8.0f MB/s\n", rate, name, ns / 1e9, bytes * 1e3 / ns }'
}
holdfast() {
    # A ticket is of one destination: each run has its own offer.
    kill "$offering"; wait "$offering" 2>/dev/null || true
    rm -f "$top/ticket"
    "$program" offer 10.99.0.1:8731 "$top/source" tree > "$top/ticket" & offering=$!; servers+=($offering)
    until [[ -s $top/ticket ]]; do :; done
    there "$program" pull "$top/ticket" "$top" destination "$top/state" "$1" "${CONNECTIONS:-8}"
}
rsync_plain() { there rsync -a --whole-file rsync://10.99.0.1:8730/tree/ "$top/destination/"; }
rsync_proven() {
    rsync_plain; sync -f "$top"
    [[ -z $(there rsync -anci rsync://10.99.0.1:8730/tree/ "$top/destination/") ]]
}
tar_nc() {
    tar -C "$top/source/tree" -cf - . | nc -l -N 10.99.0.1 8732 & local sending=$!
    until there nc 10.99.0.1 8732 < /dev/null | tar -C "$top/destination" -xf - 2>/dev/null; do :; done
    wait "$sending"
}
for rate in "${rates[@]}"; do
    tc qdisc replace dev source root tbf rate "$rate" burst 1mb latency 20ms
    there tc qdisc replace dev destination root tbf rate "$rate" burst 1mb latency 20ms
    there iperf3 --client 10.99.0.1 --parallel 8 --reverse --time 3 --json 2>/dev/null |
        python3 -c 'import json, sys
print(sys.argv[1], "iperf3 -P8", round(json.load(sys.stdin)["end"]["sum_received"]["bits_per_second"] / 8e6), "MB/s")' "$rate"
    for _ in $(seq "$rounds"); do
        run 'holdfast, wire' holdfast wire
        run 'holdfast, flushed' holdfast flushed
        run 'holdfast, media' holdfast media
        run 'tar | nc' tar_nc
        run 'rsync' rsync_plain
        run 'rsync, sync, rsync -nc' rsync_proven
    done
done
