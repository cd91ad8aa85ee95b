//! `outbox parked`: what was refused, and what to do about it.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use clap::Subcommand;
use outbox::operator::{Done, Operator, ParkedFilter, ParkedMessage};

use crate::ask::confirm;
use crate::by::By;
use crate::failure::Failure;
use crate::settings::DatabaseFlags;
use crate::{Database, show};

/// How many messages are exported at a time.
const PAGE: u32 = 500;

/// See to messages that the brokers refused
///
/// A message that the brokers refuse is parked with its key: later messages of the key wait behind it.
/// These commands show the first message of each key, let it be tried again, or give it up.
#[derive(clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// List the parked keys, each by its first message
    List(List),
    /// Show a parked message, without its payload
    Show(Show),
    /// Let parked messages be tried again now
    Retry(Retry),
    /// Give up a parked message: it moves to the table outbox_dead_letters, and the next of its key is
    /// tried
    Skip(Skip),
    /// Write all parked messages as lines of JSON, without their payloads
    Export(Export),
}

#[derive(clap::Args)]
struct List {
    /// Only this topic
    #[arg(long)]
    topic: Option<String>,

    /// So many keys at most
    #[arg(long, value_name = "NUMBER", default_value_t = 100)]
    limit: u32,

    /// Print JSON
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    database: DatabaseFlags,
}

#[derive(clap::Args)]
struct Show {
    /// The id, as `list` shows it
    id: i64,

    /// Show the payload too
    #[arg(long)]
    payload: bool,

    /// Print JSON
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    database: DatabaseFlags,
}

#[derive(clap::Args)]
struct Retry {
    /// The ids, as `list` shows them
    #[arg(required_unless_present = "all")]
    ids: Vec<i64>,

    /// The first messages of all parked keys
    #[arg(long, conflicts_with = "ids")]
    all: bool,

    /// With --all: only of this topic
    #[arg(long, requires = "all")]
    topic: Option<String>,

    #[command(flatten)]
    by: By,

    #[command(flatten)]
    database: DatabaseFlags,
}

#[derive(clap::Args)]
struct Skip {
    /// The id, as `list` shows it
    id: i64,

    /// Why; it is kept in the table outbox_audit
    #[arg(long)]
    reason: String,

    /// Don't ask
    #[arg(long)]
    yes: bool,

    #[command(flatten)]
    by: By,

    #[command(flatten)]
    database: DatabaseFlags,
}

#[derive(clap::Args)]
struct Export {
    /// Write the payloads too
    #[arg(long)]
    payload: bool,

    /// Write to this file, which must not be there yet, instead of printing
    #[arg(long, value_name = "FILE")]
    output: Option<PathBuf>,

    #[command(flatten)]
    database: DatabaseFlags,
}

pub(crate) async fn run(args: &Args) -> Result<(), Failure> {
    match &args.command {
        Command::List(args) => list(args).await,
        Command::Show(args) => show(args).await,
        Command::Retry(args) => retry(args).await,
        Command::Skip(args) => skip(args).await,
        Command::Export(args) => export(args).await,
    }
}

async fn list(args: &List) -> Result<(), Failure> {
    let filter = ParkedFilter {
        topic: args.topic.clone(),
        most: args.limit,
    };
    let operator = Database::of(&args.database)?.operator()?;
    let parked = operator.parked(&filter).await?;
    show::print(&match (args.json, parked.is_empty()) {
        (true, _) => show::json(&parked)?,
        (false, true) => "nothing is parked\n".to_owned(),
        (false, false) => table(&parked),
    })
}

/// The first messages of keys, one a line.
pub(crate) fn table(parked: &[ParkedMessage]) -> String {
    let rows: Vec<_> = parked
        .iter()
        .map(|message| {
            [
                message.position.id.to_string(),
                show::text(&message.topic),
                place(message),
                show::maybe(message.parked.map(show::duration)),
                message.attempts.to_string(),
                retry_in(message),
                message.behind.to_string(),
                show::maybe(message.error.as_deref().map(show::text)),
            ]
        })
        .collect();
    let titles = [
        "PARKED ID",
        "TOPIC",
        "KEY",
        "SINCE",
        "ATTEMPTS",
        "NEXT",
        "BEHIND",
        "ERROR",
    ];
    show::table(titles, &rows)
}

/// What a message is ordered by.
fn place(message: &ParkedMessage) -> String {
    match (message.partition, &message.key) {
        (Some(partition), _) => format!("partition {partition}"),
        (None, key) => show::maybe(key.as_deref().map(show::bytes)),
    }
}

fn retry_in(message: &ParkedMessage) -> String {
    match message.retry {
        Some(pause) => show::duration(pause),
        None if message.attempts == 0 => "now".to_owned(),
        None => "operator".to_owned(),
    }
}

async fn show(args: &Show) -> Result<(), Failure> {
    let operator = Database::of(&args.database)?.operator()?;
    let message = find(&operator, args.id, args.payload).await?;
    if args.json {
        return show::print(&show::json(&message)?);
    }
    let retry = match (message.retry, message.attempts) {
        (Some(pause), _) => format!("in {}", show::duration(pause)),
        (None, 0) => "after those before it".to_owned(),
        (None, _) => "when an operator says so".to_owned(),
    };
    let payload = match (&message.payload, message.payload_bytes) {
        (Some(payload), _) => show::bytes(payload),
        (None, Some(bytes)) => format!("{bytes} bytes"),
        (None, None) => "none: a tombstone".to_owned(),
    };
    let lines = [
        ("id", message.position.id.to_string()),
        ("lane", message.position.lane.to_string()),
        ("message id", message.message_id.to_string()),
        ("topic", show::text(&message.topic)),
        (
            "partition",
            show::maybe(message.partition.map(|p| p.to_string())),
        ),
        ("key", show::maybe(message.key.as_deref().map(show::bytes))),
        (
            "event type",
            show::maybe(message.event_type.as_deref().map(show::text)),
        ),
        (
            "headers",
            show::maybe(message.headers.as_deref().map(show::text)),
        ),
        (
            "parked",
            show::maybe(
                message
                    .parked
                    .map(|age| format!("{} ago", show::duration(age))),
            ),
        ),
        ("attempts", message.attempts.to_string()),
        ("tried again", retry),
        ("behind it", message.behind.to_string()),
        (
            "error",
            show::maybe(message.error.as_deref().map(show::text)),
        ),
        ("payload", payload),
    ];
    let lines = lines.map(|(name, value)| format!("{name:12} {value}\n"));
    show::print(&lines.concat())
}

async fn find(operator: &Operator, id: i64, payload: bool) -> Result<ParkedMessage, Failure> {
    let found = operator.parked_message(id, payload).await?;
    found.ok_or_else(|| not_parked(id))
}

fn not_parked(id: i64) -> Failure {
    Failure::Failed(format!("no message with the id {id} is parked"))
}

async fn retry(args: &Retry) -> Result<(), Failure> {
    let operator = Database::of(&args.database)?.operator()?;
    let note = args.by.note();
    if args.all {
        let keys = operator.retry_all(args.topic.as_deref(), &note).await?;
        return show::print(&format!("{keys} will be tried again\n"));
    }
    for &id in &args.ids {
        done(id, operator.retry(id, &note).await?)?;
        show::print(&format!("{id} will be tried again\n"))?;
    }
    Ok(())
}

async fn skip(args: &Skip) -> Result<(), Failure> {
    let operator = Database::of(&args.database)?.operator()?;
    let message = find(&operator, args.id, false).await?;
    let what = format!(
        "This gives up message {} of the topic {} (key {}): it will never be delivered.",
        args.id,
        show::text(&message.topic),
        place(&message)
    );
    confirm(&what, args.yes)?;
    let note = args.by.note().because(&args.reason);
    done(args.id, operator.skip(args.id, &note).await?)?;
    show::print(&format!("{} is in outbox_dead_letters now\n", args.id))
}

fn done(id: i64, done: Done) -> Result<(), Failure> {
    match done {
        Done::Yes => Ok(()),
        Done::OnItsWay => Err(Failure::Failed(format!(
            "message {id} is due, and a runner may be trying it at this moment; if it is refused once more, skip \
             it then; while the brokers are away, pause its topic, and skip it a minute later"
        ))),
        Done::Behind(first) => Err(Failure::Failed(format!(
            "{id} waits behind {}, which is the first of its key: see to that one",
            first.id
        ))),
        _ => Err(not_parked(id)),
    }
}

async fn export(args: &Export) -> Result<(), Failure> {
    let operator = Database::of(&args.database)?.operator()?;
    let mut file = args.output.as_deref().map(new_file).transpose()?;
    let mut after = None;
    loop {
        let page = operator.parked_after(after, PAGE, args.payload).await?;
        let Some(last) = page.last() else {
            break;
        };
        after = Some(last.position);
        let lines: String = page.iter().map(show::json).collect::<Result<_, _>>()?;
        match &mut file {
            Some(file) => file.write_all(lines.as_bytes()).map_err(unwritten)?,
            None => show::print(&lines)?,
        }
    }
    file.map_or(Ok(()), |mut file| file.flush().map_err(unwritten))
}

fn new_file(path: &Path) -> Result<BufWriter<File>, Failure> {
    let file = File::create_new(path);
    let file =
        file.map_err(|e| Failure::Usage(format!("{} can't be made: {e}", path.display())))?;
    Ok(BufWriter::new(file))
}

fn unwritten(error: std::io::Error) -> Failure {
    Failure::Failed(format!("the messages can't be written: {error}"))
}
