//! `overlane lab demo`: three nodes, four pods, and what they can and cannot do, on one screen.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use overlane_core::family::Family;
use overlane_lab::check::probe::{self, Kind, Target};
use overlane_lab::check::servers::Servers;
use overlane_lab::check::{Routes, blocks, mtu};
use overlane_lab::client::LabClient;
use overlane_lab::echo;
use overlane_lab::names::{LabName, Part, pod_part};
use overlane_lab::paths::LabPaths;
use overlane_lab::spec::{self, UpRequest};
use overlane_lab::state::LabRecord;
use overlane_lab::status::{self, LabStatus, PodStatus};
use overlane_lab::{netns, run, vnet};

use crate::args::ApiArg;
use crate::out::{self, Style, Table, cell, paint};
use crate::progress::Progress;

/// Pods and their nodes: two that share one, two that do not.
const PODS: [(&str, &str); 4] = [("ada", "node-0"), ("bob", "node-0"), ("cleo", "node-1"), ("dan", "node-2")];
const UP_PATIENCE: Duration = Duration::from_secs(180);
const POD_PATIENCE: Duration = Duration::from_secs(60);
const PATIENCE: Duration = Duration::from_secs(5);
const SILENCE: Duration = Duration::from_secs(1);
/// Round trips of which the median is shown.
const ROUNDS: usize = 21;

/// A pod, ready to be asked and to ask.
struct Pod {
    row: PodStatus,
    namespace: PathBuf,
}

impl Pod {
    fn ip(&self, family: Family) -> Option<IpAddr> {
        self.row.ips.iter().filter_map(|ip| ip.parse().ok()).find(|ip| Family::of(ip) == family)
    }
}

/// One line of the screen.
struct Proof {
    good: bool,
    title: &'static str,
    who: String,
    what: String,
}

/// Runs the demo: 1 if a proof fails. The lab stays.
pub fn run(name: &LabName, api: &ApiArg) -> Result<ExitCode> {
    let began = Instant::now();
    let running = LabRecord::find(name)?.and_then(|record| record.daemon).is_some_and(|daemon| daemon.alive());
    let fresh = !running;
    if fresh {
        let request = UpRequest {
            name: name.to_string(),
            nodes: 3,
            api: api.api.into(),
            kubernetes_bin: api.kubernetes_bin.clone(),
            ..UpRequest::default()
        };
        crate::lab::bring_up(&spec::resolve(&request)?, UP_PATIENCE, false)?;
    }
    let up_in = began.elapsed();
    let lab = LabClient::open(name)?;
    let progress = Progress::new();
    progress.doing("starting pods");
    let started = Instant::now();
    let (status, pods) = crate::runtime::start()?.block_on(start_pods(&lab))?;
    let pods_in = started.elapsed();
    progress.doing("asking everybody");
    let proofs = prove(&lab, &status, &pods);
    progress.clear();
    let proofs = proofs?;
    let colours = out::colours();
    out::print(&screen(&lab, &status, &pods, &proofs, (fresh.then_some(up_in), pods_in), colours))?;
    Ok(if proofs.iter().all(|proof| proof.good) { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

async fn start_pods(lab: &LabClient) -> Result<(LabStatus, Vec<Pod>)> {
    let client = lab.kube()?;
    let labels = [("app".to_owned(), "demo".to_owned())].into();
    let present = status::pods(&client).await?;
    for (name, node) in PODS {
        if !present.iter().any(|pod| pod.namespace == "default" && pod.name == name) {
            run::create(&client, run::pod("default", name, Some(node), &labels, &[])).await?;
        }
    }
    let mut pods = Vec::new();
    for (name, _) in PODS {
        let row = run::wait_ready(&client, "default", name, POD_PATIENCE).await?;
        let (uid, _) = run::uid(&client, lab.name.as_str(), "default", name).await?;
        pods.push(Pod { row, namespace: netns::path(&lab.name, &pod_part(&uid)) });
    }
    Ok((status::of(lab).await?, pods))
}

fn prove(lab: &LabClient, status: &LabStatus, pods: &[Pod]) -> Result<Vec<Proof>> {
    let [ada, bob, cleo, dan] = pods else { bail!("the demo's pods are not all there") };
    let families = lab.record.families()?;
    let mut servers = Servers::default();
    let vm = netns::path(&lab.record.vnet, &Part::Vm);
    let internet = netns::path(&lab.record.vnet, &Part::Internet);
    let vm_port = servers.start("vm", &vm)?;
    let internet_port = servers.start("internet", &internet)?;
    let mut proofs = vec![
        reach("pod to pod, same node", ada, bob, &families),
        reach("pod to pod, other node", ada, cleo, &families),
        reach("and back", cleo, ada, &families),
        full_size("full-size packets", bob, dan, &families),
        leave("pod to VM", status, cleo, ("vm", vm_port), &families, vnet::vm_address),
        leave("pod to internet", status, dan, ("internet", internet_port), &families, vnet::internet_address),
        refused("internet to pod", "internet", &internet, dan, &families),
        refused("VM to pod", "vm", &vm, dan, &families),
    ];
    let routes = Routes::put(&vm, blocks(status))?;
    proofs.push(refused("VM to pod, routed at its node", "vm", &vm, dan, &families));
    drop(routes);
    Ok(proofs)
}

/// Asks every family; the words of all, or of the first that failed.
fn each(families: &[Family], ask: impl Fn(Family) -> Result<String>) -> (bool, String) {
    let mut words = Vec::new();
    for family in families {
        match ask(*family) {
            Ok(word) => words.push(word),
            Err(error) => return (false, format!("{family}: {error:#}")),
        }
    }
    (true, words.join("   "))
}

fn pod_target(pod: &Pod, family: Family) -> Result<Target> {
    let ip = pod.ip(family).with_context(|| format!("{} has no address of that family", pod.row.name))?;
    Ok(Target { ip, port: echo::PORT, mtu: mtu(&pod.namespace)? })
}

fn reach(title: &'static str, from: &Pod, to: &Pod, families: &[Family]) -> Proof {
    let (good, what) = each(families, |family| {
        let target = pod_target(to, family)?;
        let own = from.ip(family);
        let took = netns::run(&from.namespace, || {
            probe::ask(Kind::TcpBulk, &target, PATIENCE).context("TCP, 64 KiB both ways")?;
            probe::ask(Kind::Icmp, &target, PATIENCE).context("ICMP")?;
            let mut rounds = Vec::new();
            for _ in 0..ROUNDS {
                let seen = probe::ask(Kind::Udp, &target, PATIENCE).context("UDP")?;
                if seen.answer.as_ref().map(|answer| answer.peer) != own {
                    bail!("{} saw another address than {}'s", to.row.name, from.row.name);
                }
                rounds.push(seen.took);
            }
            rounds.sort();
            Ok(rounds.get(ROUNDS / 2).copied().unwrap_or_default())
        })?;
        Ok(format!("{family} {:.0} µs", took.as_secs_f64() * 1e6))
    });
    Proof { good, title, who: format!("{} -> {}", from.row.name, to.row.name), what }
}

fn full_size(title: &'static str, from: &Pod, to: &Pod, families: &[Family]) -> Proof {
    let (good, what) = each(families, |family| {
        let target = pod_target(to, family)?;
        netns::run(&from.namespace, || {
            probe::ask(Kind::UdpFull, &target, PATIENCE).context("UDP")?;
            probe::ask(Kind::IcmpFull, &target, PATIENCE).context("ICMP").map(drop)
        })?;
        Ok(format!("{family} {} bytes", target.mtu))
    });
    Proof { good, title, who: format!("{} -> {}", from.row.name, to.row.name), what }
}

fn leave(
    title: &'static str,
    status: &LabStatus,
    from: &Pod,
    (host, port): (&str, u16),
    families: &[Family],
    address: fn(Family) -> IpAddr,
) -> Proof {
    let node = status.nodes.iter().find(|node| node.name == from.row.node);
    let (good, mut what) = each(families, |family| {
        let target = Target { ip: address(family), port, mtu: mtu(&from.namespace)? };
        let seen = netns::run(&from.namespace, || probe::ask(Kind::Tcp, &target, PATIENCE))?;
        let peer = seen.answer.map(|answer| answer.peer).context("the far side did not say whom it saw")?;
        let own = node.is_some_and(|node| node.addresses.contains(&peer.to_string()));
        if own { Ok(peer.to_string()) } else { bail!("{host} saw {peer}, which is not {}'s address", from.row.node) }
    });
    if good {
        what = format!("it saw {}'s address: {what}", from.row.node);
    }
    Proof { good, title, who: format!("{} -> {host}", from.row.name), what }
}

/// Asks in every family and protocol at once: each must wait out the silence.
fn refused(title: &'static str, host: &str, namespace: &Path, to: &Pod, families: &[Family]) -> Proof {
    let knock = |family: Family, kind: Kind| -> Result<()> {
        let target = pod_target(to, family)?;
        match netns::run(namespace, || probe::ask(kind, &target, SILENCE)) {
            Ok(_) => bail!("{} came through", kind.title()),
            Err(error) if probe::came_to_nothing(&error) => Ok(()),
            Err(error) => Err(error),
        }
    };
    let (good, words) = std::thread::scope(|scope| {
        let knocks = families.iter().flat_map(|family| Kind::SMALL.map(|kind| (*family, kind)));
        let knocks: Vec<_> = knocks.map(|(family, kind)| (family, scope.spawn(move || knock(family, kind)))).collect();
        let mut answers: Vec<(Family, Result<()>)> = Vec::new();
        for (family, thread) in knocks {
            answers.push((family, thread.join().unwrap_or_else(|_| bail!("the asking thread died"))));
        }
        each(families, |family| {
            let failed = answers.iter().filter(|(of, _)| *of == family).find_map(|(_, answer)| answer.as_ref().err());
            failed.map_or(Ok(family.to_string()), |error| Err(anyhow::anyhow!("{error:#}")))
        })
    });
    let what = if good { format!("refused: TCP, UDP, ICMP; {}", words.replace("   ", ", ")) } else { words };
    Proof { good, title, who: format!("{host} -> {}", to.row.name), what }
}

fn screen(
    lab: &LabClient,
    status: &LabStatus,
    pods: &[Pod],
    proofs: &[Proof],
    (up_in, pods_in): (Option<Duration>, Duration),
    colours: bool,
) -> String {
    let heading = |text: &str| format!("\n{}\n", paint(Style::Bold, text, colours));
    let name = &lab.name;
    let mut text = heading(&match up_in {
        Some(took) => format!(
            "Overlane lab `{name}`: {} nodes up in {:.1} s, {} pods in {:.1} s",
            status.nodes.len(),
            took.as_secs_f32(),
            pods.len(),
            pods_in.as_secs_f32()
        ),
        None => format!("Overlane lab `{name}`: it was up already, {} nodes", status.nodes.len()),
    });
    let mut nodes = Table::new(&["NODE", "ADDRESSES", "", "BLOCKS OF POD ADDRESSES", ""]);
    for node in &status.nodes {
        let mut cells = vec![cell(&node.name)];
        cells.extend(pair(&node.addresses));
        cells.extend(pair(&node.blocks));
        nodes.row(cells);
    }
    text.push_str(&format!("\n{}", nodes.render(2, colours)));
    let mut table = Table::new(&["POD", "NODE", "ADDRESSES", ""]);
    for pod in pods {
        let mut cells = vec![cell(&pod.row.name), cell(&pod.row.node)];
        cells.extend(pair(&pod.row.ips));
        table.row(cells);
    }
    text.push_str(&format!("\n{}", table.render(2, colours)));
    let mut shown = Table::new(&["", "PROOF", "WHO", "WHAT CAME OF IT"]);
    for proof in proofs {
        let mark = if proof.good { (Style::Good, "ok".to_owned()) } else { (Style::Bad, "NOT SO".to_owned()) };
        shown.row([mark, cell(proof.title), cell(&proof.who), cell(&proof.what)]);
    }
    text.push_str(&format!("\n{}", shown.render(2, colours)));
    text.push_str(&heading("The lab goes on running. Try:"));
    let own = std::env::current_exe().map(|path| path.display().to_string()).unwrap_or_else(|_| "overlane".to_owned());
    let ip = pods.get(2).and_then(|pod| pod.row.ips.first().cloned()).unwrap_or_default();
    for line in [
        format!("{own} lab exec ada --name {name} -- curl -s http://{ip}:8080/"),
        format!("{own} lab check --name {name}"),
        format!("kubectl --kubeconfig {} get pods,nnc -A", LabPaths::of(name).kubeconfig().display()),
        format!("{own} lab down --name {name}     # ends it"),
    ] {
        text.push_str(&format!("  {line}\n"));
    }
    text
}

/// Two cells: the values of the first and the second family.
fn pair(values: &[String]) -> [(Style, String); 2] {
    [0, 1].map(|index| cell(values.get(index).cloned().unwrap_or_default()))
}
