#!/usr/bin/env bash
# Builds a wheel for every CPython at hand (on the PATH, and of pyenv), installs each into a fresh
# environment where no compiler can be found, and runs the quickstart there.
#   tests/install/wheels.sh [FOLDER]   wheels and environments go to FOLDER, default build/wheels
set -uo pipefail
cd "$(dirname "$0")/../.." || exit 1
folder=$(realpath -m "${1:-build/wheels}")
mkdir -p "$folder"
command -v ccache >/dev/null && export CMAKE_CXX_COMPILER_LAUNCHER=ccache
export PIP_DISABLE_PIP_VERSION_CHECK=1

pythons() {  # "3.11 /path/to/python", one a minor version
  local candidates=() candidate
  for candidate in python3.{10..14} python3; do
    candidates+=("$(command -v "$candidate" || true)")
  done
  if command -v pyenv >/dev/null; then
    candidates+=("$(pyenv root)"/versions/*/bin/python)
  fi
  for candidate in "${candidates[@]}"; do
    [ -x "$candidate" ] && "$candidate" -c 'import os, sys, sysconfig
header = os.path.join(sysconfig.get_paths()["include"], "Python.h")
if sys.version_info >= (3, 10) and os.path.exists(header):
    print("%d.%d" % sys.version_info[:2], sys.executable)' 2>/dev/null
  done | sort -u -k1,1 -V
}

quickstart='
import sys, threading
import smallmind as sm
with sm.Engine(sm.pull("smollm2-135m-instruct")) as engine:
    text = engine.generate("The capital of France is", max_tokens=6, temperature=0).text
    assert text.startswith(" Paris"), text
    texts = []
    threads = [threading.Thread(target=lambda: texts.append(
        engine.generate("The capital of France is", max_tokens=6, temperature=0).text))
        for _ in range(4)]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    assert texts == [text] * 4, texts
    token = sm.CancellationToken()
    with engine.stream("A story:", max_tokens=500, ignore_eos=True, cancel=token) as stream:
        next(stream)
        token.cancel()
    assert stream.finish_reason == "cancelled", stream.finish_reason
print(sys.version.split()[0], sm.__version__, "quickstart ok")
'

one() {
  local version=$1 python=$2 work=$folder/$1
  rm -rf "$work" && mkdir -p "$work"
  "$python" -m venv "$work/build" && "$work/build/bin/python" -m pip wheel --quiet --no-deps . \
    --wheel-dir "$work" || return 1
  "$python" -m venv "$work/run" || return 1
  "$work/run/bin/python" -m pip install --quiet "$work"/smallmind-*.whl || return 1
  (cd "$work" && env -i HOME="$HOME" PATH="$work/run/bin" \
    ${SMALLMIND_CACHE:+SMALLMIND_CACHE="$SMALLMIND_CACHE"} \
    "$work/run/bin/python" -c "$quickstart")
}

n=0
failed=0
while read -r version python; do
  n=$((n + 1))
  one "$version" "$python" </dev/null || { echo "FAILED: Python $version ($python)"; failed=1; }
done < <(pythons)
[ $n -gt 0 ] || { echo "no CPython 3.10 or newer with headers was found"; exit 1; }
exit $failed
