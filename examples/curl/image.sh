#!/usr/bin/env bash
# Asks a model that takes images about one, a file's or one on the web: examples/curl/image.sh MODEL [FILE|URL]
source "$(dirname "$0")/_common.sh"
usage $# "MODEL [FILE|URL]"

# A red square of 2 by 2 pixels, for want of a file.
square=iVBORw0KGgoAAAANSUhEUgAAAAIAAAACCAIAAAD91JpzAAAAEElEQVR4nGP4z8AARAwQCgAf7gP9i18U1AAAAABJRU5ErkJggg==

case ${2:-} in
    "") url=data:image/png\;base64,$square ;;
    http://* | https://* | data:*) url=$2 ;;
    *.png) url=data:image/png\;base64,$(base64 <"$2" | tr -d '\n') ;;
    *.webp) url=data:image/webp\;base64,$(base64 <"$2" | tr -d '\n') ;;
    *.gif) url=data:image/gif\;base64,$(base64 <"$2" | tr -d '\n') ;;
    *) url=data:image/jpeg\;base64,$(base64 <"$2" | tr -d '\n') ;;
esac

post /chat/completions <<BODY
{
  "model": $(json_text "$1"),
  "messages": [
    {
      "role": "user",
      "content": [
        {"type": "text", "text": "What is in this image?"},
        {"type": "image_url", "image_url": {"url": $(json_text "$url")}}
      ]
    }
  ]
}
BODY
