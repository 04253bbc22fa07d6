# What the scripts of this folder share; they source it. Needs bash and curl 7.76 or newer.
set -euo pipefail

base_url=${KLUSTER_BASE_URL:-https://api.kluster.ai/v1}
base_url=${base_url%/}
case $base_url in
    https://* | http://127.0.0.1[:/]* | http://localhost[:/]* | "http://[::1]"[:/]*) ;;
    *)
        echo "Error: KLUSTER_BASE_URL=$base_url would send the key unencrypted; use https." >&2
        exit 2
        ;;
esac
if [[ -z ${KLUSTER_API_KEY:-} ]]; then
    echo "Error: KLUSTER_API_KEY is not set. \`kluster emulator\` prints one for a local server." >&2
    exit 2
fi

# usage COUNT TEXT: exits with the usage unless there is an argument.
usage() {
    if (($1 < 1)); then
        echo "Usage: $0 $2" >&2
        exit 2
    fi
}

# json_text TEXT: prints it as a JSON string.
json_text() {
    local text=$1
    text=${text//\\/\\\\}
    text=${text//\"/\\\"}
    text=${text//$'\n'/\\n}
    text=${text//$'\r'/\\r}
    text=${text//$'\t'/\\t}
    printf '"%s"' "$text"
}

# post PATH: sends the JSON on stdin, and prints the answer. The key is read from a pipe: in an argument, `ps` shows it.
post() {
    curl --silent --show-error --fail-with-body --no-buffer \
        --header @<(printf 'Authorization: Bearer %s\n' "$KLUSTER_API_KEY") \
        --header 'Content-Type: application/json' \
        --data-binary @- \
        "$base_url$1"
}
