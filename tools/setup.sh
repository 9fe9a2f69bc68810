#!/usr/bin/env bash
# Makes a virtual environment and installs the project into it, editable, in the versions of constraints.txt.
#
#   tools/setup.sh VENV EXTRAS                                  as in: tools/setup.sh .venv metaworld,dev
#   tools/setup.sh VENV EXTRAS CONSTRAINTS [REQUIREMENT ...]    in other versions, and beside other packages
#
# PYTHON names the interpreter to make it with. On Debian and Ubuntu the libraries for rendering without a screen are
# installed too when this runs as root; otherwise the line to run is printed.
set -euo pipefail
cd "$(dirname "$0")/.."

usage="usage: tools/setup.sh VENV EXTRAS [CONSTRAINTS [REQUIREMENT ...]]"
venv=${1:?$usage}
extras=${2:?$usage}
constraints=${3:-constraints.txt}
requirements=("${@:4}")
candidates=${PYTHON:-python3.11 python3.12 python3.13 python3}

# Whether $1 runs, is new enough and can make virtual environments (Debian splits that off). A version manager's
# launcher may exist and still not run, so the only test is to run it.
usable_python() {
  "$1" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1
}

make_venv() {
  local candidate
  for candidate in $candidates; do
    if usable_python "$candidate"; then
      "$candidate" -m venv --clear "$venv"
      return
    fi
  done
  echo "Found no usable Python among: $candidates" >&2
  echo "One of them has to run (pyenv: only active versions do) and to have its venv module (Debian: python3-venv)." >&2
  echo "To name another: make PYTHON=path/to/python TARGET" >&2
  return 1
}

# MuJoCo renders without a screen through EGL, in software where there is no GPU; LIBERO and tiled
# pictures also load OpenCV. Playwright looks at pages with Chromium.
system_packages() {
  echo libegl1 libgl1 libgl1-mesa-dri
  case ",$extras," in *,libero,* | *,tiles,*) echo libglib2.0-0 ;; esac
  case " ${requirements[*]} " in *" playwright "*) echo chromium ;; esac
}

install_system_packages() {
  command -v dpkg-query >/dev/null && command -v apt-get >/dev/null || return 0
  local package missing=()
  for package in $(system_packages); do
    [ "$(dpkg-query --show --showformat '${db:Status-Status}' "$package" 2>/dev/null)" = installed ] ||
      missing+=("$package")
  done
  [ ${#missing[@]} -gt 0 ] || return 0
  if [ "$(id -u)" = 0 ]; then
    apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -qq -y "${missing[@]}" && return 0
  fi
  echo "Rendering without a screen needs system packages that are not installed. Run:" >&2
  echo "  sudo apt-get update && sudo apt-get install -y ${missing[*]}" >&2
}

install_system_packages
"$venv/bin/python" -m pip --version >/dev/null 2>&1 || make_venv
# Constraints always: left alone, pip takes releases of torch and mujoco that do not work with the rest.
"$venv/bin/python" -m pip install --disable-pip-version-check -c "$constraints" -e ".[$extras]" "${requirements[@]}"
