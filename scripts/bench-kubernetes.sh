#!/usr/bin/env bash
# How long 60 pods of one node take from their creation to Ready under a real kubelet: with Overlane, with Debian's ptp
# and host-local (dual stack as Overlane), and with a plugin that makes one veth pair and nothing else. Rounds are
# interleaved on one node of one cluster; the runtime takes whichever configuration's name comes first.
# Then the peak memory, CPU time and API requests of agent and controller with 200 pods.
#   scripts/bench-kubernetes.sh BINARIES IMAGE [ROUNDS]      BINARIES: release, overlane-bench-floor among them
set -euo pipefail
cd "$(dirname "$0")/.."
[ $# -ge 2 ] || { sed -n '2,7s/^# \{0,1\}//p' "$0" >&2; exit 2; }
binaries=$(realpath "$1")
image=$(realpath "$2")
rounds=${3:-15}
pods=${PODS:-60}
export NAME=${NAME:-ovk} NODES=1 AUDIT=1
idle=${IDLE:-300}
cluster=tests/kubernetes/cluster.sh
finish() { [ "${KEEP:-}" = 1 ] || "$cluster" down; }
trap finish EXIT
"$cluster" down
"$cluster" up
"$cluster" import "$image"
"$cluster" exec cp "$binaries/overlane" install --kubeconfig "$("$cluster" kubeconfig)"
on() { "$cluster" exec node-0 "$@"; }
for plugin in ptp host-local; do on cp "/usr/lib/cni/$plugin" /opt/cni/bin/; done
on cp "$binaries/overlane-bench-floor" /opt/cni/bin/
declare -A conf=(
  [ptp]='{"cniVersion":"1.0.0","name":"ptp","plugins":[{"type":"ptp","ipMasq":false,"ipam":{"type":"host-local","dataDir":"/run/ptp","ranges":[[{"subnet":"10.99.0.0/24"}],[{"subnet":"fd99::/80"}]],"routes":[{"dst":"0.0.0.0/0"},{"dst":"::/0"}]}}]}'
  [floor]='{"cniVersion":"1.0.0","name":"floor","plugins":[{"type":"overlane-bench-floor"}]}'
)
use() { # NETWORK
  if [ "$1" = overlane ]; then
    on rm -f /etc/cni/net.d/00-bench.conflist
  else
    on sh -c "echo '${conf[$1]}' >/etc/cni/net.d/00-bench.conflist"
  fi
  sleep 2 # the runtime looks again
}
kubectl() { "$cluster" kubectl "$@"; }
deployment() { # NAME REPLICAS
  cat <<END
apiVersion: apps/v1
kind: Deployment
metadata: {name: $1}
spec:
  replicas: $2
  progressDeadlineSeconds: 600
  selector: {matchLabels: {app: $1}}
  template:
    metadata: {labels: {app: $1}}
    spec:
      nodeSelector: {kubernetes.io/hostname: node-0}
      terminationGracePeriodSeconds: 0
      automountServiceAccountToken: false
      containers: [{name: c, image: "registry.k8s.io/pause:3.10", imagePullPolicy: Never}]
END
}
gone() { while [ -n "$(kubectl get pods -l "app=$1" -o name)" ]; do sleep 0.3; done; }
round() { # NETWORK: prints seconds
  local began ended
  use "$1"
  began=$(date +%s.%N)
  deployment bench "$pods" | kubectl apply -f - >/dev/null
  kubectl rollout status deployment/bench --timeout=300s >/dev/null
  ended=$(date +%s.%N)
  kubectl delete deployment bench --wait=false >/dev/null
  gone bench
  echo "$ended - $began" | bc
}
results=$(mktemp)
echo "warm-up"
for network in overlane ptp floor; do round "$network" >/dev/null; done
for ((i = 1; i <= rounds; i++)); do
  line=
  for network in overlane ptp floor; do line="$line $(round "$network")"; done
  echo "round $i: overlane ptp floor =$line"
  echo "$line" >>"$results"
done
use overlane
/usr/bin/python3 - "$results" "$pods" <<'END'
import statistics, sys
rows = [list(map(float, line.split())) for line in open(sys.argv[1])]
def interval(values):
    # Order statistics of the binomial, 95 %.
    values, n = sorted(values), len(values)
    tail, term, k = 0.0, 0.5 ** n, 0
    for i in range(n // 2):
        tail += term
        if tail > 0.025:
            break
        k, term = i + 1, term * (n - i) / (i + 1)
    k = max(k - 1, 0)
    return values[k], values[n - 1 - k]
for column, name in enumerate(["overlane", "ptp", "floor"]):
    values = [row[column] for row in rows]
    print(f"{name}: {sys.argv[2]} pods ready after {statistics.median(values):.2f} s (median of {len(values)}; {min(values):.2f} to {max(values):.2f})")
for column, name in [(1, "ptp"), (2, "floor")]:
    ratios = [row[0] / row[column] for row in rows]
    low, high = interval(ratios)
    wide = max(high / statistics.median(ratios) - 1, 1 - low / statistics.median(ratios))
    print(f"overlane / {name}: {statistics.median(ratios):.3f} (95 %: {low:.3f} to {high:.3f}){'' if wide <= 0.02 else ', inconclusive by the 2 % rule'}")
END
rm -f "$results"

echo "200 pods"
pid() { # the agent of node-0, or the leading controller, by its pod's container
  local id
  id=$(kubectl get pods -n kube-system -l "app.kubernetes.io/name=$1" --field-selector "spec.nodeName=$2" -o 'jsonpath={.items[0].status.containerStatuses[0].containerID}')
  grep -ls "${id##*/}" /proc/[0-9]*/cgroup | head -1 | cut -d/ -f3
}
cpu() { awk '{print ($14 + $15) / 100}' "/proc/$1/stat"; }
deployment many 1 | kubectl apply -f - >/dev/null
kubectl rollout status deployment/many >/dev/null
agent=$(pid overlane-agent node-0)
leader=$(kubectl get pods -n kube-system -l app.kubernetes.io/name=overlane-controller -o 'jsonpath={.items[0].spec.nodeName}')
controller=$(pid overlane-controller "$leader")
before=$(cpu "$agent")
kubectl scale deployment many --replicas=200 >/dev/null
kubectl rollout status deployment/many --timeout=600s >/dev/null
after=$(cpu "$agent")
echo "agent: peak $(awk '/VmHWM/ {print $2 / 1024}' "/proc/$agent/status") MiB, $(echo "$after - $before" | bc) s of CPU for 200 pods"
log=${OVERLANE_KUBERNETES:-target/kubernetes}/clusters/$NAME/cp/audit.log
requests() { # SINCE-LINE: what the agent of node-0 asked since then, by verb and kind
  tail -n "+$1" "$log" | jq -r 'select(.user.username == "system:serviceaccount:kube-system:overlane-agent" and
    .user.extra["authentication.kubernetes.io/node-name"] == ["node-0"]) | "\(.verb) \(.objectRef.resource // .requestURI)"' |
    sort | uniq -c | sort -rn
}
echo "requests of the agent of node-0 from its start on:"
requests 1
before=$(cpu "$agent")
lines=$(($(wc -l <"$log") + 1))
sleep "$idle"
echo "agent, idle with 200 pods: $(echo "$(cpu "$agent") - $before" | bc) s of CPU in $idle s; requests:"
requests "$lines"
echo "controller on $leader: peak $(awk '/VmHWM/ {print $2 / 1024}' "/proc/$controller/status") MiB"
kubectl delete deployment many --wait=false >/dev/null
gone many
