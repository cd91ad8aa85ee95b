//! Programs that end when the harness ends, however it ends.
//!
//! Each runs in a process group of its own, so that Ctrl-C in a terminal reaches the harness alone,
//! which then stops its servers in order.

use crate::{interrupt, log, program, wait};
use anyhow::{Context, Result, bail};
use rustix::process::{Pid, kill_process_group};
use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{self, Sender};
use std::sync::{LazyLock, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

pub use rustix::process::Signal;

/// How long a program that was interrupted may take to end.
const GRACE: Duration = Duration::from_secs(5);

/// Long enough for a kill to take effect on any machine that still works.
const KILL: Duration = Duration::from_secs(30);

/// The process groups that live, by their number.
static LIVE: Mutex<BTreeMap<i32, Pid>> = Mutex::new(BTreeMap::new());

/// `setpriv`, when it is there and knows how to end a program with its parent.
static GUARD: LazyLock<Option<PathBuf>> = LazyLock::new(|| {
    let setpriv = program::find("setpriv")?;
    let works = Command::new(&setpriv)
        .args(["--pdeathsig", "KILL", "--", "true"])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success());
    works.then_some(setpriv)
});

/// What is asked of [`NURSERY`]: a program, and where to send what became of it.
type Order = (Command, Sender<io::Result<Child>>);

/// Starts all programs. To Linux the parent of a program is the *thread* that started it: started
/// by a thread that ends before the harness does, a program would be ended with that thread.
static NURSERY: LazyLock<Sender<Order>> = LazyLock::new(|| {
    let (sender, orders) = mpsc::channel::<Order>();
    thread::spawn(move || {
        for (mut command, reply) in orders {
            // The receiver waits for it.
            let _ = reply.send(command.spawn());
        }
    });
    sender
});

/// What a program gets when the harness ends without having stopped it, as on SIGKILL.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Orphaned {
    /// SIGKILL.
    Kill,
    /// SIGQUIT, for a program that ends at once on it, but gives back what would outlive it.
    Quit,
}

/// A command for `program` that gets the signal when it is orphaned. Where the operating system
/// offers no way to do so, it is a plain command.
#[must_use]
pub fn command(program: impl AsRef<OsStr>, orphaned: Orphaned) -> Command {
    let signal = match orphaned {
        Orphaned::Kill => "KILL",
        Orphaned::Quit => "QUIT",
    };
    match &*GUARD {
        Some(setpriv) => {
            let mut command = Command::new(setpriv);
            command.args(["--pdeathsig", signal, "--"]).arg(program);
            command
        }
        None => Command::new(program),
    }
}

/// Lets `command` add what it writes to the file `path`.
///
/// # Errors
///
/// When the file cannot be written.
pub fn log_to(command: &mut Command, path: &Path) -> Result<()> {
    let file = OpenOptions::new().append(true).create(true).open(path);
    let file = file.with_context(|| format!("cannot write {}", path.display()))?;
    let second: File = file.try_clone().context("cannot duplicate a file")?;
    command.stdout(file).stderr(second);
    Ok(())
}

/// Runs `command` to its end, or to an interruption, which ends it too.
///
/// # Errors
///
/// When it cannot be started, or was interrupted. Its own failure is in the status.
pub fn run(command: Command) -> Result<ExitStatus> {
    let mut process = Process::start(command)?;
    let day = Duration::from_secs(86_400);
    let status = wait::poll_unless_interrupted(day, || process.ended());
    if interrupt::requested() {
        process.stop(Signal::TERM, GRACE)?;
    }
    status?.context("it did not end within a day")
}

/// Runs `command` to its end, what it writes going to the file `path`.
///
/// # Errors
///
/// As [`run`], and when it fails: with the end of what it wrote.
pub fn run_logged(mut command: Command, what: &str, path: &Path) -> Result<()> {
    log_to(&mut command, path)?;
    let status = run(command).with_context(|| what.to_owned())?;
    if !status.success() {
        bail!("{what}: {status}; {}", log::tail(path));
    }
    Ok(())
}

/// Kills every program that was started and lives, at once.
pub fn kill_all() {
    for group in live().values() {
        // It may have ended by itself.
        let _ = kill_process_group(*group, Signal::KILL);
    }
}

/// A program that runs. Dropping it kills it.
#[derive(Debug)]
pub struct Process {
    child: Child,
    group: Pid,
    status: Option<ExitStatus>,
}

impl Process {
    /// Starts `command` in a process group of its own, with nothing to read.
    ///
    /// # Errors
    ///
    /// When the program cannot be started.
    pub fn start(mut command: Command) -> Result<Self> {
        command.process_group(0).stdin(Stdio::null());
        let text = format!("cannot start {command:?}");
        let (sender, reply) = mpsc::channel();
        // Before the start, so that `kill_all` finds whatever was started before it.
        let mut live = live();
        let spawned = NURSERY
            .send((command, sender))
            .is_ok()
            .then(|| reply.recv());
        let Some(Ok(spawned)) = spawned else {
            bail!("{text}: the thread that starts programs is gone");
        };
        let child = spawned.context(text)?;
        let group = Pid::from_child(&child);
        live.insert(group.as_raw_nonzero().get(), group);
        Ok(Self {
            child,
            group,
            status: None,
        })
    }

    /// Its process id, and the id of its process group.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Its status, when it has ended.
    ///
    /// # Errors
    ///
    /// When the operating system refuses to tell.
    pub fn ended(&mut self) -> Result<Option<ExitStatus>> {
        if self.status.is_none() {
            // Once it is waited for, its number may be given to another program.
            let mut live = live();
            self.status = self.child.try_wait().context("cannot wait for a program")?;
            if self.status.is_some() {
                live.remove(&self.group.as_raw_nonzero().get());
            }
        }
        Ok(self.status)
    }

    /// Waits until it takes connections, as `is_ready` tells.
    ///
    /// # Errors
    ///
    /// When it has ended, or takes none within `limit`: with its name, and the end of its log.
    pub(crate) fn wait_until_ready(
        &mut self,
        name: &str,
        log: &Path,
        limit: Duration,
        is_ready: impl Fn() -> bool,
    ) -> Result<()> {
        let ready = wait::poll_unless_interrupted(limit, || {
            if let Some(status) = self.ended()? {
                bail!("it ended: {status}");
            }
            Ok(is_ready().then_some(()))
        });
        ready
            .and_then(|ready| ready.context("it takes no connections"))
            .with_context(|| format!("{name} does not start; {}", log::tail(log)))
    }

    /// Sends `signal` to its process group.
    ///
    /// # Errors
    ///
    /// When the operating system refuses to.
    pub fn signal(&mut self, signal: Signal) -> Result<()> {
        if self.ended()?.is_none() {
            kill_process_group(self.group, signal).context("cannot send a signal")?;
        }
        Ok(())
    }

    /// Asks it to end with `signal`, and kills it when it has not ended within `grace`.
    ///
    /// # Errors
    ///
    /// When it lives on.
    pub fn stop(&mut self, signal: Signal, grace: Duration) -> Result<()> {
        self.signal(signal)?;
        if wait::poll(grace, || self.ended())?.is_none() {
            self.kill()?;
        }
        Ok(())
    }

    /// Kills it, and waits until it is gone.
    ///
    /// # Errors
    ///
    /// When it lives on.
    pub fn kill(&mut self) -> Result<()> {
        self.signal(Signal::KILL)?;
        wait::poll(KILL, || self.ended())?.context("it was killed, and lives on")?;
        Ok(())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if let Err(error) = self.kill() {
            eprintln!("process {}: {error:#}", self.id());
        }
    }
}

fn live() -> MutexGuard<'static, BTreeMap<i32, Pid>> {
    LIVE.lock().unwrap_or_else(PoisonError::into_inner)
}
