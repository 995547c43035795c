//! `overlane connectivity`: pods on every node ask each other, the nodes, Services and names, as `lab check` does in a
//! lab, and whatever they see is held against what they must.

pub mod ask;
mod exec;
mod pods;
mod settle;

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, bail};
use futures::StreamExt as _;
use k8s_openapi::api::core::v1::{Node, Pod, Service};
use kube::api::ListParams;
use kube::{Api, Client, ResourceExt as _};
use overlane_core::family::Family;
use overlane_install::AGENT;
use overlane_lab::check::plan::{self, Place, Question, Role, Way};
use overlane_lab::check::pool::Outcome;
use overlane_lab::check::probe::{Kind, Seen, Target};
use overlane_lab::check::report;
use overlane_lab::echo;
use tokio::time::Instant;

use crate::args::ConnectivityArgs;
use crate::cluster::read::{each, node_says};
use crate::lab::render_check;
use crate::out::{self, Format};
use crate::progress::Progress;
use crate::{cluster, uninstall};

use ask::{Answer, Task};
pub use pods::sweep;
use pods::{SERVICE_PORT, World};

/// Up to so many nodes each has two pods.
const FEW_NODES: usize = 10;
/// Pods that are asked at once.
const AT_ONCE: usize = 8;
/// Where the outside is said to be, in the report.
const OUTSIDE: &str = "outside";

/// Runs the check; exit code 1 if anything is not as it has to be.
pub fn run(args: &ConnectivityArgs) -> Result<ExitCode> {
    let progress = Arc::new(Progress::new());
    let checked = crate::runtime::start()?.block_on(async {
        let client = cluster::client(&args.kube).await?;
        tokio::select! {
            report = check(&client, args, &progress) => return report,
            _ = tokio::signal::ctrl_c() => {}
        }
        progress.doing("interrupted: taking the pods away");
        sweep(&client).await?;
        Err(anyhow!("interrupted"))
    });
    progress.clear();
    let report = checked?;
    match args.output.output {
        Format::Json => out::json(&report)?,
        Format::Table => out::print(&render_check(&report, out::colours()))?,
    }
    Ok(if report.good { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

async fn check(client: &Client, args: &ConnectivityArgs, progress: &Arc<Progress>) -> Result<report::Report> {
    let until = Instant::now() + Duration::from_secs(args.timeout);
    let nodes = nodes(client, args.max_nodes).await?;
    let image = match &args.image {
        Some(image) => image.clone(),
        None => agents_image(client).await?,
    };
    let each = if nodes.len() > FEW_NODES { 1 } else { 2 };
    progress.doing(&format!("starting {} pods on {} nodes", nodes.len() * (each + 1), nodes.len()));
    let mut world = World::make(client, &nodes, each, &image, until).await?;
    let checked = ask_all(client, &mut world, &args.outside, progress).await;
    progress.doing("taking the pods away");
    let removed = world.remove().await;
    let report = checked?;
    removed?;
    Ok(report)
}

/// Nodes of ours that pods can run on; some of them, evenly chosen, where there are more than `most`.
async fn nodes(client: &Client, most: usize) -> Result<Vec<String>> {
    let api: Api<Node> = Api::all(client.clone());
    // Nodes that the agents' selector leaves out (of another system, say) are none of ours.
    let agents = uninstall::find(client, AGENT).await?;
    let selector = agents.and_then(|agents| agents.spec?.template.spec?.node_selector).unwrap_or_default();
    let mut names = Vec::new();
    let take = |node: Node| {
        let ours = selector.iter().all(|(key, value)| node.labels().get(key) == Some(value));
        names.extend((ours && node_says(&node, "Ready", "True")).then(|| node.name_any()));
    };
    each(&api, ListParams::default(), "nodes", take).await?;
    if names.is_empty() {
        bail!("no node is ready; `overlane status` says why");
    }
    names.sort_unstable();
    if names.len() > most {
        eprintln!("{} of {} nodes are checked; --max-nodes takes more", most, names.len());
        names = (0..most).filter_map(|place| names.get(place * names.len() / most).cloned()).collect();
    }
    Ok(names)
}

async fn agents_image(client: &Client) -> Result<String> {
    let pods: Api<Pod> = Api::all(client.clone());
    let agents = ListParams::default().labels(&format!("app.kubernetes.io/name={AGENT}")).limit(1);
    let agent = pods.list(&agents).await.context("look for the agents")?.items.into_iter().next();
    let image = agent.and_then(|pod| pod.spec?.containers.into_iter().next()?.image);
    image.context("no agent runs, so that its image could be used; name one with --image")
}

/// A question as the report knows it, and as a pod is asked.
type Asked = (Question, Task);

async fn ask_all(
    client: &Client,
    world: &mut World,
    outside: &[SocketAddr],
    progress: &Arc<Progress>,
) -> Result<report::Report> {
    let mtu = mtu(client, world).await?;
    for place in &mut world.places {
        place.mtu = mtu;
    }
    let mut asked = between(&world.places);
    to_outside(&mut asked, &mut world.places, outside);
    to_services(client, &mut asked, world).await?;
    progress.doing("waiting until every node's proxy knows the check's Service");
    settle::settle(client, world).await?;
    let total = asked.len();
    let mut by_asker: BTreeMap<usize, Vec<Asked>> = BTreeMap::new();
    for (question, task) in asked {
        by_asker.entry(question.from).or_default().push((question, task));
    }
    let pods: Api<Pod> = Api::namespaced(client.clone(), &world.namespace);
    let done = Arc::new(AtomicUsize::new(0));
    let rounds = by_asker.into_iter().map(|(from, asked)| {
        let asker = world.places.get(from).and_then(|place| world.askers.get(&place.name)).cloned();
        let (pods, done, progress) = (pods.clone(), Arc::clone(&done), Arc::clone(progress));
        async move {
            let asker = asker.context("a question has nobody to ask it")?;
            let told = || progress.count("asking", done.fetch_add(1, Ordering::Relaxed) + 1, total);
            questions(&pods, &asker, asked, told).await.with_context(|| format!("ask from pod {asker}"))
        }
    });
    let mut outcomes = Vec::new();
    let mut running = futures::stream::iter(rounds).buffer_unordered(AT_ONCE);
    while let Some(answered) = running.next().await {
        outcomes.extend(answered?);
    }
    Ok(report::judge(&world.places, &outcomes))
}

/// The pods' MTU: the least of those of all pods, asked of the kernel in each.
async fn mtu(client: &Client, world: &World) -> Result<usize> {
    let pods: Api<Pod> = Api::namespaced(client.clone(), &world.namespace);
    let pods = &pods;
    let of_pod = |place: &Place| {
        let name = place.name.clone();
        async move {
            let text = exec::output(pods, &name, &["/usr/bin/overlane", "probe", "--mtu"]).await?;
            text.trim().parse::<usize>().with_context(|| format!("{name}: {text:?} is no MTU"))
        }
    };
    let asked: Vec<_> = world.places.iter().filter(|place| place.role == Role::Pod).map(of_pod).collect();
    let found: Vec<Result<usize>> = futures::stream::iter(asked).buffer_unordered(AT_ONCE).collect().await;
    let found = found.into_iter().collect::<Result<Vec<usize>>>()?;
    found.into_iter().min().context("there is no pod to ask")
}

/// Every pod and node with every other, as a lab's check asks.
fn between(places: &[Place]) -> Vec<Asked> {
    let questions = plan::questions(places, &Family::ALL);
    let task = |question: &Question| Task::Echo {
        kind: question.kind,
        to: SocketAddr::new(question.target.ip, question.target.port),
        mtu: question.target.mtu,
    };
    questions.into_iter().map(|question| (question.clone(), task(&question))).collect()
}

/// Pods to a host outside, which has to see their node.
fn to_outside(asked: &mut Vec<Asked>, places: &mut Vec<Place>, outside: &[SocketAddr]) {
    for address in outside {
        let family = Family::of(&address.ip());
        places.push(Place {
            role: Role::Internet,
            name: OUTSIDE.to_owned(),
            node: None,
            namespace: PathBuf::new(),
            addresses: BTreeMap::from([(family, address.ip())]),
            port: address.port(),
            mtu: places.iter().map(|place| place.mtu).min().unwrap_or_default(),
        });
        // What lies between the nodes and there may have a smaller MTU.
        let sized = [Kind::TcpBulk, Kind::Tcp, Kind::Udp, Kind::Icmp];
        let to_it = |(question, _): &Asked| {
            question.way == Way::PodToInternet && question.target.ip == address.ip() && sized.contains(&question.kind)
        };
        asked.extend(between(places).into_iter().filter(to_it));
    }
}

/// Pods and nodes to the check's Service, by address; pods also by name, and to the API server's Service.
async fn to_services(client: &Client, asked: &mut Vec<Asked>, world: &mut World) -> Result<()> {
    let services: Api<Service> = Api::namespaced(client.clone(), "default");
    let api = services.get("kubernetes").await.context("read Service default/kubernetes")?;
    let api_ips: Vec<IpAddr> = api
        .spec
        .and_then(|spec| spec.cluster_ips)
        .unwrap_or_default()
        .iter()
        .filter_map(|ip| ip.parse().ok())
        .collect();
    let here = world.places.len();
    let service = |name: &str, ips: &[IpAddr]| Place {
        role: Role::Internet,
        name: name.to_owned(),
        node: None,
        namespace: PathBuf::new(),
        addresses: ips.iter().map(|ip| (Family::of(ip), *ip)).collect(),
        port: SERVICE_PORT,
        mtu: 0,
    };
    world.places.push(service("service echo", &world.service));
    world.places.push(service("service kubernetes", &api_ips));
    let question = |way, kind, from, to, ip: IpAddr| Question {
        way,
        family: Family::of(&ip),
        kind,
        from,
        to,
        target: Target { ip, port: SERVICE_PORT, mtu: 0 },
        // A client that its own node's proxy sends back to itself is masqueraded: who is seen depends on the proxy.
        seen: Vec::new(),
    };
    for (from, place) in world.places.iter().take(here).enumerate() {
        if place.role == Role::Internet {
            continue;
        }
        let way = if place.role == Role::Pod { Way::PodToService } else { Way::NodeToService };
        for ip in world.service.iter().filter(|ip| place.addresses.contains_key(&Family::of(ip))) {
            let to = SocketAddr::new(*ip, SERVICE_PORT);
            for kind in [Kind::Tcp, Kind::TcpBulk, Kind::Udp] {
                asked.push((question(way, kind, from, here, *ip), Task::Echo { kind, to, mtu: place.mtu }));
            }
        }
        if place.role != Role::Pod {
            continue;
        }
        for ip in api_ips.iter().filter(|ip| place.addresses.contains_key(&Family::of(ip))) {
            let task = Task::Connect { to: SocketAddr::new(*ip, 443) };
            asked.push((question(Way::PodToApiServer, Kind::Tcp, from, here + 1, *ip), task));
        }
        if let Some(first) = world.service.first() {
            let task = Task::Resolve { name: world.service_name(), want: world.service.clone() };
            asked.push((question(Way::PodToName, Kind::Name, from, here, *first), task));
        }
    }
    Ok(())
}

/// Has a pod ask its questions.
async fn questions(pods: &Api<Pod>, pod: &str, asked: Vec<Asked>, told: impl Fn()) -> Result<Vec<Outcome>> {
    let (questions, tasks): (Vec<Question>, Vec<Task>) = asked.into_iter().unzip();
    let answers = exec::probe(pods, pod, &tasks, told).await?;
    let outcome = |(question, answer)| Outcome { question, result: seen(answer) };
    Ok(questions.into_iter().zip(answers).map(outcome).collect())
}

fn seen(answer: Answer) -> Result<Seen> {
    if let Some(failure) = answer.failure {
        bail!(failure);
    }
    let said = answer.name.zip(answer.peer).map(|(name, peer)| echo::Answer { name, peer });
    Ok(Seen { answer: said, took: Duration::from_micros(answer.micros) })
}
