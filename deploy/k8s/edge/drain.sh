#!/usr/bin/env bash
# drain.sh HOST PORT SECONDS: before Envoy is told to end, let what it carries end. It refuses nothing meanwhile: callers
# are told to go elsewhere with each answer. Envoy's image has no curl; bash speaks enough HTTP for its admin interface.
set -u
host=$1 port=$2 until=$((SECONDS + $3))

ask() {
  exec 3<>"/dev/tcp/$host/$port" || return 1
  printf '%s %s HTTP/1.1\r\nhost: admin\r\nconnection: close\r\ncontent-length: 0\r\n\r\n' "$1" "$2" >&3
  cat <&3
  exec 3>&-
}

ask POST '/drain_listeners?graceful&skip_exit' >/dev/null || exit 0
sleep 3 # whoever still finds this one by its old address
while ((SECONDS < until)); do
  active=$(ask GET '/stats?filter=^http.edge.downstream_rq_active$' | sed -n 's/^http.edge.downstream_rq_active: \([0-9]*\).*/\1/p')
  [[ ${active:-0} == 0 ]] && break
  sleep 1
done
exit 0
