//! The program `outbox`: the runner as a sidecar, and the operator's tool.

mod ask;
mod brokers;
mod by;
mod database;
mod doctor;
mod failure;
mod http;
mod log;
mod migrate;
mod parked;
mod pause;
mod reader;
mod redact;
mod run;
mod send;
mod settings;
mod show;
mod sink;
mod status;
mod supervisor;
mod tail;
mod telemetry;
mod tls;
mod verify;

use std::process::ExitCode;
use std::time::Duration;

use clap::{CommandFactory as _, Parser, Subcommand};

use self::database::Database;
use self::failure::Failure;
use self::settings::{DatabaseFlags, RunnerFlags};

/// The transactional outbox: moves messages from PostgreSQL to Kafka or another sink, and shows and mends what
/// waits
///
/// Each setting is a flag `--some-name`, a variable OUTBOX_SOME_NAME of the environment, or a key
/// `some-name` in the TOML file that `--config` or OUTBOX_CONFIG names: the first of these that is given
/// holds. Secrets may stand in files: OUTBOX_DATABASE_URL_FILE, OUTBOX_KAFKA_SASL_PASSWORD_FILE. What is
/// not known in any of them is refused.
#[derive(Parser)]
#[command(name = "outbox", version, after_help = failure::EXIT_CODES, max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

/// What stands here of a command, or with its arguments, is its help: the first paragraph in short.
#[derive(Subcommand)]
enum Command {
    /// Move messages to Kafka, or to another sink, until SIGTERM or SIGINT
    ///
    /// It settles what is in flight then, and hands over to other runners; a second signal ends it at once. As
    /// many runners as there are share the work. It starts while the database or the sink is away, and waits
    /// for them.
    Run(RunnerFlags),
    Migrate(migrate::Args),
    Status(status::Args),
    Parked(parked::Args),
    /// Let the runners send no more messages of a topic, or none at all
    ///
    /// Writers are not concerned: their messages wait, in their order. Runners hear of it within about a second,
    /// and what is in flight still arrives.
    Pause(pause::Args),
    /// End a pause
    Resume(pause::Args),
    Send(send::Args),
    Tail(tail::Args),
    Verify(verify::Args),
    Doctor(doctor::Args),
    /// Print completions for a shell, to be sourced by it
    Completions {
        /// Which shell
        shell: clap_complete::Shell,
    },
}

/// How long threads may take to end what they do for librdkafka.
const ENDING: Duration = Duration::from_secs(5);

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return refuse(&error),
    };
    match execute(&cli.command) {
        Ok(()) | Err(Failure::Unread) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("error: {}", redact::redact(&failure.to_string()));
            match failure {
                // The runtime and librdkafka would still wait for what they have in flight.
                Failure::Interrupted(_) => std::process::exit(failure::INTERRUPTED.into()),
                _ => failure.exit_code(),
            }
        }
    }
}

/// Shows what clap says, which also may be the help. It repeats what it does not expect, and that may
/// be a URL with a password.
fn refuse(error: &clap::Error) -> ExitCode {
    if error.use_stderr() {
        eprint!("{}", redact::redact(&error.to_string()));
    } else {
        // With colours, if they can be shown. Nobody is left to hear that it can't be printed.
        let _ = error.print();
    }
    ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2))
}

fn execute(command: &Command) -> Result<(), Failure> {
    if let Command::Completions { shell } = command {
        clap_complete::generate(
            *shell,
            &mut Cli::command(),
            "outbox",
            &mut std::io::stdout(),
        );
        return Ok(());
    }
    let runtime = tokio::runtime::Runtime::new()
        .map_err(|error| Failure::Failed(format!("no threads can be started: {error}")))?;
    let result = runtime.block_on(async {
        match command {
            Command::Run(flags) => run::run(flags).await,
            Command::Migrate(args) => migrate::run(args).await,
            Command::Status(args) => status::run(args).await,
            Command::Parked(args) => parked::run(args).await,
            Command::Pause(args) => pause::pause(args).await,
            Command::Resume(args) => pause::resume(args).await,
            Command::Send(args) => send::run(args).await,
            Command::Tail(args) => tail::run(args).await,
            Command::Verify(args) => verify::run(args).await,
            Command::Doctor(args) => doctor::run(args).await,
            Command::Completions { .. } => Ok(()),
        }
    });
    match &result {
        Err(Failure::Interrupted(_)) => runtime.shutdown_background(),
        // Threads that used OpenSSL have to end before the program does, which ends OpenSSL.
        _ => runtime.shutdown_timeout(ENDING),
    }
    result
}
