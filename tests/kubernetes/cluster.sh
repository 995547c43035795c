#!/usr/bin/env bash
# A real Kubernetes on this machine: etcd, API server, kubelets, containerd and runc, each node a network namespace with
# a mount namespace of its own (/run, /etc, /opt and /var are the node's). No network plugin is installed.
#   cluster.sh up               brings it up; nodes are registered, and not ready for want of a network
#   cluster.sh down             ends it and leaves nothing behind but its logs
#   cluster.sh exec NODE CMD... runs a command on a node
#   cluster.sh start|stop|kill NODE PROGRAM     a node's containerd, kubelet, kube-proxy; cp's etcd, kube-apiserver, ...
#   cluster.sh reboot NODE      ends everything on a node, empties its /run, starts it again
#   cluster.sh join NODE        starts a node that was not there; the next number is its address
#   cluster.sh leave NODE       ends a node for good; its Node object stays
#   cluster.sh import FILE...   gives every node the images of archives
#   cluster.sh kubeconfig       prints the path of the administrator's kubeconfig, usable inside `exec cp`
# Set by the environment: NAME (ovk), NODES (2, beside the control plane's), FAMILIES (ipv4,ipv6), PROXY (nftables),
# OVERLANE_KUBERNETES (target/kubernetes), AUDIT=1 (requests of service accounts, in cp/audit.log).
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
base=${OVERLANE_KUBERNETES:-$here/../../target/kubernetes}
mkdir -p "$base"
base=$(cd "$base" && pwd)
bin=$base/bin
NAME=${NAME:-ovk}
dir=$base/clusters/$NAME
[ -e "$dir/settings" ] && [ "${1:-}" != up ] && . "$dir/settings"
NODES=${NODES:-2}
FAMILIES=${FAMILIES:-ipv4,ipv6}
PROXY=${PROXY:-nftables}

die() { echo "cluster.sh: $*" >&2; exit 2; }
ns() { echo "$NAME-$1"; }
has() { [[ ,$FAMILIES, == *,$1,* ]]; }
first() { echo "${FAMILIES%%,*}"; }
# of_families V4 V6: the two in the order of the families
of_families() {
  case $FAMILIES in
    ipv4) echo "$1" ;; ipv6) echo "$2" ;; ipv4,ipv6) echo "$1,$2" ;; ipv6,ipv4) echo "$2,$1" ;;
    *) die "FAMILIES=$FAMILIES: ipv4, ipv6, or both in either order" ;;
  esac
}
number() { # NODE: its host number on the VNet
  case $1 in cp) echo 10 ;; *) echo $((11 + ${1##*-})) ;; esac
}
v4() { echo "10.20.0.$(number "$1")"; }
v6() { echo "fd20::$(number "$1")"; }
node_ips() { of_families "$(v4 "$1")" "$(v6 "$1")"; }
api_host() { case $(first) in ipv4) echo 10.20.0.10 ;; *) echo '[fd20::10]' ;; esac; }
service_cidrs() { of_families 10.0.0.0/16 fd12:3456:789a:1::/108; }
dns_ips() { of_families 10.0.0.10 fd12:3456:789a:1::a; }
all_nodes() { echo cp; for ((i = 0; i < NODES; i++)); do echo "node-$i"; done; }

# --- programs: each by its pid file, in the node's two namespaces ---
inside() { # NODE COMMAND...: runs in the node's namespaces
  local node=$1
  shift
  alive "$node" keeper || die "node $node is not up"
  nsenter -t "$(cat "$dir/$node/keeper.pid")" --mount --net --uts --wd="$PWD" -- "$@"
}
# A process that has ended and that nobody has waited for is not alive; and a pid of a file that outlived a reboot may be
# anybody's: ours are in their node's namespace.
runs() { # PID NODE
  local net
  net=$(stat -Lc %i "/run/netns/$(ns "$2")" 2>/dev/null) || return 1
  grep -qs '^State:[[:space:]][^ZX]' "/proc/$1/status" && [ "$(readlink "/proc/$1/ns/net")" = "net:[$net]" ]
}
alive() { [ -s "$dir/$1/$2.pid" ] && runs "$(cat "$dir/$1/$2.pid")" "$1"; } # NODE PROGRAM
launch() { # NODE PROGRAM COMMAND...: starts it in the background, its log beside the pid
  local node=$1 program=$2
  shift 2
  alive "$node" "$program" && return
  rm -f "$dir/$node/$program.pid"
  # The shell becomes nsenter, which becomes the program: the pid is the program's.
  setsid bash -c 'echo $$ >"$1"; log=$2; keeper=$3; shift 3; exec nsenter -t "$keeper" --mount --net --uts -- "$@" >>"$log" 2>&1 </dev/null' \
    - "$dir/$node/$program.pid" "$dir/$node/$program.log" "$(cat "$dir/$node/keeper.pid")" "$@" &
  disown
  local tries=100
  until [ -s "$dir/$node/$program.pid" ] || [ $((tries -= 1)) = 0 ]; do sleep 0.02; done
}
finish() { # NODE PROGRAM SIGNAL: ends it and waits
  local file=$dir/$1/$2.pid pid tries=200
  [ -e "$file" ] || return 0
  alive "$1" "$2" || { rm -f "$file"; return 0; }
  pid=$(cat "$file")
  kill "-$3" "$pid" 2>/dev/null || true
  while runs "$pid" "$1"; do
    [ $((tries -= 1)) -gt 0 ] || kill -KILL "$pid" 2>/dev/null || true
    sleep 0.05
  done
  rm -f "$file"
}
wait_for() { # WHAT SECONDS COMMAND...
  local what=$1 until=$((SECONDS + $2))
  shift 2
  until "$@" >/dev/null 2>&1; do
    [ "$SECONDS" -lt "$until" ] || die "waited in vain for $what; logs are in $dir"
    sleep 0.2
  done
}

# --- certificates ---
certificates() {
  mkdir -p "$dir/pki"
  cd "$dir/pki"
  [ -e ca.crt ] && return
  openssl req -x509 -newkey rsa:2048 -nodes -keyout ca.key -out ca.crt -days 3650 -subj /CN=overlane-test 2>/dev/null
  openssl genrsa -out sa.key 2048 2>/dev/null
  openssl rsa -in sa.key -pubout -out sa.pub 2>/dev/null
  certificate apiserver /CN=kube-apiserver \
    "DNS:kubernetes,DNS:kubernetes.default,DNS:kubernetes.default.svc,DNS:kubernetes.default.svc.cluster.local,DNS:localhost,IP:127.0.0.1,IP:::1,IP:10.20.0.10,IP:fd20::10,IP:10.0.0.1,IP:fd12:3456:789a:1::1"
  certificate admin /O=system:masters/CN=admin
  certificate kube-controller-manager /CN=system:kube-controller-manager
  certificate kube-scheduler /CN=system:kube-scheduler
  certificate kube-proxy /CN=system:kube-proxy
  for user in admin kube-controller-manager kube-scheduler kube-proxy; do kubeconfig "$user"; done
}
certificate() { # NAME SUBJECT [ALTERNATIVES]
  local name=$1 subject=$2 names=${3:-}
  openssl req -newkey rsa:2048 -nodes -keyout "$name.key" -out "$name.csr" -subj "$subject" 2>/dev/null
  openssl x509 -req -in "$name.csr" -CA ca.crt -CAkey ca.key -CAcreateserial -days 3650 -out "$name.crt" \
    -extfile <(echo "extendedKeyUsage=clientAuth,serverAuth"; [ -z "$names" ] || echo "subjectAltName=$names") 2>/dev/null
}
kubeconfig() { # USER: a kubeconfig beside its certificate
  cat >"$1.kubeconfig" <<END
apiVersion: v1
kind: Config
clusters: [{name: c, cluster: {server: "https://$(api_host):6443", certificate-authority: $dir/pki/ca.crt}}]
users: [{name: u, user: {client-certificate: $dir/pki/$1.crt, client-key: $dir/pki/$1.key}}]
contexts: [{name: c, context: {cluster: c, user: u}}]
current-context: c
END
}

# --- the machine: a bridge as VNet, a namespace a node ---
vnet() {
  ip netns list | grep "^$(ns vnet)\b" >/dev/null && return
  ip netns add "$(ns vnet)"
  ip -n "$(ns vnet)" link set lo up
  ip -n "$(ns vnet)" link add br0 type bridge
  ip -n "$(ns vnet)" link set br0 up
  ip netns exec "$(ns vnet)" sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1
  ip -n "$(ns vnet)" addr add 10.20.0.1/24 dev br0
  ip -n "$(ns vnet)" addr add fd20::1/64 dev br0 nodad
  # What stands for the internet, behind the router.
  ip netns add "$(ns internet)"
  ip -n "$(ns internet)" link set lo up
  ip -n "$(ns vnet)" link add internet type veth peer name eth0 netns "$(ns internet)"
  ip -n "$(ns vnet)" link set internet up
  ip -n "$(ns vnet)" addr add 198.51.100.254/24 dev internet
  ip -n "$(ns vnet)" addr add 2001:db8:ffff::fe/64 dev internet nodad
  ip -n "$(ns internet)" link set eth0 up
  ip -n "$(ns internet)" addr add 198.51.100.1/24 dev eth0
  ip -n "$(ns internet)" addr add 2001:db8:ffff::1/64 dev eth0 nodad
  ip -n "$(ns internet)" route add 10.20.0.0/24 via 198.51.100.254
  ip -n "$(ns internet)" route add fd20::/64 via 2001:db8:ffff::fe
}
machine() { # NODE: its namespaces
  local node=$1 link
  alive "$node" keeper && return
  rm -f "$dir/$node/keeper.pid"
  mkdir -p "$dir/$node"/{etc,opt,var}{,.work} "$dir/$node/containerd"
  ip netns list | grep "^$(ns "$node")\b" >/dev/null || {
    link=ovk$(printf %s "$NAME$node" | cksum | cut -c1-8)
    ip netns add "$(ns "$node")"
    ip -n "$(ns vnet)" link add "$link" type veth peer name eth0 netns "$(ns "$node")"
    ip -n "$(ns vnet)" link set "$link" master br0 up
    ip -n "$(ns "$node")" link set lo up
    ip -n "$(ns "$node")" link set eth0 up
    if has ipv4; then
      ip -n "$(ns "$node")" addr add "$(v4 "$node")/24" dev eth0
      ip -n "$(ns "$node")" route add default via 10.20.0.1
    fi
    if has ipv6; then
      ip -n "$(ns "$node")" addr add "$(v6 "$node")/64" dev eth0 nodad
      ip -n "$(ns "$node")" route add default via fd20::1
    fi
  }
  # The keeper holds the mount namespace; everything else of the node is started beside it.
  setsid nsenter --net="/run/netns/$(ns "$node")" unshare --mount --uts --propagation private bash -c '
    dir=$1
    for part in etc opt var; do mount -t overlay overlay -o "lowerdir=/$part,upperdir=$dir/$part,workdir=$dir/$part.work" "/$part"; done
    mount -t tmpfs -o mode=755 tmpfs /run
    mkdir -p /run/netns /run/lock /etc/cni/net.d /opt/cni/bin /var/lib/kubelet /var/log/pods /var/log/containers
    rm -f /etc/cni/net.d/* /opt/cni/bin/*
    rm -f /etc/resolv.conf; echo "nameserver 198.51.100.1" >/etc/resolv.conf
    hostname "${dir##*/}" # what pods on its network are called
    echo $$ >"$dir/keeper.pid"
    exec sleep infinity' - "$dir/$node" >>"$dir/$node/keeper.log" 2>&1 </dev/null &
  disown
  wait_for "node $node" 10 test -s "$dir/$node/keeper.pid"
}

control_plane() {
  launch cp etcd etcd --data-dir "$dir/cp/etcd" --listen-client-urls http://127.0.0.1:2379 --advertise-client-urls http://127.0.0.1:2379 \
    --listen-peer-urls http://127.0.0.1:2380 --unsafe-no-fsync --logger zap
  local audit=()
  if [ "${AUDIT:-}" = 1 ]; then
    cat >"$dir/cp/audit.yaml" <<END
apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [ResponseStarted, ResponseComplete, Panic]
rules: [{level: Metadata, userGroups: ["system:serviceaccounts"]}, {level: None}]
END
    audit=(--audit-policy-file="$dir/cp/audit.yaml" --audit-log-path="$dir/cp/audit.log")
  fi
  launch cp kube-apiserver "$bin/kube-apiserver" --etcd-servers=http://127.0.0.1:2379 --secure-port=6443 --bind-address="$(has ipv6 && echo :: || echo 0.0.0.0)" \
    --advertise-address="$(api_host | tr -d '[]')" --service-cluster-ip-range="$(service_cidrs)" --authorization-mode=Node,RBAC \
    --enable-admission-plugins=NodeRestriction --allow-privileged --client-ca-file="$dir/pki/ca.crt" \
    --tls-cert-file="$dir/pki/apiserver.crt" --tls-private-key-file="$dir/pki/apiserver.key" \
    --kubelet-preferred-address-types=InternalIP --kubelet-client-certificate="$dir/pki/admin.crt" --kubelet-client-key="$dir/pki/admin.key" \
    --service-account-issuer=https://kubernetes.default.svc --service-account-key-file="$dir/pki/sa.pub" \
    --service-account-signing-key-file="$dir/pki/sa.key" --runtime-config=api/all=true "${audit[@]}" --v=1
  wait_for "the API server" 90 api get --raw /readyz
  launch cp kube-controller-manager "$bin/kube-controller-manager" --kubeconfig="$dir/pki/kube-controller-manager.kubeconfig" \
    --allocate-node-cidrs=false --use-service-account-credentials --root-ca-file="$dir/pki/ca.crt" --bind-address=127.0.0.1 \
    --service-account-private-key-file="$dir/pki/sa.key" --cluster-signing-cert-file="$dir/pki/ca.crt" --cluster-signing-key-file="$dir/pki/ca.key" --v=1
  launch cp kube-scheduler "$bin/kube-scheduler" --kubeconfig="$dir/pki/kube-scheduler.kubeconfig" --bind-address=127.0.0.1 --v=1
}
api() { inside cp "$bin/kubectl" --kubeconfig "$dir/pki/admin.kubeconfig" "$@"; }

runtime() { # NODE: containerd
  local node=$1
  cat >"$dir/$node/containerd.toml" <<END
version = 3
root = '$dir/$node/containerd/root'
state = '/run/containerd'
[grpc]
  address = '/run/containerd/containerd.sock'
[plugins.'io.containerd.cri.v1.images'.pinned_images]
  sandbox = 'registry.k8s.io/pause:3.10'
[plugins.'io.containerd.cri.v1.runtime']
  restrict_oom_score_adj = true
  [plugins.'io.containerd.cri.v1.runtime'.cni]
    bin_dirs = ['/opt/cni/bin']
    conf_dir = '/etc/cni/net.d'
END
  launch "$node" containerd env "PATH=$bin:$PATH" "$bin/containerd" -c "$dir/$node/containerd.toml"
}
kubelet() { # NODE
  local node=$1 taints=() zero=0.0.0.0
  # One that finds no runtime ends, and there is nobody here who would start it again.
  wait_for "containerd on $node" 30 inside "$node" "$bin/ctr" -a /run/containerd/containerd.sock version
  (cd "$dir/pki" && { [ -e "$node.crt" ] || certificate "$node" "/O=system:nodes/CN=system:node:$node"; kubeconfig "$node"; })
  [ "$node" = cp ] && taints=(--register-with-taints=node-role.kubernetes.io/control-plane:NoSchedule --node-labels=node-role.overlane.test/control-plane=)
  has ipv6 && zero=::
  cat >"$dir/$node/kubelet.yaml" <<END
apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
address: "$zero"
healthzBindAddress: 127.0.0.1
failCgroupV1: false
cgroupDriver: cgroupfs
cgroupsPerQOS: false
enforceNodeAllocatable: []
failSwapOn: false
containerRuntimeEndpoint: unix:///run/containerd/containerd.sock
volumePluginDir: /var/lib/kubelet/plugins
staticPodPath: /etc/kubernetes/manifests
registryPullQPS: 0
imageGCHighThresholdPercent: 100
evictionHard: {memory.available: "50Mi"}
maxPods: ${MAX_PODS:-250}
clusterDomain: cluster.local
clusterDNS: [$(dns_ips | sed 's/[^,]*/"&"/g')]
authentication: {anonymous: {enabled: false}, webhook: {enabled: true}, x509: {clientCAFile: $dir/pki/ca.crt}}
authorization: {mode: Webhook}
tlsCertFile: $dir/pki/$node.crt
tlsPrivateKeyFile: $dir/pki/$node.key
syncFrequency: 10s
nodeStatusUpdateFrequency: 5s
END
  inside "$node" mkdir -p /etc/kubernetes/manifests
  launch "$node" kubelet env "PATH=$bin:$PATH" "$bin/kubelet" --config="$dir/$node/kubelet.yaml" --kubeconfig="$dir/pki/$node.kubeconfig" \
    --root-dir="$dir/$node/kubelet" --cert-dir="$dir/$node/kubelet-pki" --hostname-override="$node" --node-ip="$(node_ips "$node")" "${taints[@]}" --v=2
}
proxy() { # NODE
  local node=$1
  [ "$PROXY" = none ] && return
  cat >"$dir/$node/kube-proxy.yaml" <<END
apiVersion: kubeproxy.config.k8s.io/v1alpha1
kind: KubeProxyConfiguration
mode: $PROXY
hostnameOverride: $node
clientConnection: {kubeconfig: $dir/pki/kube-proxy.kubeconfig}
clusterCIDR: "$(of_families 10.244.0.0/16 fd12:3456:789a::/64)"
bindAddress: "$(node_ips "$node" | cut -d, -f1)"
healthzBindAddress: 127.0.0.1:10256
metricsBindAddress: 127.0.0.1:10249
conntrack: {maxPerCore: 0}
END
  # Not all that it changes is the namespace's: what is the machine's stays.
  launch "$node" kube-proxy env "PATH=$bin:$PATH" "$bin/kube-proxy" --config="$dir/$node/kube-proxy.yaml" --v=2
}
node() { # NODE: everything on it but the control plane
  machine "$1"
  runtime "$1"
  wait_for "containerd on $1" 30 inside "$1" "$bin/ctr" -a /run/containerd/containerd.sock version
  local images=()
  [ ! -e "$dir/imports" ] || mapfile -t images <"$dir/imports"
  load "$1" "$base"/images/*.tar "${images[@]}"
  kubelet "$1"
  proxy "$1"
}
load() { # NODE FILE...: imports images that the node has not got from the very same file
  local node=$1 file mark
  shift
  for file in "$@"; do
    file=$(realpath "$file") # the node's working directory is another
    mark=$dir/$node/imported.$(basename "$file")
    [ "$mark" -nt "$file" ] && continue
    inside "$node" "$bin/ctr" -a /run/containerd/containerd.sock -n k8s.io images import "$file" >>"$dir/$node/import.log" 2>&1 ||
      die "import $file on $node: see $dir/$node/import.log"
    touch "$mark"
  done
}
silence() { # NODE: ends every container, then every program
  local node=$1 keeper shim groups
  alive "$node" keeper || return 0
  keeper=$(cat "$dir/$node/keeper.pid")
  finish "$node" kubelet KILL
  finish "$node" kube-proxy KILL
  finish "$node" containerd KILL
  # Those too whose first process is dead: nobody else will delete them.
  mapfile -t groups < <(ls "/proc/$keeper/root/run/containerd/io.containerd.runtime.v2.task/k8s.io" 2>/dev/null)
  # What containerd started lives in the node's mount namespace, or in one made from it.
  for shim in $(pgrep -f "containerd-shim-runc-v2 -namespace k8s.io .* -address /run/containerd/containerd.sock" || true); do
    [ "$(readlink "/proc/$shim/ns/mnt")" = "$(readlink "/proc/$keeper/ns/mnt")" ] || continue
    pkill -KILL -P "$shim" || true
    kill -KILL "$shim" 2>/dev/null || true
  done
  [ "${#groups[@]}" = 0 ] || groups_gone "${groups[@]}"
}
# Control groups belong to the machine and outlive the processes of containers that nobody deletes: as a reboot would,
# this takes them away. The next kubelet looks at each that is left, for seconds, before it starts a pod.
groups_gone() { # CONTAINER...
  local tries=50 id left
  until [ $((tries -= 1)) = 0 ]; do
    left=()
    for id in $(printf '%s\n' "$@" | sort -u); do
      find /sys/fs/cgroup{,/*}/k8s.io/"$id" -depth -type d -exec rmdir {} + 2>/dev/null || true
      ! ls -d /sys/fs/cgroup{,/*}/k8s.io/"$id" 2>/dev/null | grep . >/dev/null || left+=("$id")
    done
    [ "${#left[@]}" != 0 ] || return 0
    set -- "${left[@]}"
    sleep 0.1
  done
  die "control groups of ended containers stay: ${left[*]}"
}

up() {
  [ "$(id -u)" = 0 ] || die "a cluster of namespaces needs root"
  "$here/setup.sh"
  "$here/build.sh"
  "$here/images.sh"
  mkdir -p "$dir"
  printf 'NODES=%q\nFAMILIES=%q\nPROXY=%q\nMAX_PODS=%q\n' "$NODES" "$FAMILIES" "$PROXY" "${MAX_PODS:-250}" >"$dir/settings"
  # What kubelets set is the machine's, not a namespace's: it goes back at the end.
  [ -e "$dir/sysctls" ] || sysctl vm.overcommit_memory vm.panic_on_oom kernel.panic kernel.panic_on_oops kernel.keys.root_maxkeys \
    kernel.keys.root_maxbytes fs.inotify.max_user_instances 2>/dev/null | tr -d ' ' >"$dir/sysctls" || true
  [ "$(sysctl -n fs.inotify.max_user_instances)" -ge 1024 ] || sysctl -qw fs.inotify.max_user_instances=1024
  certificates
  vnet
  machine cp
  control_plane
  local node
  for node in $(all_nodes); do node "$node" & done
  wait
  wait_for "all nodes" 60 eval '[ "$(api get nodes -o name | wc -l)" = '"$((NODES + 1))"' ]'
  api apply -f - >/dev/null <<END
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {name: test-kube-proxy}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: system:node-proxier}
subjects: [{kind: User, name: system:kube-proxy}]
END
  dns
  echo "cluster $NAME is up: $(api get nodes --no-headers | wc -l) nodes, $FAMILIES; kubectl is '$0 kubectl'"
}
dns() { # CoreDNS as a Deployment behind the cluster's DNS address
  local families addresses
  families=$(of_families '"IPv4"' '"IPv6"')
  addresses=$(dns_ips | sed 's/[^,]*/"&"/g')
  sed -e "s|@FAMILIES@|$families|; s|@ADDRESSES@|$addresses|; s|@FIRST@|${addresses%%,*}|" "$here/coredns.yaml" | api apply -f - >/dev/null
}
down() {
  local node program
  for node in $(ls "$dir" 2>/dev/null); do
    [ -d "$dir/$node/containerd" ] || continue
    silence "$node"
    for program in kube-scheduler kube-controller-manager kube-apiserver etcd; do finish "$node" "$program" KILL; done
    finish "$node" keeper KILL
  done
  for node in $(ip netns list | awk '{print $1}' | grep "^$NAME-" || true); do ip netns del "$node"; done
  [ ! -e "$dir/sysctls" ] || { sysctl -qp "$dir/sysctls" 2>/dev/null || true; rm -f "$dir/sysctls"; }
  # Mounts went with their namespaces; what stays are logs.
  rm -rf "$dir"/*/containerd "$dir"/*/kubelet "$dir"/*/etcd "$dir"/*/imported.* "$dir"/*/{etc,opt,var}{,.work} "$dir"/pki "$dir"/settings "$dir"/imports "$dir"/cp/audit.* 2>/dev/null || true
}

case ${1:-} in
  up) up ;;
  down) down ;;
  exec) shift; node=$1; shift; PATH=$bin:$PATH inside "$node" "$@" ;;
  kubectl) shift; api "$@" ;;
  kubeconfig) echo "$dir/pki/admin.kubeconfig" ;;
  import)
    shift
    realpath "$@" >>"$dir/imports" # for nodes that join later
    for node in $(all_nodes); do ! alive "$node" keeper || load "$node" "$@"; done ;;
  start)
    case $3 in
      containerd) runtime "$2" ;;
      kubelet) kubelet "$2" ;;
      kube-proxy) proxy "$2" ;;
      etcd | kube-apiserver | kube-controller-manager | kube-scheduler) control_plane ;;
      *) die "no program is called $3" ;;
    esac ;;
  stop) finish "$2" "$3" TERM ;;
  kill) finish "$2" "$3" KILL ;;
  reboot)
    silence "$2"
    finish "$2" keeper KILL
    ip netns del "$(ns "$2")"
    rm -f "$dir/$2/keeper.pid"
    node "$2" ;;
  join) node "$2" ;;
  leave)
    silence "$2"
    finish "$2" keeper KILL
    ip netns del "$(ns "$2")"
    rm -rf "${dir:?}/$2" ;;
  *) sed -n '2,18s/^# \{0,1\}//p' "$0" >&2; exit 2 ;;
esac
