//! The program as a process.

use std::fs;
use std::path::PathBuf;
use std::process::{Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use outbox_tests::servers::process::{self, Orphaned, Process, Signal};
use tempfile::TempDir;

/// Long enough for anything on a machine that is busy with something else.
const LIMIT: Duration = Duration::from_secs(60);

/// The program with these arguments, and with no settings in its environment.
pub(crate) fn outbox<const N: usize>(arguments: [&str; N]) -> Command {
    let mut command = process::command(env!("CARGO_BIN_EXE_outbox"), Orphaned::Kill);
    command.args(arguments).stdin(Stdio::null());
    for (name, _) in std::env::vars_os() {
        let ours = |name: &str| name.starts_with("OUTBOX_") || name == "DATABASE_URL";
        if name.to_str().is_some_and(ours) {
            command.env_remove(name);
        }
    }
    command
}

/// What became of a command.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Ended {
    /// What it printed, if it succeeded.
    pub(crate) fn success(self) -> Result<String> {
        match self.code {
            Some(0) => Ok(self.stdout),
            code => bail!("{code:?}: {}{}", self.stdout, self.stderr),
        }
    }

    /// What it complained of, if it ended with this code.
    pub(crate) fn failure(self, code: i32) -> Result<String> {
        match self.code {
            Some(ended) if ended == code => Ok(self.stderr),
            code => bail!("{code:?}: {}{}", self.stdout, self.stderr),
        }
    }

    /// All that it printed.
    pub(crate) fn all(&self) -> String {
        format!("{}{}", self.stdout, self.stderr)
    }
}

/// Runs a command to its end.
pub(crate) fn end(mut command: Command) -> Result<Ended> {
    let output = command.output()?;
    Ok(Ended {
        code: output.status.code(),
        stdout: String::from_utf8(output.stdout)?,
        stderr: String::from_utf8(output.stderr)?,
    })
}

/// A command that runs until it is stopped.
pub(crate) struct Running {
    process: Process,
    folder: TempDir,
}

impl Running {
    pub(crate) fn start(mut command: Command) -> Result<Self> {
        let folder = tempfile::tempdir()?;
        process::log_to(&mut command, &folder.path().join("log"))?;
        let process = Process::start(command)?;
        Ok(Self { process, folder })
    }

    pub(crate) fn signal(&mut self, signal: Signal) -> Result<()> {
        self.process.signal(signal)
    }

    /// All that it printed until now.
    pub(crate) fn log(&self) -> Result<String> {
        let path: PathBuf = self.folder.path().join("log");
        Ok(fs::read_to_string(path)?)
    }

    /// Waits until it has printed this.
    pub(crate) fn wait_for(&mut self, text: &str) -> Result<()> {
        let found = wait(|| Ok(self.log()?.contains(text).then_some(())));
        found.with_context(|| format!("{text:?} is not in {}", self.log().unwrap_or_default()))
    }

    /// Waits until it has ended.
    pub(crate) fn ended(&mut self) -> Result<ExitStatus> {
        let ended = wait(|| self.process.ended());
        ended.with_context(|| self.log().unwrap_or_default())
    }
}

/// Waits until there is something.
pub(crate) fn wait<T>(mut poll: impl FnMut() -> Result<Option<T>>) -> Result<T> {
    let deadline = Instant::now() + LIMIT;
    loop {
        if let Some(value) = poll()? {
            return Ok(value);
        }
        if Instant::now() > deadline {
            bail!("nothing came in {LIMIT:?}");
        }
        thread::sleep(Duration::from_millis(10));
    }
}
