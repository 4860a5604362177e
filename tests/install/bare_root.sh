#!/usr/bin/env bash
# The README's two commands on a machine that has its stated prerequisite and nothing else: makes a
# bare Debian root with debootstrap, installs the prerequisite, and runs both commands in it as an
# ordinary user on a fresh clone of this repository's committed state. Needs root and debootstrap.
#   tests/install/bare_root.sh [--suite bookworm] [--mirror URL] [--root DIR] [--copy FILE]... [--demo-only]
# --copy carries a file of this machine into the root at the same path: a pip.conf that names the
# local index, or a certificate bundle.
set -euo pipefail
cd "$(dirname "$0")/../.."

suite=bookworm
mirror=http://deb.debian.org/debian
base=/var/tmp/smallmind-bare-root
copies=()
demo_only=0
while [ $# -gt 0 ]; do
  case $1 in
    --suite) suite=$2; shift 2 ;;
    --mirror) mirror=$2; shift 2 ;;
    --root) base=$2; shift 2 ;;
    --copy) copies+=("$2"); shift 2 ;;
    --demo-only) demo_only=1; shift ;;
    *) sed -n '2,8s/^# \{0,1\}//p' "$0"; exit 2 ;;
  esac
done
[ "$(id -u)" -eq 0 ] || { echo "needs root, for debootstrap and chroot" >&2; exit 2; }
command -v debootstrap >/dev/null || { echo "missing: debootstrap" >&2; exit 2; }

# The lines that are printed in the README are the lines that run here.
prerequisite=$(grep -m1 -o 'g++ python3-dev python3-venv git' README.md)
demo=$(grep -m1 'smallmind demo$' README.md)
[ -n "$prerequisite" ] && [ -n "$demo" ] || { echo "README.md does not have the commands" >&2; exit 1; }

fresh=$base/$suite
if [ ! -e "$fresh/etc/debian_version" ]; then
  mkdir -p "$fresh"
  debootstrap --variant=minbase "$suite" "$fresh" "$mirror"
fi
mkdir -p "$fresh/proc"
mount -t proc proc "$fresh/proc"
mkdir -p "$fresh/dev/pts" "$fresh/dev/shm"
mount -t devpts -o newinstance,ptmxmode=0666 devpts "$fresh/dev/pts"  # what every machine has
ln -sf pts/ptmx "$fresh/dev/ptmx"
mount -t tmpfs -o mode=1777 tmpfs "$fresh/dev/shm"
trap 'umount "$fresh/dev/shm" "$fresh/dev/pts" "$fresh/proc"' EXIT
cp /etc/resolv.conf "$fresh/etc/resolv.conf"

# shellcheck disable=SC2086  # one word a package
chroot "$fresh" env DEBIAN_FRONTEND=noninteractive sh -c \
  "apt-get update -q && apt-get install -q -y --no-install-recommends $prerequisite"
for file in "${copies[@]}"; do  # after the packages, which bring files of the same name
  mkdir -p "$fresh$(dirname "$file")"
  cp -L "$file" "$fresh$file"
done

chroot "$fresh" sh -c 'id user >/dev/null 2>&1 || useradd --create-home --shell /bin/bash user'
rm -rf "$fresh/home/user/smallmind" "$fresh/home/user/.cache"
git bundle create "$fresh/home/user/smallmind.bundle" HEAD --quiet
chroot "$fresh" su - user -c "git clone --quiet smallmind.bundle smallmind"

in_root() {  # as the user, in the clone, with a clean environment
  local begin=$SECONDS
  printf '\n$ %s\n' "$1"
  chroot "$fresh" su - user -c "cd smallmind && $1" </dev/null
  printf '(%d s)\n' $((SECONDS - begin))
}
in_root "$demo"
[ $demo_only -eq 1 ] || in_root "tests/run"
echo "bare_root.sh: passed"
