#!/bin/sh
# Index time and question time with curl: passages are encoded when they are known, and a question finds them.
set -eu
url="${BASE_URL:-http://127.0.0.1:8080}"
key="${API_KEY:-none}"

post() {
  curl --silent --show-error --fail-with-body --no-buffer "$url$1" \
    --header "Authorization: Bearer $key" --header "Content-Type: application/json" --data @-
  echo
}

documents='[
  {"title": "Into the Wild", "text": "Into the Wild is a 2007 American adventure drama film directed by Sean Penn and starring Emile Hirsch and Catherine Keener."},
  {"title": "Sean Penn", "text": "Sean Penn (born 17 August 1960 in Santa Monica) is an American film director. He is the son of actress Eileen Ryan and director Leo Penn."}
]'

echo "# The passages are encoded:"
post /v1/blocks <<JSON
{"passages": $documents}
JSON

echo "# A question finds them:"
post /v1/chat/completions <<JSON
{
  "messages": [{"role": "user", "content": "Who is the mother of the director of film Into the Wild?"}],
  "documents": $documents,
  "temperature": 0,
  "max_tokens": 60
}
JSON

echo "# Another one, streamed, three tokens long:"
post /v1/chat/completions <<JSON
{
  "messages": [{"role": "user", "content": "When was Sean Penn born?"}],
  "documents": $documents,
  "temperature": 0,
  "max_tokens": 3,
  "stream": true
}
JSON
