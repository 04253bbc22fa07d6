#!/usr/bin/env bash
# Asks a model, and prints the answer as it comes, in server-sent events: examples/curl/stream.sh MODEL [QUESTION]
source "$(dirname "$0")/_common.sh"
usage $# "MODEL [QUESTION]"

post /chat/completions <<BODY
{
  "model": $(json_text "$1"),
  "messages": [{"role": "user", "content": $(json_text "${2:-What is the ultimate breakfast sandwich?}")}],
  "stream": true
}
BODY
