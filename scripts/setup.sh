#!/usr/bin/env bash
# Sets up .venv for users (what `make demo` needs) or developers (what `make test` needs).
#   scripts/setup.sh [user|dev]
# Versions are those of constraints.txt.  When nothing changed since the last set-up it ends at once.
set -euo pipefail
cd "$(dirname "$0")/.."
mode="${1:-user}"
case "$mode" in
    user) extras="vla,sim" ;;
    dev) extras="dev" ;;
    *) echo "usage: scripts/setup.sh [user|dev]" >&2; exit 2 ;;
esac
venv="${VENV:-.venv}"
sum="$(cat pyproject.toml constraints.txt scripts/setup.sh | sha256sum | cut -d ' ' -f 1)"
for done_mode in "$mode" dev; do
    if [ "$(cat "$venv/set-up-$done_mode" 2>/dev/null)" = "$sum" ] && "$venv/bin/python" -c "" 2>/dev/null; then
        exit 0
    fi
done

say() { echo "setup: $*"; }

# ---- system packages for rendering without a screen -----------------------------------------------------------------
PATH="$PATH:/sbin:/usr/sbin"
if [ "$(uname -s)" = Linux ] && command -v ldconfig >/dev/null; then
    libraries="$(ldconfig -p)"
    missing=""
    for pair in libEGL.so.1:libegl1 libEGL_mesa.so.0:libegl-mesa0 libGL.so.1:libgl1 libOpenGL.so.0:libopengl0; do
        grep -q "${pair%%:*}" <<<"$libraries" || missing="$missing ${pair##*:}"
    done
    if [ -n "$missing" ]; then
        if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
            say "installing$missing libgl1-mesa-dri (rendering)"
            { apt-get update -qq && DEBIAN_FRONTEND=noninteractive \
                apt-get install -y -qq --no-install-recommends $missing libgl1-mesa-dri >/dev/null; } ||
                say "that failed; pictures will be missing until an administrator installs$missing libgl1-mesa-dri"
        else
            say "rendering needs system packages; ask an administrator for: apt-get install$missing libgl1-mesa-dri"
        fi
    fi
fi

# ---- Python ---------------------------------------------------------------------------------------------------------
if ! "$venv/bin/python" -m pip --version >/dev/null 2>&1; then
    python=""
    for candidate in "${PYTHON:-python3}" python3.11 python3.12 python3.13; do
        if "$candidate" -c "import sys; assert (3, 11) <= sys.version_info < (3, 14)" 2>/dev/null; then
            python="$candidate"
            break
        fi
    done
    if [ -z "$python" ]; then
        echo "error: Python 3.11, 3.12 or 3.13 is needed; install one, or name it: PYTHON=/path/to/python make demo" >&2
        exit 1
    fi
    rm -rf "$venv"
    if ! "$python" -m venv "$venv" >/dev/null 2>&1; then
        if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
            say "installing python3-venv"
            apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq python3-venv >/dev/null
        fi
        rm -rf "$venv"
        "$python" -m venv "$venv" || {
            echo "error: $python cannot make virtual environments; install the package python3-venv" >&2
            exit 1
        }
    fi
fi
# --no-compile: of the modules that the packages bring few are ever imported, and Python compiles those at their first import.
install() { "$venv/bin/python" -m pip --disable-pip-version-check install -qq --no-compile "$@"; }
rm -f "$venv"/set-up-*

# torch first and alone, at its pin: what follows must not replace it by another build.
say "installing torch into $venv (once; some minutes)"
install "$(grep '^torch==' constraints.txt)" -c constraints.txt
say "installing toddle[$extras]"
install -c constraints.txt --editable ".[$extras]"
if [ "$mode" = dev ]; then
    say "installing LIBERO without its dependencies"
    install --no-deps -c constraints.txt hf-libero robosuite bddl
fi
echo "$sum" >"$venv/set-up-$mode"
say "done"
