//! Ends a process after its Nth system call, counted over all its threads by ptrace.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::channel;
use std::thread::JoinHandle;

use nix::errno::Errno;
use nix::sys::ptrace;
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

/// `PTRACE_SYSCALL_INFO_EXIT` of linux/ptrace.h.
const EXIT: u8 = 2;

/// Follows one process until it ends.
pub struct Tracer {
    pid: i32,
    count: Arc<AtomicU64>,
    killed: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Tracer {
    /// Attaches to all threads of `pid`. From now on each finished system call counts, and after number `n` the whole
    /// process gets SIGKILL. Threads that it makes are followed, processes that it makes are not.
    pub fn kill_after(pid: i32, n: u64) -> Tracer {
        let count = Arc::new(AtomicU64::new(0));
        let killed = Arc::new(AtomicBool::new(false));
        let (ready, attached) = channel();
        let (c, k) = (count.clone(), killed.clone());
        let thread = std::thread::spawn(move || {
            let outcome = seize_all(pid);
            let good = outcome.is_ok();
            let _ = ready.send(outcome);
            if good {
                follow(pid, n, &c, &k);
            }
        });
        attached.recv().expect("the tracer lives").unwrap_or_else(|e| panic!("trace process {pid}: {e}"));
        Tracer { pid, count, killed, thread: Some(thread) }
    }

    /// System calls finished so far.
    pub fn count(&self) -> u64 {
        self.count.load(Ordering::SeqCst)
    }

    /// Whether the Nth call came.
    pub fn reached(&self) -> bool {
        self.killed.load(Ordering::SeqCst)
    }

    /// Kills the process if it still runs, waits for its end; returns whether the Nth call had come before.
    pub fn end(mut self) -> bool {
        let reached = self.reached();
        let _ = kill(Pid::from_raw(self.pid), Signal::SIGKILL);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
        reached
    }
}

impl Drop for Tracer {
    fn drop(&mut self) {
        // A test that fails half-way: the process must not stay stopped under a tracer that is gone.
        let _ = kill(Pid::from_raw(self.pid), Signal::SIGKILL);
    }
}

fn seize_all(pid: i32) -> Result<(), Errno> {
    let mut known = std::collections::BTreeSet::new();
    loop {
        let entries = std::fs::read_dir(format!("/proc/{pid}/task")).map_err(|_| Errno::ESRCH)?;
        let tids: Vec<i32> = entries.filter_map(|e| e.ok()?.file_name().to_str()?.parse().ok()).collect();
        let fresh: Vec<i32> = tids.into_iter().filter(|t| !known.contains(t)).collect();
        if fresh.is_empty() {
            return Ok(());
        }
        for tid in fresh {
            let thread = Pid::from_raw(tid);
            let options = ptrace::Options::PTRACE_O_TRACESYSGOOD | ptrace::Options::PTRACE_O_TRACECLONE;
            match ptrace::seize(thread, options) {
                Ok(()) => ptrace::interrupt(thread)?,
                // A thread that a followed one made is followed already; one that ended needs nothing.
                Err(Errno::EPERM | Errno::ESRCH) => (),
                Err(error) => return Err(error),
            }
            known.insert(tid);
        }
    }
}

fn follow(pid: i32, n: u64, count: &AtomicU64, killed: &AtomicBool) {
    // Only this thread's tracees: other threads of the test wait for children of their own.
    let flags = WaitPidFlag::__WALL | WaitPidFlag::__WNOTHREAD;
    loop {
        let status = match waitpid(None::<Pid>, Some(flags)) {
            Ok(status) => status,
            Err(Errno::EINTR) => continue,
            Err(_) => return,
        };
        let (thread, deliver) = match status {
            WaitStatus::PtraceSyscall(thread) => {
                let finished = ptrace::syscall_info(thread).is_ok_and(|info| info.op == EXIT);
                if finished && count.fetch_add(1, Ordering::SeqCst) + 1 == n {
                    killed.store(true, Ordering::SeqCst);
                    let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
                }
                (thread, None)
            }
            WaitStatus::PtraceEvent(thread, ..) => (thread, None),
            WaitStatus::Stopped(thread, signal) => (thread, Some(signal)),
            _ => continue,
        };
        // One that was killed meanwhile cannot be resumed, and need not be.
        let _ = ptrace::syscall(thread, deliver);
    }
}
