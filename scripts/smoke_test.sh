#!/bin/sh
# Wait until a server is ready, showing what it does, and check that it answers as it should.
#
#   scripts/smoke_test.sh [--help]
#
#   BASE_URL           the server (this machine's: HOST and PORT, https if TLS_CERT_FILE is set; http://127.0.0.1:8000)
#   API_KEY            its key, if it wants one (without BASE_URL: the first key that API_KEYS has in plain)
#   TIMEOUT_SECONDS    how long it may take to become ready (1800)
#   NAME               its container (vllm-engine): when that ends before it is ready, waiting ends too
#
# They come from the environment or else from .env here, as for run_image.sh. Needs curl.
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
. "$root/scripts/gpu.sh"
repo=${IMAGE_REPO:-vllm-engine}
load_dotenv "$repo:${IMAGE_TAG:-${TARGET:-cuda}}" "$repo:cuda" "$repo:cpu" ||
    echo 'smoke_test: .env is NOT READ: neither .venv of this checkout (make setup) nor an image is there for it' >&2

key=${API_KEY:-}
port=${PORT:-8000}
if [ -n "${BASE_URL:-}" ]; then
    url=${BASE_URL%/}
    url=${url%/v1}
else
    # Where run_image.sh and Compose publish it.
    host=${HOST:-127.0.0.1}
    case $host in
        0.0.0.0) host=127.0.0.1 ;;
        :: | '[::]') host='[::1]' ;;
        \[*) ;;
        *:*) host="[$host]" ;;
    esac
    url=http${TLS_CERT_FILE:+s}://$host:$port
    if [ -z "$key" ]; then
        # As auth.py reads it: entries key, name:key or name:sha256:HEX, by blanks or commas. Never sent to another BASE_URL.
        set -f
        for entry in $(printf %s "${API_KEYS:-}" | tr , ' '); do
            case $entry in *:sha256:*) continue ;; esac
            key=${entry#*:}
            break
        done
        set +f
    fi
fi
timeout=${TIMEOUT_SECONDS:-1800}
command -v curl >/dev/null 2>&1 || { echo 'smoke_test: error: curl is missing' >&2 && exit 2; }
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
trap 'exit 130' INT TERM
body=$folder/body
# The key goes by a file: command lines are no place for it.
: >"$folder/curl"
if [ -n "$key" ]; then
    quoted=$(printf %s "$key" | sed 's/[\\"]/\\&/g')
    (umask 077 && printf 'header = "Authorization: Bearer %s"\n' "$quoted" >"$folder/curl")
fi
# This machine asks itself, under a name that the certificate need not have.
if [ -z "${BASE_URL:-}" ] && [ -n "${TLS_CERT_FILE:-}" ]; then echo insecure >>"$folder/curl"; fi

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

# JSON's escapes, as far as a line of text needs them: line ends and other control characters become blanks.
unescape() {
    mark=$(printf '\001')
    sed -e "s/\\\\\\\\/$mark/g" -e 's/\\[bfnrt]/ /g' -e 's/\\u00[01][0-9a-fA-F]/ /g' -e 's/\\\(["\/]\)/\1/g' -e "s/$mark/\\\\/g"
}

# A string or number of the answer, by its key: the first such one.
field() { # key
    tr -d '\n' <"$body" | sed -n "s/.*\"$1\": *\"\(\([^\"\\\\]\|\\\\.\)*\)\".*/\1/p; t; s/.*\"$1\": *\([0-9.]*\).*/\1/p" | unescape
}

# --- ready? ---------------------------------------------------------------------------------------------------

# The last lines of a container that ended, if it is there to be asked.
ended() {
    [ -z "${BASE_URL:-}" ] && command -v "$docker" >/dev/null 2>&1 || return 1
    [ "$("$docker" container inspect --format '{{.State.Status}}' "${NAME:-vllm-engine}" 2>/dev/null)" = exited ]
}

# Whether nobody listens there and no container publishes that port, so that nobody will. Not asked of a server elsewhere.
nothing_is_there() {
    [ -z "${BASE_URL:-}" ] && grep -q '^curl: (7)' "$folder/error" || return 1
    [ -z "$("$docker" ps --quiet --filter "publish=$port" 2>/dev/null)" ]
}
patience=$((timeout < 10 ? timeout : 10))

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
    if [ "$status" = 000 ] && [ "$elapsed" -ge "$patience" ] && nothing_is_there; then
        if [ -n "$(why_no_docker "$docker")" ]; then
            fail "nothing listens at $url; start a server first (make run, as no Docker answers here), or set BASE_URL or PORT"
        fi
        start=scripts/run_image.sh
        if ! docker_has_gpu "$docker"; then start="TARGET=cpu $start, as Docker has no NVIDIA GPU here"; fi
        fail "nothing listens at $url; start a server first (by $start; without Docker: make run), or set BASE_URL or PORT;" \
            'why one ended: docker ps --all, docker logs'
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
if [ "$status" = 401 ]; then
    if [ -n "$key" ]; then fail 'the server does not accept this key: set API_KEY to one of its own'; fi
    fail 'the server wants a key: set API_KEY'
fi
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
