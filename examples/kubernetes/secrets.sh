#!/bin/sh
# Makes the two Secrets that the manifests refer to, with new random values, in the namespace of kubectl's context.
# Nothing of them is in a file here. The rights are those of docs/deploy.md, and what STATEFUL_ROUTE_HISTORY needs besides: +lrange
# +ltrim +rpush. For the chart it takes the name of the release: `secrets.sh tea` makes the Secrets tea and tea-valkey. It fails if they are there: with other values, pods that run and
# those that start could neither speak to each other nor to Valkey.
set -eu
name=${1:-room}
valkey=${1:+$1-}valkey
password=$(openssl rand -hex 32)
peers=$(openssl rand -hex 32)
rights='resetkeys ~sr2:* resetchannels &sr2:events:* nocommands +client|setinfo +del +eval +evalsha +exists +get +hdel +hget +hgetall +hmget +hset +info +lrange +ltrim +pexpire +ping +pttl +publish +rpush +sadd +set +smembers +subscribe +time +type +unsubscribe +zadd +zcount +zrangebyscore +zrem +zrevrangebyscore'

kubectl create -f - <<SECRETS
apiVersion: v1
kind: Secret
metadata: {name: $name}
stringData:
  redis-url: redis://app:$password@$valkey
  peer-secret: $peers
---
apiVersion: v1
kind: Secret
metadata: {name: $valkey}
stringData:
  users.acl: |
    user default off
    user app on >$password $rights
SECRETS
