#!/usr/bin/env bash
# The Wan VAE in the browser, on all GPUs of this machine. `./launch.sh --help` explains the options, and
# `./launch.sh decode --help` those of the command line.
set -euo pipefail
export WANVAE_CALLER="$PWD" # relative paths start there
cd "$(dirname "$0")"

die() { echo "launch.sh: $*" >&2; exit 1; }

find_python() { # prints the name of a Python 3.11 or later
    local python
    for python in .venv/bin/python python3 python3.13 python3.12 python3.11 python; do
        if "$python" -c "import sys; sys.exit(sys.version_info < (3, 11))" 2>/dev/null; then
            echo "$python"
            return
        fi
    done
    die "Python 3.11 or later is needed and was not found; install it (Debian: apt install python3 python3-venv)."
}

checksum() { # of what it reads; macOS has no sha256sum
    if command -v sha256sum >/dev/null; then sha256sum; else shasum -a 256; fi
}

install() { # install EXTRA; does nothing if the same was installed before
    local extra=$1 stamp python
    stamp="$(cat pyproject.toml constraints.txt | checksum | cut -d' ' -f1)"
    if [ -f ".venv/installed$extra" ] && [ "$(cat ".venv/installed$extra")" = "$stamp" ]; then return; fi
    if [ ! -x .venv/bin/python ]; then
        python="$(find_python)"
        "$python" -m venv .venv || die "no virtual environment could be made (Debian: apt install python3-venv)."
    fi
    echo "Installing into .venv (once; the next start takes no time)..." >&2
    .venv/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".$extra" ||
        die "the installation failed; pip says why above. Run the same command again to continue."
    echo "$stamp" >".venv/installed$extra"
    echo "$stamp" >".venv/installed" # what every extra comes on top of
}

find_browser() { # prints the path of an installed Chromium or Chrome, or nothing
    local name
    for name in chromium chromium-browser google-chrome google-chrome-stable; do
        if command -v "$name"; then return; fi
    done
}

get_browser() { # prints the path of Chromium or Chrome; installs Chromium if there is neither
    find_browser | grep . && return
    if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
        { apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq chromium; } >&2 || true
        find_browser | grep . && return
    fi
    .venv/bin/python -m playwright install chromium >&2 || true
    .venv/bin/python - <<'PYTHON' && return
import os, sys
from playwright.sync_api import sync_playwright
with sync_playwright() as p:
    print(p.chromium.executable_path)
    sys.exit(not os.path.exists(p.chromium.executable_path))
PYTHON
    return 1
}

case "${1:-}" in
--test)
    shift
    install "[test]"
    BROWSER_PATH="$(get_browser)" ||
        die "the tests need a browser: install Chromium or Chrome (Debian: apt install chromium) and try again."
    export BROWSER_PATH
    exec .venv/bin/python -m pytest "$@"
    ;;
-h | --help)
    python="$(find_python)"
    exec "$python" -m wanvae_app.cli.launch "$@"
    ;;
decode | encode)
    python="$(find_python)"
    case " $* " in *" --help "* | *" -h "*) exec "$python" -m wanvae_app.cli.clip_launch "$@" ;; esac
    "$python" -m wanvae_app.cli.clip_launch "$1" --check-only "${@:2}" # as below
    install ""
    exec .venv/bin/python -m wanvae_app.cli.clip_launch "$@"
    ;;
*)
    python="$(find_python)"
    "$python" -m wanvae_app.cli.launch --check-only "$@" # refuses wrong options before anything is installed
    install ""
    exec .venv/bin/python -m wanvae_app.cli.launch "$@"
    ;;
esac
