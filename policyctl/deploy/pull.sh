#!/bin/sh
# Brings a folder up to date with a branch. FOLDER/current is a link to a checkout of the newest commit, and FOLDER/pulled has the
# time at which that was last known: pull.sh FOLDER [SECONDS], with SECONDS again and again.
# Each commit is checked out aside, and the link is replaced in one step: wherever this is cut off, half a revision is never read.
# The variables REPOSITORY and BRANCH have what is pulled.
set -eu
if [ $# -gt 1 ]; then
    trap 'exit 0' TERM INT
    while :; do
        sh "$0" "$1" || echo 'the newest policies could not be pulled' >&2
        sleep "$2" &
        wait "$!"
    done
fi
mkdir -p "$1"
cd "$1"
used=$(readlink current || true)
# What an earlier time left: a checkout that was cut off, or one that was replaced, and is not read any more.
rm -rf new link
for old in at-*; do
    [ "$old" = "$used" ] || rm -rf "$old"
done
line=$(git ls-remote --exit-code "$REPOSITORY" "refs/heads/$BRANCH")
commit=${line%%[!0-9a-f]*}
case $used in
*-"$commit") ;;
*)
    git clone -q --depth 1 --no-tags --branch "$BRANCH" -- "$REPOSITORY" new
    name=at-$(date +%s)-$(git -C new rev-parse HEAD)
    sync -f new
    mv new "$name"
    ln -s "$name" link
    mv -T link current
    ;;
esac
touch pulled
