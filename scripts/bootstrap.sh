# Sourced by the workspace's scripts, with `root` set to its folder. Requires only Python 3.11+ with pip. Functions:
#   make_tools     create .tools/: uv and tox at the versions of scripts/tools.txt, separate from the other environments
#   configure_uv   make uv use pip's mirror and share files between environments
#   make_venv      create .venv/: pip and all packages, editable, at the versions of constraints.txt
#   add_to_venv    install other packages into .venv/
# Environments that are up to date are reused without network access.
# Variables used: PYTHON (the interpreter), PIP_* and pip's configuration, UV_*.

_log() { printf '%s\n' "$*" >&2; }

_python() { # print the first interpreter that is recent enough
  local candidate
  for candidate in ${PYTHON:-python3 python3.14 python3.13 python3.12 python3.11 python}; do
    if "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
      command -v "$candidate"
      return
    fi
  done
  _log "error: Python 3.11 or newer is required${PYTHON:+, but PYTHON=$PYTHON is older or missing}; set PYTHON=/path/to/python3"
  return 2
}

_stamp() { # _stamp FILE...: print a hash of the files and of the workspace's path
  { printf '%s\n' "$root"; cat -- "$@"; } | "$root/.tools/bin/python" -c \
    'import hashlib, sys; print(hashlib.sha256(sys.stdin.buffer.read()).hexdigest())'
}

_fresh() { # _fresh FOLDER STAMP: whether an environment is up to date
  [ -f "$1/.stamp" ] && [ "$(cat "$1/.stamp")" = "$2" ]
}

_pip() { # run the interpreter's pip, or the one on PATH
  if "$_host" -c 'import pip' 2>/dev/null; then "$_host" -m pip "$@"; else pip "$@"; fi
}

make_tools() {
  local tools=$root/.tools
  _host=$(_python)
  if ! { [ -x "$tools/bin/python" ] && _fresh "$tools" "$(_stamp "$root/scripts/tools.txt")"; }; then
    _log "setting up uv and tox in $tools"
    # Without pip, so that ensurepip (missing on Debian) is not required: the host's pip installs into the environment.
    "$_host" -m venv --clear --without-pip "$tools"
    _pip --python "$tools/bin/python" install -qq --disable-pip-version-check -r "$root/scripts/tools.txt"
    _stamp "$root/scripts/tools.txt" > "$tools/.stamp"
  fi
  PATH=$tools/bin:$PATH
}

_setting() { # _setting NAME: print a value from the output of `pip config list` on standard input
  sed -n "s/^[^=]*\.$1='\(.*\)'$/\1/p" | head -n 1
}

configure_uv() { # call before installing
  local settings value
  # uv does not read pip's configuration: pass on a mirror of the default index and its certificate.
  settings=$(_pip config list 2>/dev/null) || settings=
  value=$(_setting index-url <<< "$settings")
  if [ -n "$value" ] && [ -z "${UV_DEFAULT_INDEX:-}${UV_INDEX_URL:-}" ]; then export UV_DEFAULT_INDEX=$value; fi
  value=$(_setting cert <<< "$settings")
  if [ -n "$value" ] && [ -z "${SSL_CERT_FILE:-}" ]; then export SSL_CERT_FILE=$value; fi
  # torch with CUDA is 5 GB: environments share it by hard links, which require uv's cache on the same file system.
  if [ -z "${UV_CACHE_DIR:-}" ]; then
    UV_CACHE_DIR=$("$root/.tools/bin/python" - "$(uv cache dir)" "$root" <<'PYTHON'
import os
import sys

cache, root = sys.argv[1:]
place = cache
while not os.path.exists(place):
    place = os.path.dirname(place)
print(cache if os.stat(place).st_dev == os.stat(root).st_dev else os.path.join(root, ".tools-cache"))
PYTHON
    )
    export UV_CACHE_DIR
  fi
}

_choose_output() { # set `output` to uv's options: bars of the downloads on a terminal, otherwise silence
  output=(--color auto)
  if [ ! -t 2 ]; then output=(--quiet); fi
}

make_venv() {
  local venv=$root/.venv projects=("$root"/*/pyproject.toml) stamp project arguments
  make_tools
  stamp=$(_stamp "$root/constraints.txt" "${projects[@]}")
  if ! { [ -x "$venv/bin/python" ] && _fresh "$venv" "$stamp"; }; then
    _log "installing the packages in $venv (about 6 GB the first time, mostly torch)"
    configure_uv
    _choose_output
    uv venv --quiet --clear --python "$root/.tools/bin/python" "$venv"
    arguments=(pip)  # for the user, who would otherwise install into another environment
    for project in "${projects[@]}"; do arguments+=(-e "$(dirname "$project")"); done
    arguments+=(-e "$root/common[export]")
    # Compile byte code now, so that the first command does not have to.
    uv pip install "${output[@]}" --compile-bytecode --python "$venv/bin/python" \
      --constraint "$root/constraints.txt" --build-constraint "$root/constraints.txt" "${arguments[@]}"
    printf '%s\n' "$stamp" > "$venv/.stamp"
  fi
  PATH=$venv/bin:$PATH
}

add_to_venv() { # add_to_venv [ARGUMENT OF PIP INSTALL...]: call after make_venv
  local python=$root/.venv/bin/python
  if "$python" -c 'import pip' 2>/dev/null && [ $# = 0 ]; then return; fi  # older environments have no pip
  configure_uv
  _choose_output
  uv pip install "${output[@]}" --compile-bytecode --python "$python" \
    --constraint "$root/constraints.txt" --build-constraint "$root/constraints.txt" pip "$@"
}
