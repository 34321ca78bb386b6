#!/usr/bin/env bash
# The submission folders that a pull request changes, one a line; refused where it changes anything else,
# or one that is merged already: submissions are never edited, and what is derived of them is the maintainers'.
#
#   submissions.sh CHECKOUT BASE
set -euo pipefail
checkout=$1 base=$2
folders=()
while IFS= read -r -d '' path; do
    if [[ ! $path =~ ^leaderboard/submissions/([a-z0-9]+(-[a-z0-9]+)*)/. ]]; then
        printf 'A pull request with submissions changes nothing else; this one changes %q.\n' "$path" >&2
        exit 1
    fi
    folder=leaderboard/submissions/${BASH_REMATCH[1]}
    if git -C "$checkout" cat-file -e "$base:$folder" 2>/dev/null; then
        printf '%s is merged already and never edited. Submit under another name.\n' "$folder" >&2
        exit 1
    fi
    folders+=("$folder")
done < <(git -C "$checkout" diff --name-only --no-renames -z "$base...HEAD")
((${#folders[@]})) || { echo "No submission was changed." >&2; exit 1; }
printf '%s\n' "${folders[@]}" | sort -u
