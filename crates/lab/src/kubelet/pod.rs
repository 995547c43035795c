//! One pod on one node, from its first sight to its removal: sandbox, program, restarts, end.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use kube::api::{Api, DeleteParams, Patch, PatchParams, Preconditions};
use nix::sys::signal::Signal;
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tracing::{info, warn};

use super::sandbox::{Exit, PodRecord, SandboxError, Sandboxes};
use super::status::{self, Moment};
use super::{Context, container};
use crate::netns;
use crate::process;
use crate::spawn::Running;

const FIRST_PAUSE: Duration = Duration::from_millis(250);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
const LONGEST_CRASH_PAUSE: Duration = Duration::from_secs(30);
const READY_POLL: Duration = Duration::from_millis(10);
/// Kubernetes' default for `terminationGracePeriodSeconds`.
const DEFAULT_GRACE: i64 = 30;

/// What the kubelet hears of a pod.
#[derive(Debug)]
pub enum Update {
    /// The object as it is now.
    Changed(Box<Pod>),
    /// The object is gone.
    Gone,
}

/// The keeper of one pod.
pub struct Worker {
    context: Arc<Context>,
    record: PodRecord,
    pod: Pod,
    gone: bool,
    updates: mpsc::UnboundedReceiver<Update>,
    moment: Moment,
    /// The status that was last written.
    shown: Value,
    pause: Duration,
    crash_pause: Duration,
}

impl Worker {
    /// Takes a pod over where its record stands; one that has no object any more is ended.
    pub fn new(
        context: Arc<Context>,
        record: PodRecord,
        pod: Option<Pod>,
        updates: mpsc::UnboundedReceiver<Update>,
    ) -> Self {
        let mut worker = Self {
            context,
            record,
            gone: pod.is_none(),
            pod: pod.unwrap_or_default(),
            updates,
            moment: Moment::default(),
            shown: Value::Null,
            pause: FIRST_PAUSE,
            crash_pause: FIRST_PAUSE,
        };
        if worker.record.boot_id != worker.context.node.boot_id {
            let had_run = worker.record.process.is_some();
            Sandboxes::reboot(&mut worker.record, &worker.context.node.boot_id);
            if had_run {
                worker.record.restarts += 1;
            }
        }
        worker
    }

    /// Keeps the pod until it is gone.
    pub async fn run(mut self) {
        if let Some(why) = container::unfit(&self.pod).filter(|_| !self.gone) {
            self.context.event(&self.pod, "UnexpectedAdmissionError", &why).await;
            self.record.finished = Some("Failed".to_owned());
            self.moment.refused = Some(why);
        }
        self.save();
        let mut running = self.adopt();
        while !self.ending() {
            if self.record.finished.is_some() {
                self.show().await;
                self.changed().await;
            } else if !self.sandboxed() {
                self.make_sandbox().await;
            } else if let Some(process) = &mut running {
                let ended = self.watch(process).await;
                if ended {
                    running = None;
                }
            } else {
                running = self.start().await;
            }
        }
        self.end(running).await;
    }

    fn adopt(&mut self) -> Option<Running> {
        let process = self.record.process?;
        if process.alive() {
            return Some(Running::Adopted(process));
        }
        // Nobody saw it end.
        self.note_exit(137);
        None
    }

    fn ending(&self) -> bool {
        self.gone || self.pod.metadata.deletion_timestamp.is_some()
    }

    fn sandboxed(&self) -> bool {
        self.record.host_network || !self.record.ips.is_empty()
    }

    fn policy(&self) -> &str {
        self.pod.spec.as_ref().and_then(|spec| spec.restart_policy.as_deref()).unwrap_or("Always")
    }

    fn save(&self) {
        if let Err(error) = self.context.sandboxes.save(&self.record) {
            warn!(pod = self.record.name, "{error:#}");
        }
    }

    fn apply(&mut self, update: Option<Update>) {
        match update {
            Some(Update::Changed(pod)) => self.pod = *pod,
            Some(Update::Gone) | None => self.gone = true,
        }
    }

    async fn changed(&mut self) {
        let update = self.updates.recv().await;
        self.apply(update);
    }

    /// Sleeps, unless something changes first.
    async fn rest(&mut self, pause: Duration) {
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            update = self.updates.recv() => self.apply(update),
        }
    }

    async fn make_sandbox(&mut self) {
        // Left over from an ADD that nobody saw the answer of.
        let left = !self.record.container_id.is_empty() || !self.record.lost.is_empty();
        let made = if left { self.context.sandboxes.end(&mut self.record).await } else { Ok(()) };
        let made = match made {
            Ok(()) => self.context.sandboxes.make(&mut self.record, &self.pod).await,
            Err(error) => Err(error),
        };
        match made {
            Ok(()) => {
                self.pause = FIRST_PAUSE;
                self.moment.waiting = None;
            }
            Err(error) => {
                let text = format!("{error:#}");
                if !matches!(error, SandboxError::NoNetwork) {
                    warn!(pod = self.record.name, node = self.context.node.name, "{text}");
                    self.context.event(&self.pod, "FailedCreatePodSandBox", &text).await;
                }
                self.moment.waiting = Some(("ContainerCreating".into(), text));
                self.show().await;
                let pause = self.pause;
                self.pause = (pause * 2).min(LONGEST_PAUSE);
                self.rest(pause).await;
            }
        }
    }

    async fn start(&mut self) -> Option<Running> {
        let log = self.context.paths.pod_log(&self.record.namespace, &self.record.name);
        match container::start(&self.pod, &self.record, &self.context.around, log) {
            Ok(running) => {
                self.record.process = running.process();
                self.record.exit = None;
                self.record.started_at = status::now();
                self.moment = Moment::default();
                self.save();
                Some(running)
            }
            Err(error) => {
                let text = format!("{error:#}");
                self.context.event(&self.pod, "Failed", &text).await;
                self.note_exit(128);
                self.after_exit(text).await;
                None
            }
        }
    }

    /// Waits for the program's end or a change; whether it ended.
    async fn watch(&mut self, running: &mut Running) -> bool {
        if !self.moment.ready {
            self.moment.ready = self.record.process.is_some_and(|process| container::ready(&self.pod, process));
            self.show().await;
        }
        let ready = self.moment.ready;
        tokio::select! {
            ended = running.ended() => {
                info!(pod = self.record.name, end = ended.text, "ended");
                self.note_exit(ended.code.unwrap_or(137));
                self.after_exit(ended.text).await;
                true
            }
            update = self.updates.recv() => { self.apply(update); false }
            () = tokio::time::sleep(READY_POLL), if !ready => false,
        }
    }

    fn note_exit(&mut self, code: i32) {
        self.record.process = None;
        self.record.exit = Some(Exit { code, at: status::now() });
        self.moment.ready = false;
        let finished = match (self.policy(), code) {
            ("Never" | "OnFailure", 0) => Some("Succeeded"),
            ("Never", _) => Some("Failed"),
            _ => None,
        };
        match finished {
            Some(phase) => self.record.finished = Some(phase.to_owned()),
            None => self.record.restarts += 1,
        }
        self.save();
    }

    /// A finished pod gives its network back; another is started again after a while.
    async fn after_exit(&mut self, text: String) {
        if self.record.finished.is_some() {
            self.show().await;
            self.drop_sandbox().await;
            return;
        }
        self.moment.waiting = Some(("CrashLoopBackOff".into(), text));
        self.show().await;
        let pause = self.crash_pause;
        self.crash_pause = (pause * 2).min(LONGEST_CRASH_PAUSE);
        self.rest(pause).await;
    }

    /// Ends whatever still runs in the pod's namespace, then the network; again and again until that succeeds.
    async fn drop_sandbox(&mut self) {
        let path = self.record.netns.clone();
        let leftovers = tokio::task::spawn_blocking(move || {
            let inode = netns::inode(Path::new(&path))?;
            let left = process::in_namespaces(&[inode].into());
            left.iter().for_each(|process| process.signal(Signal::SIGKILL));
            Some(left)
        });
        if !self.record.netns.is_empty() {
            let _ = leftovers.await;
        }
        let mut pause = FIRST_PAUSE;
        while let Err(error) = self.context.sandboxes.end(&mut self.record).await {
            let text = format!("{error:#}");
            warn!(pod = self.record.name, node = self.context.node.name, "{text}");
            self.context.event(&self.pod, "FailedKillPod", &text).await;
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    async fn end(mut self, running: Option<Running>) {
        self.moment.ending = true;
        if !self.gone {
            self.show().await;
        }
        if let Some(mut running) = running {
            self.kill(&mut running).await;
        }
        self.drop_sandbox().await;
        if let Err(error) = self.context.sandboxes.forget(&self.record.uid) {
            warn!(pod = self.record.name, "{error:#}");
        }
        if !self.gone {
            self.delete().await;
        }
    }

    async fn kill(&mut self, running: &mut Running) {
        let grace = self.pod.metadata.deletion_grace_period_seconds.unwrap_or(DEFAULT_GRACE);
        let grace = if self.gone { 0 } else { u64::try_from(grace).unwrap_or(0) };
        let Some(process) = running.process() else { return };
        process.signal_group(Signal::SIGTERM);
        if tokio::time::timeout(Duration::from_secs(grace), running.ended()).await.is_err() {
            process.signal_group(Signal::SIGKILL);
            running.ended().await;
        }
    }

    /// Removes the object, as the kubelet does last of all.
    async fn delete(&self) {
        let api: Api<Pod> = Api::namespaced(self.context.client.clone(), &self.record.namespace);
        let uid = Some(self.record.uid.clone());
        let params = DeleteParams {
            grace_period_seconds: Some(0),
            preconditions: Some(Preconditions { uid, resource_version: None }),
            ..DeleteParams::default()
        };
        for _ in 0..20 {
            match api.delete(&self.record.name, &params).await {
                Ok(_) => return,
                // Gone, or another pod of that name.
                Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => return,
                Err(error) => warn!(pod = self.record.name, "remove the object: {error}"),
            }
            tokio::time::sleep(FIRST_PAUSE).await;
        }
    }

    /// Writes the status, if it differs from what was written.
    async fn show(&mut self) {
        let at = status::now();
        let next = status::of(&self.record, &self.pod, &self.context.node.addresses, &self.moment, &at);
        if self.gone || next == self.shown {
            return;
        }
        let api: Api<Pod> = Api::namespaced(self.context.client.clone(), &self.record.namespace);
        // The UID makes the API refuse this for another pod of the same name.
        let patch = json!({"metadata": {"uid": self.record.uid}, "status": next});
        match api.patch_status(&self.record.name, &PatchParams::default(), &Patch::Merge(&patch)).await {
            Ok(pod) => {
                if pod.metadata.uid.as_deref() == Some(&self.record.uid) {
                    self.pod = pod;
                }
                self.shown = next;
            }
            Err(kube::Error::Api(status)) if status.code == 404 => {}
            Err(error) => warn!(pod = self.record.name, "write the status: {error}"),
        }
    }
}
