#!/usr/bin/env bash
# Print the submission folders that a pull request adds, one a line. Refuse the pull request if it changes anything
# else: a merged submission is never edited, predictions are attached instead of committed, and the verifier's
# statements (verified.json, rerun-*.json) are written by the maintainers alone.
#
#   submissions.sh CHECKOUT BASE
set -euo pipefail
checkout=$1 base=$2
folders=()
refuse() { printf '%s\n' "$1" >&2; exit 1; }
while IFS= read -r -d '' path; do
    shown=$(printf '%q' "$path")
    if [[ $path =~ ^leaderboard/(results|submissions)/[^/]+/(verified|rerun-[^/]*)\.json$ ]]; then
        refuse "$shown is a statement of the verifier, which only the maintainers write. Remove it."
    fi
    if [[ ! $path =~ ^leaderboard/submissions/([a-z0-9]+(-[a-z0-9]+)*)/(.+)$ ]]; then
        refuse "A pull request with submissions changes nothing else; this one changes $shown."
    fi
    folder=leaderboard/submissions/${BASH_REMATCH[1]}
    if [[ ${BASH_REMATCH[3]} == predictions* ]]; then
        refuse "$shown is not committed: attach it to the pull request instead."
    fi
    if git -C "$checkout" cat-file -e "$base:$folder" 2>/dev/null; then
        refuse "$folder is merged already and never edited. Submit under another name."
    fi
    folders+=("$folder")
done < <(git -C "$checkout" diff --name-only --no-renames -z "$base...HEAD")
((${#folders[@]})) || refuse "No submission was changed."
printf '%s\n' "${folders[@]}" | sort -u
