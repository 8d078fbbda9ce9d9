#!/bin/sh
# SeaweedFS with one S3 key, from the environment. Its configuration is a file, so it is written here.
set -eu
umask 077
cat > /tmp/s3.json <<JSON
{"identities": [{"name": "updater", "actions": ["Admin", "Read", "Write", "List", "Tagging"],
  "credentials": [{"accessKey": "$AWS_ACCESS_KEY_ID", "secretKey": "$AWS_SECRET_ACCESS_KEY"}]}]}
JSON
# Of its servers only S3 asks for a key, so it alone can be reached from other containers.
exec weed -logtostderr=true server -dir=/data -ip=127.0.0.1 -ip.bind=127.0.0.1 -volume.max=0 \
    -master.volumeSizeLimitMB=1024 -master.telemetry=false \
    -filer -s3 -s3.port=8333 -s3.ip.bind=0.0.0.0 -s3.config=/tmp/s3.json
