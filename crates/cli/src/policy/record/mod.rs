//! `overlane policy record`: flows as they begin on this node, with the pods' names at the time.

mod ledger;
mod names;
mod watch;

use std::collections::BTreeSet;
use std::fs::File;
use std::io;
use std::net::IpAddr;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, bail};
use k8s_openapi::jiff::Timestamp;
use kube::Client;
use overlane_api::policy::recording::Recording;
use overlane_datapath::conntrack::{Heard, Listener};
use overlane_datapath::netns::Netns;
use overlane_datapath::node;
use overlane_lab::client::LabClient;
use overlane_lab::error::LabError;
use overlane_lab::exec;
use overlane_lab::names::LabName;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;

use self::ledger::{Ledger, Place};
use self::names::Names;
use self::watch::Watch;
use crate::args::RecordArgs;
use crate::{cluster, out, runtime};

/// How long the listener waits before it looks whether it is to end.
const LOOK: Duration = Duration::from_millis(200);
/// How often what has come is still read when it is to end: each time some thousands.
const ROUNDS: u32 = 64;
/// What was heard waits here while something else is done; beyond that in the kernel, which counts what it drops.
const ROOM: usize = 64;

/// Runs the command.
pub fn run(args: &RecordArgs) -> Result<ExitCode> {
    // What cannot work is told before anything is waited for.
    let ground = Ground::find(args)?;
    drop(ground.listener()?);
    let file = args.file.as_deref().map(open).transpose()?;
    let own = ground.inside(node::addresses)?.context("read the node's addresses")?;
    let (recording, told) = runtime::start()?.block_on(record(args, &ground, own))?;
    match (&file, &args.file) {
        (Some(file), Some(path)) => {
            // What is no file, as a pipe, has no length.
            let is_file = file.metadata().is_ok_and(|data| data.is_file());
            let emptied = if is_file { file.set_len(0) } else { Ok(()) };
            let written = emptied.and_then(|()| recording.write(&mut io::BufWriter::new(file)));
            written.with_context(|| format!("write {}", path.display()))?;
        }
        _ => {
            let mut text = Vec::new();
            recording.write(&mut text)?;
            out::print(&String::from_utf8_lossy(&text))?;
        }
    }
    eprintln!("{told}");
    let header = &recording.header;
    let whole = header.lost == 0 && header.beyond == 0;
    Ok(if whole { ExitCode::SUCCESS } else { ExitCode::from(1) })
}

/// Opens the file; what it has stays until there is something else to write.
fn open(path: &Path) -> Result<File> {
    let file = File::options().create(true).write(true).truncate(false).open(path);
    file.with_context(|| format!("open {} to write to it", path.display()))
}

/// Where it is recorded.
struct Ground {
    /// The lab that the node is of, if it is of one.
    lab: Option<LabClient>,
    /// The node's network namespace; without, that of this process.
    netns: Option<Netns>,
}

impl Ground {
    fn find(args: &RecordArgs) -> Result<Self> {
        let (Some(name), Some(node)) = (&args.lab, &args.node) else { return Ok(Self { lab: None, netns: None }) };
        let name: LabName = name.parse().map_err(LabError::from)?;
        let lab = LabClient::open(&name)?;
        let netns = Netns::open(exec::node(&lab, node)?.namespace)?;
        Ok(Self { lab: Some(lab), netns: Some(netns) })
    }

    fn inside<T: Send>(&self, act: impl FnOnce() -> T + Send) -> Result<T> {
        Ok(match &self.netns {
            Some(netns) => netns.run(act)?,
            None => act(),
        })
    }

    fn listener(&self) -> Result<Listener> {
        let opened = self.inside(Listener::open)?;
        opened.context("record flows: this has to run on a node, as root and in the node's network namespace")
    }

    async fn client(&self, args: &RecordArgs) -> Result<Client> {
        match &self.lab {
            Some(lab) => lab.kube(),
            None => cluster::client(&args.kube).await,
        }
    }
}

async fn record(args: &RecordArgs, ground: &Ground, own: BTreeSet<IpAddr>) -> Result<(Recording, String)> {
    let mut ends = Ends::new(args.duration)?;
    let mut names = Names::default();
    let mut watch = Watch::new(&ground.client(args).await?);
    tokio::select! {
        listed = watch.list(&mut names) => listed?,
        () = ends.wait() => bail!("it was ended before pods, nodes and namespaces were listed: nothing is recorded"),
    }
    ends.begin();
    let mut ears = Ears::open(ground.listener()?)?;
    let started = Timestamp::now();
    eprintln!("recording; {}", if args.duration.is_some() { "Ctrl-C ends it sooner" } else { "Ctrl-C ends it" });
    let mut ledger = Ledger::new(args.max);
    loop {
        tokio::select! {
            biased;
            () = ends.wait() => break,
            word = watch.next() => hear(&mut watch, word, &mut names, &mut ledger),
            heard = ears.heard.recv() => match heard {
                Some((at, heard)) => ledger.note(at, &heard, &names),
                // It failed; why is told when it is joined.
                None => break,
            },
        }
    }
    for (at, heard) in ears.end().await? {
        ledger.note(at, &heard, &names);
    }
    let place = Place { own, started, ended: Timestamp::now() };
    let (recording, of_node) = ledger.finish(&names, &place);
    let told = summary(&recording, &ledger, of_node, &watch);
    Ok((recording, told))
}

/// Takes in what the cluster says; what begins to be a pod's is told to the ledger.
fn hear(watch: &mut Watch, word: watch::Word, names: &mut Names, ledger: &mut Ledger) {
    for (address, pod) in watch.take(word, names) {
        ledger.name(Timestamp::now(), address, pod);
    }
}

fn summary(recording: &Recording, ledger: &Ledger, of_node: u64, watch: &Watch) -> String {
    let header = &recording.header;
    let node = if header.node.is_empty() { "this node" } else { &header.node };
    let seconds = header.ended.duration_since(header.started).as_secs();
    let flows = recording.flows.len();
    let mut told = format!(
        "{} flows began on {node} in {seconds} s, {flows} of them different; {of_node} of the node itself are left out",
        ledger.began
    );
    if header.lost > 0 {
        told += &format!("\nlost: {} more began and came too fast to be heard of", header.lost);
    }
    if header.beyond > 0 {
        told += &format!("\nleft out: {} more, of which none is like the first {flows} (--max)", header.beyond);
    }
    if let Some(failure) = watch.failure() {
        told += &format!("\nnames may be old: {failure}");
    }
    told
}

/// What ends a recording.
struct Ends {
    interrupt: tokio::signal::unix::Signal,
    terminate: tokio::signal::unix::Signal,
    after: Option<Duration>,
    deadline: Option<tokio::time::Instant>,
}

impl Ends {
    fn new(after: Option<Duration>) -> Result<Self> {
        let listen = |kind| signal(kind).context("listen for signals");
        let (interrupt, terminate) = (listen(SignalKind::interrupt())?, listen(SignalKind::terminate())?);
        Ok(Self { interrupt, terminate, after, deadline: None })
    }

    /// The time begins to count.
    fn begin(&mut self) {
        self.deadline = self.after.map(|after| tokio::time::Instant::now() + after);
    }

    async fn wait(&mut self) {
        let deadline = self.deadline;
        let passed = async move {
            match deadline {
                Some(deadline) => tokio::time::sleep_until(deadline).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
            () = passed => {}
        }
    }
}

/// The thread that listens.
struct Ears {
    heard: mpsc::Receiver<(Timestamp, Heard)>,
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Result<()>>,
}

impl Ears {
    fn open(listener: Listener) -> Result<Self> {
        let (sender, heard) = mpsc::channel(ROOM);
        let stop = Arc::new(AtomicBool::new(false));
        let told = Arc::clone(&stop);
        let thread = std::thread::Builder::new().name("listen".to_owned());
        let thread = thread.spawn(move || listen(listener, &sender, &told)).context("start a thread")?;
        Ok(Self { heard, stop, thread })
    }

    /// Ends it; gives what was heard and not taken yet.
    async fn end(mut self) -> Result<Vec<(Timestamp, Heard)>> {
        self.stop.store(true, Ordering::Relaxed);
        let mut left = Vec::new();
        while let Some(heard) = self.heard.recv().await {
            left.push(heard);
        }
        self.thread.join().map_err(|_| anyhow!("the thread that listens broke off"))??;
        Ok(left)
    }
}

fn listen(mut listener: Listener, sender: &mpsc::Sender<(Timestamp, Heard)>, stop: &AtomicBool) -> Result<()> {
    let mut left = ROUNDS;
    while left > 0 {
        // What began until it was told to end is heard; a node where flows never cease does not keep it for ever.
        let ends = stop.load(Ordering::Relaxed);
        let heard = listener.wait(if ends { Duration::ZERO } else { LOOK }).context("listen for flows")?;
        let silent = heard == Heard::default();
        if ends {
            left = if silent { 0 } else { left - 1 };
        }
        if !silent && sender.blocking_send((Timestamp::now(), heard)).is_err() {
            break;
        }
    }
    Ok(())
}
