//! Commands run in pods: `overlane probe`, and short ones whose output is read.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result, bail};
use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use kube::api::AttachParams;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};

use super::ask::{Answer, Task};

/// What a command in a pod prints.
pub async fn output(pods: &Api<Pod>, pod: &str, command: &[&str]) -> Result<String> {
    let mut attached = pods
        .exec(pod, command.iter().copied(), &AttachParams::default().stderr(false))
        .await
        .with_context(|| format!("exec in pod {pod}"))?;
    let mut text = String::new();
    if let Some(mut out) = attached.stdout() {
        out.read_to_string(&mut text).await?;
    }
    Ok(text)
}

/// Has a pod try every task; answers in the tasks' order. `told` is called for each as it comes.
pub async fn probe(pods: &Api<Pod>, pod: &str, tasks: &[Task], told: impl Fn()) -> Result<Vec<Answer>> {
    let params = AttachParams::default().stdin(true).stderr(false).max_stdout_buf_size(64 << 10);
    let mut attached = pods.exec(pod, ["/usr/bin/overlane", "probe"], &params).await.context("exec")?;
    let mut to = attached.stdin().context("no standard input")?;
    let from = attached.stdout().context("no standard output")?;
    let mut line = serde_json::to_string(tasks)?;
    line.push('\n');
    let write = async {
        to.write_all(line.as_bytes()).await?;
        to.flush().await
    };
    let read = async {
        let mut answers: BTreeMap<usize, Answer> = BTreeMap::new();
        let mut lines = BufReader::new(from).lines();
        while answers.len() < tasks.len() {
            let Some(line) = lines.next_line().await? else { break };
            let answer: Answer = serde_json::from_str(&line).map_err(std::io::Error::other)?;
            told();
            if answer.task < tasks.len() {
                answers.insert(answer.task, answer);
            }
        }
        Ok(answers)
    };
    let ((), answers) = tokio::try_join!(write, read).context("talk to the pod")?;
    if answers.len() < tasks.len() {
        bail!("{} of {} answers came back", answers.len(), tasks.len());
    }
    Ok(answers.into_values().collect())
}
