#!/bin/sh
# Sourced by the other scripts: exports what .env of the working folder sets and the environment does not, and by
# our names what is set by those of other engines.
#
#   . "$root/scripts/dotenv.sh" && load_dotenv [IMAGE...]
#
# There is one reader of .env, the program's: this checkout's, or that of the first of these images that is here.
# Status 1: there is an .env and nothing to read it with. An .env that cannot be read ends the script with 2.
# shellcheck disable=SC2154  # root and docker are the caller's

load_dotenv() {
    # One whose set-up was interrupted cannot read anything.
    if "$root/.venv/bin/python" -c 'import click, dotenv, pydantic, vllm_engine' 2>/dev/null; then
        status=0
        found=$("$root/.venv/bin/python" -m vllm_engine.cli dotenv) || status=$?
        case $status in
            0) eval "$found" && return ;;
            2) exit 2 ;;
        esac
    fi
    if [ ! -f .env ]; then return 0; fi
    command -v "$docker" >/dev/null 2>&1 || return 1
    # What ${NAME} in it may stand for: names, as the values may be secret.
    names=$(sed -n 's/\${\([A-Za-z_][A-Za-z0-9_]*\)/\
--env \1\
/gp' .env | sed -n 's/^--env /&/p')
    for image in "$@"; do
        "$docker" image inspect "$image" >/dev/null 2>&1 || continue
        status=0
        # shellcheck disable=SC2086  # a word is an argument
        found=$("$docker" run --rm --interactive --network none --entrypoint vllm-engine $names "$image" dotenv --stdin <.env) ||
            status=$?
        case $status in
            0) eval "$found" && return ;;
            2) exit 2 ;;
        esac
    done
    return 1
}
