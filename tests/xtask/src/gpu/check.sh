#!/bin/sh
# Checks wisp on this machine's GPU with what lies beside this file: without Rust, cargo and network.
# `--device cpu` runs the same against the CPU; `--seconds` and `--rounds` say how long it measures. Without a GPU it ends
# well, unless one was asked for by `--device gpu`, or what it finds by `--report`: then with 3.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
case " $* " in
*" cpu "* | *"=cpu "*) ;;
*)
    if ! [ -e /dev/nvidiactl ] && ! [ -e /dev/dxg ]; then
        echo "There is no NVIDIA GPU here (/dev/nvidiactl): nothing was checked."
        case " $* " in
        *" gpu "* | *"=gpu "* | *" --report"*) exit 3 ;;
        esac
        exit 0
    fi
    ;;
esac
(cd "$here" && sha256sum --check --quiet SHA256SUMS)
to=$(mktemp -d "${TMPDIR:-/tmp}/wisp-gpu.XXXXXX")
trap 'rm -rf "$to"' EXIT
# Without these a signal ends dash without that.
trap 'exit 130' INT
trap 'exit 143' TERM
if command -v xz >/dev/null; then
    cat "$here"/pack.tar.xz* | xz --decompress --stdout | tar -x -f - -C "$to"
else
    cat "$here"/pack.tar.xz* | python3 -c 'import sys, tarfile
tarfile.open(fileobj=sys.stdin.buffer, mode="r|xz").extractall(sys.argv[1])' "$to"
fi
ORT_DISABLE_TELEMETRY=1 "$to/wisp-load" gpu --folder "$to" "$@"
