#!/usr/bin/env bash
# An environment for each peer that benchmarks/api.py measures beside ours, or their pins fight.
#
#     benchmarks/peers.sh FOLDER && python benchmarks/api.py --peers FOLDER
#
# What is there already is left as it is. PYTHON names the interpreter; some 3 GB are taken in all. None of them needs
# torch to speak to an API; should one bring it all the same, it is the build that we use.
set -uo pipefail

folder=${1:?usage: benchmarks/peers.sh FOLDER}
mkdir -p "$folder"
grep '^torch==' "$(dirname "$0")/../constraints.txt" > "$folder/constraints.txt"
failed=()

peer() { # NAME REQUIREMENT...: a finished environment in FOLDER/NAME, or its name among the failed
    local home=$folder/$1
    [ -e "$home/.made" ] && return
    "${PYTHON:-python3}" -m venv "$home" &&
        "$home/bin/pip" install --quiet --disable-pip-version-check -c "$folder/constraints.txt" "${@:2}" &&
        touch "$home/.made" || failed+=("$1")
}

peer distilabel "distilabel[openai]==1.5.3" requests
peer curator bespokelabs-curator==0.1.31
peer prometheus_eval prometheus-eval==0.1.20
peer inspect_ai inspect-ai==0.3.285 openai
peer alpaca_eval alpaca-eval==0.6.6 "setuptools<81" "pandas<3"

if ((${#failed[@]})); then
    echo "not installed: ${failed[*]}" >&2
    exit 1
fi
