#!/usr/bin/env bash
# Prints the digest that the tag of each image from elsewhere has now, as lines for .env:
#   tools/pin-images.sh >>.env
# From then on `docker compose` builds from and starts exactly these. Pulls them, which building would do anyway.
set -euo pipefail
cd "$(dirname "$0")/.."
sed -n 's/.*\${\([A-Z]*_IMAGE\):-\([^}]*\)}.*/\1 \2/p' docker-compose.yml | sort -u | while read -r name tag; do
    digest=$(docker pull "$tag" </dev/null | sed -n 's/^Digest: //p')
    [ -n "$digest" ] || { echo "No digest of $tag" >&2; exit 1; }
    echo "$name=$tag@$digest"
done
