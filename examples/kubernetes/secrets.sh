#!/bin/sh
# Makes the two Secrets that the manifests refer to, with new random values, in the namespace of kubectl's context.
# Nothing of them is in a file here. The rights are those of docs/deploy.md.
set -eu
password=$(openssl rand -hex 32)
peers=$(openssl rand -hex 32)
rights='resetkeys ~sr2:* resetchannels &sr2:events:* nocommands +client|setinfo +del +eval +evalsha +exists +get +hdel +hget +hgetall +hmget +hset +info +pexpire +ping +pttl +publish +sadd +set +smembers +subscribe +time +type +unsubscribe +zadd +zcount +zrangebyscore +zrem +zrevrangebyscore'

kubectl apply -f - <<SECRETS
apiVersion: v1
kind: Secret
metadata: {name: room}
stringData:
  redis-url: redis://app:$password@valkey
  peer-secret: $peers
---
apiVersion: v1
kind: Secret
metadata: {name: valkey}
stringData:
  users.acl: |
    user default off
    user app on >$password $rights
SECRETS
