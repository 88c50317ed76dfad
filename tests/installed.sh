#!/usr/bin/env bash
# Given what `make install` made, moved to another folder, on a machine where the builder's home and the checkout are gone, the
# root is read-only, and only the data folder can be written;
# when another user without HOME starts a coordinator and an agent;
# then a round completes, and the page and its WASM are served.
# Needs root for the other user and the mounts; without root the program runs as the caller, in the moved folder.
set -euo pipefail
cd "$(dirname "$0")/.."
checkout=$PWD
fail() { echo "installed: $*" >&2; exit 1; }

if [ "${1:-}" != inside ]; then
  work=$(mktemp -d)
  trap 'rm -rf "$work"' EXIT
  make --no-print-directory install DESTDIR="$work/staged" PREFIX=/usr/local >/dev/null
  mv "$work/staged/usr/local" "$work/moved"
  mkdir "$work/data"
  chmod 755 "$work" "$work/moved"  # Neither the checkout nor any other absolute path.
  if readelf -d "$work/moved/bin/fedlearn" | grep -E 'R(UN)?PATH' | grep -F -e '[/' -e ':/'; then
    fail "the program looks for libraries in an absolute path"
  fi
  cp tests/installed.sh "$work/installed.sh"
  if [ "$(id -u)" = 0 ]; then
    chown -R 65534:65534 "$work/data"
    unshare --mount bash -c '
      set -e
      mount --bind "$1/data" "$1/data"
      mount -o remount,ro,bind /
      for gone in "$2" "$HOME"; do mount -t tmpfs -o ro,mode=755 none "$gone"; done
      cd /
      exec setpriv --reuid 65534 --regid 65534 --clear-groups env -i PATH=/usr/bin:/bin bash "$1/installed.sh" inside
    ' - "$work" "$checkout"
  else
    env -i PATH=/usr/bin:/bin bash "$work/installed.sh" inside
  fi
  exit
fi

cd "$(dirname "$0")"
program=moved/bin/fedlearn
until_true() { # WHAT COMMAND...
  local what=$1; shift
  for _ in $(seq 300); do "$@" && return; sleep 0.2; done
  cat data/*.log >&2
  fail "$what did not happen within 60 s"
}
! ldd "$program" | grep -F 'not found' || fail "a library is missing"

"$program" serve --data-dir data --listen 127.0.0.1:0 --dataset none --channels 1 --classes 10 >data/coordinator.log 2>&1 &
processes=$!
trap 'kill $processes 2>/dev/null || true; wait' EXIT
until_true "the coordinator's address in its log" grep -qE 'http://127\.0\.0\.1:[0-9]+' data/coordinator.log
url=$(grep -oE 'http://127\.0\.0\.1:[0-9]+' data/coordinator.log | head -1)
token=$(sed -n "s/^Admin token: *\([^ ]*\).*/\1/p" data/coordinator.log)
"$program" join "$url" --name other-user --noise 0.01 >data/agent.log 2>&1 &
processes+=" $!"
get() { curl -fsS "$url$1"; }
has_client() { get /api/v1/runs/default/clients | grep -q '"other-user"'; }
has_round() { get /api/v1/runs/default/rounds | grep -q '"version":1\b\|"round":1\b'; }
until_true "the agent's registration" has_client
curl -fsS -X POST -H "Authorization: Bearer $token" "$url/api/v1/runs/default/rounds" >/dev/null
until_true "the first round" has_round
get / | grep -q '<title>' || fail "no page"
get /pkg/fedlearn.wasm >data/page.wasm && [ "$(head -c 4 data/page.wasm | tr -d '\0')" = asm ] || fail "no WASM of the page"
kill -TERM $processes
wait ${processes%% *} || fail "the coordinator ended with $?"
echo "installed: another user runs it from another folder, with a read-only root and without HOME"
