#!/usr/bin/env bash
# Transfers beside rsync, rclone, syq, tar | nc and tar | zstd | nc, over a veth pair between two network namespaces.
#
#   sudo tests/bench/transfer.sh [DIRECTORY [RATE... ]]     such as: /mnt/data 1gbit 2.5gbit 10gbit
#
# Needs root, cargo, rsync, netcat-openbsd, zstd, iperf3, fio and iproute2, and three times SIZE_MIB (default 3072)
# free in DIRECTORY; rclone and syq take part if RCLONE and SYQ name them, rsync over ssh and syq if there is an sshd.
# SMALL_FILES=1000000 transfers that number of small files instead. ONLY='holdfast.*|rsync' runs some contenders only.
# Prints a line for each run and the medians at the end: rate, contender, seconds, MB/s, and for holdfast the processor
# seconds of each side for 10^9 bytes, what limited it, and the rate of the last tenth as a share of the mean, flush and
# end of the program included.
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
cleanup() {
    kill "$other" "${servers[@]}" 2>/dev/null || true
    umount --lazy "$top/destination" 2>/dev/null || true
    rm -rf "$top"
}
trap cleanup EXIT
until [[ $(readlink "/proc/$other/ns/net") != "$(readlink /proc/self/ns/net)" ]]; do :; done
there() { nsenter --target "$other" --net "$@"; }

ip link set lo up; there ip link set lo up
ip link add source type veth peer name destination netns "$other"
ip addr add 10.99.0.1/24 dev source; ip link set source up
there ip addr add 10.99.0.2/24 dev destination; there ip link set destination up

mkdir -p "$top/source/tree"
if [[ -n ${SMALL_FILES:-} ]]; then
    # Files of 1 to 4096 bytes, a thousand in a directory.
    python3 -c 'import os, random, sys
top, count = sys.argv[1], int(sys.argv[2])
noise = os.urandom(1 << 20)
for number in range(count):
    directory = f"{top}/{number // 1000}"
    if number % 1000 == 0:
        os.mkdir(directory)
    start = random.randrange(len(noise) - 4096)
    with open(f"{directory}/{number}", "wb") as file:
        file.write(noise[start : start + random.randint(1, 4096)])' "$top/source/tree" "$SMALL_FILES"
else
    # One file of 80 % of the bytes, files of 4 MiB, and small ones.
    mkdir -p "$top/source/tree/small" "$top/source/tree/middle"
    head -c $((size * 8 / 10))M /dev/urandom > "$top/source/tree/large"
    for n in $(seq $((size / 40))); do head -c 4M /dev/urandom > "$top/source/tree/middle/$n"; done
    split --bytes 16K --suffix-length 6 <(head -c $((size / 10))M /dev/urandom) "$top/source/tree/small/"
fi
bytes=$(du -sb "$top/source/tree" | cut -f1)
sync -f "$top"

printf '[tree]\npath = %s\nuse chroot = no\nuid = 0\ngid = 0\n' "$top/source/tree" > "$top/rsyncd.conf"
rsync --daemon --no-detach --address 10.99.0.1 --port 8730 --config "$top/rsyncd.conf" & servers+=($!)
mkdir "$top/offered"
"$program" offer 10.99.0.1:8731 "$top/source" tree "$top/offered" > "$top/ticket" & offering=$!; servers+=($offering)
iperf3 --server --bind 10.99.0.1 > /dev/null & servers+=($!)

# Each run writes to a new file system: ext4 searches for minutes for inodes that were not deleted recently.
mkdir -p "$top/destination"
fresh() {
    umount "$top/destination" 2>/dev/null || true
    rm -rf "$top/image" "$top/state"; mkdir "$top/state"
    truncate --size "$((bytes * 3 / 2 + (3 << 30)))" "$top/image"
    mkfs.ext4 -q -N $((${SMALL_FILES:-100000} * 5 / 4)) -E lazy_itable_init=1,lazy_journal_init=1 "$top/image"
    mount -o loop,noatime "$top/image" "$top/destination"
    losetup --direct-io=on "$(findmnt -no SOURCE "$top/destination")"
    rmdir "$top/destination/lost+found"; mkdir "$top/destination/tree"; sync -f "$top"
    find "$top/source" -type f -exec python3 -c 'import os, sys
for name in sys.argv[1:]:
    with open(name) as file: os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)' {} +
}
# Bytes that the destination received, every 20 ms; and the rate of the last tenth of them as a share of the mean.
samples='import time
while True:
    line = next(line for line in open("/proc/net/dev") if "destination:" in line)
    print(time.time_ns(), line.split(":")[1].split()[0], flush=True)
    time.sleep(0.02)'
tail='import sys
rows = [tuple(map(int, line.split())) for line in open(sys.argv[1]) if line.count(" ") == 1]
begin, end, first, last = int(sys.argv[2]), int(sys.argv[3]), rows[0][1], rows[-1][1]
nine = next(at for at, count in rows if count - first >= 0.9 * (last - first))
print(f"{(end - begin) / 10 / (end - nine):.2f}")'
# Number and bytes of all files.
content() { find "$1" -type f -printf '%s\n' | awk '{ bytes += $1 } END { print NR, bytes }'; }
run() {
    local name=$1; shift
    [[ $name =~ ^(${ONLY:-.*})$ ]] || return 0
    fresh
    local begin end sampling failed=; begin=$(date +%s%N)
    nsenter --target "$other" --net python3 -c "$samples" > "$top/samples" & sampling=$!
    "$@" > "$top/output" 2> "$top/errors" || failed=yes
    end=$(date +%s%N)
    kill "$sampling"; wait "$sampling" 2>/dev/null || true
    [[ -z $failed ]] || { echo "$name failed: $(tail -1 "$top/errors")"; return; }
    [[ $(content "$top/destination/tree") = "$(content "$top/source/tree")" ]] || { echo "$name left files out"; return; }
    local used=
    if [[ $name = holdfast* ]]; then
        # utime and stime of the source, which serves this run only.
        used=$(awk -v ticks="$(getconf CLK_TCK)" -v bytes="$bytes" -v here="$(awk '/processor/ { print $1 }' "$top/errors")" \
            '{ printf "%.2f %.2f", ($14 + $15) / ticks * 1e9 / bytes, here * 1e9 / bytes }' "/proc/$offering/stat")
        grep -o '"limited_by":"[a-z-]*"' "$top/output" | tail -1 | cut -d'"' -f4 > "$top/limited"
        used="$used $(cat "$top/limited") $(python3 -c "$tail" "$top/samples" "$begin" "$end")"
    fi
    report "$name" "$begin" "$end" "$bytes" "$used"
}
report() {
    awk -v rate="$rate" -v name="$1" -v ns=$(($3 - $2)) -v bytes="$4" -v used="$5" 'BEGIN {
        printf "%-8s %-24s %7.2f s %6.0f MB/s  %s\n", rate, name, ns / 1e9, bytes * 1e3 / ns, used }' | tee -a "$top/results"
}
disk() {
    fio --name disk --direct 1 --bs 1M --iodepth 16 --ioengine libaio --size "$((bytes / 1048576))M" "$@" > /dev/null
}
device() {
    local name=$1 begin end; shift
    begin=$(date +%s%N)
    disk --filename "$top/fio" "$@"
    end=$(date +%s%N)
    report "$name" "$begin" "$end" "$bytes" ''
}
# What the device does while both ends of a transfer are on it.
device_both() {
    local begin end reading; begin=$(date +%s%N)
    disk --filename "$top/fio" --rw read & reading=$!
    disk --filename "$top/fio-written" --rw write --end_fsync 1
    wait "$reading"
    end=$(date +%s%N)
    report 'fio read beside write' "$begin" "$end" "$bytes" ''
    rm "$top/fio-written"
}
holdfast() {
    # A ticket is of one destination: each run has its own offer.
    kill "$offering"; wait "$offering" 2>/dev/null || true
    rm -rf "$top/ticket" "$top/offered"; mkdir "$top/offered"
    "$program" offer 10.99.0.1:8731 "$top/source" tree "$top/offered" > "$top/ticket" & offering=$!; servers+=($offering)
    until [[ -s $top/ticket ]]; do :; done
    there "$program" pull "$top/ticket" "$top/destination" tree "$top/state" "$1" "${CONNECTIONS:-8}"
}
# The same again: nothing has changed. Then a pass that completes the transfer, with the manifests of both ends.
holdfast_unchanged() {
    holdfast flushed > /dev/null 2>&1 || return
    again 'unchanged pass' && again 'final pass, unchanged' "${CONNECTIONS:-8}" "$top/state/manifest"
}
again() {
    local name=$1 begin end; shift
    begin=$(date +%s%N)
    there "$program" pull "$top/ticket" "$top/destination" tree "$top/state" flushed "$@" > "$top/output" 2> "$top/errors" || return
    end=$(date +%s%N)
    report "$name" "$begin" "$end" "$bytes" "$(grep -o '"sent_bytes":[0-9]*' "$top/output" | head -1)"
}
rclone_copy() {
    there "$RCLONE" copy --config /dev/null --transfers 8 --multi-thread-streams 8 \
        ":http,url='http://10.99.0.1:8733':" "$top/destination/tree"
}
rsync_plain() { there rsync -a --whole-file rsync://10.99.0.1:8730/tree/ "$top/destination/tree/"; }
rsync_proven() {
    rsync_plain; sync -f "$top"
    [[ -z $(there rsync -anci rsync://10.99.0.1:8730/tree/ "$top/destination/tree/") ]]
}
rsync_ssh() { there rsync -a --whole-file "source:$top/source/tree/" "$top/destination/tree/"; }
syq_copy() { there "$SYQ" cp --from source --srcs-in "$top/source/tree" --into "$top/destination/tree"; }
tar_nc() {
    tar -C "$top/source/tree" -cf - . | nc -l -N 10.99.0.1 8732 & local sending=$!
    until there nc 10.99.0.1 8732 < /dev/null | tar -C "$top/destination/tree" -xf - 2>/dev/null; do :; done
    wait "$sending"
}
tar_zstd_nc() {
    tar -C "$top/source/tree" -cf - . | zstd -q -1 -T0 | nc -l -N 10.99.0.1 8732 & local sending=$!
    until there nc 10.99.0.1 8732 < /dev/null | zstd -qdc | tar -C "$top/destination/tree" -xf - 2>/dev/null; do :; done
    wait "$sending"
}
if [[ -n ${RCLONE:-} ]]; then
    "$RCLONE" serve http --addr 10.99.0.1:8733 "$top/source/tree" > /dev/null 2>&1 & servers+=($!)
fi
sshd=$(command -v sshd || echo /usr/sbin/sshd)
if [[ -x $sshd ]]; then
    ssh=$top/ssh; mkdir -p "$ssh/bin" /run/sshd
    ssh-keygen -q -t ed25519 -N '' -f "$ssh/id_ed25519"
    # Both programs run what PATH has as ssh; nothing of the user's own configuration is read or written.
    printf '#!/bin/sh\nexec %s -F none -o HostName=10.99.0.1 -o Port=8734 -o User=root -o IdentityFile=%s %s "$@"\n' \
        "$(command -v ssh)" "$ssh/id_ed25519" "-o StrictHostKeyChecking=no -o UserKnownHostsFile=$ssh/known_hosts" > "$ssh/bin/ssh"
    chmod +x "$ssh/bin/ssh"; export PATH=$ssh/bin:$PATH
    "$sshd" -D -f /dev/null -h "$ssh/id_ed25519" -o ListenAddress=10.99.0.1:8734 -o PidFile=none -o StrictModes=no \
        -o AuthorizedKeysFile="$ssh/id_ed25519.pub" -o PermitRootLogin=yes \
        -o SetEnv="PATH=$(dirname "${SYQ:-/bin}"):/usr/bin:/bin" & servers+=($!)
fi
rate=none
for _ in $(seq "$rounds"); do
    device 'fio write' --rw write --end_fsync 1
    device 'fio read' --rw read
    device_both
done
rm -f "$top/fio"
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
        run 'tar | zstd | nc' tar_zstd_nc
        [[ -z ${RCLONE:-} ]] || run 'rclone' rclone_copy
        run 'rsync' rsync_plain
        [[ ! -x $sshd ]] || run 'rsync over ssh' rsync_ssh
        [[ ! -x $sshd || -z ${SYQ:-} ]] || run 'syq' syq_copy
        run 'rsync, sync, rsync -nc' rsync_proven
    done
    fresh
    holdfast_unchanged || echo "unchanged pass failed: $(tail -1 "$top/errors")"
done
echo
echo 'Medians'
python3 - "$top/results" <<'EOF'
import collections, re, statistics, sys
runs = collections.defaultdict(list)
for line in open(sys.argv[1]):
    rate, name, seconds, megabytes, rest = re.match(r"(\S+)\s+(.*?)\s+([\d.]+) s\s+(\d+) MB/s\s*(.*)", line).groups()
    runs[rate, name].append((float(seconds), float(megabytes), rest))
for (rate, name), values in runs.items():
    seconds, megabytes, rest = sorted(values)[(len(values) - 1) // 2]
    print(f"{rate:8} {name:24} {seconds:7.2f} s {megabytes:6.0f} MB/s  {rest}")
EOF
