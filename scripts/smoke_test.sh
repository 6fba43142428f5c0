#!/bin/sh
# Wait until a server is ready, showing what it does, and check that it answers as it should.
#
#   scripts/smoke_test.sh [--help]
#
#   BASE_URL           the server (http://127.0.0.1:8000, or PORT's)
#   API_KEY            its key, if it wants one
#   TIMEOUT_SECONDS    how long it may take to become ready (1800)
#   NAME               its container (vllm-engine): when that ends before it is ready, waiting ends too
#
# They come from the environment or else from .env here. Needs curl.
# Exit status: 0 all is well, 1 not, with the server's own diagnosis.
set -eu

case ${1:-} in
    '') ;;
    -h | --help) sed -n '2,/^set -eu$/s/^# \{0,1\}//p' "$0" && exit ;;
    *) printf 'smoke_test: error: unknown argument %s; see --help\n' "$1" >&2 && exit 2 ;;
esac

root=$(cd "$(dirname "$0")/.." && pwd -P)
docker=${DOCKER:-docker}
. "$root/scripts/dotenv.sh"
repo=${IMAGE_REPO:-vllm-engine}
load_dotenv "$repo:${IMAGE_TAG:-${TARGET:-cpu}}" "$repo:cpu" "$repo:cuda" ||
    echo 'smoke_test: .env is NOT READ: neither .venv of this checkout (make setup) nor an image is there for it' >&2

url=${BASE_URL:-http://127.0.0.1:${PORT:-8000}}
url=${url%/}
url=${url%/v1}
timeout=${TIMEOUT_SECONDS:-1800}
command -v curl >/dev/null 2>&1 || { echo 'smoke_test: error: curl is missing' >&2 && exit 2; }
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
trap 'exit 130' INT TERM
body=$folder/body
# The key goes by a file: command lines are no place for it.
: >"$folder/curl"
if [ -n "${API_KEY:-}" ]; then (umask 077 && printf 'header = "Authorization: Bearer %s"\n' "$API_KEY" >"$folder/curl"); fi

say() { printf 'smoke_test: %s\n' "$*"; }
fail() {
    printf 'smoke_test: FAILED: %s\n' "$*" >&2
    exit 1
}

# Ask; prints the status, leaves the answer in $body.
ask() { # path [curl-argument...]
    path=$1
    shift
    : >"$body"
    curl --silent --show-error --config "$folder/curl" --max-time "${ANSWER_SECONDS:-300}" --output "$body" \
        --write-out '%{http_code}' "$@" "$url$path" 2>"$folder/error" || true
}

# A string or number of the answer, by its key: the first such one.
field() { # key
    tr -d '\n' <"$body" | sed -n "s/.*\"$1\": *\"\(\([^\"\\\\]\|\\\\.\)*\)\".*/\1/p; t; s/.*\"$1\": *\([0-9.]*\).*/\1/p"
}

# --- ready? ---------------------------------------------------------------------------------------------------

# The last lines of a container that ended, if it is there to be asked.
ended() {
    [ -z "${BASE_URL:-}" ] && command -v "$docker" >/dev/null 2>&1 || return 1
    [ "$("$docker" container inspect --format '{{.State.Status}}' "${NAME:-vllm-engine}" 2>/dev/null)" = exited ]
}

shown=
began=$(date +%s)
while :; do
    status=$(ask /healthz --max-time 5)
    elapsed=$(($(date +%s) - began))
    case $status in
        200) break ;;
        000) state="no answer yet ($(sed 's/^curl: //' "$folder/error"))" ;;
        *) state="$(field state), $(field phase)" ;;
    esac
    if [ "$state" != "$shown" ]; then say "$(printf '%4d s  %s' "$elapsed" "$state")" && shown=$state; fi
    if [ "$(field state)" = failed ]; then fail "$(field message); remedy: $(field remedy) [$(field code)]"; fi
    if [ "$status" = 000 ] && ended; then
        "$docker" logs --tail 5 "${NAME:-vllm-engine}" >&2
        fail "the container ended with status" \
            "$("$docker" container inspect --format '{{.State.ExitCode}}' "${NAME:-vllm-engine}"); its last lines are above"
    fi
    if [ "$elapsed" -ge "$timeout" ]; then fail "not ready after $timeout s: $state $(field message)"; fi
    sleep 1
done
say "$(printf '%4d s  ready' "$elapsed")"

# --- does it answer? ------------------------------------------------------------------------------------------

check() { # what wanted-status status
    [ "$2" = "$3" ] || fail "$1: status $3 and not $2: $(head -c 500 "$body")"
}

check version 200 "$(ask /version)"
say "version: $(field version), vLLM $(field vllm), $(field device)"

status=$(ask /v1/models)
if [ "$status" = 401 ]; then fail "the server wants a key: set API_KEY"; fi
check models 200 "$status"
model=$(tr -d '\n' <"$body" | sed 's/"permission".*//' | sed -n 's/.*"data": *\[ *{ *"id": *"\([^"]*\)".*/\1/p')
[ -n "$model" ] || fail "no model is listed: $(head -c 500 "$body")"

chat() { # model stream max_tokens
    ask /v1/chat/completions --header 'Content-Type: application/json' --data "{\"model\": \"$1\", \"stream\": $2,
        \"max_tokens\": $3, \"messages\": [{\"role\": \"user\", \"content\": \"Tell me a joke.\"}]}"
}
check chat 200 "$(chat "$model" false 32)"
answer=$(field content)
[ -n "$answer" ] || fail "chat: no content: $(head -c 500 "$body")"
say "chat: $model says: $answer"

check stream 200 "$(chat "$model" true 32)"
chunks=$(grep -c '^data: {' "$body" || true)
[ "$(grep '^data: ' "$body" | tail -n 1 | tr -d '\r')" = 'data: [DONE]' ] || fail "stream: it has no [DONE]: $(tail -c 500 "$body")"
if grep -q '^data: {"error"' "$body"; then fail "stream: an error in it: $(grep '"error"' "$body" | head -c 500)"; fi
say "stream: $chunks chunks, whole"

check 'a wrong model' 404 "$(chat no-such-model false 1)"
check 'a bad body' 400 "$(ask /v1/chat/completions --header 'Content-Type: application/json' --data '{"model":')"
say "wrong model and bad body: refused as they should be"
say 'all is well'
